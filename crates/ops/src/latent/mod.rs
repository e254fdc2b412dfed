//! Decode attention over cached latents, the absorbed form of MLA (report 2.1.2's cache, eq. 1 and 10-11 with W_UK
//! folded into the query and W_UV left to the caller).
//!
//! ```text
//! s_j = (q_lat . c_j + q_rope . r_j) * scale        cache row j = [c_j (dc) | r_j (dr)], j < len
//! o_lat = sum_j softmax_j(s_j) c_j
//! ```
//!
//! Shapes: q_lat `[B, H (dc + dr)]`, one new token a sequence; a cache `[cap, dc + dr]` a sequence, of which the first
//! `len >= 1` rows count (the new token's own is among them); o_lat `[B, H dc]`. Caches and o_lat in one compute format;
//! q_lat in that format or f32, then rounded to it where the products are in it.
//!
//! Precision as in `attention`. Order: keys are cut at multiples of `SPLIT`; every part has its own maximum, sum and
//! output, walked in blocks from its start, and the parts are merged in ascending order. So the bits depend on the
//! sequence alone, and one long sequence still occupies many threads.

mod part;
#[cfg(test)]
mod tests;

use crate::attention::kernel::{AttentionElem, each};
use crate::kernel::Elem;
use crate::{Cx, DType, DisjointMut, Tensor};
use half::bf16;
use part::{Merge, Parts};

/// Keys of one part. A multiple of attention's block.
const SPLIT: usize = 512;
/// Heads of one task: lanes of the scores.
const HEADS: usize = 128;

/// Sizes one decode step shares.
#[derive(Clone, Copy)]
struct Sizes {
    heads: usize,
    dc: usize,
    dr: usize,
    scale: f32,
    /// Parts of the longest sequence.
    parts: usize,
    /// Lanes of an output row in scratch, with its maximum and sum after it.
    row: usize,
}

/// Writes `o_lat` (shapes above). Panics when shapes or formats disagree or a length is 0 or over its cache.
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
