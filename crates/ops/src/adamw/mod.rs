//! AdamW with decoupled decay (report 4.2; moments in BF16 as in 3.3.1), like `torch.optim.AdamW`, and the weights'
//! moving average (3.2.3).
//!
//! ```text
//! g <- grad_scale g                       w <- w - lr weight_decay w
//! m <- m + (1 - beta1) (g - m)            v <- beta2 v + (1 - beta2) g^2
//! w <- w - lr / (1 - beta1^step) * m / (sqrt(v) / sqrt(1 - beta2^step) + eps)
//! ```
//!
//! `w` and `g` are f32, each moment is F32 or Bf16, and all have the same number of elements. Arithmetic is f32, in one
//! pass over memory. The update uses the new moments before they are rounded for storage. So rounding a moment affects
//! only later steps. With beta2 = 0.95, an update of v changes it by up to a twentieth, far more than Bf16's 1/256.
//! With 0.999 it would stall, and v should be F32. Elements are independent: any split of the parameters gives the same
//! bits.

mod cpu;
#[cfg(test)]
mod tests;

use crate::kernel::expect_float;
use crate::linear::PackedWeight;
use crate::{Cx, DType, Device, Tensor};

/// The numbers of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the square root of the bias-corrected second moment.
    pub eps: f32,
    /// Decoupled weight decay; 0 for parameters that do not decay.
    pub weight_decay: f32,
    /// Factor of the gradient, for clipping.
    pub grad_scale: f32,
    /// Number of this step, counted from 1.
    pub step: u64,
}

/// The step's numbers in the form that the kernel uses, computed in f64 and rounded once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Factors {
    pub(crate) keep: f32,
    pub(crate) rise1: f32,
    pub(crate) beta2: f32,
    pub(crate) rise2: f32,
    pub(crate) rate: f32,
    pub(crate) root: f32,
    pub(crate) eps: f32,
    pub(crate) grad_scale: f32,
}

impl AdamW {
    pub(crate) fn factors(&self) -> Factors {
        assert!(self.step > 0, "adamw: steps count from 1");
        let (beta1, beta2) = (f64::from(self.beta1), f64::from(self.beta2));
        // powf is used because the exponent of powi is an i32.
        let correction = |beta: f64| 1.0 - beta.powf(self.step as f64);
        Factors {
            keep: (1.0 - f64::from(self.lr) * f64::from(self.weight_decay)) as f32,
            rise1: (1.0 - beta1) as f32,
            beta2: self.beta2,
            rise2: (1.0 - beta2) as f32,
            rate: (f64::from(self.lr) / correction(beta1)) as f32,
            root: (1.0 / correction(beta2).sqrt()) as f32,
            eps: self.eps,
            grad_scale: self.grad_scale,
        }
    }
}

fn check(w: &Tensor, g: &Tensor, m: &Tensor, v: &Tensor) {
    assert!(w.dtype() == DType::F32 && g.dtype() == DType::F32, "adamw: {w:?} with gradient {g:?}");
    expect_float("adamw", m.dtype());
    expect_float("adamw", v.dtype());
    let n = w.len();
    assert!(g.len() == n && m.len() == n && v.len() == n, "adamw: {w:?}, {g:?}, moments {m:?} and {v:?}");
}

/// Bytes that a step reads and writes.
fn traffic(w: &Tensor, g: &Tensor, m: &Tensor, v: &Tensor) -> u64 {
    (2 * w.bytes() + g.bytes() + 2 * m.bytes() + 2 * v.bytes()) as u64
}

/// One step on `w`, `m` and `v`, in place.
pub fn step(cx: &Cx, w: &mut Tensor, g: &Tensor, m: &mut Tensor, v: &mut Tensor, hp: &AdamW) {
    let _scope = cx.scope("adamw", 0, traffic(w, g, m, v));
    check(w, g, m, v);
    match w.device() {
        Device::Cpu => cpu::step(cx, w, g, m, v, hp),
    }
}

/// Like [`step`] followed by `packed.pack(cx, w)`, with the same bits but one pass over memory. Rows are packed while
/// they are in cache.
pub fn step_packed(
    cx: &Cx,
    w: &mut Tensor,
    g: &Tensor,
    m: &mut Tensor,
    v: &mut Tensor,
    hp: &AdamW,
    packed: &mut PackedWeight,
) {
    let _scope = cx.scope("adamw and pack", 0, traffic(w, g, m, v) + packed.bytes() as u64);
    check(w, g, m, v);
    let want = packed.groups() * packed.n() * packed.k();
    assert!(w.len() == want, "adamw: {w:?} packed as {} x {} x {}", packed.groups(), packed.n(), packed.k());
    match w.device() {
        Device::Cpu => cpu::step_packed(cx, w, g, m, v, hp, packed),
    }
}

/// `ema += (1 - decay) (w - ema)`, both f32.
pub fn ema(cx: &Cx, ema: &mut Tensor, w: &Tensor, decay: f32) {
    assert!(ema.dtype() == DType::F32 && w.dtype() == DType::F32 && ema.len() == w.len(), "ema: {ema:?} of {w:?}");
    match w.device() {
        Device::Cpu => cpu::ema(cx, ema, w, decay),
    }
}
