//! Processes rows in blocks. The table's row stays in the first-level cache for all heads of a row.

use super::RopeTable;
use crate::kernel::{Blocks, Elem, Pointwise, RowsMut, dispatch, with_elem};
use crate::math::fma;
use crate::{Cx, MatMut, Tensor};
use std::ops::Range;

/// Pairs rotated at a time, in registers.
const PAIRS: usize = 16;

struct Apply<'a, T> {
    x: &'a RowsMut<'a, T>,
    heads: usize,
    head_stride: usize,
    off: usize,
    positions: &'a [i32],
    cos: &'a [f32],
    sin: &'a [f32],
    pairs: usize,
    sign: f32,
    rows: Range<usize>,
}

impl<T: Elem> Pointwise for Apply<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let n = self.pairs;
        for r in self.rows {
            let start = self.positions[r] as usize * n;
            let (cos, sin) = (&self.cos[start..][..n], &self.sin[start..][..n]);
            // SAFETY: row blocks are disjoint.
            let row = unsafe { self.x.row(r) };
            for h in 0..self.heads {
                let x = &mut row[h * self.head_stride + self.off..][..2 * n];
                rotate::<FMA, T>(x, cos, sin, self.sign);
            }
        }
    }
}

#[inline(always)]
fn rotate<const FMA: bool, T: Elem>(x: &mut [T], cos: &[f32], sin: &[f32], sign: f32) {
    let mut chunks = x.chunks_exact_mut(2 * PAIRS);
    let (mut cos_chunks, mut sin_chunks) = (cos.chunks_exact(PAIRS), sin.chunks_exact(PAIRS));
    for ((x, cos), sin) in (&mut chunks).zip(&mut cos_chunks).zip(&mut sin_chunks) {
        // First and second elements are put in separate arrays. So the compiler separates and joins them with shuffles.
        let (mut first, mut second) = ([0.0f32; PAIRS], [0.0f32; PAIRS]);
        for i in 0..PAIRS {
            (first[i], second[i]) = (x[2 * i].get(), x[2 * i + 1].get());
        }
        for i in 0..PAIRS {
            (first[i], second[i]) = rotate_pair::<FMA>(first[i], second[i], cos[i], sign * sin[i]);
        }
        for i in 0..PAIRS {
            (x[2 * i], x[2 * i + 1]) = (T::round(first[i]), T::round(second[i]));
        }
    }
    let x = chunks.into_remainder();
    for (x, (cos, sin)) in x.chunks_exact_mut(2).zip(cos_chunks.remainder().iter().zip(sin_chunks.remainder())) {
        let (a, b) = rotate_pair::<FMA>(x[0].get(), x[1].get(), *cos, sign * sin);
        (x[0], x[1]) = (T::round(a), T::round(b));
    }
}

#[inline(always)]
fn rotate_pair<const FMA: bool>(a: f32, b: f32, cos: f32, sin: f32) -> (f32, f32) {
    (fma::<FMA>(a, cos, -(b * sin)), fma::<FMA>(a, sin, b * cos))
}

pub(super) fn apply(
    cx: &Cx,
    mut x: MatMut<'_>,
    heads: usize,
    head_stride: usize,
    off: usize,
    positions: &Tensor,
    table: &RopeTable,
    inverse: bool,
) {
    let pairs = table.pairs();
    let blocks = Blocks::rows(x.rows(), heads * 2 * pairs);
    let (positions, cos, sin) = (positions.i32(), table.cos.f32(), table.sin.f32());
    let sign = if inverse { -1.0 } else { 1.0 };
    with_elem!(x.dtype(), T => {
        let x = &RowsMut::<T>::new(&mut x);
        cx.threads().each(blocks.count(), |b| {
            let rows = blocks.range(b);
            dispatch(cx.isa(), Apply { x, heads, head_stride, off, positions, cos, sin, pairs, sign, rows });
        });
    });
}
