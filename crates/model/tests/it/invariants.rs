//! The invariants that a model must satisfy: halves of the backward, threads, micro-batches.

use crate::cached::Cached;
use crate::fixtures::{Fixture, distance};
use hadal_model::{Grads, Input, LossWeights, Model, Workspace};
use hadal_ops::{Cx, DType};
use hadal_weights::precision::{Gradients, Precision};

const NAMES: [&str; 3] = ["yarn", "moonlight", "mtp2"];

/// Loss sums, loads, and all gradients of one step over `ids`, with `groups` sequences at a time.
pub(crate) fn gradients(
    cx: &Cx,
    model: &Model,
    ids: &[Vec<i32>],
    groups: usize,
) -> (f64, Vec<Vec<i32>>, Vec<Vec<f32>>) {
    let mut grads = Grads::new(cx, model.params().into_iter());
    let (mut ws, mut stats) = (Workspace::default(), model.stats(cx));
    let targets: usize = ids.iter().map(|s| s.len() - 1).sum();
    let mtp: Vec<f32> = (0..model.mtp.len()).map(|k| 0.3 / (targets - ids.len() * (k + 1)) as f32).collect();
    let weights = LossWeights { main: 1.0 / targets as f32, mtp: &mtp, balance: None };
    for group in ids.chunks(groups) {
        let parts: Vec<&[i32]> = group.iter().map(Vec::as_slice).collect();
        let input = Input::of(cx, &parts, model.mtp.len());
        model.forward_backward(cx, &input, &weights, None, &mut ws, &mut stats, &mut grads, None);
    }
    grads.finish();
    let loads = stats.loads.iter().map(|l| l.i32().to_vec()).collect();
    (stats.main, loads, grads.iter().map(|g| g.f32().to_vec()).collect())
}

fn batch(f: &Fixture) -> Vec<Vec<i32>> {
    let ids = f.ids();
    let mut more: Vec<Vec<i32>> = ids.iter().map(|s| s.iter().rev().copied().collect()).collect();
    more.extend(ids);
    more
}

#[test]
fn threads_do_not_change_a_bit() {
    let runs = [
        (DType::F32, Precision::COMPUTE),
        (DType::Bf16, Precision::COMPUTE),
        (DType::Bf16, Precision::FP8),
        (DType::Bf16, Precision { gradients: Gradients::Block, ..Precision::FP8 }),
    ];
    for (name, (dtype, precision)) in NAMES.iter().flat_map(|n| runs.map(|run| (n, run))) {
        let f = Fixture::named(name);
        let run = |threads| {
            let cx = Cx::cpu(threads, dtype);
            gradients(&cx, &f.model_in(&cx, precision), &batch(&f), 2)
        };
        let one = run(1);
        assert!(one == run(2) && one == run(3), "{name} {dtype:?} {precision:?}");
    }
}

#[test]
fn what_is_computed_again_has_the_bits_of_what_was_kept() {
    // MTP modules are included.
    for name in NAMES {
        let f = Fixture::named(name);
        for (kept, dtype) in
            [(Precision::COMPUTE, DType::F32), (Precision::COMPUTE, DType::Bf16), (FP8_KEPT, DType::Bf16)]
        {
            let cx = Cx::cpu(2, dtype);
            let run = |recompute| {
                let model = f.model_in(&cx, Precision { recompute, ..kept });
                gradients(&cx, &model, &batch(&f), 2)
            };
            assert!(run(false) == run(true), "{name} {dtype:?} {kept:?}");
            // The same for the data that a cache stores.
            let logits = |recompute| {
                let model = f.model_in(&cx, Precision { recompute, ..kept });
                let (mut cached, ids) = (Cached::new(&cx, &model, 1), f.ids());
                cached.given(&cx, &model, &ids[0][..5], 0, &[0]);
                let h = cached.generated(&cx, &model, &ids[0][5..6], 5, &[0]);
                model.project(&cx, &h).to_vec_f32()
            };
            assert!(logits(false) == logits(true), "{name} {dtype:?} {kept:?}: latents");
        }
    }
}

/// FP8 without recomputation.
const FP8_KEPT: Precision = Precision { recompute: false, ..Precision::FP8 };

#[test]
fn micro_batches_give_the_same_loads_and_close_gradients() {
    for name in NAMES {
        let f = Fixture::named(name);
        let cx = Cx::cpu(2, DType::F32);
        let model = f.model(&cx);
        let (all, one) = (gradients(&cx, &model, &batch(&f), 4), gradients(&cx, &model, &batch(&f), 1));
        assert_eq!(all.1, one.1, "{name}: loads");
        assert!((all.0 - one.0).abs() <= 1e-6 * all.0.abs(), "{name}: loss");
        // A weight gradient is a sum over n tokens. Splitting it changes the order of n f32 additions, by at most n
        // 2^-24 of the sum of magnitudes. Activations have the same bits. The factor of 16 allows for cancellation in
        // the sum.
        let tokens: usize = batch(&f).iter().map(Vec::len).sum();
        let bound = 16.0 * tokens as f64 * f64::powi(2.0, -24);
        for (i, (a, b)) in all.2.iter().zip(&one.2).enumerate() {
            assert!(distance(a, b) <= bound, "{name}: gradient {i} {:.1e} > {bound:.1e}", distance(a, b));
        }
        assert_eq!(one, gradients(&cx, &model, &batch(&f), 1), "{name}: equal grouping");
    }
}
