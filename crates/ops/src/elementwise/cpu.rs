//! Blocks of rows. Scattered sums are divided into slices of columns, and each task goes through all rows in order. So
//! equal row numbers need no special treatment.

use crate::kernel::{Blocks, Elem, Pointwise, Rows, RowsMut, dispatch, with_elem};
use crate::{Cx, DisjointMut, MatMut, MatRef, Tensor};
use std::ops::Range;

struct Cast<'a, S, D> {
    src: Rows<'a, S>,
    dst: &'a RowsMut<'a, D>,
    rows: Range<usize>,
}

impl<S: Elem, D: Elem> Pointwise for Cast<'_, S, D> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for r in self.rows {
            // SAFETY: row blocks are disjoint.
            let dst = unsafe { self.dst.row(r) };
            for (d, s) in dst.iter_mut().zip(self.src.row(r)) {
                *d = D::round(s.get());
            }
        }
    }
}

pub(super) fn cast(cx: &Cx, src: MatRef<'_>, mut dst: MatMut<'_>) {
    let blocks = Blocks::rows(src.rows(), src.cols());
    with_elem!(src.dtype(), S => with_elem!(dst.dtype(), D => {
        let (src, dst) = (Rows::<S>::new(&src), &RowsMut::<D>::new(&mut dst));
        cx.threads().each(blocks.count(), |b| dispatch(cx.isa(), Cast { src, dst, rows: blocks.range(b) }));
    }));
}

struct Scale<'a, T> {
    x: &'a mut [T],
    factor: f32,
}

impl<T: Elem> Pointwise for Scale<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        self.x.iter_mut().for_each(|x| *x = T::round(x.get() * self.factor));
    }
}

pub(super) fn scale(cx: &Cx, x: &mut Tensor, factor: f32) {
    let blocks = Blocks::elements(x.len());
    with_elem!(x.dtype(), T => {
        let all = DisjointMut::new(T::of_tensor_mut(x));
        cx.threads().each(blocks.count(), |b| {
            let part = blocks.range(b);
            // SAFETY: blocks are disjoint.
            let x = unsafe { all.slice(part.start, part.len()) };
            dispatch(cx.isa(), Scale { x, factor });
        });
    });
}

struct Add<'a, S, D> {
    src: Rows<'a, S>,
    dst: &'a RowsMut<'a, D>,
    rows: Range<usize>,
}

impl<S: Elem, D: Elem> Pointwise for Add<'_, S, D> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for r in self.rows {
            // SAFETY: row blocks are disjoint.
            let dst = unsafe { self.dst.row(r) };
            for (d, s) in dst.iter_mut().zip(self.src.row(r)) {
                *d = D::round(d.get() + s.get());
            }
        }
    }
}

pub(super) fn add(cx: &Cx, src: MatRef<'_>, mut dst: MatMut<'_>) {
    let blocks = Blocks::rows(src.rows(), src.cols());
    with_elem!(src.dtype(), S => with_elem!(dst.dtype(), D => {
        let (src, dst) = (Rows::<S>::new(&src), &RowsMut::<D>::new(&mut dst));
        cx.threads().each(blocks.count(), |b| dispatch(cx.isa(), Add { src, dst, rows: blocks.range(b) }));
    }));
}

struct Gather<'a, S, D> {
    src: Rows<'a, S>,
    index: &'a [i32],
    dst: &'a RowsMut<'a, D>,
    rows: Range<usize>,
}

impl<S: Elem, D: Elem> Pointwise for Gather<'_, S, D> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for r in self.rows {
            // SAFETY: row blocks are disjoint.
            let dst = unsafe { self.dst.row(r) };
            for (d, s) in dst.iter_mut().zip(self.src.row(self.index[r] as usize)) {
                *d = D::round(s.get());
            }
        }
    }
}

/// `dst[i] = src[index[i]]`. The caller checks the operands.
pub(crate) fn gather(cx: &Cx, src: MatRef<'_>, index: &Tensor, mut dst: MatMut<'_>) {
    let blocks = Blocks::rows(dst.rows(), dst.cols());
    let index = index.i32();
    with_elem!(src.dtype(), S => with_elem!(dst.dtype(), D => {
        let (src, dst) = (Rows::<S>::new(&src), &RowsMut::<D>::new(&mut dst));
        cx.threads().each(blocks.count(), |b| dispatch(cx.isa(), Gather { src, index, dst, rows: blocks.range(b) }));
    }));
}

struct ScatterAdd<'a, S> {
    src: Rows<'a, S>,
    index: &'a [i32],
    dst: &'a RowsMut<'a, f32>,
    cols: Range<usize>,
}

impl<S: Elem> Pointwise for ScatterAdd<'_, S> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for (r, to) in self.index.iter().enumerate() {
            // SAFETY: slices of columns are disjoint.
            let dst = unsafe { self.dst.part(*to as usize, &self.cols) };
            for (d, s) in dst.iter_mut().zip(&self.src.row(r)[self.cols.clone()]) {
                *d += s.get();
            }
        }
    }
}

/// `dst[index[i]] += src[i]` in the order of i. The caller checks the operands.
pub(crate) fn scatter_add(cx: &Cx, src: MatRef<'_>, index: &Tensor, dst: &mut Tensor) {
    let slices = Blocks::columns(src.rows(), src.cols());
    let index = index.i32();
    let mut dst = dst.mat_mut();
    let dst = &RowsMut::<f32>::new(&mut dst);
    with_elem!(src.dtype(), S => {
        let src = Rows::<S>::new(&src);
        cx.threads().each(slices.count(), |i| {
            dispatch(cx.isa(), ScatterAdd { src, index, dst, cols: slices.range(i) });
        });
    });
}
