//! The distance of a model from another one on text: the KL divergence of their predictions, window by window.
//!
//! ```text
//! KL_t = sum_v p_tv (log p_tv - log q_tv)      p: the reference, q: the model
//! ```
//!
//! Logits exist for a few tokens at a time. Probabilities and sums are f64. Tokens without a scored target do not
//! count.

use crate::evaluate::each_input;
use hadal_data::EvalSet;
use hadal_model::Model;
use hadal_ops::reduce::argmax;
use hadal_ops::{Chunks, Cx, Tensor};
use serde::Serialize;

/// Number of tokens whose logits exist at a time, for both models.
const ROWS: usize = 32;

/// Means over tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Divergence {
    /// Number of tokens.
    pub tokens: u64,
    /// KL divergence of the model from the reference, in nats.
    pub kl: f64,
    /// The largest divergence of a token.
    pub largest_kl: f64,
    /// Share of tokens for which both have the same most likely next token.
    pub same_top: f64,
    /// The reference's loss in nats.
    pub reference_loss: f64,
    /// The model's loss in nats.
    pub loss: f64,
}

/// The contribution of one token.
#[derive(Clone, Copy, Default)]
struct Term {
    kl: f64,
    same_top: bool,
    losses: [f64; 2],
}

/// Compares `model` with `reference` on the scored tokens of `set`. Both must have the same vocabulary. `each` receives
/// (windows done, number of windows). If it returns false, the comparison ends there.
pub fn divergence(
    cx: &Cx,
    reference: &Model,
    model: &Model,
    set: &EvalSet,
    each: &mut dyn FnMut(usize, usize) -> bool,
) -> Divergence {
    let mut sum = Divergence::default();
    each_input(cx, set, &mut |input, done| {
        let hidden = [reference, model].map(|m| m.head_inputs(cx, input));
        let (targets, weights) = (input.targets.ids.i32(), input.targets.weights.f32());
        let counted = (0..targets.len()).filter(|t| targets[*t] >= 0 && weights[*t] > 0.0);
        let counted: Vec<i32> = counted.map(|row| row as i32).collect();
        for rows in counted.chunks(ROWS) {
            let logits = [(reference, &hidden[0]), (model, &hidden[1])].map(|(m, h)| m.project_rows(cx, h, rows));
            for term in terms(cx, &logits, rows, targets) {
                sum.tokens += 1;
                sum.kl += term.kl;
                sum.largest_kl = sum.largest_kl.max(term.kl);
                sum.same_top += f64::from(u8::from(term.same_top));
                sum.reference_loss += term.losses[0];
                sum.loss += term.losses[1];
            }
        }
        each(done, set.windows.len())
    });
    let n = sum.tokens.max(1) as f64;
    let Divergence { tokens, kl, largest_kl, same_top, reference_loss, loss } = sum;
    Divergence {
        tokens,
        kl: kl / n,
        largest_kl,
        same_top: same_top / n,
        reference_loss: reference_loss / n,
        loss: loss / n,
    }
}

/// The contributions of the tokens `rows`. Their logits are rows 0, 1, ... of both tensors.
fn terms(cx: &Cx, logits: &[Tensor; 2], rows: &[i32], targets: &[i32]) -> Vec<Term> {
    let mut all = vec![Term::default(); rows.len()];
    let to = Chunks::new(&mut all, 1);
    let v = logits[0].cols();
    cx.threads().each(rows.len(), |i| {
        let [p, q] = [0, 1].map(|m| &logits[m].f32()[i * v..][..v]);
        let [log_p, log_q] = [p, q].map(log_sum);
        let (log_p_of, log_q_of) = (|j: usize| f64::from(p[j]) - log_p, |j: usize| f64::from(q[j]) - log_q);
        let kl = (0..v).map(|j| log_p_of(j).exp() * (log_p_of(j) - log_q_of(j))).sum();
        let target = targets[rows[i] as usize] as usize;
        to.take(i)[0] = Term { kl, same_top: argmax(p) == argmax(q), losses: [-log_p_of(target), -log_q_of(target)] };
    });
    all
}

/// `log sum exp`.
fn log_sum(logits: &[f32]) -> f64 {
    let most = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    most + logits.iter().map(|x| (f64::from(*x) - most).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::tests::windows;
    use hadal_model::{Fresh, Input, Model};
    use hadal_ops::DType;
    use hadal_weights::precision::{Precision, RunFormat, RunFormats};
    use hadal_weights::{Checkpoint, SaveOptions, WeightFormat};

    /// Compared with a plain sum over all logits, in which probabilities are divided instead of subtracted as
    /// logarithms.
    #[test]
    fn it_is_the_sum_over_all_logits() {
        let texts = ["a text of some forty bytes, more or less, and then some more of it", "short", "and a third one"];
        let (config, set) = windows(&texts, 24, 5);
        let (cx, dir) = (Cx::cpu(2, DType::Bf16), tempfile::tempdir().unwrap());
        let fresh = Model::fresh(&cx, &config, Precision::COMPUTE, Fresh { seed: 1, std: 0.2 });
        fresh.save_into(dir.path(), WeightFormat::Bf16, &SaveOptions::default()).unwrap();
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        let load = |format| Model::load_as(&cx, &checkpoint, RunFormats::all(format)).unwrap();
        let (reference, model) = (load(RunFormat::Compute), load(RunFormat::Int4));

        let (mut tokens, mut sums, mut largest) = (0, [0.0f64; 4], 0.0f64);
        for window in &set.windows {
            let ids = set.tokens(window);
            let input = Input::of(&cx, &[ids], 0);
            let [p, q] = [&reference, &model].map(|m| {
                let (logits, _) = m.logits(&cx, &input, None, None);
                let softmax = |row: &[f32]| {
                    let e: Vec<f64> = row.iter().map(|x| f64::from(*x).exp()).collect();
                    let sum: f64 = e.iter().sum();
                    e.into_iter().map(|x| x / sum).collect::<Vec<f64>>()
                };
                logits.f32().chunks(logits.cols()).map(softmax).collect::<Vec<_>>()
            });
            for t in window.first_scored()..window.inputs() {
                let (p, q, target) = (&p[t], &q[t], ids[t + 1] as usize);
                let kl: f64 = p.iter().zip(q).map(|(p, q)| p * (p / q).ln()).sum();
                let best = |x: &[f64]| x.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
                tokens += 1;
                largest = largest.max(kl);
                let terms = [kl, f64::from(u8::from(best(p) == best(q))), -p[target].ln(), -q[target].ln()];
                sums.iter_mut().zip(terms).for_each(|(s, t)| *s += t);
            }
        }
        let mut done = 0;
        let found = divergence(&cx, &reference, &model, &set, &mut |n, _| {
            done = n;
            true
        });
        assert_eq!((found.tokens, done), (tokens, set.windows.len()));
        assert_eq!(found.tokens, set.scored);
        let found_sums = [found.kl, found.same_top, found.reference_loss, found.loss].map(|mean| mean * tokens as f64);
        for (found, want) in found_sums.into_iter().zip(sums).chain([(found.largest_kl, largest)]) {
            assert!((found - want).abs() <= 1e-9 * want.abs().max(1.0), "{found} but {want}");
        }
        assert!(found.kl > 0.0 && found.same_top < 1.0, "{found:?}");

        let itself = divergence(&cx, &reference, &reference, &set, &mut |_, _| true);
        assert_eq!((itself.kl, itself.same_top, itself.loss), (0.0, 1.0, itself.reference_loss));
    }
}
