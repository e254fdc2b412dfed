//! Pointwise in blocks of rows. The dot product of `d_scale` uses fixed lanes.

use crate::kernel::{Blocks, Elem, LANES, Pointwise, Rows, RowsMut, dispatch, sum_lanes, with_elem};
use crate::math::{fma, sigmoid};
use crate::{Cx, DisjointMut, Tensor};
use std::ops::Range;

/// Columns processed at a time when a row is also summed. The products stay in L1 between the two loops.
const STRIP: usize = 16 * LANES;

struct Forward<'a, T> {
    gu: Rows<'a, T>,
    scale: Option<&'a [f32]>,
    h: &'a RowsMut<'a, T>,
    rows: Range<usize>,
}

impl<T: Elem> Pointwise for Forward<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for r in self.rows {
            // SAFETY: row blocks are disjoint.
            let h = unsafe { self.h.row(r) };
            let (gate, up) = self.gu.row(r).split_at(h.len());
            let scale = self.scale.map_or(1.0, |s| s[r]);
            for ((h, g), u) in h.iter_mut().zip(gate).zip(up) {
                let g = g.get();
                let silu = g * sigmoid::<FMA>(g);
                *h = T::round(silu * u.get() * scale);
            }
        }
    }
}

pub(super) fn forward(cx: &Cx, gu: &Tensor, row_scale: Option<&Tensor>, h: &mut Tensor) {
    let blocks = Blocks::rows(h.rows(), h.cols());
    let scale = row_scale.map(Tensor::f32);
    with_elem!(gu.dtype(), T => {
        let (gu, mut h) = (gu.mat(), h.mat_mut());
        let (gu, h) = (Rows::<T>::new(&gu), RowsMut::<T>::new(&mut h));
        cx.threads().each(blocks.count(), |b| {
            dispatch(cx.isa(), Forward { gu, scale, h: &h, rows: blocks.range(b) });
        });
    });
}

struct Backward<'a, T> {
    dh: Rows<'a, T>,
    gu: Rows<'a, T>,
    scale: Option<&'a [f32]>,
    dgu: &'a RowsMut<'a, T>,
    h: &'a RowsMut<'a, T>,
    d_scale: Option<&'a DisjointMut<'a, f32>>,
    rows: Range<usize>,
}

impl<T: Elem> Pointwise for Backward<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for r in self.rows {
            // SAFETY: row blocks are disjoint.
            let (dgu, h) = unsafe { (self.dgu.row(r), self.h.row(r)) };
            let cols = h.len();
            let (gate, up) = self.gu.row(r).split_at(cols);
            let (d_gate, d_up) = dgu.split_at_mut(cols);
            let dh = self.dh.row(r);
            let scale = self.scale.map_or(1.0, |s| s[r]);
            let mut lanes = [0.0f32; LANES];
            let mut start = 0;
            while start < cols {
                let strip = start..(start + STRIP).min(cols);
                let mut products = [0.0f32; STRIP];
                backward_strip::<FMA, T>(
                    &dh[strip.clone()],
                    &gate[strip.clone()],
                    &up[strip.clone()],
                    scale,
                    &mut d_gate[strip.clone()],
                    &mut d_up[strip.clone()],
                    &mut h[strip.clone()],
                    &mut products[..strip.len()],
                );
                for chunk in products.chunks_exact(LANES) {
                    for i in 0..LANES {
                        lanes[i] += chunk[i];
                    }
                }
                start = strip.end;
            }
            if let Some(d) = self.d_scale {
                // SAFETY: as above, element r belongs to row r.
                unsafe { d.slice(r, 1)[0] = sum_lanes(lanes) };
            }
        }
    }
}

#[inline(always)]
fn backward_strip<const FMA: bool, T: Elem>(
    dh: &[T],
    gate: &[T],
    up: &[T],
    scale: f32,
    d_gate: &mut [T],
    d_up: &mut [T],
    h: &mut [T],
    products: &mut [f32],
) {
    let n = dh.len();
    let (gate, up, products) = (&gate[..n], &up[..n], &mut products[..n]);
    let (d_gate, d_up, h) = (&mut d_gate[..n], &mut d_up[..n], &mut h[..n]);
    for i in 0..n {
        let (d, g, u) = (dh[i].get(), gate[i].get(), up[i].get());
        let s = sigmoid::<FMA>(g);
        let silu = g * s;
        let plain = silu * u;
        products[i] = d * plain;
        h[i] = T::round(plain * scale);
        let d = d * scale;
        d_up[i] = T::round(d * silu);
        d_gate[i] = T::round(d * u * (s * fma::<FMA>(g, 1.0 - s, 1.0)));
    }
}

pub(super) fn backward(
    cx: &Cx,
    dh: &Tensor,
    gu: &Tensor,
    row_scale: Option<&Tensor>,
    dgu: &mut Tensor,
    h_out: &mut Tensor,
    d_scale: Option<&mut Tensor>,
) {
    let blocks = Blocks::rows(dh.rows(), dh.cols());
    let scale = row_scale.map(Tensor::f32);
    let d_scale = d_scale.map(|d| DisjointMut::new(d.f32_mut()));
    with_elem!(gu.dtype(), T => {
        let (dh, gu, mut dgu, mut h) = (dh.mat(), gu.mat(), dgu.mat_mut(), h_out.mat_mut());
        let (dh, gu) = (Rows::<T>::new(&dh), Rows::<T>::new(&gu));
        let (dgu, h) = (RowsMut::<T>::new(&mut dgu), RowsMut::<T>::new(&mut h));
        cx.threads().each(blocks.count(), |b| {
            let (d_scale, rows) = (d_scale.as_ref(), blocks.range(b));
            dispatch(cx.isa(), Backward { dh, gu, scale, dgu: &dgu, h: &h, d_scale, rows });
        });
    });
}
