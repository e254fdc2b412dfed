//! Decode attention over cached latents, the absorbed form of MLA (the cache of report 2.1.1, eq. 1 and 10-11). W_UK is
//! folded into the query, and the caller applies W_UV.
//!
//! ```text
//! s_j = (q_lat . c_j + q_rope . r_j) * scale        cache row j = [c_j (dc) | r_j (dr)], j < len
//! o_lat = sum_j softmax_j(s_j) c_j
//! ```
//!
//! Shapes: q_lat `[B, H (dc + dr)]` with one new token per sequence; one cache `[cap, dc + dr]` per sequence, whose
//! first `len >= 1` rows are used (including the row of the new token); o_lat `[B, H dc]`. Caches and o_lat have the
//! same compute format. q_lat has that format or f32; f32 is rounded if the products need it.
//!
//! Precision as in `attention`. Order: keys are divided at multiples of `SPLIT`. Every part has its own maximum, sum
//! and output, and is processed in blocks from its start. Then the parts are merged in ascending order. So the bits
//! depend on the sequence alone, and one long sequence still uses many threads.

mod part;
#[cfg(test)]
mod tests;

use crate::attention::kernel::{AttentionElem, each};
use crate::kernel::Elem;
use crate::{Cx, DType, DisjointMut, Tensor};
use half::bf16;
use part::{Merge, Parts};

/// Keys per part. A multiple of attention's block.
const SPLIT: usize = 512;
/// Heads per task: the lanes of the scores.
const HEADS: usize = 128;

/// Sizes that are the same for a whole decode step.
#[derive(Clone, Copy)]
struct Sizes {
    heads: usize,
    dc: usize,
    dr: usize,
    scale: f32,
    /// Number of parts of the longest sequence.
    parts: usize,
    /// Lanes of an output row in scratch. Maximum and sum follow.
    row: usize,
}

/// Writes `o_lat` (shapes above). Panics if shapes or formats disagree, or if a length is 0 or larger than its cache.
pub fn decode(
    cx: &Cx,
    q_lat: &Tensor,
    caches: &[&Tensor],
    lens: &[usize],
    heads: usize,
    dc: usize,
    dr: usize,
    scale: f32,
    o_lat: &mut Tensor,
) {
    let (b, dtype) = (caches.len(), o_lat.dtype());
    assert!(scale > 0.0 && heads > 0 && dc > 0, "latent decode: {heads} heads, dc {dc}, scale {scale}");
    assert!(lens.len() == b, "latent decode: {b} caches, {} lengths", lens.len());
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
    for (cache, len) in caches.iter().zip(lens) {
        assert!(
            cache.dtype() == dtype && cache.cols() == dc + dr && (1..=cache.rows()).contains(len),
            "latent decode: cache is {cache:?} with {len} rows in use, expected {dtype:?} [{len} or more, {}]",
            dc + dr
        );
    }
    let parts = lens.iter().map(|n| n.div_ceil(SPLIT)).max().unwrap_or(0);
    let sizes = Sizes { heads, dc, dr, scale, parts, row: dc.next_multiple_of(16) + 16 };
    match dtype {
        DType::Bf16 => run::<bf16>(cx, q_lat, caches, lens, sizes, o_lat),
        _ => run::<f32>(cx, q_lat, caches, lens, sizes, o_lat),
    }
}

fn run<E: AttentionElem>(cx: &Cx, q_lat: &Tensor, caches: &[&Tensor], lens: &[usize], z: Sizes, o_lat: &mut Tensor) {
    let b = caches.len();
    // The query in the caches' format.
    let mut q = cx.empty(&[b, q_lat.cols()], o_lat.dtype());
    match q_lat.dtype() {
        DType::Bf16 => E::of_tensor_mut(&mut q).iter_mut().zip(q_lat.bf16()).for_each(|(d, s)| *d = E::round(s.get())),
        _ => E::of_tensor_mut(&mut q).iter_mut().zip(q_lat.f32()).for_each(|(d, s)| *d = E::round(*s)),
    }
    let mut partial = cx.empty(&[b * z.parts, z.heads, z.row], DType::F32);
    let groups = z.heads.div_ceil(HEADS);
    let work = Parts { q: E::of_tensor(&q), caches, lens, z, groups, partial: DisjointMut::new(partial.f32_mut()) };
    each(cx, b * z.parts * groups, &work);
    let work = Merge { lens, z, partial: partial.f32(), o: DisjointMut::new(E::of_tensor_mut(o_lat)) };
    each(cx, b, &work);
}
