//! Weights of tokens, and segments in rows: which mean a loss is.

use crate::{SETTINGS, tokens, trainer};
use hadal_model::{Input, Segment};
use hadal_ops::{Cx, DType};
use hadal_train::step::{StepBatch, StepSettings, Trainer};

/// Numbers of inputs of the segments, in two rows.
const SEGMENTS: [usize; 5] = [9, 1, 14, 20, 4];
const ROWS: [usize; 2] = [3, 2];

/// Settings without a balance loss, so that the gradient is that of the token losses.
fn settings() -> StepSettings {
    StepSettings { micro_batch: 1, balance: None, ..SETTINGS }
}

fn batch(t: &Trainer, weights: impl Fn(usize) -> f32) -> StepBatch {
    let n = SEGMENTS.iter().map(|inputs| inputs + 1).sum();
    let weights = (0..n).map(weights).collect();
    StepBatch { tokens: tokens(&t.model.config, 3, n), weights, segments: SEGMENTS.into(), rows: ROWS.into() }
}

fn gradients(t: &mut Trainer, batch: &StepBatch) -> (f64, Vec<f64>, Vec<f32>) {
    t.gradients(batch, &settings());
    let losses = t.losses();
    (losses.main, losses.mtp, t.grads.iter().flat_map(|g| g.f32().to_vec()).collect())
}

/// The factor is one over the sum of the weights. So doubling the weight of every token gives exactly the same step.
#[test]
fn weights_are_relative() {
    let mut t = trainer(Cx::cpu(2, DType::Bf16), DType::F32, 0.0);
    let plain = StepBatch { weights: Vec::new(), ..batch(&t, |_| 1.0) };
    let expected = gradients(&mut t, &plain);
    for weight in [1.0, 2.0, 0.25] {
        let weighted = batch(&t, |_| weight);
        assert!(gradients(&mut t, &weighted) == expected, "{weight}");
    }
}

/// A loss is the weighted mean of the tokens' losses. Tokens of weight 0 do not count as targets.
#[test]
fn losses_are_weighted_means() {
    let mut t = trainer(Cx::cpu(2, DType::F32), DType::F32, 0.0);
    let weight = |i: usize| [0.0, 1.0, 0.5, 3.0][i * i % 7 % 4];
    let weighted = batch(&t, weight);
    let (main, mtp, _) = gradients(&mut t, &weighted);
    let (mut sums, mut first) = ([[0.0; 2]; 2], 0);
    for inputs in SEGMENTS {
        let ids = &weighted.tokens[first..=first + inputs];
        let mut input = Input::new(&t.cx, 1);
        input.set([Segment::to_predict(ids)].into_iter());
        let (losses, depths) = t.model.losses(&t.cx, &input, None, true, None);
        for (shift, losses) in [Some(&losses), depths.first()].into_iter().enumerate() {
            for (i, loss) in losses.iter().flat_map(|l| l.f32()).enumerate() {
                let w = f64::from(weight(first + i + shift + 1));
                sums[shift][0] += w * f64::from(*loss);
                sums[shift][1] += w;
            }
        }
        first += inputs + 1;
    }
    // A token's loss has the same bits when computed alone. Sums are in f64.
    let close = |got: f64, [sum, weight]: [f64; 2]| assert!((got - sum / weight).abs() < 1e-12 * got, "{got}");
    close(main, sums[0]);
    close(mtp[0], sums[1]);
}

/// The gradients for two sets of weights, each multiplied by its sum, add up to the gradient for both sets together.
/// Each of the three gradients has the rounding error of f32 sums of some hundred products: 2^-24 of each product. Here
/// at most a sixteenth of the sum remains after cancellation.
#[test]
fn gradients_are_linear_in_the_weights() {
    let mut t = trainer(Cx::cpu(2, DType::F32), DType::F32, 0.0);
    let (a, b) = (|i: usize| (i % 3) as f32, |i: usize| ((i * 5 + 1) % 4) as f32);
    let sum = |batch: &StepBatch, shift: usize| -> f64 {
        let mut first = 0;
        SEGMENTS
            .iter()
            .map(|inputs| {
                let of = &batch.weights[first..=first + inputs];
                first += inputs + 1;
                of.iter().skip(shift + 1).map(|w| f64::from(*w)).sum::<f64>()
            })
            .sum()
    };
    // Only the main loss, whose factor is a single number.
    let no_mtp = StepSettings { mtp_lambda: 0.0, ..settings() };
    let mut weighted = |w: &dyn Fn(usize) -> f32| -> Vec<f64> {
        let batch = batch(&t, w);
        t.gradients(&batch, &no_mtp);
        let total = sum(&batch, 0);
        t.grads.iter().flat_map(|g| g.f32().to_vec()).map(|g| f64::from(g) * total).collect()
    };
    let (of_a, of_b, both) = (weighted(&a), weighted(&b), weighted(&|i| a(i) + b(i)));
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    let apart = norm(&mut both.iter().zip(of_a.iter().zip(&of_b)).map(|(ab, (a, b))| ab - a - b));
    let whole = norm(&mut both.iter().copied());
    assert!(apart < 3.0 * 16.0 * 100.0 * f64::powi(2.0, -24) * whole, "{apart} of {whole}");
}
