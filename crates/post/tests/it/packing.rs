//! Sequences packed into rows are trained as they are alone.

use hadal_base::{Purpose, Rng};
use hadal_model::{Input, Segment};
use hadal_ops::{Cx, DType, Tensor};
use hadal_recipe::trained::Trained;
use hadal_train::optim::OptimConfig;
use hadal_train::step::{StepBatch, StepSettings, Trainer};
use hadal_weights::Checkpoint;
use hadal_weights::precision::Precision;
use std::path::Path;

/// Numbers of inputs of the sequences, in rows of four, two and one.
const SEQUENCES: [usize; 7] = [9, 2, 14, 21, 5, 33, 12];
const ROWS: [usize; 3] = [4, 2, 1];

const SETTINGS: StepSettings =
    StepSettings { lr: 0.0, clip: 0.0, gamma: 0.0, mtp_lambda: 0.1, balance: None, micro_batch: 1 };

/// The tiny model with an MTP module, groups, YaRN and selection biases.
fn trainer(dtype: DType) -> Trainer {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/fixtures/yarn");
    let start = Checkpoint::open(&folder).unwrap();
    let optim = OptimConfig { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.0, moments: DType::F32 };
    Trainer::new(Cx::cpu(2, dtype), start.config(), Precision::COMPUTE, &start, optim, 0.0).unwrap()
}

/// The same with the MTP module frozen.
fn frozen() -> Trainer {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/fixtures/yarn");
    let (start, cx) = (Checkpoint::open(&folder).unwrap(), Cx::cpu(2, DType::F32));
    let optim = OptimConfig { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.0, moments: DType::F32 };
    let trained = Trained { mtp: false, lora: None };
    Trainer::of_parts(cx, start.config(), Precision::COMPUTE, &start, optim, 0.0, &trained, 0).unwrap()
}

/// Random sequences, of which about half of the tokens are trained.
fn batch(t: &Trainer) -> StepBatch {
    let rng = Rng::new(5, Purpose::Test, 0);
    let n: usize = SEQUENCES.iter().map(|inputs| inputs + 1).sum();
    let vocab = t.model.config.vocab_size as u64;
    let tokens = (0..n as u64).map(|i| rng.below(i, vocab) as i32).collect();
    let weights = (0..n as u64).map(|i| rng.below(1000 + i / 3, 2) as f32).collect();
    StepBatch { tokens, weights, segments: SEQUENCES.into(), rows: ROWS.into() }
}

/// Each sequence of a batch as a batch of its own.
fn alone(batch: &StepBatch) -> Vec<StepBatch> {
    let mut first = 0;
    let one = |inputs: &usize| {
        let place = first..first + inputs + 1;
        first = place.end;
        let (tokens, weights) = (batch.tokens[place.clone()].to_vec(), batch.weights[place].to_vec());
        StepBatch { tokens, weights, segments: vec![*inputs], rows: vec![1] }
    };
    batch.segments.iter().map(one).collect()
}

/// The losses of all tokens, of the main model and of the MTP module.
fn losses(t: &Trainer, batch: &StepBatch) -> [Vec<u32>; 2] {
    let mut input = Input::new(&t.cx, 1);
    let parts = alone(batch);
    input.set(parts.iter().map(|of| Segment { weights: Some(&of.weights), ..Segment::to_predict(&of.tokens) }));
    let (main, mtp) = t.model.losses(&t.cx, &input, None, true, None);
    let bits = |losses: &Tensor| losses.f32().iter().map(|loss| loss.to_bits()).collect();
    [bits(&main), bits(&mtp[0])]
}

#[test]
fn a_token_has_the_loss_that_it_has_alone_to_the_bit() {
    for dtype in [DType::Bf16, DType::F32] {
        let t = trainer(dtype);
        let batch = batch(&t);
        let together = losses(&t, &batch);
        let mut apart = [Vec::new(), Vec::new()];
        for one in alone(&batch) {
            apart.iter_mut().zip(losses(&t, &one)).for_each(|(all, more)| all.extend(more));
        }
        assert!(together == apart && together[0].iter().any(|bits| *bits != 0));
    }
}

/// The losses of a step are means over the trained tokens of the whole step. Its gradient is the mean of the gradients
/// of the sequences alone, each weighted by its number of trained tokens: here up to f32 sums of some hundred products,
/// of which at least a sixteenth remains. There is no other term, of the MTP module neither.
#[test]
fn a_step_is_the_mean_over_its_trained_tokens_however_it_is_cut() {
    let mut t = trainer(DType::F32);
    let batch = batch(&t);
    let count = |batch: &StepBatch, shift: usize| -> f64 {
        alone(batch)
            .iter()
            .flat_map(|one| one.weights.iter().skip(shift + 1).map(|w| f64::from(*w)).collect::<Vec<_>>())
            .sum()
    };
    let gradient = |t: &Trainer| -> Vec<f64> { t.grads.iter().flat_map(|g| g.f32().to_vec()).map(f64::from).collect() };
    // Each loss alone, since each has a factor of its own: first that of the main model, then both together.
    for (lambda, shift) in [(0.0, 0), (0.1, 1)] {
        let settings = StepSettings { mtp_lambda: lambda, ..SETTINGS };
        let (mut expected, mut sums) = (Vec::new(), [0.0; 2]);
        for one in alone(&batch) {
            let shares = [0, 1].map(|shift| count(&one, shift) / count(&batch, shift));
            // A gradient with lambda scaled so that both terms have the share of the main one.
            let scaled = if shares[0] > 0.0 { lambda * shares[1] / shares[0] } else { 0.0 };
            if shares[0] == 0.0 {
                assert_eq!(shares[1], 0.0, "choose other weights");
                continue;
            }
            t.gradients(&one, &StepSettings { mtp_lambda: scaled, ..settings });
            let losses = t.losses();
            assert_eq!(losses.balance, 0.0);
            sums[0] += losses.main * shares[0];
            sums[1] += losses.mtp[0] * shares[1];
            let of = gradient(&t);
            expected.resize(of.len(), 0.0);
            expected.iter_mut().zip(of).for_each(|(sum, g)| *sum += g * shares[0]);
        }
        let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
        let whole = norm(&mut expected.iter().copied());
        let bound = 3.0 * 16.0 * 100.0 * f64::powi(2.0, -24) * whole;
        for micro_batch in [1, 2, 3] {
            t.gradients(&batch, &StepSettings { micro_batch, ..settings });
            let losses = t.losses();
            assert_eq!(losses.balance, 0.0);
            assert!((losses.main - sums[0]).abs() < 1e-12 * sums[0], "{} {}", losses.main, sums[0]);
            assert!(shift == 0 || (losses.mtp[0] - sums[1]).abs() < 1e-12 * sums[1]);
            let apart = norm(&mut gradient(&t).iter().zip(&expected).map(|(a, b)| a - b));
            assert!(apart < bound, "micro-batches of {micro_batch}: {apart} of {whole}");
        }
    }
}

/// A frozen MTP module has no gradients. Without its losses, the others have the bits of training the main model alone.
#[test]
fn a_frozen_module_has_no_gradients() {
    let (mut t, mut other) = (trainer(DType::F32), frozen());
    let (batch, settings) = (batch(&t), StepSettings { mtp_lambda: 0.0, ..SETTINGS });
    t.gradients(&batch, &settings);
    other.gradients(&batch, &settings);
    let layers = t.model.config.num_hidden_layers;
    let mut seen = [0, 0];
    for p in t.model.params() {
        let of_mtp = p.spec.layer.is_some_and(|layer| layer >= layers);
        match other.grads.get(p.index) {
            Some(grad) => assert!(!of_mtp && grad.f32() == t.grads.get(p.index).unwrap().f32(), "{}", p.spec.name()),
            None => assert!(of_mtp || !p.spec.trainable(), "{}", p.spec.name()),
        }
        seen[usize::from(of_mtp)] += 1;
    }
    assert!(seen[0] > 10 && seen[1] > 5);
}
