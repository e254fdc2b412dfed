//! The gate of DeepSeekMoE (report 2.1.2, eq. 12-16): affinities in f32, biased group-limited selection, unbiased
//! normalised weights. The selection itself is in `hadal_ops::gate`.

use crate::build::Builder;
use crate::linear::Linear;
use crate::param::{Grads, Param};
use crate::pass::BalancePass;
use hadal_ops::gate::{self, GateCfg};
use hadal_ops::{Acc, Cx, DType, Tensor};
use hadal_weights::ModelConfig;
use hadal_weights::list::Role;

/// Expert centroids and selection bias.
pub struct Router {
    /// `mlp.gate.weight` `[E, D]`, multiplied in f32.
    pub weight: Linear,
    /// `mlp.gate.e_score_correction_bias` `[E]`. Methods of the V2 family do not have it.
    pub bias: Option<Param>,
    /// Selection rule.
    pub cfg: GateCfg,
    zero_bias: Tensor,
}

/// The router's decision for `T` tokens.
pub struct Routing {
    /// Affinity logits `u . e_i` f32 `[T, E]`. They are kept only if asked for.
    pub logits: Option<Tensor>,
    /// Affinities f32 `[T, E]`.
    pub scores: Tensor,
    /// Chosen experts i32 `[T, K]`, best first.
    pub idx: Tensor,
    /// Gate values f32 `[T, K]`.
    pub weight: Tensor,
    /// Balance-loss frequencies f32 `[S, E]` and losses f32 `[S]`, if the loss is on.
    pub balance: Option<(Tensor, Tensor)>,
}

impl Router {
    pub(crate) fn new(b: &mut Builder<'_>, cfg: &ModelConfig) -> Self {
        let gate = cfg.gate();
        let weight = b.linear(Role::Router);
        let bias = (gate.method == gate::TopK::NoauxTc).then(|| b.take(Role::RouterBias));
        Self { weight, bias, zero_bias: b.cx.zeros(&[gate.experts], DType::F32), cfg: gate }
    }

    pub(crate) fn params(&self) -> impl Iterator<Item = &Param> {
        std::iter::once(&self.weight.param).chain(&self.bias)
    }
    pub(crate) fn params_mut(&mut self) -> impl Iterator<Item = &mut Param> {
        std::iter::once(&mut self.weight.param).chain(&mut self.bias)
    }

    /// Routes `u_td`. `replay` replaces the choice of experts.
    pub fn forward(
        &self,
        cx: &Cx,
        u: &Tensor,
        balance: Option<BalancePass<'_>>,
        replay: Option<&Tensor>,
        keep_logits: bool,
    ) -> Routing {
        let (t, e, k) = (u.rows(), self.cfg.experts, self.cfg.top_k);
        let mut logits = cx.empty(&[t, e], DType::F32);
        self.weight.forward(cx, u, &mut logits, Acc::Write);
        let mut scores = cx.empty(&[t, e], DType::F32);
        let mut weight = cx.empty(&[t, k], DType::F32);
        let idx = if let Some(choice) = replay {
            let idx = cx.copy(choice);
            gate::forward_replay(cx, &logits, &self.cfg, &idx, &mut scores, &mut weight);
            idx
        } else {
            let mut idx = cx.empty(&[t, k], DType::I32);
            let bias = self.bias.as_ref().map_or(&self.zero_bias, Param::table);
            gate::forward(cx, &logits, bias, &self.cfg, &mut scores, &mut idx, &mut weight);
            idx
        };
        let balance = balance.map(|b| {
            let mut f = cx.empty(&[b.seg.count(), e], DType::F32);
            let mut loss = cx.empty(&[b.seg.count()], DType::F32);
            gate::balance_forward(cx, &scores, b.seg, &self.cfg, &mut f, &mut loss);
            (f, loss)
        });
        Routing { logits: keep_logits.then_some(logits), scores, idx, weight, balance }
    }

    /// From the gradient of the gate values, adds the gradient of `u` to `d_u` (f32) and returns that of the logits.
    pub fn backward_input(
        &self,
        cx: &Cx,
        d_weight: &Tensor,
        routing: &Routing,
        balance: Option<BalancePass<'_>>,
        d_u: &mut Tensor,
    ) -> Tensor {
        let shape = routing.scores.shape();
        let extra = match (balance, &routing.balance) {
            (Some(b), Some((f, _))) => {
                let mut d_scores = cx.empty(shape, DType::F32);
                gate::balance_backward(cx, &routing.scores, b.seg, f, b.coef, &mut d_scores, Acc::Write);
                Some(d_scores)
            }
            _ => None,
        };
        let mut d_logits = cx.empty(shape, DType::F32);
        gate::backward(cx, d_weight, &routing.scores, &routing.idx, &self.cfg, extra.as_ref(), &mut d_logits);
        self.weight.backward_input(cx, &d_logits, d_u, Acc::Add);
        d_logits
    }

    /// The weight product.
    pub fn backward_weight(&self, cx: &Cx, d_logits: &Tensor, u: &Tensor, grads: &mut Grads) {
        self.weight.backward_weight(cx, d_logits, u, grads);
    }
}
