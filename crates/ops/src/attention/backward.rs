//! Backward. A task is one (segment, head). The outer loop runs over key blocks, the inner loop over query blocks, both
//! in ascending order.
//!
//! For a pair of blocks, in strips of eight keys, it computes S^T = K Q^T and dP^T = V dO^T, and from them P^T and
//! dS^T. Then dV += P^T dO, dK += dS^T Q, dQ += dS K. q and do of the whole segment are packed once. dK and dV exist
//! for one key block, dQ for the whole task. All five products use the same strips, and none needs a transposed copy of
//! P or dS: dS is written twice, along the queries and along the keys.

use super::kernel::{AttentionElem, TileKernel, Work, each};
use super::lanes::Lanes;
use super::tile::{Panels, ROWS, Rows, Start};
use super::weights::{GradTile, dot, gradient};
use super::{AttnShape, BLOCK, Inputs, Scratch, Segments, pack};
use crate::{Cx, DType, DisjointMut, MatMut, MatRef, Tensor};
use std::f32::consts::LOG2_E;

struct Backward<'a, E> {
    x: Inputs<'a, E>,
    d_o: &'a [E],
    o: &'a [E],
    lse: &'a [f32],
    dq: DisjointMut<'a, E>,
    dkv: DisjointMut<'a, E>,
    /// Gradient of the rotary key for each head: `[H, T, dr]`.
    rope: DisjointMut<'a, f32>,
}

pub(super) fn run<E: AttentionElem>(
    cx: &Cx,
    d_o: &Tensor,
    q: &Tensor,
    kv: &Tensor,
    k_rope: MatRef<'_>,
    o: &Tensor,
    lse: &Tensor,
    seg: &Segments,
    s: &AttnShape,
    dq: &mut Tensor,
    dkv: &mut Tensor,
    mut dk_rope: MatMut<'_>,
) {
    let x = Inputs::new(q, kv, &k_rope, seg, s);
    let tokens = seg.tokens();
    let mut rope = cx.empty(&[s.heads, tokens, s.d_rope], DType::F32);
    let work = Backward {
        x,
        d_o: E::of_tensor(d_o),
        o: E::of_tensor(o),
        lse: lse.f32(),
        dq: DisjointMut::new(E::of_tensor_mut(dq)),
        dkv: DisjointMut::new(E::of_tensor_mut(dkv)),
        rope: DisjointMut::new(rope.f32_mut()),
    };
    each(cx, seg.count() * s.heads, &work);
    let stride = dk_rope.stride();
    let out = DisjointMut::new(E::of_mut(&mut dk_rope));
    let work = SumHeads { rope: rope.f32(), out, stride, tokens, heads: s.heads, d: s.d_rope };
    each(cx, tokens.div_ceil(BLOCK), &work);
}

/// Memory for the queries of one (segment, head).
struct Queries {
    /// q with queries as lanes, one block after another: `[block][wd][BLOCK]`.
    qt: *mut u32,
    /// do in the same layout: `[block][wv][BLOCK]`.
    dot: *mut u32,
    /// q with queries as steps: `[T / PAIR][ld_d]`.
    q: *mut u32,
    /// do in the same layout: `[T / PAIR][ld_v]`.
    d_o: *mut u32,
    /// lse in base 2 and delta.
    lse2: *mut f32,
    delta: *mut f32,
    /// f32 gradient `[T][ld_d]`.
    dq: *mut f32,
}

/// Memory for one key block and for a pair of blocks.
struct Keys {
    k_rows: *mut u32,
    k_steps: *mut u32,
    v_rows: *mut u32,
    dk: *mut f32,
    dv: *mut f32,
    s: *mut f32,
    dp: *mut f32,
    p: *mut u32,
    ds: *mut u32,
    ds_steps: *mut u32,
}

impl<E: AttentionElem> Work<E> for Backward<'_, E> {
    fn scratch<K: TileKernel<E = E>>(&self) -> usize {
        let s = &self.x.s;
        let room = self.x.seg.longest().next_multiple_of(BLOCK);
        let (ld_d, ld_v) = (s.lanes_qk(), s.lanes_v());
        let (wd, wv) = (ld_d / K::PAIR, ld_v / K::PAIR);
        2 * room * (wd + wv)
            + 2 * room
            + room * ld_d
            + BLOCK * (2 * wd + wv + ld_d + ld_v)
            + 2 * ROWS * BLOCK
            + 3 * BLOCK * BLOCK / K::PAIR
    }

    #[inline(always)]
    unsafe fn run<K: TileKernel<E = E>>(&self, task: usize, mut scratch: Scratch) {
        let (x, s) = (&self.x, &self.x.s);
        let (segment, head) = (task / s.heads, task % s.heads);
        let (start, len) = x.seg.span(segment);
        if len == 0 {
            return;
        }
        let pad = len.next_multiple_of(16);
        let room = len.next_multiple_of(BLOCK);
        let (ld_d, ld_v) = (s.lanes_qk(), s.lanes_v());
        let (wd, wv) = (ld_d / K::PAIR, ld_v / K::PAIR);

        let qs = Queries {
            qt: scratch.take(room * wd),
            dot: scratch.take(room * wv),
            q: scratch.take(room * wd),
            d_o: scratch.take(room * wv),
            lse2: scratch.take(room),
            delta: scratch.take(room),
            dq: scratch.take(room * ld_d),
        };
        let ks = Keys {
            k_rows: scratch.take(BLOCK * wd),
            k_steps: scratch.take(BLOCK * wd),
            v_rows: scratch.take(BLOCK * wv),
            dk: scratch.take(BLOCK * ld_d),
            dv: scratch.take(BLOCK * ld_v),
            s: scratch.take(ROWS * BLOCK),
            dp: scratch.take(ROWS * BLOCK),
            p: scratch.take(BLOCK * BLOCK / K::PAIR),
            ds: scratch.take(BLOCK * BLOCK / K::PAIR),
            ds_steps: scratch.take(BLOCK * BLOCK / K::PAIR),
        };
        // SAFETY: the pieces have the sizes the steps below use; the rows written are of this segment and head, which
        // no other task has.
        unsafe {
            self.prepare::<K>(&qs, start, len, head);
            for k0 in (0..len).step_by(BLOCK) {
                let nk = BLOCK.min(len - k0);
                let nk_pad = nk.next_multiple_of(16);
                for part in x.keys(start + k0, head) {
                    pack::rows::<K>(part, nk, nk_pad, ks.k_rows, wd);
                    pack::steps::<K>(part, nk, nk_pad, ks.k_steps, ld_d);
                }
                pack::rows::<K>(x.values(start + k0, head), nk, nk_pad, ks.v_rows, wv);
                for q0 in (k0..len).step_by(BLOCK) {
                    self.pair::<K>(&qs, &ks, k0, q0, nk_pad, BLOCK.min(pad - q0));
                }
                self.emit_keys::<K>(&ks, start + k0, nk, head);
            }
            for i in 0..len {
                let at = ((start + i) * s.heads + head) * s.d_qk();
                let out = self.dq.slice(at, s.d_qk()).as_mut_ptr();
                emit_row::<K>(qs.dq.add(i * ld_d), s.d_nope, s.scale, out);
                emit_row::<K>(qs.dq.add(i * ld_d + s.rope_at()), s.d_rope, s.scale, out.add(s.d_nope));
            }
        }
    }
}

/// Writes `n` values times `factor` to a tensor.
#[inline(always)]
unsafe fn emit_row<K: TileKernel>(src: *const f32, n: usize, factor: f32, out: *mut K::E) {
    for col in (0..n).step_by(16) {
        // SAFETY: the caller's row has n elements; the source is padded beyond them or followed by more scratch.
        unsafe {
            let v = K::L::load(src.add(col)).mul(K::L::splat(factor));
            K::emit(out.add(col), 16.min(n - col), v);
        }
    }
}

impl<E: AttentionElem> Backward<'_, E> {
    /// Packs q and do of the segment, and computes its lse and delta.
    #[inline(always)]
    unsafe fn prepare<K: TileKernel<E = E>>(&self, qs: &Queries, start: usize, len: usize, head: usize) {
        let (x, s) = (&self.x, &self.x.s);
        let (ld_d, ld_v) = (s.lanes_qk(), s.lanes_v());
        let (wd, wv) = (ld_d / K::PAIR, ld_v / K::PAIR);
        for q0 in (0..len).step_by(BLOCK) {
            let n = BLOCK.min(len - q0);
            let n_pad = n.next_multiple_of(16);
            // SAFETY: the caller's pieces hold the segment rounded up to whole blocks.
            unsafe {
                for part in x.queries(start + q0, head) {
                    pack::lanes::<K>(part, n, n_pad, qs.qt.add(q0 * wd), BLOCK);
                    pack::steps::<K>(part, n, n_pad, qs.q.add(q0 * wd), ld_d);
                }
                let d_o = x.outputs(self.d_o, start + q0, head);
                pack::lanes::<K>(d_o, n, n_pad, qs.dot.add(q0 * wv), BLOCK);
                pack::steps::<K>(d_o, n, n_pad, qs.d_o.add(q0 * wv), ld_v);
                let o = x.outputs(self.o, start + q0, head);
                for i in 0..n_pad {
                    let t = q0 + i;
                    // A padded query gives no weight to any key.
                    let (lse2, delta) = if i < n {
                        let lse = self.lse[head * x.seg.tokens() + start + t];
                        (lse * LOG2_E, dot::<K>(d_o.src.add(i * d_o.stride), o.src.add(i * o.stride), s.d_v))
                    } else {
                        (f32::INFINITY, 0.0)
                    };
                    *qs.lse2.add(t) = lse2;
                    *qs.delta.add(t) = delta;
                }
            }
        }
    }

    /// Processes key block `k0` with query block `q0`.
    #[inline(always)]
    unsafe fn pair<K: TileKernel<E = E>>(
        &self,
        qs: &Queries,
        ks: &Keys,
        k0: usize,
        q0: usize,
        nk_pad: usize,
        nq_pad: usize,
    ) {
        let s = &self.x.s;
        let (ld_d, ld_v) = (s.lanes_qk(), s.lanes_v());
        let (wd, wv, wb) = (ld_d / K::PAIR, ld_v / K::PAIR, BLOCK / K::PAIR);
        let diagonal = k0 == q0;
        let c = s.scale * LOG2_E;
        let panels = nq_pad / 16;
        // SAFETY: the caller's pieces hold nk_pad <= BLOCK keys and this block's nq_pad queries.
        unsafe {
            for r in (0..nk_pad).step_by(ROWS) {
                let skip = if diagonal { r / 16 } else { 0 };
                let count = panels - skip;
                let lane = 16 * skip;
                let a = Rows { ptr: ks.k_rows.add(r * wd), rs: wd, cs: 1 };
                let b = Panels { ptr: qs.qt.add(q0 * wd + lane), bs: BLOCK, count };
                K::strip(a, b, s.contraction() / K::PAIR, ks.s.add(lane), BLOCK, Start::Zero);
                let a = Rows { ptr: ks.v_rows.add(r * wv), rs: wv, cs: 1 };
                let b = Panels { ptr: qs.dot.add(q0 * wv + lane), bs: BLOCK, count };
                K::strip(a, b, s.d_v.div_ceil(K::PAIR), ks.dp.add(lane), BLOCK, Start::Zero);
                for i in skip..panels {
                    let lane = 16 * i;
                    let t = GradTile {
                        s: ks.s.add(lane),
                        dp: ks.dp.add(lane),
                        p: ks.p.add(r * wb + lane / K::PAIR),
                        ds: ks.ds.add(r * wb + lane / K::PAIR),
                        steps: ks.ds_steps.add(r / K::PAIR * BLOCK + lane),
                        ld: BLOCK,
                    };
                    let hidden = (diagonal && i == skip).then_some(r as i32 - lane as i32);
                    gradient::<K>(t, qs.lse2.add(q0 + lane), qs.delta.add(q0 + lane), c, hidden);
                }
            }
            let start = if diagonal { Start::Zero } else { Start::Load };
            for r in (0..nk_pad).step_by(ROWS) {
                // On the diagonal, queries before the strip's first key give it no weight.
                let from = if diagonal { r } else { 0 } / K::PAIR;
                let k = nq_pad / K::PAIR - from;
                let a = Rows { ptr: ks.p.add(r * wb + from), rs: wb, cs: 1 };
                let b = Panels { ptr: qs.d_o.add(q0 * wv + from * ld_v), bs: ld_v, count: ld_v / 16 };
                K::strip(a, b, k, ks.dv.add(r * ld_v), ld_v, start);
                let a = Rows { ptr: ks.ds.add(r * wb + from), rs: wb, cs: 1 };
                let b = Panels { ptr: qs.q.add(q0 * wd + from * ld_d), bs: ld_d, count: ld_d / 16 };
                K::strip(a, b, k, ks.dk.add(r * ld_d), ld_d, start);
            }
            let start = if k0 == 0 { Start::Zero } else { Start::Load };
            for i in (0..nq_pad).step_by(ROWS) {
                let seen = if diagonal { nk_pad.min(i + ROWS) } else { nk_pad };
                let a = Rows { ptr: ks.ds_steps.add(i), rs: 1, cs: BLOCK };
                let b = Panels { ptr: ks.k_steps, bs: ld_d, count: ld_d / 16 };
                K::strip(a, b, seen / K::PAIR, qs.dq.add((q0 + i) * ld_d), ld_d, start);
            }
        }
    }

    /// Writes dK and dV of a finished key block. The block starts at token `t`.
    #[inline(always)]
    unsafe fn emit_keys<K: TileKernel<E = E>>(&self, ks: &Keys, t: usize, nk: usize, head: usize) {
        let s = &self.x.s;
        let (ld_d, ld_v, width) = (s.lanes_qk(), s.lanes_v(), s.d_nope + s.d_v);
        for i in 0..nk {
            // SAFETY: the caller's task owns these rows of this head.
            unsafe {
                let out = self.dkv.slice(((t + i) * s.heads + head) * width, width).as_mut_ptr();
                emit_row::<K>(ks.dk.add(i * ld_d), s.d_nope, s.scale, out);
                emit_row::<K>(ks.dv.add(i * ld_v), s.d_v, 1.0, out.add(s.d_nope));
                let rope = self.rope.slice((head * self.x.seg.tokens() + t + i) * s.d_rope, s.d_rope);
                for (col, d) in rope.iter_mut().enumerate() {
                    *d = *ks.dk.add(i * ld_d + s.rope_at() + col) * s.scale;
                }
            }
        }
    }
}

/// dk_rope[t] = sum over heads, in head order, of `rope[h][t]`. A task is a block of tokens.
struct SumHeads<'a, E> {
    rope: &'a [f32],
    out: DisjointMut<'a, E>,
    stride: usize,
    tokens: usize,
    heads: usize,
    d: usize,
}

impl<E: AttentionElem> Work<E> for SumHeads<'_, E> {
    #[inline(always)]
    unsafe fn run<K: TileKernel<E = E>>(&self, task: usize, _: Scratch) {
        let from = task * BLOCK;
        for t in from..self.tokens.min(from + BLOCK) {
            for col in (0..self.d).step_by(16) {
                let n = 16.min(self.d - col);
                let mut sum = [0f32; 16];
                for h in 0..self.heads {
                    let row = &self.rope[(h * self.tokens + t) * self.d + col..][..n];
                    for (a, b) in sum.iter_mut().zip(row) {
                        *a += b;
                    }
                }
                // SAFETY: the columns of row t are this task's; `sum` holds sixteen values.
                unsafe {
                    let out = self.out.slice(t * self.stride + col, n).as_mut_ptr();
                    K::emit(out, n, K::L::load(sum.as_ptr()));
                }
            }
        }
    }
}
