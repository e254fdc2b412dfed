//! AdamW with f32 master weights (report 4.2): beta 0.9 / 0.95, weight decay on matrices only, moments BF16 or F32.

use hadal_model::{Grads, Model, Param};
use hadal_ops::adamw::{self, AdamW};
use hadal_ops::{Cx, DType, Tensor, reduce};

/// Settings that do not change during a run.
#[derive(Clone, Copy, Debug)]
pub struct OptimConfig {
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled decay of matrices.
    pub weight_decay: f32,
    /// Format of the moments.
    pub moments: DType,
}

/// First and second moments of every trainable parameter, by slot, and the number of updates made.
pub struct Optimizer {
    cfg: OptimConfig,
    /// Moments by slot; none for a parameter that is not trained.
    pub moments: Vec<Option<(Tensor, Tensor)>>,
    /// Updates made so far.
    pub updates: u64,
}

impl Optimizer {
    /// Zero moments for the parameters of `model`.
    pub fn new(cx: &Cx, model: &Model, cfg: OptimConfig) -> Self {
        let zeros = |p: &Param| cx.zeros(p.value.shape(), cfg.moments);
        let moments = model.params().iter().map(|p| p.trainable().then(|| (zeros(p), zeros(p)))).collect();
        Self { cfg, moments, updates: 0 }
    }

    /// One update of all weights with gradients times `grad_scale`, refreshing the packed forms.
    pub fn update(&mut self, cx: &Cx, model: &mut Model, grads: &Grads, lr: f32, grad_scale: f32) {
        self.updates += 1;
        let OptimConfig { beta1, beta2, eps, weight_decay, .. } = self.cfg;
        let step = self.updates;
        let moments = &mut self.moments;
        model.visit_mut(&mut |p| {
            let (Some(grad), Some((m, v))) = (grads.get(p.slot), &mut moments[p.slot]) else { return };
            let weight_decay = if p.decays() { weight_decay } else { 0.0 };
            let hp = AdamW { lr, beta1, beta2, eps, weight_decay, grad_scale, step };
            match &mut p.packed {
                Some(packed) => adamw::step_packed(cx, &mut p.value, grad, m, v, &hp, packed),
                None => adamw::step(cx, &mut p.value, grad, m, v, &hp),
            }
        });
    }
}

/// Euclidean norm of all gradients together.
pub fn grad_norm(cx: &Cx, grads: &Grads) -> f64 {
    grads.iter().map(|g| reduce::sum_squares(cx, g)).sum::<f64>().sqrt()
}

/// The factor that brings a gradient of norm `norm` down to `clip` (1 if it is below, or if `clip` is 0: off).
pub fn clip_scale(norm: f64, clip: f64) -> f32 {
    if clip > 0.0 && norm > clip { (clip / (norm + 1e-6)) as f32 } else { 1.0 }
}

/// Exponential moving average of the weights in f32 (report 3.2.3), by slot.
pub struct Ema {
    /// Averages by slot; none for a parameter that is not trained.
    pub values: Vec<Option<Tensor>>,
    /// Share of the old average kept at each step.
    pub decay: f32,
}

impl Ema {
    /// Starts at the present weights.
    pub fn new(cx: &Cx, model: &Model, decay: f32) -> Self {
        let values = model.params().iter().map(|p| p.trainable().then(|| cx.copy(&p.value))).collect();
        Self { values, decay }
    }

    /// Exchanges the averages with the model's weights, to evaluate them; another call takes it back.
    pub fn swap(&mut self, cx: &Cx, model: &mut Model) {
        let values = &mut self.values;
        model.visit_mut(&mut |p| {
            if let Some(ema) = &mut values[p.slot] {
                std::mem::swap(ema, &mut p.value);
                p.repack(cx);
            }
        });
    }

    /// `ema = decay ema + (1 - decay) w`
    pub fn update(&mut self, cx: &Cx, model: &Model) {
        let (values, decay) = (&mut self.values, self.decay);
        model.visit(&mut |p| {
            if let Some(ema) = &mut values[p.slot] {
                adamw::ema(cx, ema, &p.value, decay);
            }
        });
    }
}
