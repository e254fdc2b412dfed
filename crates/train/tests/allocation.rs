//! After three steps, a training step allocates nothing on the heap. This test is a separate binary, because it
//! replaces the allocator to count the requests of every thread.

#[path = "../../ops/tests/counting/mod.rs"]
mod counting;

use hadal_base::{Purpose, Rng};
use hadal_model::{BalanceGroups, Fresh};
use hadal_ops::{Cx, DType};
use hadal_train::optim::OptimConfig;
use hadal_train::step::{StepBatch, StepSettings, Trainer};
use hadal_weights::ModelConfig;
use hadal_weights::precision::Precision;
use std::path::Path;
use std::sync::Barrier;

const SEQ_LEN: usize = 40;
const SEQUENCES: usize = 5;

fn step(t: &mut Trainer, batch: &StepBatch, settings: &StepSettings) -> f64 {
    t.gradients(batch, settings);
    let norm = t.grad_norm();
    t.update(settings, norm);
    norm
}

/// Runs `f` while the other threads of the pool are busy, as can happen on a loaded machine.
fn alone(cx: &Cx, f: impl FnOnce()) {
    struct Release<'a>(&'a Barrier);
    impl Drop for Release<'_> {
        fn drop(&mut self) {
            self.0.wait();
        }
    }
    let n = cx.threads().count();
    let (held, go) = (Barrier::new(n + 1), Barrier::new(n + 1));
    std::thread::scope(|scope| {
        // Every other thread has one of these tasks.
        scope.spawn(|| {
            cx.threads().each(n, |_| {
                held.wait();
                go.wait();
            });
        });
        held.wait();
        let _release = Release(&go);
        f();
    });
}

#[test]
fn a_step_allocates_nothing_after_three() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/fixtures/mtp2/config.json");
    let config = ModelConfig::from_file(fixture).unwrap();
    // Two MTP modules, biases, both losses, clipping, averages; five sequences in micro-batches of two.
    let settings = StepSettings {
        lr: 1e-3,
        clip: 0.5,
        gamma: 0.001,
        mtp_lambda: 0.3,
        balance: Some((BalanceGroups::Sequences, 1e-4)),
        micro_batch: 2,
    };
    let plain = Precision::COMPUTE;
    for (threads, compute, moments, precision) in [
        (1, DType::F32, DType::F32, plain),
        (2, DType::F32, DType::F32, plain),
        (2, DType::Bf16, DType::Bf16, plain),
        (2, DType::Bf16, DType::Bf16, Precision::FP8),
    ] {
        let cx = Cx::cpu(threads, compute);
        let optim = OptimConfig { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, moments };
        let fresh = Fresh { seed: 1, std: 0.1 };
        let mut t = Trainer::new(cx.clone(), &config, precision, &fresh, optim, 0.99).unwrap();
        // The tokens differ in every step, so that the loads of the experts differ.
        let batches: Vec<StepBatch> = (0..8)
            .map(|s| {
                let rng = Rng::new(3, Purpose::Test, s);
                let n = (SEQUENCES * (SEQ_LEN + 1)) as u64;
                let tokens = (0..n).map(|i| rng.below(i, config.vocab_size as u64) as i32);
                StepBatch::uniform(tokens.collect(), SEQ_LEN)
            })
            .collect();
        let calls = {
            // Threads that first participate, or first run together, after these steps need no further memory.
            alone(&cx, || {
                for tokens in &batches[..3] {
                    step(&mut t, tokens, &settings);
                }
            });
            let before = counting::calls();
            assert!(before > 0, "the counter counts");
            for tokens in &batches[3..] {
                assert!(step(&mut t, tokens, &settings).is_finite());
            }
            counting::calls() - before
        };
        assert_eq!(calls, 0, "{threads} threads, {compute:?}, {precision:?}");
    }
}
