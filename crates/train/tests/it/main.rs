//! Integration tests of the training step and its checkpoints.

mod balancing;
mod checkpoints;
mod invariants;
mod objective;
mod precision;
mod ten_steps;
mod weights;

use hadal_base::{Purpose, Rng};
use hadal_model::BalanceGroups;
use hadal_ops::{Cx, DType};
use hadal_train::optim::OptimConfig;
use hadal_train::step::{StepBatch, StepSettings, Trainer};
use hadal_weights::Checkpoint;
use hadal_weights::ModelConfig;
use hadal_weights::precision::Precision;
use std::path::{Path, PathBuf};

const OPTIM: OptimConfig = OptimConfig { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, moments: DType::F32 };

const SETTINGS: StepSettings = StepSettings {
    lr: 2e-3,
    clip: 1.0,
    gamma: 0.001,
    mtp_lambda: 0.3,
    balance: Some((BalanceGroups::Sequences, 1e-2)),
    micro_batch: 2,
};

/// The folder of a tiny checkpoint from the model crate's tests.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/fixtures").join(name)
}

/// The tiny model with all features: query latent, YaRN, groups, selection biases, MTP.
fn trainer(cx: Cx, moments: DType, ema: f32) -> Trainer {
    trainer_in(cx, Precision::COMPUTE, moments, ema)
}

/// The same with a precision table.
fn trainer_in(cx: Cx, precision: Precision, moments: DType, ema: f32) -> Trainer {
    let start = Checkpoint::open(fixture("yarn")).unwrap();
    Trainer::new(cx, start.config(), precision, &start, OptimConfig { moments, ..OPTIM }, ema).unwrap()
}

/// `n` random tokens of batch `step`.
fn tokens(config: &ModelConfig, step: u64, n: usize) -> Vec<i32> {
    let rng = Rng::new(11, Purpose::Test, step);
    (0..n as u64).map(|i| rng.below(i, config.vocab_size as u64) as i32).collect()
}

/// Runs one step on `tokens` and returns its losses and gradient norm.
fn train(t: &mut Trainer, tokens: &[i32], seq_len: usize, settings: &StepSettings) -> (Vec<f64>, f64) {
    t.gradients(&StepBatch::uniform(tokens.to_vec(), seq_len), settings);
    let norm = t.grad_norm();
    t.update(settings, norm);
    let losses = t.losses();
    ([vec![losses.main, losses.balance], losses.mtp].concat(), norm)
}

/// All numbers of a trainer's state as bits: weights and biases, moments, averages.
fn state(t: &Trainer) -> Vec<u32> {
    let mut bits = Vec::new();
    let mut push = |tensor: &hadal_ops::Tensor| bits.extend(tensor.to_vec_f32().iter().map(|v| v.to_bits()));
    for p in t.model.params() {
        push(t.masters.of(p));
        if let Some((m, v)) = &t.optimizer.moments[p.index] {
            push(m);
            push(v);
        }
        if let Some(ema) = t.ema.as_ref().and_then(|e| e.values[p.index].as_ref()) {
            push(ema);
        }
    }
    bits
}
