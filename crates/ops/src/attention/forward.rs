//! Forward. A task is one (segment, block of queries, head). It goes through the key blocks up to its own. Blocks of
//! keys start at multiples of `BLOCK` in the segment; a block of queries may start anywhere.
//!
//! Scores are computed transposed, S^T = K Q^T in strips of eight keys, for a group of query panels at a time. So they
//! stay in the first-level cache until they become weights. Then O = alpha O + P V follows in strips of eight queries.

use super::kernel::{AttentionElem, TileKernel, Work, each};
use super::lanes::Lanes;
use super::tile::{Panels, ROWS, Rows, Start};
use super::weights::{Span, Stats, softmax};
use super::{AttnShape, BLOCK, Inputs, Scratch, Segments, pack};
use crate::{Cx, DisjointMut, MatRef, Tensor};
use std::f32::consts::{LN_2, LOG2_E};

/// Number of query panels whose scores exist at a time.
const GROUP: usize = 2;

struct Forward<'a, E> {
    x: Inputs<'a, E>,
    o: DisjointMut<'a, E>,
    lse: DisjointMut<'a, f32>,
}

pub(super) fn run<E: AttentionElem>(
    cx: &Cx,
    q: &Tensor,
    kv: &Tensor,
    k_rope: MatRef<'_>,
    seg: &Segments,
    s: &AttnShape,
    o: &mut Tensor,
    lse: &mut Tensor,
) {
    let x = Inputs::new(q, kv, &k_rope, seg, s);
    let work = Forward { x, o: DisjointMut::new(E::of_tensor_mut(o)), lse: DisjointMut::new(lse.f32_mut()) };
    each(cx, seg.blocks() * s.heads, &work);
}

impl<E: AttentionElem> Work<E> for Forward<'_, E> {
    fn scratch<K: TileKernel<E = E>>(&self) -> usize {
        let s = &self.x.s;
        let (wd, ld_v) = (s.lanes_qk() / K::PAIR, s.lanes_v());
        2 * wd * BLOCK + 16 * GROUP * BLOCK + BLOCK / K::PAIR * (BLOCK + ld_v) + BLOCK * ld_v + 3 * BLOCK
    }

    #[inline(always)]
    unsafe fn run<K: TileKernel<E = E>>(&self, task: usize, mut scratch: Scratch) {
        let (x, s) = (&self.x, &self.x.s);
        let (segment, block) = x.seg.block(task / s.heads);
        let head = task % s.heads;
        let (start, len) = x.seg.span(segment);
        let (key_start, before) = x.seg.before(segment);
        let q0 = block * BLOCK;
        let nq = BLOCK.min(len - q0);
        let nq_pad = nq.next_multiple_of(16);
        let (ld_d, ld_v) = (s.lanes_qk(), s.lanes_v());
        let (wd, steps) = (ld_d / K::PAIR, s.contraction() / K::PAIR);
        let c = s.scale * LOG2_E;

        let qt: *mut u32 = scratch.take(wd * BLOCK);
        let k_rows: *mut u32 = scratch.take(wd * BLOCK);
        let scores: *mut f32 = scratch.take(16 * GROUP * BLOCK);
        let p: *mut u32 = scratch.take(BLOCK / K::PAIR * BLOCK);
        let v: *mut u32 = scratch.take(BLOCK / K::PAIR * ld_v);
        let acc: *mut f32 = scratch.take(BLOCK * ld_v);
        let (max, sum, alpha): (*mut f32, *mut f32, *mut f32) =
            (scratch.take(BLOCK), scratch.take(BLOCK), scratch.take(BLOCK));

        // SAFETY: the pieces above have the sizes the loops below use: at most BLOCK keys and queries, ld_d and ld_v
        // lanes. The rows of o and the entries of lse written are this task's alone.
        unsafe {
            for part in x.queries(start + q0, head) {
                pack::lanes::<K>(part, nq, nq_pad, qt, BLOCK);
            }
            for i in 0..BLOCK {
                *max.add(i) = f32::NEG_INFINITY;
                *sum.add(i) = 0.0;
            }
            for i in 0..nq_pad * ld_v {
                *acc.add(i) = 0.0;
            }
            // Position of the block's first query, and the end of the keys that its last query sees.
            let first = before + q0;
            for k0 in (0..first + nq).step_by(BLOCK) {
                let nk = BLOCK.min(first + nq - k0);
                let nk_pad = nk.next_multiple_of(16);
                // Number of keys of the block that some query before query `end` sees.
                let ahead = first as isize - k0 as isize;
                let seen = |end: usize| (ahead + end as isize).clamp(0, nk_pad as isize) as usize;
                for part in x.keys(key_start + k0, head) {
                    pack::rows::<K>(part, nk, nk_pad, k_rows, wd);
                }
                pack::steps::<K>(x.values(key_start + k0, head), nk, nk_pad, v, ld_v);

                for g in (0..nq_pad / 16).step_by(GROUP) {
                    let panels = GROUP.min(nq_pad / 16 - g);
                    for r in (0..seen(16 * (g + panels))).step_by(ROWS) {
                        // Panels before the strip's first key see none of its keys.
                        let skip = ((r as isize - ahead).max(0) as usize / 16).saturating_sub(g);
                        let a = Rows { ptr: k_rows.add(r * wd), rs: wd, cs: 1 };
                        let b = Panels { ptr: qt.add(16 * (g + skip)), bs: BLOCK, count: panels - skip };
                        K::strip(a, b, steps, scores.add(r * 16 * GROUP + 16 * skip), 16 * GROUP, Start::Zero);
                    }
                    for i in 0..panels {
                        let lane = 16 * (g + i);
                        let span = Span {
                            full: seen(lane + 1),
                            total: seen(lane + 16).next_multiple_of(2),
                            first: ahead + lane as isize,
                        };
                        let st = Stats { max: max.add(lane), sum: sum.add(lane), alpha: alpha.add(lane) };
                        softmax::<K>(scores.add(16 * i), 16 * GROUP, p.add(lane), BLOCK, span, c, st);
                    }
                }
                for i in (0..nq_pad).step_by(ROWS) {
                    let steps = seen(i + ROWS).div_ceil(K::PAIR);
                    let a = Rows { ptr: p.add(i), rs: 1, cs: BLOCK };
                    let b = Panels { ptr: v, bs: ld_v, count: ld_v / 16 };
                    K::strip(a, b, steps, acc.add(i * ld_v), ld_v, Start::Scale(alpha.add(i)));
                }
            }
            for i in 0..nq {
                let t = start + q0 + i;
                let inverse = K::L::splat(1.0 / *sum.add(i));
                let out = self.o.slice((t * s.heads + head) * s.d_v, s.d_v).as_mut_ptr();
                for col in (0..s.d_v).step_by(16) {
                    let v = K::L::load(acc.add(i * ld_v + col)).mul(inverse);
                    K::emit(out.add(col), 16.min(s.d_v - col), v);
                }
                self.lse.slice(head * x.seg.tokens() + t, 1)[0] = *max.add(i) * LN_2 + (*sum.add(i)).ln();
            }
        }
    }
}
