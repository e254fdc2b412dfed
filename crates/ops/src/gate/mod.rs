//! The gate of DeepSeekMoE (report 2.1.2, eq. 12-16): which experts a token goes to, and with what weight.
//!
//! ```text
//! s = sigmoid(u . e_i)  or  softmax(u . e_i)                                     scores
//! choice = s + b   (noaux_tc)  or  s                                             only selects, has no gradient
//! idx    = the K best of choice, inside the best `topk_group` groups where the method is group-limited
//! weight = s[idx] / (sum s[idx] + 1e-20) * scale,  or  s[idx] * scale            never the biased score
//! ```
//!
//! A group's score is the sum of its two best choices under `noaux_tc` (the report says K/M, released code always 2)
//! and the best one under V2's `group_limited_greedy`. Groups that lose are not looked at again, which is a mask of
//! -inf: with the 0 of older code a negative biased score inside a winning group would lose to a masked one.
//! Ties go to the lower index among groups and among experts; a NaN ranks below everything, so that K distinct experts
//! come out whatever comes in.
//!
//! Shapes: T tokens, E experts, K experts a token. Everything is f32, in one order and without fused multiply-add, so that
//! every instruction path gives the same bits.

mod balance;
mod cpu;
#[cfg(test)]
mod tests;

pub use balance::{balance_backward, balance_forward};

use crate::{Cx, DType, Device, Tensor};

/// From logits to scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scoring {
    /// V3: every expert for itself.
    Sigmoid,
    /// V2: a distribution over experts.
    Softmax,
}

/// How experts are selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopK {
    /// The K best.
    Greedy,
    /// The K best inside the groups with the best single expert (V2).
    GroupLimitedGreedy,
    /// The K best by biased score inside the groups with the best pair (V3, without auxiliary loss).
    NoauxTc,
}

/// What a gate is.
#[derive(Clone, Debug, PartialEq)]
pub struct GateCfg {
    /// Routed experts, E.
    pub experts: usize,
    /// Experts a token, K.
    pub top_k: usize,
    /// Equal groups of neighbouring experts (nodes in the report). Not looked at by `Greedy`.
    pub n_group: usize,
    /// Groups a token may use.
    pub topk_group: usize,
    /// From logits to scores.
    pub scoring: Scoring,
    /// How experts are selected.
    pub method: TopK,
    /// Whether the weights of a token are divided by their sum.
    pub norm_topk_prob: bool,
    /// The routed scaling factor.
    pub scale: f32,
    /// Whether weights that were divided by their sum are then multiplied by `scale`: always in V3; DeepSeek's own V2
    /// code does one or the other. (It also never normalises when K is 1: say `norm_topk_prob: false` there.)
    pub scale_after_norm: bool,
}

impl GateCfg {
    /// The factor after normalisation or instead of it.
    fn factor(&self) -> f32 {
        if self.norm_topk_prob && !self.scale_after_norm { 1.0 } else { self.scale }
    }

    /// Groups that compete: 1 where the method or the numbers put no limit.
    fn groups(&self) -> usize {
        if self.method == TopK::Greedy || self.topk_group >= self.n_group { 1 } else { self.n_group }
    }

    fn check(&self, op: &str) {
        let Self { experts: e, top_k: k, n_group: g, topk_group: m, .. } = *self;
        assert!(k >= 1 && k <= e, "{op}: {k} of {e} experts per token");
        if self.method != TopK::Greedy {
            assert!(g >= 1 && e % g == 0, "{op}: {e} experts in {g} equal groups");
            assert!(
                m >= 1 && m <= g && k <= m * (e / g),
                "{op}: {k} experts per token inside {m} of {g} groups of {e}"
            );
        }
    }
}

fn check_2d(op: &str, name: &str, t: &Tensor, rows: usize, cols: usize, dtype: DType) {
    assert!(
        t.shape() == [rows, cols] && t.dtype() == dtype,
        "{op}: {name} is {t:?}, expected {dtype:?} [{rows}, {cols}]"
    );
}

/// Scores, chosen experts and their weights.
///
/// `logits` f32 [T, E]; `bias` f32 `[E]`, read under `NoauxTc` only. Writes `scores` f32 [T, E] (keep them for
/// backward), `idx` i32 [T, K] best first, and `weight` f32 [T, K].
pub fn forward(
    cx: &Cx,
    logits: &Tensor,
    bias: &Tensor,
    cfg: &GateCfg,
    scores: &mut Tensor,
    idx: &mut Tensor,
    weight: &mut Tensor,
) {
    let _scope = cx.scope("gate forward", 0, 0);
    let op = "gate::forward";
    cfg.check(op);
    let (t, e, k) = (logits.rows(), cfg.experts, cfg.top_k);
    check_2d(op, "logits", logits, t, e, DType::F32);
    check_2d(op, "scores", scores, t, e, DType::F32);
    check_2d(op, "idx", idx, t, k, DType::I32);
    check_2d(op, "weight", weight, t, k, DType::F32);
    let bias = (cfg.method == TopK::NoauxTc).then(|| {
        assert!(bias.len() == e, "{op}: bias is {bias:?}, expected [{e}]");
        bias.f32()
    });
    match logits.device() {
        Device::Cpu => cpu::forward(cx, logits.f32(), bias, cfg, scores.f32_mut(), idx.i32_mut(), weight.f32_mut()),
    }
}

/// As [`forward`] with the experts given: `idx` i32 [T, K] is read. For routing replay.
pub fn forward_replay(cx: &Cx, logits: &Tensor, cfg: &GateCfg, idx: &Tensor, scores: &mut Tensor, weight: &mut Tensor) {
    let op = "gate::forward_replay";
    cfg.check(op);
    let (t, e, k) = (logits.rows(), cfg.experts, cfg.top_k);
    check_2d(op, "logits", logits, t, e, DType::F32);
    check_2d(op, "scores", scores, t, e, DType::F32);
    check_2d(op, "idx", idx, t, k, DType::I32);
    check_2d(op, "weight", weight, t, k, DType::F32);
    check_idx(op, idx, e);
    match logits.device() {
        Device::Cpu => cpu::forward_replay(cx, logits.f32(), cfg, idx.i32(), scores.f32_mut(), weight.f32_mut()),
    }
}

/// Gradient of the logits, `d_logits` f32 [T, E], written.
///
/// `d_weight` f32 [T, K]; `scores` and `idx` from forward. `d_scores_extra` f32 [T, E] is a gradient of the scores from
/// elsewhere (the balance loss), added before the activation is gone back through.
pub fn backward(
    cx: &Cx,
    d_weight: &Tensor,
    scores: &Tensor,
    idx: &Tensor,
    cfg: &GateCfg,
    d_scores_extra: Option<&Tensor>,
    d_logits: &mut Tensor,
) {
    let _scope = cx.scope("gate backward", 0, 0);
    let op = "gate::backward";
    cfg.check(op);
    let (t, e, k) = (scores.rows(), cfg.experts, cfg.top_k);
    check_2d(op, "scores", scores, t, e, DType::F32);
    check_2d(op, "idx", idx, t, k, DType::I32);
    check_2d(op, "d_weight", d_weight, t, k, DType::F32);
    check_2d(op, "d_logits", d_logits, t, e, DType::F32);
    if let Some(extra) = d_scores_extra {
        check_2d(op, "d_scores_extra", extra, t, e, DType::F32);
    }
    check_idx(op, idx, e);
    let extra = d_scores_extra.map(Tensor::f32);
    match scores.device() {
        Device::Cpu => cpu::backward(cx, d_weight.f32(), scores.f32(), idx.i32(), cfg, extra, d_logits.f32_mut()),
    }
}

fn check_idx(op: &str, idx: &Tensor, experts: usize) {
    if let Some(bad) = idx.i32().iter().find(|i| !(0..experts as i32).contains(*i)) {
        panic!("{op}: expert {bad} of {experts}");
    }
}
