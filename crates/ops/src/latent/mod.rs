//! Decode attention over cached latents, the absorbed form of MLA (the cache of report 2.1.1, eq. 1 and 10-11). W_UK is
//! folded into the query, and the caller applies W_UV.
//!
//! ```text
//! s_j = (q_lat . c_j + q_rope . r_j) * scale        latent j of the sequence = [c_j (dc) | r_j (dr)], j < len
//! o_lat = sum_j softmax_j(s_j) c_j
//! ```
//!
//! Shapes: q_lat `[B, H (dc + dr)]` with B rows. Each row belongs to a sequence and sees its first `len >= 1` tokens,
//! including the row's own. A pass may skip the very first ones of each sequence. pool `[P * PAGE, dc + dr]` has the
//! pages of all sequences ([`PagedRows`]); o_lat `[B, H dc]`. Pool and o_lat have the same compute format. q_lat has
//! that format or f32; f32 is rounded if the products need it.
//!
//! Precision as in `attention`. Order: keys are divided at multiples of `SPLIT`. Every part has its own maximum, sum
//! and output, and is processed in blocks from its start. Then the parts are merged in ascending order. So the bits
//! depend on the sequence alone, not on pages or other rows, and one long sequence still uses many threads. Rows of the
//! same sequence (speculative decoding) are computed together: each block of keys is read once for all of them.

mod pages;
mod part;
#[cfg(test)]
mod tests;

use crate::attention::kernel::{AttentionElem, each};
use crate::kernel::Elem;
use crate::{Cx, DType, DisjointMut, Tensor};
use half::bf16;
pub use pages::{PAGE, PagedRows, pages_for};
use part::{Merge, Parts};

/// Keys per part. A multiple of attention's block.
const SPLIT: usize = 512;
/// Lanes per task: the heads of one row or of several.
const HEADS: usize = 128;

/// Sizes that are the same for a whole decode step.
#[derive(Clone, Copy)]
struct Sizes {
    heads: usize,
    dc: usize,
    dr: usize,
    scale: f32,
    /// Number of parts of the longest row.
    parts: usize,
    /// Lanes of an output row in scratch. Maximum and sum follow.
    row: usize,
}

/// Writes `o_lat` (shapes above).
///
/// # Panics
/// If shapes or formats disagree, if the rows were set for another number of heads, or if a page is outside the pool.
pub fn decode(
    cx: &Cx,
    q_lat: &Tensor,
    pool: &Tensor,
    rows: &PagedRows,
    heads: usize,
    dc: usize,
    dr: usize,
    scale: f32,
    o_lat: &mut Tensor,
) {
    let (b, dtype) = (rows.len(), o_lat.dtype());
    assert!(
        b == 0 || rows.heads() == heads,
        "latent decode: {heads} heads, and the rows were set for {}",
        rows.heads()
    );
    assert!(scale > 0.0 && heads > 0 && dc > 0, "latent decode: {heads} heads, dc {dc}, scale {scale}");
    assert!(
        q_lat.rows() == b && q_lat.cols() == heads * (dc + dr),
        "latent decode: q_lat is {q_lat:?}, expected [{b}, {}]",
        heads * (dc + dr)
    );
    assert!(
        o_lat.rows() == b && o_lat.cols() == heads * dc,
        "latent decode: o_lat is {o_lat:?}, expected [{b}, {}]",
        heads * dc
    );
    assert!(
        pool.dtype() == dtype && pool.cols() == dc + dr && (b == 0 || rows.last_page() < pool.rows() / PAGE),
        "latent decode: pool is {pool:?}, expected {dtype:?} [more than {} pages of {PAGE}, {}]",
        rows.last_page(),
        dc + dr
    );
    let seen: usize = (0..b).map(|i| rows.end(i)).sum();
    let read: usize = (0..rows.groups()).map(|g| rows.group_end(g)).sum();
    let flops = 2 * heads * seen * (2 * dc + dr);
    let _scope = cx.scope("latent decode", flops as u64, (read * (dc + dr) * dtype.size()) as u64);
    let parts = rows.longest().div_ceil(SPLIT);
    let sizes = Sizes { heads, dc, dr, scale, parts, row: dc.next_multiple_of(16) + 16 };
    match dtype {
        DType::Bf16 => run::<bf16>(cx, q_lat, pool, rows, sizes, o_lat),
        _ => run::<f32>(cx, q_lat, pool, rows, sizes, o_lat),
    }
}

fn run<E: AttentionElem>(cx: &Cx, q_lat: &Tensor, pool: &Tensor, rows: &PagedRows, z: Sizes, o_lat: &mut Tensor) {
    let b = rows.len();
    // The query in the pool's format.
    let mut q = cx.empty(&[b, q_lat.cols()], o_lat.dtype());
    match q_lat.dtype() {
        DType::Bf16 => E::of_tensor_mut(&mut q).iter_mut().zip(q_lat.bf16()).for_each(|(d, s)| *d = E::round(s.get())),
        _ => E::of_tensor_mut(&mut q).iter_mut().zip(q_lat.f32()).for_each(|(d, s)| *d = E::round(*s)),
    }
    let mut partial = cx.empty(&[b * z.parts, z.heads, z.row], DType::F32);
    let head_groups = z.heads.div_ceil(HEADS);
    let (pool, partial_mut) = (E::of_tensor(pool), DisjointMut::new(partial.f32_mut()));
    let work = Parts { q: E::of_tensor(&q), pool, rows, z, head_groups, partial: partial_mut };
    each(cx, rows.groups() * z.parts * head_groups, &work);
    let work = Merge { rows, z, partial: partial.f32(), o: DisjointMut::new(E::of_tensor_mut(o_lat)) };
    each(cx, b, &work);
}
