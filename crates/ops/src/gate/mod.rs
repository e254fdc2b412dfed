//! The gate of DeepSeekMoE (report 2.1.2, eq. 12-16): it decides which experts a token goes to, and with which weights.
//!
//! ```text
//! s = sigmoid(u . e_i)  or  softmax(u . e_i)                                     scores
//! choice = s + b   (noaux_tc)  or  s                                             only selects, has no gradient
//! idx    = the K best of choice, inside the best `topk_group` groups where the method is group-limited
//! weight = s[idx] / (sum s[idx] + 1e-20) * scale,  or  s[idx] * scale            never the biased score
//! ```
//!
//! A group's score is the sum of its two best choices under `noaux_tc`, and the best one under V2's
//! `group_limited_greedy`. (The report says K/M choices; the released code always uses 2.) Groups that are not selected
//! are excluded, as with a mask of -inf. Older code masks with 0. Then a negative biased score inside a selected group
//! would lose to a masked one. Ties go to the lower index, among groups and among experts. A NaN ranks below
//! everything. So the result is always K distinct experts.
//!
//! Shapes: T tokens, E experts, K experts per token. Everything is f32, in one order and without fused multiply-add, so
//! every instruction path gives the same bits.

mod balance;
mod cpu;
#[cfg(test)]
mod tests;

pub use balance::{balance_backward, balance_forward};

use crate::{Cx, DType, Device, Tensor};

/// How logits become scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scoring {
    /// V3: each expert separately.
    Sigmoid,
    /// V2: a distribution over experts.
    Softmax,
}

/// How experts are selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopK {
    /// The K best.
    Greedy,
    /// The K best experts in the groups with the best single expert (V2).
    GroupLimitedGreedy,
    /// The K best experts by biased score in the groups with the best pair (V3, without auxiliary loss).
    NoauxTc,
}

/// Settings of a gate.
#[derive(Clone, Debug, PartialEq)]
pub struct GateCfg {
    /// Number of routed experts, E.
    pub experts: usize,
    /// Number of experts per token, K.
    pub top_k: usize,
    /// Number of equal groups of neighbouring experts (nodes in the report). `Greedy` ignores it.
    pub n_group: usize,
    /// Number of groups that a token may use.
    pub topk_group: usize,
    /// How logits become scores.
    pub scoring: Scoring,
    /// How experts are selected.
    pub method: TopK,
    /// Whether the weights of a token are divided by their sum.
    pub norm_topk_prob: bool,
    /// The routed scaling factor.
    pub scale: f32,
    /// Whether normalised weights are also multiplied by `scale`. In V3 this is always so. DeepSeek's own V2 code does
    /// either one or the other. It also never normalises if K is 1; use `norm_topk_prob: false` there.
    pub scale_after_norm: bool,
}

impl GateCfg {
    /// The factor after normalisation, or instead of it.
    fn factor(&self) -> f32 {
        if self.norm_topk_prob && !self.scale_after_norm { 1.0 } else { self.scale }
    }

    /// Number of groups that compete. 1 if the method or the numbers impose no limit.
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

/// Like [`forward`], but with given experts: `idx` i32 [T, K] is read. It is for routing replay.
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

/// Writes the gradient of the logits, `d_logits` f32 [T, E].
///
/// `d_weight` f32 [T, K]; `scores` and `idx` come from forward. `d_scores_extra` f32 [T, E] is another gradient of the
/// scores (from the balance loss). It is added before the gradient of the activation function is applied.
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
