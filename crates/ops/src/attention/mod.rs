//! Causal attention of decompressed MLA (report 2.1.1, eq. 9-11), forward and backward, in blocks.
//!
//! ```text
//! s_ij = (q_nope_i . k_nope_j + q_rope_i . k_rope_j) * scale        j <= i, same segment
//! o_i  = sum_j softmax_j(s_ij) v_j          lse_i = log sum_j exp(s_ij)
//! dP_ij = do_i . v_j     delta_i = do_i . o_i     dS_ij = P_ij (dP_ij - delta_i)
//! dq_i = scale sum_j dS_ij k_j     dk_j = scale sum_i dS_ij q_i     dv_j = sum_i P_ij do_i
//! ```
//!
//! Shapes: T tokens of all segments, H heads; q `[T, H (dn + dr)]` with `[nope | rope]` for each head, rope applied; kv
//! `[T, H (dn + dv)]` with `[k_nope | v]` for each head; k_rope `[T, dr]`, shared by all heads; o `[T, H dv]`; lse f32
//! `[H, T]`. All except lse have the same compute format, F32 or Bf16. In the forward pass, a segment may continue
//! tokens that came before. Then kv and k_rope have rows for all of its tokens, and q, o and lse only for the last of
//! them.
//!
//! Precision: softmax and sums are always f32. On AVX-512 with Bf16, the products are bf16 dot products, and the
//! weights P and gradients dS are rounded to bf16 before the second product. The other paths keep them in f32.
//!
//! Order: blocks of `BLOCK` keys start at multiples of `BLOCK` inside a segment and are visited in ascending order. So
//! a query's bits depend only on its segment's tokens up to itself. In backward, one task owns one (segment, head) and
//! visits key blocks, then query blocks, in ascending order. The gradient of the shared rotary key is summed over heads
//! in head order.
//!
//! Memory: nothing has size T x T. Forward needs one block of scores per task. Backward needs packed q and do and an
//! f32 dq of one (segment, head) per task, and dr f32 values per token and head.
//!
//! The operation panics when shapes or formats disagree, or when the scale is not positive.

#[cfg(target_arch = "x86_64")]
mod amx;
mod backward;
mod forward;
pub(crate) mod kernel;
pub(crate) mod lanes;
pub(crate) mod pack;
mod segments;
#[cfg(test)]
mod tests;
pub(crate) mod tile;
#[cfg(target_arch = "x86_64")]
mod transpose;
pub(crate) mod weights;

pub use segments::Segments;

use crate::{Cx, DType, MatMut, MatRef, Tensor};
use kernel::AttentionElem;
use pack::Part;

/// Queries and keys of one block. A multiple of 16.
pub(crate) const BLOCK: usize = 128;

/// Sizes of one attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttnShape {
    /// Heads.
    pub heads: usize,
    /// Size of the part of query and key without position, per head.
    pub d_nope: usize,
    /// Size of the rotary part.
    pub d_rope: usize,
    /// Size of a value.
    pub d_v: usize,
    /// Factor of the scores. It must be positive.
    pub scale: f32,
}

impl AttnShape {
    /// Size of a query or key.
    pub fn d_qk(&self) -> usize {
        self.d_nope + self.d_rope
    }
    /// Start of the rotary part in packed rows. Both parts are padded to even sizes.
    fn rope_at(&self) -> usize {
        self.d_nope.next_multiple_of(2)
    }
    /// Contraction length of packed queries and keys.
    fn contraction(&self) -> usize {
        self.rope_at() + self.d_rope.next_multiple_of(2)
    }
    /// Lanes of packed queries and keys.
    fn lanes_qk(&self) -> usize {
        self.contraction().next_multiple_of(16)
    }
    /// Lanes of packed values.
    fn lanes_v(&self) -> usize {
        self.d_v.next_multiple_of(16)
    }
}

/// The inputs that both directions read.
struct Inputs<'a, E> {
    q: &'a [E],
    kv: &'a [E],
    k_rope: &'a [E],
    rope_stride: usize,
    seg: &'a Segments,
    s: AttnShape,
}

impl<'a, E: AttentionElem> Inputs<'a, E> {
    fn new(q: &'a Tensor, kv: &'a Tensor, k_rope: &'a MatRef<'_>, seg: &'a Segments, s: &AttnShape) -> Self {
        let (q, kv) = (E::of_tensor(q), E::of_tensor(kv));
        Self { q, kv, k_rope: E::of(k_rope), rope_stride: k_rope.stride(), seg, s: *s }
    }
    /// Parts of the queries of `head` from token `t`.
    fn queries(&self, t: usize, head: usize) -> [Part<E>; 2] {
        let s = &self.s;
        let (stride, at) = (s.heads * s.d_qk(), s.rope_at());
        let src = self.q[t * stride + head * s.d_qk()..].as_ptr();
        [
            Part { src, stride, cols: s.d_nope, at: 0, to: at },
            Part { src: src.wrapping_add(s.d_nope), stride, cols: s.d_rope, at, to: s.lanes_qk() },
        ]
    }
    /// Parts of the keys.
    fn keys(&self, t: usize, head: usize) -> [Part<E>; 2] {
        let s = &self.s;
        let (width, at) = (s.d_nope + s.d_v, s.rope_at());
        let src = self.kv[t * s.heads * width + head * width..].as_ptr();
        let rope = self.k_rope.get(t * self.rope_stride..).map_or(src, <[E]>::as_ptr);
        [
            Part { src, stride: s.heads * width, cols: s.d_nope, at: 0, to: at },
            Part { src: rope, stride: self.rope_stride, cols: s.d_rope, at, to: s.lanes_qk() },
        ]
    }
    /// The values.
    fn values(&self, t: usize, head: usize) -> Part<E> {
        let s = &self.s;
        let width = s.d_nope + s.d_v;
        let src = self.kv[t * s.heads * width + head * width + s.d_nope..].as_ptr();
        Part { src, stride: s.heads * width, cols: s.d_v, at: 0, to: s.lanes_v() }
    }
    /// Rows of a tensor like o.
    fn outputs(&self, x: &[E], t: usize, head: usize) -> Part<E> {
        let s = &self.s;
        let stride = s.heads * s.d_v;
        Part { src: x[t * stride + head * s.d_v..].as_ptr(), stride, cols: s.d_v, at: 0, to: s.lanes_v() }
    }
}

/// Scratch memory of one task, which is cut into pieces.
pub(crate) struct Scratch {
    memory: *mut u32,
    words: usize,
    at: usize,
}

impl Scratch {
    /// `words` words from `memory` on.
    ///
    /// # Safety
    /// They must be this task's alone, and start at a cache line.
    unsafe fn new(memory: *mut u32, words: usize) -> Self {
        Self { memory, words, at: 0 }
    }
    /// The next piece, in whole cache lines.
    pub(crate) fn take<T>(&mut self, words: usize) -> *mut T {
        const { assert!(size_of::<T>() == 4) };
        let start = self.at;
        self.at += words.next_multiple_of(16);
        assert!(self.at <= self.words, "attention: scratch of {} words is short", self.words);
        // SAFETY: inside the scratch.
        unsafe { self.memory.add(start).cast() }
    }
}

#[track_caller]
fn check(t: &Tensor, name: &str, rows: usize, cols: usize, dtype: DType) {
    assert!(
        t.rows() == rows && t.cols() == cols && t.dtype() == dtype,
        "attention: {name} is {t:?}, expected {dtype:?} [{rows}, {cols}]"
    );
}

#[track_caller]
fn check_inputs(q: &Tensor, kv: &Tensor, k_rope: &MatRef<'_>, seg: &Segments, s: &AttnShape) {
    let (t, keys, dtype) = (seg.tokens(), seg.keys(), q.dtype());
    assert!(s.scale > 0.0, "attention: scale {} must be positive", s.scale);
    assert!(s.heads > 0 && s.d_qk() > 0 && s.d_v > 0, "attention: {s:?}");
    assert!(dtype != DType::I32, "attention: q is {q:?}");
    check(q, "q", t, s.heads * s.d_qk(), dtype);
    check(kv, "kv", keys, s.heads * (s.d_nope + s.d_v), dtype);
    assert!(
        k_rope.rows() == keys && k_rope.cols() == s.d_rope && k_rope.dtype() == dtype,
        "attention: k_rope is {:?} [{}, {}], expected {dtype:?} [{keys}, {}]",
        k_rope.dtype(),
        k_rope.rows(),
        k_rope.cols(),
        s.d_rope
    );
}

/// FLOPs of `times` times the products of the forward pass.
fn products(seg: &Segments, s: &AttnShape, times: u64) -> u64 {
    let pairs = |i: usize| {
        let (len, before) = (seg.span(i).1 as u64, seg.before(i).1 as u64);
        len * before + len * (len + 1) / 2
    };
    let pairs: u64 = (0..seg.count()).map(pairs).sum();
    2 * times * pairs * (s.heads * (s.d_qk() + s.d_v)) as u64
}

/// Writes `o` and `lse` (shapes above).
pub fn forward<'a>(
    cx: &Cx,
    q: &Tensor,
    kv: &Tensor,
    k_rope: impl Into<MatRef<'a>>,
    seg: &Segments,
    s: &AttnShape,
    o: &mut Tensor,
    lse: &mut Tensor,
) {
    let _scope = cx.scope("attention forward", products(seg, s, 1), 0);
    let k_rope = k_rope.into();
    check_inputs(q, kv, &k_rope, seg, s);
    check(o, "o", seg.tokens(), s.heads * s.d_v, q.dtype());
    check(lse, "lse", s.heads, seg.tokens(), DType::F32);
    match q.dtype() {
        DType::Bf16 => forward::run::<half::bf16>(cx, q, kv, k_rope, seg, s, o, lse),
        _ => forward::run::<f32>(cx, q, kv, k_rope, seg, s, o, lse),
    }
}

/// Writes `dq`, `dkv` (shaped like q and kv) and `dk_rope` `[T, dr]`, which is summed over heads. It needs the gradient
/// `d_o` of o and the inputs and outputs of the forward pass.
pub fn backward<'a, 'b>(
    cx: &Cx,
    d_o: &Tensor,
    q: &Tensor,
    kv: &Tensor,
    k_rope: impl Into<MatRef<'a>>,
    o: &Tensor,
    lse: &Tensor,
    seg: &Segments,
    s: &AttnShape,
    dq: &mut Tensor,
    dkv: &mut Tensor,
    dk_rope: impl Into<MatMut<'b>>,
) {
    let _scope = cx.scope("attention backward", products(seg, s, 2), 0);
    let (k_rope, dk_rope) = (k_rope.into(), dk_rope.into());
    check_inputs(q, kv, &k_rope, seg, s);
    assert_eq!(seg.tokens(), seg.keys(), "attention: backward wants whole segments");
    let (t, dtype) = (seg.tokens(), q.dtype());
    check(d_o, "d_o", t, s.heads * s.d_v, dtype);
    check(o, "o", t, s.heads * s.d_v, dtype);
    check(lse, "lse", s.heads, t, DType::F32);
    check(dq, "dq", t, q.cols(), dtype);
    check(dkv, "dkv", t, kv.cols(), dtype);
    assert!(
        dk_rope.rows() == t && dk_rope.cols() == s.d_rope && dk_rope.dtype() == dtype,
        "attention: dk_rope is [{}, {}], expected [{t}, {}]",
        dk_rope.rows(),
        dk_rope.cols(),
        s.d_rope
    );
    match dtype {
        DType::Bf16 => backward::run::<half::bf16>(cx, d_o, q, kv, k_rope, o, lse, seg, s, dq, dkv, dk_rope),
        _ => backward::run::<f32>(cx, d_o, q, kv, k_rope, o, lse, seg, s, dq, dkv, dk_rope),
    }
}
