//! Moves and sums rows on a processor.

use crate::kernel::{Blocks, Elem, Pointwise, Rows, RowsMut, dispatch, with_elem};
use crate::{Acc, Cx, DisjointMut, MatMut, MatRef};
use std::ops::Range;

/// Columns summed in registers: four of 16.
const CHUNK: usize = 64;

pub(super) fn permute(cx: &Cx, x: &MatRef<'_>, token_of: &[i32], out: &mut MatMut<'_>) {
    if x.dtype() == out.dtype() {
        with_elem!(x.dtype(), T => copy_rows(cx, T::of(x), x.stride(), token_of, T::of_mut(out)));
        return;
    }
    let blocks = Blocks::rows(out.rows(), out.cols());
    with_elem!(x.dtype(), X => with_elem!(out.dtype(), Y => {
        let (x, out) = (Rows::<X>::new(x), RowsMut::<Y>::new(out));
        cx.threads().each(blocks.count(), |task| {
            dispatch(cx.isa(), Convert { x, token_of, out: &out, rows: blocks.range(task) });
        });
    }));
}

/// `out[row] = x[token_of[row]]`. The rows of `x` are `stride` apart, those of `out` are contiguous.
pub(crate) fn copy_rows<T: Copy + Send + Sync>(cx: &Cx, x: &[T], stride: usize, token_of: &[i32], out: &mut [T]) {
    let cols = out.len() / token_of.len().max(1);
    let (blocks, out) = (Blocks::rows(token_of.len(), cols), DisjointMut::new(out));
    cx.threads().each(blocks.count(), |task| {
        for r in blocks.range(task) {
            // SAFETY: a row belongs to one task.
            unsafe { out.slice(r * cols, cols) }.copy_from_slice(&x[token_of[r] as usize * stride..][..cols]);
        }
    });
}

struct Convert<'a, X, Y> {
    x: Rows<'a, X>,
    token_of: &'a [i32],
    out: &'a RowsMut<'a, Y>,
    rows: Range<usize>,
}

impl<X: Elem, Y: Elem> Pointwise for Convert<'_, X, Y> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for r in self.rows {
            // SAFETY: a row belongs to one task.
            let out = unsafe { self.out.row(r) };
            for (out, x) in out.iter_mut().zip(self.x.row(self.token_of[r] as usize)) {
                *out = Y::round(x.get());
            }
        }
    }
}

pub(super) fn combine(cx: &Cx, y: &MatRef<'_>, row_of: &[i32], k: usize, out: &mut MatMut<'_>, acc: Acc) {
    let blocks = Blocks::rows(out.rows(), out.cols() * k);
    with_elem!(y.dtype(), Y => {
        let (y, out) = (Rows::<Y>::new(y), RowsMut::<f32>::new(out));
        cx.threads().each(blocks.count(), |task| {
            dispatch(cx.isa(), Combine { y, row_of, k, out: &out, tokens: blocks.range(task), acc });
        });
    });
}

struct Combine<'a, Y> {
    y: Rows<'a, Y>,
    row_of: &'a [i32],
    k: usize,
    out: &'a RowsMut<'a, f32>,
    tokens: Range<usize>,
    acc: Acc,
}

impl<Y: Elem> Pointwise for Combine<'_, Y> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for t in self.tokens {
            // SAFETY: a row belongs to one task.
            let out = unsafe { self.out.row(t) };
            let rows = &self.row_of[t * self.k..][..self.k];
            let whole = out.len() / CHUNK * CHUNK;
            for start in (0..whole).step_by(CHUNK) {
                let mut sum = [0.0; CHUNK];
                sum_rows(&self.y, rows, start, &mut sum);
                store(&sum, &mut out[start..start + CHUNK], self.acc);
            }
            let rest = &mut out[whole..];
            let mut sum = [0.0; CHUNK];
            let sum = &mut sum[..rest.len()];
            sum_rows(&self.y, rows, whole, sum);
            store(sum, rest, self.acc);
        }
    }
}

/// `sum = y[rows[0]] + y[rows[1]] + ...` from column `start` on.
#[inline(always)]
fn sum_rows<Y: Elem>(y: &Rows<'_, Y>, rows: &[i32], start: usize, sum: &mut [f32]) {
    let len = sum.len();
    let part = |row: i32| &y.row(row as usize)[start..start + len];
    for (sum, y) in sum.iter_mut().zip(part(rows[0])) {
        *sum = y.get();
    }
    for row in &rows[1..] {
        for (sum, y) in sum.iter_mut().zip(part(*row)) {
            *sum += y.get();
        }
    }
}

#[inline(always)]
fn store(sum: &[f32], out: &mut [f32], acc: Acc) {
    match acc {
        Acc::Write => out.copy_from_slice(sum),
        Acc::Add => out.iter_mut().zip(sum).for_each(|(out, sum)| *out += sum),
    }
}

/// `out[i] = values[from[i]]`.
pub(super) fn gather(cx: &Cx, values: &[f32], from: &[i32], out: &mut [f32]) {
    let blocks = Blocks::elements(out.len());
    let out = DisjointMut::new(out);
    cx.threads().each(blocks.count(), |task| {
        let range = blocks.range(task);
        // SAFETY: blocks do not overlap.
        let out = unsafe { out.slice(range.start, range.len()) };
        for (out, from) in out.iter_mut().zip(&from[range]) {
            *out = values[*from as usize];
        }
    });
}
