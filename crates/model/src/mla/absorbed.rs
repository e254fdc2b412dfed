//! MLA over cached latents (report 2.1.1). Only `c_kv` and `k_rope` are stored. There are two forms: the absorbed form,
//! in which nothing is decompressed, and the decompressed form, for given tokens that continue a sequence.
//!
//! In the absorbed form, `W_UK` is folded into the query, `q_lat = q_nope W_UK`. Scores are computed with the cached
//! latents, and `W_UV` is applied to the weighted sum of latents. Mathematically this equals the decompressed form. In
//! floating point, the two agree within the rounding of the folded products. Shapes: `t` rows of a pass, `b` of them in
//! the absorbed form, `h` heads.

use super::Mla;
use crate::cached::LayerCache;
use crate::pass::Pass;
use crate::stored::{Stored, StoredForm};
use hadal_ops::attention::{self, AttnShape};
use hadal_ops::quant::QuantFormat;
use hadal_ops::{Acc, Chunks, Cx, DType, Tensor, elementwise, latent};

/// Rows of a transposed matrix that are written together: as many as there are f32 in a line of the cache.
const STRIP: usize = 16;

/// `W_UK^T` `[H, dc, dn]` and `W_UV` `[H, dv, dc]`, for the absorbed products.
pub struct Absorbed {
    uk: Stored,
    uv: Stored,
}

impl Absorbed {
    /// Its size in bytes.
    pub fn bytes(&self) -> usize {
        self.uk.bytes() + self.uv.bytes()
    }
}

/// Eight bits for weights that are themselves quantised: groups of `W_UK^T` run across those of the weight, and four
/// bits would round a second time as coarsely as the first. Other weights are in the compute format, which is exact.
fn form(cx: &Cx, up: &Stored) -> StoredForm {
    match up {
        Stored::Quantised(_) => StoredForm::Quantised(QuantFormat::Int8),
        _ => StoredForm::Packed(cx.compute()),
    }
}

impl Mla {
    /// Packs the up-projection by head.
    pub fn absorb(&self, cx: &Cx) -> Absorbed {
        let AttnShape { heads, d_nope, d_v, .. } = self.shape;
        let dc = self.kv_rank;
        let up = &self.kv_up.param;
        let form = form(cx, up.stored());
        let start = |head: usize| head * (d_nope + d_v) * dc;
        // W_UK of each head is read once, and transposed in strips of a few rows that stay in the nearest cache.
        let mut transposed = cx.empty(&[heads * dc, d_nope], DType::F32);
        let of_heads = Chunks::new(transposed.f32_mut(), dc * d_nope);
        cx.threads().each(heads, |head| {
            let mut of_head = vec![0.0; d_nope * dc];
            up.read(start(head), &mut of_head);
            for (strip, out) in of_heads.take(head).chunks_mut(STRIP * d_nope).enumerate() {
                for (j, row) in of_head.chunks_exact(dc).enumerate() {
                    let column = out[j..].iter_mut().step_by(d_nope);
                    column.zip(&row[strip * STRIP..]).for_each(|(to, from)| *to = *from);
                }
            }
        });
        let transposed = transposed.f32();
        let uk = Stored::grouped(cx, form, (heads, dc, d_nope), &|row, out| {
            let out = out.f32_mut();
            out.copy_from_slice(&transposed[row * d_nope..][..out.len()]);
        });
        let uv = Stored::grouped(cx, form, (heads, d_v, dc), &|row, out| {
            let (head, first) = (row / d_v, row % d_v);
            up.read(start(head) + (d_nope + first) * dc, out.f32_mut());
        });
        Absorbed { uk, uv }
    }

    /// `x_td + MLA(RMSNorm(x_td))` for the rows of a pass that continues sequences. It stores their latents.
    pub(crate) fn forward_cached(&self, cx: &Cx, x: Tensor, pass: &Pass<'_>, mut cache: LayerCache<'_>) -> Tensor {
        let p = self.project(cx, x, pass);
        cache.keep(cx, &p.c_kv, &p.k_rope);
        let (t, given) = (p.q.rows(), cache.rows.given);
        let o = match (given, t - given) {
            (_, 0) => self.attend_decompressed(cx, &p.q, &cache),
            (0, _) => self.attend_absorbed(cx, p.q, &cache),
            (_, generated) => {
                let mut o = cx.empty(&[t, self.shape.heads * self.shape.d_v], cx.compute());
                let part = |from: usize, n: usize| {
                    let mut q = cx.empty(&[n, p.q.cols()], cx.compute());
                    elementwise::copy_rows(cx, &p.q, from, n, &mut q, 0, 0);
                    q
                };
                let first = self.attend_decompressed(cx, &part(0, given), &cache);
                elementwise::copy_rows(cx, &first, 0, given, &mut o, 0, 0);
                let second = self.attend_absorbed(cx, part(given, generated), &cache);
                elementwise::copy_rows(cx, &second, 0, generated, &mut o, given, 0);
                o
            }
        };
        let mut y = p.x;
        self.out.forward(cx, &o, &mut y, Acc::Add);
        y
    }

    /// Stores the latents of rows with the block's input `x_td`, as [`Mla::forward_cached`] does, and computes nothing
    /// else.
    pub(crate) fn keep_latents(&self, cx: &Cx, x: &Tensor, pass: &Pass<'_>, mut cache: LayerCache<'_>) {
        let (_, _, a) = self.project_down(cx, x);
        cache.keep(cx, &self.latent(cx, &a).0, &self.shared_key(cx, &a, pass));
    }

    /// Attention of given tokens. Keys and values of all tokens of their sequences are computed from the latents.
    fn attend_decompressed(&self, cx: &Cx, q: &Tensor, cache: &LayerCache<'_>) -> Tensor {
        let (s, dc) = (&self.shape, self.kv_rank);
        let (t, keys) = (q.rows(), &cache.rows.keys);
        let latents = |columns| {
            let part = cache.pool.columns(columns);
            let mut out = cx.empty(&[keys.len(), part.cols()], cx.compute());
            elementwise::gather_rows(cx, part, keys, &mut out);
            out
        };
        let (c_kv, k_rope) = (latents(0..dc), latents(dc..dc + s.d_rope));
        let kv = self.keys_and_values(cx, &c_kv);
        let mut o = cx.empty(&[t, s.heads * s.d_v], cx.compute());
        let mut lse = cx.empty(&[s.heads, t], DType::F32);
        attention::forward(cx, q, &kv, k_rope.mat(), &cache.rows.seg, s, &mut o, &mut lse);
        o
    }

    /// Attention of generated tokens, `q` `[B, H (dn + dr)]`.
    fn attend_absorbed(&self, cx: &Cx, q: Tensor, cache: &LayerCache<'_>) -> Tensor {
        let AttnShape { heads, d_nope, d_rope, d_v, scale } = self.shape;
        let (b, dc, dq) = (q.rows(), self.kv_rank, d_nope + d_rope);
        let (order, view) = (&cache.rows.heads, cache.view.get_or_init(|| self.absorb(cx)));
        let q = q.reshape(&[b * heads, dq]);
        // Fold W_UK into the query for each head.
        let q_nope = order.to_heads(cx, q.columns(0..d_nope));
        let mut q_c = cx.empty(&[b * heads, dc], cx.compute());
        view.uk.forward(cx, (&q_nope).into(), Some(order.offsets()), (&mut q_c).into(), Acc::Write);
        let q_c = order.to_tokens(cx, q_c);
        let mut q_lat = cx.empty(&[b * heads, dc + d_rope], cx.compute());
        elementwise::cast(cx, &q_c, q_lat.columns_mut(0..dc));
        elementwise::cast(cx, q.columns(d_nope..dq), q_lat.columns_mut(dc..dc + d_rope));
        let q_lat = q_lat.reshape(&[b, heads * (dc + d_rope)]);
        let mut o_lat = cx.empty(&[b, heads * dc], cx.compute());
        latent::decode(cx, &q_lat, cache.pool, &cache.rows.paged, heads, dc, d_rope, scale, &mut o_lat);
        // Apply W_UV to the weighted sums.
        let o_lat = o_lat.reshape(&[b * heads, dc]);
        let o_lat = order.to_heads(cx, o_lat.mat());
        let mut o = cx.empty(&[b * heads, d_v], cx.compute());
        view.uv.forward(cx, (&o_lat).into(), Some(order.offsets()), (&mut o).into(), Acc::Write);
        order.to_tokens(cx, o).reshape(&[b, heads * d_v])
    }
}
