//! SwiGLU feed-forward: `down(silu(gate(u)) * up(u))`, with gate and up in one product. The dense layers use it. With
//! `n_shared_experts` times the width it is also the shared expert of DeepSeekMoE (report 2.1.2).

use crate::build::Builder;
use crate::kept::Kept;
use crate::linear::Linear;
use crate::param::{Grads, Param};
use hadal_ops::{Acc, Cx, Tensor, swiglu};
use hadal_weights::list::Role;
use hadal_weights::precision::Keep;

/// Parameters of one SwiGLU.
pub struct Ffn {
    /// `gate_proj` and `up_proj`, stacked: `[2I, D]`.
    pub gate_up: Linear,
    /// `down_proj`: `[D, I]`.
    pub down: Linear,
    keep: Keep,
}

/// The products of gate and up, `[T, 2I]`. The SwiGLU output is recomputed in backward (report 3.2.3).
pub struct FfnSaved {
    pub(crate) gu: Kept,
}

/// Operands of the weight products. The caller keeps the shared operands `u` and `d`.
pub struct FfnDeferred {
    d_gu: Tensor,
    h: Tensor,
}

impl Ffn {
    pub(crate) fn new(b: &mut Builder<'_>, [gate_up, down]: [Role; 2]) -> Self {
        Self { gate_up: b.linear(gate_up), down: b.linear(down), keep: b.precision.swiglu_input }
    }

    pub(crate) fn params(&self) -> impl Iterator<Item = &Param> {
        [&self.gate_up.param, &self.down.param].into_iter()
    }
    pub(crate) fn params_mut(&mut self) -> impl Iterator<Item = &mut Param> {
        [&mut self.gate_up.param, &mut self.down.param].into_iter()
    }
    pub(crate) fn linears(&self) -> impl Iterator<Item = &Linear> {
        [&self.gate_up, &self.down].into_iter()
    }
    pub(crate) fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        [&mut self.gate_up, &mut self.down].into_iter()
    }

    /// `y_td += FFN(u_td)`, y f32.
    pub fn forward(&self, cx: &Cx, u: &Tensor, y: &mut Tensor) -> FfnSaved {
        let wide = self.gate_up.param.spec.n();
        let mut gu = cx.empty(&[u.rows(), wide], cx.compute());
        self.gate_up.forward(cx, u, &mut gu, Acc::Write);
        let mut h = cx.empty(&[u.rows(), wide / 2], cx.compute());
        swiglu::forward(cx, &gu, None, &mut h);
        self.down.forward(cx, &h, y, Acc::Add);
        FfnSaved { gu: Kept::new(cx, gu, self.keep.style(false)) }
    }

    /// Computes the gradient of `u` from `d_td` (compute format) and writes it to `d_u` f32.
    pub fn backward_input(&self, cx: &Cx, d: &Tensor, saved: FfnSaved, d_u: &mut Tensor, acc: Acc) -> FfnDeferred {
        let mut floats = None;
        let gu = saved.gu.floats(cx, &mut floats);
        let mut d_h = cx.empty(&[d.rows(), gu.cols() / 2], cx.compute());
        self.down.backward_input(cx, d, &mut d_h, Acc::Write);
        let mut d_gu = cx.empty(gu.shape(), cx.compute());
        let mut h = cx.empty(d_h.shape(), cx.compute());
        swiglu::backward(cx, &d_h, gu, None, &mut d_gu, &mut h, None);
        self.gate_up.backward_input(cx, &d_gu, d_u, acc);
        FfnDeferred { d_gu, h }
    }

    /// The weight products, from the same `d` and `u`.
    pub fn backward_weight(&self, cx: &Cx, deferred: FfnDeferred, d: &Tensor, u: &Tensor, grads: &mut Grads) {
        self.down.backward_weight(cx, d, &deferred.h, grads);
        self.gate_up.backward_weight(cx, &deferred.d_gu, u, grads);
    }
}
