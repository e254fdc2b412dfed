//! The gate on a processor. Rows are processed in blocks, with one task per block. s: scores of a row, of length E;
//! idx, w: of length K.
//!
//! Selection works on integers that have the order of the scores and are all different. K times, it finds the largest
//! integer below the previous one, in lanes and without branches. (Insertion into a sorted list mispredicts one branch
//! for every second expert.) Nothing uses fused multiply-add, so every path gives the same bits.

use super::{GateCfg, Scoring, TopK};
use crate::kernel::{Pointwise, dispatch, dot, sum_lanes};
use crate::math::{exp, sigmoid};
use crate::{Cx, DType, DisjointMut};
use std::ops::Range;

/// Rows per task.
const ROWS: usize = 64;
/// Keeps the division finite when every selected score is 0.
pub(super) const EPS: f32 = 1e-20;
/// The key of masked entries and of padding. It is below the key of every score.
pub(super) const NEVER: i64 = i64::MIN;
/// Number of keys that are compared at a time.
const LANES: usize = 8;

/// Memory for `n` keys in whole groups of lanes, as a number of i32 elements.
pub(super) fn room(n: usize) -> usize {
    2 * n.next_multiple_of(LANES)
}

/// Scratch as keys, all [`NEVER`].
#[inline(always)]
pub(super) fn as_keys(scratch: &mut [i32]) -> &mut [i64] {
    // SAFETY: any bits are an i64.
    let (before, keys, after) = unsafe { scratch.align_to_mut::<i64>() };
    assert!(before.is_empty() && after.is_empty(), "gate: scratch is not aligned");
    keys.fill(NEVER);
    keys
}

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
    // Per task: the keys of a row's experts and groups, and the selected groups.
    let size = room(e) + room(groups) + cfg.topk_group.next_multiple_of(2);
    let mut scratch = cx.empty(&[tasks, size], DType::I32);
    let scratch = DisjointMut::new(scratch.i32_mut());
    let (scores, idx, weight) = (DisjointMut::new(scores), DisjointMut::new(idx), DisjointMut::new(weight));
    cx.threads().each(tasks, |task| {
        let rows = block(task, t);
        let (first, n) = (rows.start, rows.len());
        // SAFETY: a row belongs to one task, and every task has scratch of its own.
        let (scratch, scores, idx, weight) = unsafe {
            (
                scratch.slice(task * size, size),
                scores.slice(first * e, n * e),
                idx.slice(first * k, n * k),
                weight.slice(first * k, n * k),
            )
        };
        let logits = &logits[first * e..][..n * e];
        dispatch(cx.isa(), Forward { logits, bias, cfg, scratch, scores, idx, weight });
    });
}

struct Forward<'a> {
    logits: &'a [f32],
    bias: Option<&'a [f32]>,
    cfg: &'a GateCfg,
    scratch: &'a mut [i32],
    scores: &'a mut [f32],
    idx: &'a mut [i32],
    weight: &'a mut [f32],
}

impl Pointwise for Forward<'_> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { logits, bias, cfg, scratch, scores, idx, weight } = self;
        let (e, k, groups) = (cfg.experts, cfg.top_k, cfg.groups());
        let (keys, scratch) = scratch.split_at_mut(room(e));
        let (group_keys, winners) = scratch.split_at_mut(room(groups));
        let (keys, group_keys) = (as_keys(keys), as_keys(group_keys));
        let winners = &mut winners[..cfg.topk_group];
        score(logits, e, cfg.scoring, scores);
        let rows = scores.chunks_exact(e).zip(idx.chunks_exact_mut(k)).zip(weight.chunks_exact_mut(k));
        for ((s, idx), w) in rows {
            for i in 0..e {
                keys[i] = to_key(bias.map_or(s[i], |b| s[i] + b[i]), i);
            }
            if groups > 1 {
                let size = e / groups;
                for g in 0..groups {
                    group_keys[g] = to_key(group_score(&keys[g * size..][..size], cfg.method), g);
                }
                let last = best(group_keys, winners);
                for g in 0..groups {
                    if group_keys[g] < last {
                        keys[g * size..][..size].fill(NEVER);
                    }
                }
            }
            best(keys, idx);
            weigh(s, idx, cfg, w);
        }
    }
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
            score(&logits[r * e..][..e], e, cfg.scoring, s);
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
fn block(task: usize, rows: usize) -> Range<usize> {
    task * ROWS..((task + 1) * ROWS).min(rows)
}

/// Scores of some rows.
#[inline(always)]
fn score(logits: &[f32], e: usize, scoring: Scoring, scores: &mut [f32]) {
    match scoring {
        Scoring::Sigmoid => scores.iter_mut().zip(logits).for_each(|(s, x)| *s = sigmoid::<false>(*x)),
        Scoring::Softmax => {
            for (s, x) in scores.chunks_exact_mut(e).zip(logits.chunks_exact(e)) {
                let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                s.iter_mut().zip(x).for_each(|(s, x)| *s = exp::<false>(x - max));
                let sum = sum(s);
                for s in s {
                    *s /= sum;
                }
            }
        }
    }
}

/// `d`: gradient of the scores in, of the logits out.
fn score_backward(s: &[f32], scoring: Scoring, d: &mut [f32]) {
    match scoring {
        Scoring::Sigmoid => d.iter_mut().zip(s).for_each(|(d, s)| *d *= s * (1.0 - s)),
        Scoring::Softmax => {
            let dot = dot::<false, f32, f32>(d, s);
            d.iter_mut().zip(s).for_each(|(d, s)| *d = s * (*d - dot));
        }
    }
}

fn weigh(s: &[f32], idx: &[i32], cfg: &GateCfg, w: &mut [f32]) {
    let sum = if cfg.norm_topk_prob { idx.iter().map(|i| s[*i as usize]).sum::<f32>() + EPS } else { 1.0 };
    w.iter_mut().zip(idx).for_each(|(w, i)| *w = s[*i as usize] / sum * cfg.factor());
}

/// Adds the gradient of the scores to `d`. With `w_k = c s_k / S`, it is `ds_k = c/S (dw_k - sum_j dw_j s_j / S)`.
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

/// Score of a group, computed from its experts' keys. If one of its best is NaN, the score is NaN, which is the lowest.
#[inline(always)]
fn group_score(members: &[i64], method: TopK) -> f32 {
    // The best and the second best of every lane, then of pairs of lanes.
    let (mut first, mut second) = ([NEVER; LANES], [NEVER; LANES]);
    let (chunks, rest) = members.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            second[i] = second[i].max(first[i].min(chunk[i]));
            first[i] = first[i].max(chunk[i]);
        }
    }
    for (i, x) in rest.iter().enumerate() {
        second[i] = second[i].max(first[i].min(*x));
        first[i] = first[i].max(*x);
    }
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            second[i] = second[i].max(second[i + half]).max(first[i].min(first[i + half]));
            first[i] = first[i].max(first[i + half]);
        }
        half /= 2;
    }
    let pair = method == TopK::NoauxTc && members.len() > 1;
    if pair { from_key(first[0]) + from_key(second[0]) } else { from_key(first[0]) }
}

/// A number with the order of the scores. Among equal scores it decreases with the index. Both zeros are equal, and NaN
/// is below -inf.
#[inline(always)]
pub(super) fn to_key(score: f32, place: usize) -> i64 {
    let bits = (score + 0.0).to_bits() as i32;
    // Among negative floats, a lower one has larger magnitude bits.
    let rank = if bits < 0 { bits ^ i32::MAX } else { bits };
    let rank = if score.is_nan() { i32::MIN + 1 } else { rank };
    i64::from(rank) << 32 | i64::from(i32::MAX - place as i32)
}

/// The score of a key.
#[inline(always)]
fn from_key(key: i64) -> f32 {
    let rank = (key >> 32) as i32;
    f32::from_bits(if rank < 0 { rank ^ i32::MAX } else { rank } as u32)
}

/// The indices of the `out.len()` largest keys in descending order, and the last of these keys. At least this many keys
/// must differ from [`NEVER`]. There is [`room`] around the keys.
#[inline(always)]
pub(super) fn best(keys: &[i64], out: &mut [i32]) -> i64 {
    let mut last = i64::MAX;
    for out in out {
        let mut lanes = [NEVER; LANES];
        for chunk in keys.as_chunks::<LANES>().0 {
            for i in 0..LANES {
                lanes[i] = lanes[i].max(if chunk[i] < last { chunk[i] } else { NEVER });
            }
        }
        let mut half = LANES / 2;
        while half > 0 {
            for i in 0..half {
                lanes[i] = lanes[i].max(lanes[i + half]);
            }
            half /= 2;
        }
        last = lanes[0];
        *out = i32::MAX - last as i32;
    }
    last
}

/// Sum of a row, computed in lanes.
#[inline(always)]
pub(super) fn sum(s: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut lanes = [0.0; LANES];
    let (chunks, rest) = s.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] += chunk[i];
        }
    }
    for (lane, s) in lanes.iter_mut().zip(rest) {
        *lane += s;
    }
    sum_lanes(lanes)
}
