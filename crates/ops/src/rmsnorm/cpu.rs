//! A row is read from memory once. The second loop over it finds it in the first-level cache.

use crate::kernel::{Blocks, Elem, LANES, Pointwise, Rows, RowsMut, dispatch, dot, sum_lanes, with_elem};
use crate::math::fma;
use crate::{Acc, Cx, DType, DisjointMut, MatMut, MatRef, Tensor};
use std::ops::Range;

struct Forward<'a, X, Y> {
    x: Rows<'a, X>,
    w: &'a [f32],
    eps: f32,
    y: &'a RowsMut<'a, Y>,
    rstd: &'a mut [f32],
    rows: Range<usize>,
}

impl<X: Elem, Y: Elem> Pointwise for Forward<'_, X, Y> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for (r, rstd) in self.rows.zip(self.rstd) {
            let x = self.x.row(r);
            // SAFETY: row blocks are disjoint.
            let y = unsafe { self.y.row(r) };
            let mean = dot::<FMA, X, X>(x, x) / x.len() as f32;
            *rstd = 1.0 / (mean + self.eps).sqrt();
            for ((y, x), w) in y.iter_mut().zip(x).zip(self.w) {
                *y = Y::round(x.get() * *rstd * w);
            }
        }
    }
}

pub(super) fn forward(cx: &Cx, x: MatRef<'_>, w: &Tensor, eps: f32, mut y: MatMut<'_>, rstd: &mut Tensor) {
    let blocks = Blocks::rows(x.rows(), x.cols());
    let (w, rstd) = (w.f32(), DisjointMut::new(rstd.f32_mut()));
    with_elem!(x.dtype(), X => with_elem!(y.dtype(), Y => {
        let (x, y) = (Rows::<X>::new(&x), RowsMut::<Y>::new(&mut y));
        cx.threads().each(blocks.count(), |b| {
            let rows = blocks.range(b);
            // SAFETY: row blocks are disjoint.
            let rstd = unsafe { rstd.slice(rows.start, rows.len()) };
            dispatch(cx.isa(), Forward { x, w, eps, y: &y, rstd, rows });
        });
    }));
}

struct Backward<'a, G, X, O> {
    dy: Rows<'a, G>,
    x: Rows<'a, X>,
    w: &'a [f32],
    rstd: &'a [f32],
    dx: &'a RowsMut<'a, O>,
    acc: Acc,
    /// This block's part of the weight's gradient.
    dw: &'a mut [f32],
    rows: Range<usize>,
}

impl<G: Elem, X: Elem, O: Elem> Pointwise for Backward<'_, G, X, O> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let (w, dw) = (self.w, self.dw);
        let d = w.len();
        dw.fill(0.0);
        for r in self.rows {
            let (dy, x, rstd) = (self.dy.row(r), self.x.row(r), self.rstd[r]);
            // SAFETY: row blocks are disjoint.
            let dx = unsafe { self.dx.row(r) };
            // dx = rstd dy w - x coef, coef = rstd^3 mean(dy w x)
            let coef = rstd * rstd * rstd * (dot3::<FMA, G, X>(dy, w, x) / d as f32);
            let (dy, x, dx, dw) = (&dy[..d], &x[..d], &mut dx[..d], &mut dw[..d]);
            if self.acc == Acc::Write {
                for i in 0..d {
                    let (g, v) = (dy[i].get() * rstd, x[i].get());
                    dw[i] = fma::<FMA>(g, v, dw[i]);
                    dx[i] = O::round(fma::<FMA>(g, w[i], -(v * coef)));
                }
            } else {
                for i in 0..d {
                    let (g, v) = (dy[i].get() * rstd, x[i].get());
                    dw[i] = fma::<FMA>(g, v, dw[i]);
                    dx[i] = O::round(dx[i].get() + fma::<FMA>(g, w[i], -(v * coef)));
                }
            }
        }
    }
}

/// `sum a b c` in the lanes of `kernel::dot`.
#[inline(always)]
fn dot3<const FMA: bool, A: Elem, C: Elem>(a: &[A], b: &[f32], c: &[C]) -> f32 {
    let mut acc = [0.0f32; LANES];
    let (a_chunks, b_chunks, c_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES), c.chunks_exact(LANES));
    let rest = (a_chunks.remainder().iter().zip(b_chunks.remainder())).zip(c_chunks.remainder());
    for (i, ((a, b), c)) in rest.enumerate() {
        acc[i] = a.get() * b * c.get();
    }
    for ((a, b), c) in a_chunks.zip(b_chunks).zip(c_chunks) {
        for i in 0..LANES {
            acc[i] = fma::<FMA>(a[i].get() * b[i], c[i].get(), acc[i]);
        }
    }
    sum_lanes(acc)
}

/// Adds the blocks' parts of `dw`, in block order, for one slice of its columns.
struct Reduce<'a> {
    parts: &'a [f32],
    stride: usize,
    start: usize,
    dw: &'a mut [f32],
    acc: Acc,
}

impl Pointwise for Reduce<'_> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        if self.acc == Acc::Write {
            self.dw.fill(0.0);
        }
        for part in self.parts.chunks_exact(self.stride) {
            let part = &part[self.start..][..self.dw.len()];
            for (d, p) in self.dw.iter_mut().zip(part) {
                *d += p;
            }
        }
    }
}

pub(super) fn backward(
    cx: &Cx,
    dy: MatRef<'_>,
    x: MatRef<'_>,
    w: &Tensor,
    rstd: &Tensor,
    mut dx: MatMut<'_>,
    dx_acc: Acc,
    dw: &mut Tensor,
    dw_acc: Acc,
) {
    let (t, d) = (x.rows(), x.cols());
    let blocks = Blocks::rows(t, d);
    let mut parts = cx.empty(&[blocks.count(), d], DType::F32);
    {
        let (w, rstd, parts) = (w.f32(), rstd.f32(), DisjointMut::new(parts.f32_mut()));
        with_elem!(dy.dtype(), G => with_elem!(x.dtype(), X => with_elem!(dx.dtype(), O => {
            let (dy, x, dx) = (Rows::<G>::new(&dy), Rows::<X>::new(&x), RowsMut::<O>::new(&mut dx));
            cx.threads().each(blocks.count(), |b| {
                // SAFETY: one row of `parts` for each block.
                let dw = unsafe { parts.slice(b * d, d) };
                dispatch(cx.isa(), Backward { dy, x, w, rstd, dx: &dx, acc: dx_acc, dw, rows: blocks.range(b) });
            });
        })));
    }
    let slices = Blocks::columns(blocks.count(), d);
    let (parts, dw) = (parts.f32(), DisjointMut::new(dw.f32_mut()));
    cx.threads().each(slices.count(), |s| {
        let cols = slices.range(s);
        // SAFETY: slices of columns are disjoint.
        let dw = unsafe { dw.slice(cols.start, cols.len()) };
        dispatch(cx.isa(), Reduce { parts, stride: d, start: cols.start, dw, acc: dw_acc });
    });
}
