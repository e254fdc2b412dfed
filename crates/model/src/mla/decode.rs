//! Absorbed MLA for decoding (report 2.1.1). Only `c_kv` and `k_rope` are cached, and nothing is decompressed.
//!
//! `W_UK` is folded into the query, `q_lat = q_nope W_UK`. Scores are computed with the cached latents, and `W_UV` is
//! applied to the weighted sum of latents. Mathematically this equals the decompressed form. In floating point, the two
//! agree within the rounding of the folded products. Shapes: `b` sequences with one new token each, `h` heads.

use super::Mla;
use crate::pass::Pass;
use hadal_ops::attention::AttnShape;
use hadal_ops::{Acc, Cx, DType, Tensor, elementwise, latent, linear, linear::PackedWeight};
use std::convert::Infallible;

/// The latents of one sequence in one layer: rows `[c_kv | k_rope]` in the compute format.
pub struct LatentCache {
    rows: Tensor,
    len: usize,
}

impl LatentCache {
    /// Room for `capacity` tokens of `width = d_c + d_R` numbers.
    pub fn new(cx: &Cx, capacity: usize, width: usize) -> Self {
        Self { rows: cx.empty(&[capacity, width], cx.compute()), len: 0 }
    }
    /// Number of tokens stored.
    pub fn len(&self) -> usize {
        self.len
    }
    /// Whether no token is stored.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Number of tokens for which there is room.
    pub fn capacity(&self) -> usize {
        self.rows.rows()
    }
    /// Removes everything after the first `len` tokens.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Appends rows `from..to` of the latents.
    pub fn append(&mut self, cx: &Cx, c_kv: &Tensor, k_rope: &Tensor, from: usize, to: usize) {
        let n = to - from;
        assert!(self.len + n <= self.capacity(), "latent cache: {} + {n} tokens of {}", self.len, self.capacity());
        elementwise::copy_rows(cx, c_kv, from, n, &mut self.rows, self.len, 0);
        elementwise::copy_rows(cx, k_rope, from, n, &mut self.rows, self.len, c_kv.cols());
        self.len += n;
    }
}

/// `W_UK` and `W_UV` by head, packed for the absorbed products.
pub struct Absorbed {
    uk: PackedWeight,
    uv: PackedWeight,
}

impl Mla {
    /// Packs the up-projection by head.
    pub fn absorb(&self, cx: &Cx) -> Absorbed {
        let AttnShape { heads, d_nope, d_v, .. } = self.shape;
        let dc = self.kv_rank;
        let up = self.kv_up.weight();
        // Packs `n` rows of each head, starting at `first`, in the format of the weight's own products.
        let pack = |first: usize, n: usize, backward: bool| {
            let mut packed = PackedWeight::new(cx, heads, n, dc, cx.compute(), backward);
            let done: Result<(), Infallible> = packed.fill(cx, DType::F32, &|row, out| {
                for (i, out) in out.f32_mut().chunks_exact_mut(dc).enumerate() {
                    let (head, at) = ((row + i) / n, (row + i) % n);
                    up.row(head * (d_nope + d_v) + first + at, out);
                }
                Ok(())
            });
            match done {
                Ok(()) => packed,
            }
        };
        let (uk, uv) = (pack(0, d_nope, true), pack(d_nope, d_v, false));
        Absorbed { uk, uv }
    }

    /// `x_bd + MLA(RMSNorm(x_bd))` for one new token of each of `b` sequences. It extends their caches.
    pub fn decode(
        &self,
        cx: &Cx,
        absorbed: &Absorbed,
        x: Tensor,
        pass: &Pass<'_>,
        caches: &mut [&mut LatentCache],
    ) -> Tensor {
        let AttnShape { heads, d_nope, d_rope, d_v, scale } = self.shape;
        let (b, dc, dq) = (x.rows(), self.kv_rank, d_nope + d_rope);
        let p = self.project(cx, x, pass);
        for (i, cache) in caches.iter_mut().enumerate() {
            cache.append(cx, &p.c_kv, &p.k_rope, i, i + 1);
        }
        let order = HeadMajor::new(cx, b, heads);
        let q = p.q.reshape(&[b * heads, dq]);
        // Fold W_UK into the query for each head.
        let q_nope = order.to_heads(cx, q.columns(0..d_nope));
        let mut q_c = cx.empty(&[b * heads, dc], cx.compute());
        linear::grouped_backward_input(cx, &q_nope, &absorbed.uk, &order.offsets, &mut q_c, Acc::Write);
        let q_c = order.to_tokens(cx, q_c);
        let mut q_lat = cx.empty(&[b * heads, dc + d_rope], cx.compute());
        elementwise::cast(cx, &q_c, q_lat.columns_mut(0..dc));
        elementwise::cast(cx, q.columns(d_nope..dq), q_lat.columns_mut(dc..dc + d_rope));
        let q_lat = q_lat.reshape(&[b, heads * (dc + d_rope)]);
        let mut o_lat = cx.empty(&[b, heads * dc], cx.compute());
        let rows: Vec<&Tensor> = caches.iter().map(|c| &c.rows).collect();
        let lens: Vec<usize> = caches.iter().map(|c| c.len).collect();
        latent::decode(cx, &q_lat, &rows, &lens, heads, dc, d_rope, scale, &mut o_lat);
        // Apply W_UV to the weighted sums.
        let o_lat = o_lat.reshape(&[b * heads, dc]);
        let o_lat = order.to_heads(cx, o_lat.mat());
        let mut o = cx.empty(&[b * heads, d_v], cx.compute());
        linear::grouped_forward(cx, &o_lat, &absorbed.uv, &order.offsets, &mut o, Acc::Write);
        let o = order.to_tokens(cx, o).reshape(&[b, heads * d_v]);
        let mut y = p.x;
        self.out.forward(cx, &o, &mut y, Acc::Add);
        y
    }
}

/// Row orders of `[B * H, ...]` tensors: token-major, as projections produce them, and head-major, as the products of
/// each head need them.
struct HeadMajor {
    to_heads: Option<(Tensor, Tensor)>,
    /// Group boundaries of the head-major order, i32 `[H + 1]`.
    offsets: Tensor,
}

impl HeadMajor {
    fn new(cx: &Cx, b: usize, heads: usize) -> Self {
        let mut offsets = cx.empty(&[heads + 1], DType::I32);
        offsets.i32_mut().iter_mut().enumerate().for_each(|(h, o)| *o = (h * b) as i32);
        // With one sequence, both orders are the same.
        let to_heads = (b > 1).then(|| {
            let forth: Vec<i32> = (0..heads).flat_map(|h| (0..b).map(move |i| (i * heads + h) as i32)).collect();
            let back: Vec<i32> = (0..b).flat_map(|i| (0..heads).map(move |h| (h * b + i) as i32)).collect();
            (cx.indices(&[b * heads], &forth), cx.indices(&[b * heads], &back))
        });
        Self { to_heads, offsets }
    }

    fn to_heads(&self, cx: &Cx, x: hadal_ops::MatRef<'_>) -> Tensor {
        let mut out = cx.empty(&[x.rows(), x.cols()], x.dtype());
        match &self.to_heads {
            Some((rows, _)) => elementwise::gather_rows(cx, x, rows, &mut out),
            None => elementwise::cast(cx, x, &mut out),
        }
        out
    }

    fn to_tokens(&self, cx: &Cx, x: Tensor) -> Tensor {
        let Some((_, rows)) = &self.to_heads else { return x };
        let mut out = cx.empty(x.shape(), x.dtype());
        elementwise::gather_rows(cx, &x, rows, &mut out);
        out
    }
}
