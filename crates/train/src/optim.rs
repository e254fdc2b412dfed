//! AdamW with f32 master weights (report 4.2): beta 0.9 / 0.95, weight decay on matrices only, moments BF16 or F32.

use hadal_model::{Grads, Model, Param, Stored, Values, read_all};
use hadal_ops::adamw::{self, AdamW};
use hadal_ops::{Cx, DType, Tensor, reduce};
use hadal_weights::list::Parameter;

/// Settings that do not change during a run.
#[derive(Clone, Copy, Debug)]
pub struct OptimConfig {
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the square root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay of matrices.
    pub weight_decay: f32,
    /// Storage format of the moments.
    pub moments: DType,
}

/// The f32 master weights that are not in the model itself, by index. These are the masters of weights that are
/// multiplied in another format. Weights that layers read in f32 (norms, biases, router, embedding) are in the model
/// and are their own masters.
pub struct Masters {
    own: Vec<Option<Tensor>>,
}

impl Masters {
    /// Fills the masters from `values` in f32 and packs the model's weights from them.
    pub fn fill(cx: &Cx, model: &mut Model, values: &dyn Values) -> Result<Self, hadal_weights::Error> {
        let own = |p: &&Param| (!p.is_own_master()).then(|| cx.fixed(&p.spec.shape, DType::F32));
        let mut masters = Self { own: model.params().iter().map(own).collect() };
        let mut result = Ok(());
        masters.write(cx, model, |p, master| {
            if result.is_ok() {
                result = read_all(cx, values, &p, master);
            }
        });
        result.map(|()| masters)
    }

    /// The master of a parameter.
    pub fn of<'a>(&'a self, p: &'a Param) -> &'a Tensor {
        self.own[p.index].as_ref().unwrap_or_else(|| p.table())
    }

    /// Lets `write` change the master of every parameter, then packs the model's weights again.
    pub fn write(&mut self, cx: &Cx, model: &mut Model, mut write: impl FnMut(Parameter, &mut Tensor)) {
        let own = &mut self.own;
        model.visit_mut(&mut |p| {
            let spec = p.spec.clone();
            unshared(match &mut own[p.index] {
                Some(master) => {
                    write(spec, master);
                    p.pack(cx, master)
                }
                None => p.edit(cx, |master| write(spec, master)),
            });
        });
    }
}

/// The trainer's model is not shared, so this cannot fail.
pub(crate) fn unshared<T>(result: Result<T, hadal_model::Shared>) -> T {
    result.unwrap_or_else(|shared| panic!("training: {shared}"))
}

/// First and second moments of every trained parameter, by index, and the number of updates so far.
pub struct Optimizer {
    cfg: OptimConfig,
    /// Moments by index. `None` for a parameter that is not trained.
    pub moments: Vec<Option<(Tensor, Tensor)>>,
    /// Number of updates so far.
    pub updates: u64,
}

impl Optimizer {
    /// Zero moments for the parameters of `model` that have a gradient. Frozen parameters have none.
    pub fn new(cx: &Cx, model: &Model, grads: &Grads, cfg: OptimConfig) -> Self {
        let zeros = |p: &Param| cx.fixed(&p.spec.shape, cfg.moments);
        let moments = model.params().iter().map(|p| grads.get(p.index).map(|_| (zeros(p), zeros(p)))).collect();
        Self { cfg, moments, updates: 0 }
    }

    /// Updates all weights once, with the gradients times `grad_scale`. The same pass packs the weights that layers
    /// read.
    pub fn update(
        &mut self,
        cx: &Cx,
        model: &mut Model,
        masters: &mut Masters,
        grads: &Grads,
        lr: f32,
        grad_scale: f32,
    ) {
        self.updates += 1;
        let OptimConfig { beta1, beta2, eps, weight_decay, .. } = self.cfg;
        let step = self.updates;
        let (moments, own) = (&mut self.moments, &mut masters.own);
        model.visit_mut(&mut |p| {
            let (Some(grad), Some((m, v))) = (grads.get(p.index), &mut moments[p.index]) else { return };
            let weight_decay = if p.spec.decays() { weight_decay } else { 0.0 };
            let hp = AdamW { lr, beta1, beta2, eps, weight_decay, grad_scale, step };
            let master = &mut own[p.index];
            match (unshared(p.stored_mut()), master) {
                (Stored::Packed(packed), Some(master)) => adamw::step_packed(cx, master, grad, m, v, &hp, packed),
                (Stored::Both(table, packed), _) => adamw::step_packed(cx, table, grad, m, v, &hp, packed),
                (Stored::Table(table), _) => adamw::step(cx, table, grad, m, v, &hp),
                (Stored::Packed(_), None) => unreachable!("what is only packed has its master here"),
                (Stored::Coded(_) | Stored::Quantised(_), _) => {
                    unreachable!("a model that is trained has none that only run")
                }
            }
        });
    }
}

/// Euclidean norm of all gradients together.
pub fn grad_norm(cx: &Cx, grads: &Grads) -> f64 {
    grads.iter().map(|g| reduce::sum_squares(cx, g)).sum::<f64>().sqrt()
}

/// The factor that reduces a gradient of norm `norm` to `clip`. It is 1 if the norm is smaller, or if `clip` is 0 (no
/// clipping).
pub fn clip_scale(norm: f64, clip: f64) -> f32 {
    if clip > 0.0 && norm > clip { (clip / (norm + 1e-6)) as f32 } else { 1.0 }
}

/// Exponential moving average of the weights in f32 (report 3.2.3), by index.
pub struct Ema {
    /// Averages by index. `None` for a parameter that is not trained.
    pub values: Vec<Option<Tensor>>,
    /// Share of the old average that each step keeps.
    pub decay: f32,
}

impl Ema {
    /// Starts with the present weights.
    pub fn new(cx: &Cx, model: &Model, masters: &Masters, grads: &Grads, decay: f32) -> Self {
        let copy = |p: &&Param| {
            grads.get(p.index)?;
            let mut average = cx.fixed(&p.spec.shape, DType::F32);
            average.f32_mut().copy_from_slice(masters.of(p).f32());
            Some(average)
        };
        Self { values: model.params().iter().map(copy).collect(), decay }
    }

    /// Runs `look` on the model while the averages replace its weights.
    pub fn with<R>(&mut self, cx: &Cx, model: &mut Model, masters: &mut Masters, look: impl FnOnce(&Model) -> R) -> R {
        self.exchange(cx, model, masters);
        let seen = look(model);
        self.exchange(cx, model, masters);
        seen
    }

    /// Exchanges averages and masters. A second call undoes it.
    fn exchange(&mut self, cx: &Cx, model: &mut Model, masters: &mut Masters) {
        let mut averages = self.values.iter_mut();
        masters.write(cx, model, |_, master| {
            if let Some(Some(average)) = averages.next() {
                std::mem::swap(average, master);
            }
        });
    }

    /// `ema = decay ema + (1 - decay) w`
    pub fn update(&mut self, cx: &Cx, model: &Model, masters: &Masters) {
        let (values, decay) = (&mut self.values, self.decay);
        model.visit(&mut |p| {
            if let Some(ema) = &mut values[p.index] {
                adamw::ema(cx, ema, masters.of(p), decay);
            }
        });
    }
}
