//! The gate on a processor: rows in blocks, one task a block. s: scores of a row, E long; idx, w: K long.

use super::{GateCfg, Scoring, TopK};
use crate::{Cx, DType, DisjointMut};
use std::ops::Range;

/// Rows of a task.
pub(super) const ROWS: usize = 64;
/// Keeps the division finite when every selected score is 0.
pub(super) const EPS: f32 = 1e-20;

pub(super) fn forward(
    cx: &Cx,
    logits: &[f32],
    bias: Option<&[f32]>,
    cfg: &GateCfg,
    scores: &mut [f32],
    idx: &mut [i32],
    weight: &mut [f32],
) {
    let (e, k, groups) = (cfg.experts, cfg.top_k, cfg.groups());
    let t = logits.len() / e;
    let tasks = t.div_ceil(ROWS);
    // Per task: the choice scores of a row and the scores of its groups; the groups that won.
    let mut choice = cx.empty(&[tasks, e + groups], DType::F32);
    let mut kept = cx.empty(&[tasks, cfg.topk_group.max(1)], DType::I32);
    let (choice_len, kept_len) = (choice.cols(), kept.cols());
    let (choice, kept) = (DisjointMut::new(choice.f32_mut()), DisjointMut::new(kept.i32_mut()));
    let (scores, idx, weight) = (DisjointMut::new(scores), DisjointMut::new(idx), DisjointMut::new(weight));
    cx.threads().each(tasks, |task| {
        let rows = block(task, t);
        // SAFETY: every task has scratch of its own.
        let (scratch, kept) =
            unsafe { (choice.slice(task * choice_len, choice_len), kept.slice(task * kept_len, kept_len)) };
        let (choice, group_scores) = scratch.split_at_mut(e);
        for r in rows {
            // SAFETY: a row belongs to one task.
            let (s, idx, w) = unsafe { (scores.slice(r * e, e), idx.slice(r * k, k), weight.slice(r * k, k)) };
            score(&logits[r * e..][..e], cfg.scoring, s);
            match bias {
                Some(b) => choice.iter_mut().zip(&*s).zip(b).for_each(|((c, s), b)| *c = s + b),
                None => choice.copy_from_slice(s),
            }
            if groups == 1 {
                best(choice, 0..e, idx);
            } else {
                let size = e / groups;
                for (score, members) in group_scores.iter_mut().zip(choice.chunks_exact(size)) {
                    *score = group_score(members, cfg.method);
                }
                best(group_scores, 0..groups, kept);
                best(choice, kept.iter().flat_map(|g| members(*g, size)), idx);
            }
            weigh(s, idx, cfg, w);
        }
    });
}

pub(super) fn forward_replay(
    cx: &Cx,
    logits: &[f32],
    cfg: &GateCfg,
    idx: &[i32],
    scores: &mut [f32],
    weight: &mut [f32],
) {
    let (e, k) = (cfg.experts, cfg.top_k);
    let t = logits.len() / e;
    let (scores, weight) = (DisjointMut::new(scores), DisjointMut::new(weight));
    cx.threads().each(t.div_ceil(ROWS), |task| {
        for r in block(task, t) {
            // SAFETY: a row belongs to one task.
            let (s, w) = unsafe { (scores.slice(r * e, e), weight.slice(r * k, k)) };
            score(&logits[r * e..][..e], cfg.scoring, s);
            weigh(s, &idx[r * k..][..k], cfg, w);
        }
    });
}

pub(super) fn backward(
    cx: &Cx,
    d_weight: &[f32],
    scores: &[f32],
    idx: &[i32],
    cfg: &GateCfg,
    extra: Option<&[f32]>,
    d_logits: &mut [f32],
) {
    let (e, k) = (cfg.experts, cfg.top_k);
    let t = scores.len() / e;
    let d_logits = DisjointMut::new(d_logits);
    cx.threads().each(t.div_ceil(ROWS), |task| {
        for r in block(task, t) {
            // SAFETY: a row belongs to one task.
            let d = unsafe { d_logits.slice(r * e, e) };
            match extra {
                Some(extra) => d.copy_from_slice(&extra[r * e..][..e]),
                None => d.fill(0.0),
            }
            let s = &scores[r * e..][..e];
            weigh_backward(&d_weight[r * k..][..k], s, &idx[r * k..][..k], cfg, d);
            score_backward(s, cfg.scoring, d);
        }
    });
}

/// Rows of a task.
pub(super) fn block(task: usize, rows: usize) -> Range<usize> {
    task * ROWS..((task + 1) * ROWS).min(rows)
}

fn members(group: i32, size: usize) -> Range<usize> {
    let start = group as usize * size;
    start..start + size
}

fn score(logits: &[f32], scoring: Scoring, s: &mut [f32]) {
    match scoring {
        Scoring::Sigmoid => s.iter_mut().zip(logits).for_each(|(s, x)| *s = 1.0 / (1.0 + (-x).exp())),
        Scoring::Softmax => {
            let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mut sum = 0.0;
            for (s, x) in s.iter_mut().zip(logits) {
                *s = (x - max).exp();
                sum += *s;
            }
            for s in s {
                *s /= sum;
            }
        }
    }
}

/// `d`: gradient of the scores in, of the logits out.
fn score_backward(s: &[f32], scoring: Scoring, d: &mut [f32]) {
    match scoring {
        Scoring::Sigmoid => d.iter_mut().zip(s).for_each(|(d, s)| *d *= s * (1.0 - s)),
        Scoring::Softmax => {
            let dot: f32 = d.iter().zip(s).map(|(d, s)| d * s).sum();
            d.iter_mut().zip(s).for_each(|(d, s)| *d = s * (*d - dot));
        }
    }
}

fn weigh(s: &[f32], idx: &[i32], cfg: &GateCfg, w: &mut [f32]) {
    let sum = if cfg.norm_topk_prob { idx.iter().map(|i| s[*i as usize]).sum::<f32>() + EPS } else { 1.0 };
    w.iter_mut().zip(idx).for_each(|(w, i)| *w = s[*i as usize] / sum * cfg.factor());
}

/// Adds the gradient of the scores to `d`: with `w_k = c s_k / S`, `ds_k = c/S (dw_k - sum_j dw_j s_j / S)`.
fn weigh_backward(dw: &[f32], s: &[f32], idx: &[i32], cfg: &GateCfg, d: &mut [f32]) {
    let (mut sum, mut dot) = (1.0, 0.0);
    if cfg.norm_topk_prob {
        sum = idx.iter().map(|i| s[*i as usize]).sum::<f32>() + EPS;
        dot = idx.iter().zip(dw).map(|(i, dw)| dw * (s[*i as usize] / sum)).sum::<f32>();
    }
    for (i, dw) in idx.iter().zip(dw) {
        d[*i as usize] += (dw - dot) / sum * cfg.factor();
    }
}

/// Score of a group from its experts' choice scores.
fn group_score(members: &[f32], method: TopK) -> f32 {
    let (mut first, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
    for &x in members {
        if x > first {
            (first, second) = (x, first);
        } else if x > second {
            second = x;
        }
    }
    if method == TopK::NoauxTc && members.len() > 1 { first + second } else { first }
}

/// A number that grows with the score and, among equal scores, falls with the index; no two candidates share one.
/// NaN comes before -inf, and the two zeros are equal.
fn key(score: f32, index: usize) -> u64 {
    let bits = (score + 0.0).to_bits();
    let rank = match () {
        () if score.is_nan() => 0,
        () if bits >> 31 == 1 => !bits,
        () => bits | 1 << 31,
    };
    u64::from(rank) << 32 | u64::from(u32::MAX - index as u32)
}

/// The `out.len()` best candidates, best first. There must be at least as many candidates, each once; their order does
/// not matter.
pub(super) fn best(scores: &[f32], candidates: impl Iterator<Item = usize>, out: &mut [i32]) {
    let (mut filled, mut worst) = (0, 0);
    for c in candidates {
        let mine = key(scores[c], c);
        if filled < out.len() {
            filled += 1;
        } else if mine < worst {
            continue;
        }
        // Insertion: K is small and most candidates have left above.
        let mut at = filled - 1;
        while at > 0 && key(scores[out[at - 1] as usize], out[at - 1] as usize) < mine {
            out[at] = out[at - 1];
            at -= 1;
        }
        out[at] = c as i32;
        let last = out[filled - 1] as usize;
        worst = key(scores[last], last);
    }
    assert!(filled == out.len(), "gate: {filled} candidates for {} places", out.len());
}
