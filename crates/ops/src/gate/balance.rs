//! The sequence-wise balance loss (report 2.1.2, eq. 17-20), with one value per segment of `T_s` tokens.
//!
//! ```text
//! f_i = E / (K T_s) * #(tokens whose top K by s contains i)      s unbiased, ties to the lower index, no groups
//! P_i = mean_t p_ti,   p_ti = s_ti / sum_j s_tj
//! L_s = sum_i f_i P_i                                            the gradient flows through P only
//! ```
//!
//! Everything is f32. Sums over tokens run over blocks at fixed positions of a segment, then over the blocks in order.
//! A segment without tokens has loss 0. The gate's 1e-20 is added to `sum_j s_tj`, so that a token whose scores all
//! vanish gives a finite result.

use super::cpu::{EPS, as_keys, best, room, sum, to_key};
use super::{GateCfg, check_2d};
use crate::attention::Segments;
use crate::kernel::{Pointwise, dispatch, dot};
use crate::{Acc, Cx, DType, Device, DisjointMut, Tensor};

/// Tokens per block. Partial counts and sums are kept for each block.
const BLOCK: usize = 64;

/// `scores` f32 [T, E] come from the gate. Writes `f` f32 [S, E], which the backward needs, and `loss` f32 `[S]`.
pub fn balance_forward(cx: &Cx, scores: &Tensor, seg: &Segments, cfg: &GateCfg, f: &mut Tensor, loss: &mut Tensor) {
    let _scope = cx.scope("gate balance forward", 0, 0);
    let op = "gate::balance_forward";
    cfg.check(op);
    let (e, k) = (cfg.experts, cfg.top_k);
    check_2d(op, "scores", scores, seg.tokens(), e, DType::F32);
    check_2d(op, "f", f, seg.count(), e, DType::F32);
    assert!(loss.shape() == [seg.count()], "{op}: loss is {loss:?}, expected [{}]", seg.count());
    match scores.device() {
        Device::Cpu => forward(cx, scores.f32(), seg.starts(), e, k, f.f32_mut(), loss.f32_mut()),
    }
}

/// `d_scores` f32 [T, E] (acc) `coef * dL_s/d_scores` for every segment s. `f` comes from the forward.
pub fn balance_backward(
    cx: &Cx,
    scores: &Tensor,
    seg: &Segments,
    f: &Tensor,
    coef: f32,
    d_scores: &mut Tensor,
    acc: Acc,
) {
    let _scope = cx.scope("gate balance backward", 0, 0);
    let op = "gate::balance_backward";
    let (t, e) = (seg.tokens(), scores.cols());
    check_2d(op, "scores", scores, t, e, DType::F32);
    check_2d(op, "f", f, seg.count(), e, DType::F32);
    check_2d(op, "d_scores", d_scores, t, e, DType::F32);
    match scores.device() {
        Device::Cpu => backward(cx, scores.f32(), seg.starts(), f.f32(), coef, d_scores.f32_mut(), acc),
    }
}

/// Number of blocks before segment `s`, if every segment starts a new block. The last entry is the total.
fn block_starts(cx: &Cx, starts: &[i32]) -> Tensor {
    let mut out = cx.empty(&[starts.len()], DType::I32);
    let mut total = 0;
    for (s, first) in out.i32_mut().iter_mut().enumerate() {
        *first = total;
        if s + 1 < starts.len() {
            total += ((starts[s + 1] - starts[s]) as usize).div_ceil(BLOCK) as i32;
        }
    }
    out
}

/// Segment and tokens of a block.
fn block(b: usize, firsts: &[i32], starts: &[i32]) -> (usize, std::ops::Range<usize>) {
    let s = firsts.partition_point(|first| *first as usize <= b) - 1;
    let from = starts[s] as usize + (b - firsts[s] as usize) * BLOCK;
    (s, from..(from + BLOCK).min(starts[s + 1] as usize))
}

fn forward(cx: &Cx, scores: &[f32], starts: &[i32], e: usize, k: usize, f: &mut [f32], loss: &mut [f32]) {
    let firsts = block_starts(cx, starts);
    let firsts = firsts.i32();
    let blocks = firsts[firsts.len() - 1] as usize;
    // For each block: how many tokens have expert i among their K best, and the sum of p_ti. Both are f32, in which
    // counts are exact.
    let mut partial = cx.empty(&[blocks, 2 * e], DType::F32);
    let size = room(e) + k.next_multiple_of(2);
    let mut scratch = cx.empty(&[blocks, size], DType::I32);
    let (parts, shared) = (DisjointMut::new(partial.f32_mut()), DisjointMut::new(scratch.i32_mut()));
    cx.threads().each(blocks, |b| {
        // SAFETY: a block has scratch of its own.
        let (part, scratch) = unsafe { (parts.slice(b * 2 * e, 2 * e), shared.slice(b * size, size)) };
        let tokens = block(b, firsts, starts).1;
        dispatch(cx.isa(), Count { scores: &scores[tokens.start * e..tokens.end * e], e, k, part, scratch });
    });
    let partial = partial.f32();
    for (s, loss) in loss.iter_mut().enumerate() {
        let tokens = (starts[s + 1] - starts[s]) as f32;
        let (mut total, f) = (0.0, &mut f[s * e..][..e]);
        for (i, f) in f.iter_mut().enumerate() {
            let (mut count, mut sum) = (0.0, 0.0);
            for b in firsts[s]..firsts[s + 1] {
                let part = &partial[b as usize * 2 * e..][..2 * e];
                count += part[i];
                sum += part[e + i];
            }
            *f = if tokens > 0.0 { e as f32 * count / (k as f32 * tokens) } else { 0.0 };
            total += if tokens > 0.0 { *f * (sum / tokens) } else { 0.0 };
        }
        *loss = total;
    }
}

/// Counts and sums of one block of tokens.
struct Count<'a> {
    scores: &'a [f32],
    e: usize,
    k: usize,
    part: &'a mut [f32],
    scratch: &'a mut [i32],
}

impl Pointwise for Count<'_> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { scores, e, k, part, scratch } = self;
        part.fill(0.0);
        let (counts, sums) = part.split_at_mut(e);
        let (keys, chosen) = scratch.split_at_mut(room(e));
        let (keys, chosen) = (as_keys(keys), &mut chosen[..k]);
        for s in scores.chunks_exact(e) {
            let inverse = 1.0 / (sum(s) + EPS);
            sums.iter_mut().zip(s).for_each(|(p, s)| *p += s * inverse);
            for i in 0..e {
                keys[i] = to_key(s[i], i);
            }
            best(keys, chosen);
            for i in &*chosen {
                counts[*i as usize] += 1.0;
            }
        }
    }
}

/// `dL/ds_tj = (f_j - sum_i f_i p_ti) / (T_s sum_i s_ti)`.
fn backward(cx: &Cx, scores: &[f32], starts: &[i32], f: &[f32], coef: f32, d_scores: &mut [f32], acc: Acc) {
    let e = f.len() / (starts.len() - 1).max(1);
    let firsts = block_starts(cx, starts);
    let firsts = firsts.i32();
    let blocks = firsts[firsts.len() - 1] as usize;
    let d_scores = DisjointMut::new(d_scores);
    cx.threads().each(blocks, |b| {
        let (seg, tokens) = block(b, firsts, starts);
        let f = &f[seg * e..][..e];
        let coef = coef / (starts[seg + 1] - starts[seg]) as f32;
        for t in tokens {
            let s = &scores[t * e..][..e];
            // SAFETY: a token lies in one block.
            let d = unsafe { d_scores.slice(t * e, e) };
            let inverse = 1.0 / (sum(s) + EPS);
            let mean = dot::<false, f32, f32>(s, f) * inverse;
            for (d, f) in d.iter_mut().zip(f) {
                let value = coef * inverse * (f - mean);
                *d = if acc == Acc::Add { *d + value } else { value };
            }
        }
    });
}
