//! Measures the effect of a precision on a single model (report 3.3, appendix B): its loss and its gradients, compared
//! with f32. The routing choices are those of f32, so only rounding differs. Two training runs also differ by chance;
//! this measurement does not.

use hadal_data::EvalSet;
use hadal_model::{Grads, LossWeights, Model, Probe, Workspace};
use hadal_ops::{Cx, Tensor};
use hadal_train::evaluate::each_input;
use serde::{Deserialize, Serialize};

/// The experts that every gate chose, for each MoE layer and each group of windows.
type Choices = Vec<Vec<Tensor>>;

/// Loss and gradients of a model over a text.
pub struct Sample {
    loss: f64,
    grads: Grads,
    choices: Choices,
}

/// The difference between two samples of the same weights.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fidelity {
    /// Relative difference of the mean loss per token, with its sign.
    pub loss: f64,
    /// Relative difference of the gradients of all matrices in Transformer layers together: norm of the difference
    /// divided by the norm.
    pub gradients: f64,
}

/// Runs `model` forward and backward over `set`, with the choices of another sample or its own.
pub fn sample(cx: &Cx, model: &Model, set: &EvalSet, like: Option<&Sample>) -> Sample {
    let mut grads = Grads::new(cx, model.params().into_iter());
    let (mut stats, mut ws, mut choices) = (model.stats(cx), Workspace::default(), Choices::new());
    let weights = LossWeights { main: (1.0 / set.scored.max(1) as f64) as f32, mtp: &[], balance: None };
    each_input(cx, set, &mut |input, _| {
        let replay = like.map(|l| &l.choices[choices.len()][..]);
        let mut chosen = Vec::new();
        let mut keep = |probe: Probe<'_>| {
            if let Probe::Routing(_, routing) = probe {
                chosen.push(cx.copy(&routing.idx));
            }
        };
        model.forward_backward(cx, input, &weights, replay, &mut ws, &mut stats, &mut grads, Some(&mut keep));
        choices.push(chosen);
        true
    });
    grads.finish();
    Sample { loss: stats.main / set.scored.max(1) as f64, grads, choices }
}

impl Fidelity {
    /// Compares `sample` with `exact`, whose choices it used. `model` has their parameters.
    pub fn new(model: &Model, sample: &Sample, exact: &Sample) -> Self {
        let (mut apart, mut whole) = (0.0, 0.0);
        for param in model.params() {
            let matrix = param.spec.decays() && param.spec.parts.iter().any(|p| p.name.contains(".layers."));
            let (Some(a), Some(b)) = (sample.grads.get(param.index), exact.grads.get(param.index)) else { continue };
            if matrix {
                for (a, b) in a.f32().iter().zip(b.f32()) {
                    apart += f64::from(a - b).powi(2);
                    whole += f64::from(*b).powi(2);
                }
            }
        }
        Self { loss: sample.loss / exact.loss - 1.0, gradients: (apart / whole).sqrt() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::windows;
    use hadal_model::Fresh;
    use hadal_ops::DType;
    use hadal_weights::precision::{Gradients, Precision};

    /// Four bits round sixteen times as coarsely as eight. Scales and second roundings change this a little. Blocks
    /// share a scale among different tokens and lose more.
    #[test]
    fn precisions_are_ordered_by_their_bits() {
        let text = "some text, again some text, and then at last some other text: one, two, three, four, five. ";
        let (config, set) = windows(&[text], 16, 0);
        let take = |dtype, precision, exact: Option<&Sample>| {
            let cx = Cx::cpu(1, dtype);
            let model = Model::fresh(&cx, &config, precision, Fresh { seed: 1, std: 0.2 });
            let sample = sample(&cx, &model, &set, exact);
            (model, sample)
        };
        let (model, exact) = take(DType::F32, Precision::COMPUTE, None);
        let of = |dtype, precision| Fidelity::new(&model, &take(dtype, precision, Some(&exact)).1, &exact);
        assert_eq!(of(DType::F32, Precision::COMPUTE), Fidelity { loss: 0.0, gradients: 0.0 });
        let bf16 = of(DType::Bf16, Precision::COMPUTE);
        let tiles = of(DType::Bf16, Precision::FP8);
        let blocks = of(DType::Bf16, Precision { gradients: Gradients::Block, ..Precision::FP8 });
        println!("{bf16:?} {tiles:?} {blocks:?}");
        let ratio = tiles.gradients / bf16.gradients;
        assert!(bf16.gradients > 0.0 && (4.0..32.0).contains(&ratio), "{ratio}");
        assert!(blocks.gradients > tiles.gradients, "{blocks:?}");
        assert!(bf16.loss != 0.0 && bf16.loss.abs() < tiles.loss.abs(), "{tiles:?} {bf16:?}");
    }
}
