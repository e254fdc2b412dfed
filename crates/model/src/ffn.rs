//! SwiGLU feed-forward: `down(silu(gate(u)) * up(u))`, gate and up in one product. Used by the dense layers and,
//! with `n_shared_experts` times the width, as the shared expert of DeepSeekMoE (report 2.1.2).

use crate::build::Builder;
use crate::kept::Kept;
use crate::mla::weight_grad;
use crate::param::{Grads, Param};
use hadal_ops::{Acc, Cx, Tensor, linear, swiglu};
use hadal_weights::precision::Keep;

/// Parameters of one SwiGLU.
pub struct Ffn {
    /// `gate_proj` and `up_proj`, stacked: `[2I, D]`.
    pub gate_up: Param,
    /// `down_proj`: `[D, I]`.
    pub down: Param,
    keep: Keep,
}

/// The gate and up products `[T, 2I]`; the SwiGLU output is recomputed in backward (report 3.2.3).
pub struct FfnSaved {
    pub(crate) gu: Kept,
}

/// Operands of the weight products; the shared operands `u` and `d` stay with the caller.
pub struct FfnDeferred {
    d_gu: Tensor,
    h: Tensor,
}

impl Ffn {
    pub(crate) fn new(b: &mut Builder<'_>, prefix: &str, d: usize, inner: usize) -> Self {
        let rows = ["gate_proj", "up_proj"].map(|n| (format!("{prefix}.{n}.weight"), inner)).to_vec();
        let precision = b.precision;
        let gate_up = b.matrix(rows, d, 1, Some(precision.gate_up));
        let down = b.linear(&format!("{prefix}.down_proj"), d, inner, precision.down);
        Self { gate_up, down, keep: precision.swiglu_input }
    }

    pub(crate) fn params(&self) -> impl Iterator<Item = &Param> {
        [&self.gate_up, &self.down].into_iter()
    }
    pub(crate) fn params_mut(&mut self) -> impl Iterator<Item = &mut Param> {
        [&mut self.gate_up, &mut self.down].into_iter()
    }

    /// `y_td += FFN(u_td)`, y f32.
    pub fn forward(&self, cx: &Cx, u: &Tensor, y: &mut Tensor) -> FfnSaved {
        let wide = self.gate_up.value.dim(0);
        let mut gu = cx.empty(&[u.rows(), wide], cx.compute());
        linear::forward(cx, u, self.gate_up.weight(), &mut gu, Acc::Write);
        let mut h = cx.empty(&[u.rows(), wide / 2], cx.compute());
        swiglu::forward(cx, &gu, None, &mut h);
        linear::forward(cx, &h, self.down.weight(), y, Acc::Add);
        FfnSaved { gu: Kept::new(cx, gu, self.keep.style(false)) }
    }

    /// From `d_td` (compute format) the gradient of `u`, into `d_u` f32.
    pub fn backward_input(&self, cx: &Cx, d: &Tensor, saved: FfnSaved, d_u: &mut Tensor, acc: Acc) -> FfnDeferred {
        let mut floats = None;
        let gu = saved.gu.floats(cx, &mut floats);
        let mut d_h = cx.empty(&[d.rows(), gu.cols() / 2], cx.compute());
        linear::backward_input(cx, d, self.down.weight(), &mut d_h, Acc::Write);
        let mut d_gu = cx.empty(gu.shape(), cx.compute());
        let mut h = cx.empty(d_h.shape(), cx.compute());
        swiglu::backward(cx, &d_h, gu, None, &mut d_gu, &mut h, None);
        linear::backward_input(cx, &d_gu, self.gate_up.weight(), d_u, acc);
        FfnDeferred { d_gu, h }
    }

    /// The weight products, from the same `d` and `u`.
    pub fn backward_weight(&self, cx: &Cx, deferred: FfnDeferred, d: &Tensor, u: &Tensor, grads: &mut Grads) {
        weight_grad(cx, d, &deferred.h, &self.down, grads);
        weight_grad(cx, &deferred.d_gu, u, &self.gate_up, grads);
    }
}
