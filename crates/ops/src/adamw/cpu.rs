//! Processes blocks of elements in one pass. It reads and writes 16 to 24 bytes per parameter, depending on the
//! moments' types.

use super::{AdamW, Factors};
use crate::gemm::LANES;
use crate::gemm::places::Rows;
use crate::kernel::{Blocks, Elem, Pointwise, dispatch, with_elem};
use crate::linear::{PackedWeight, codes};
use crate::math::fma;
use crate::{Cx, DType, DisjointMut, Tensor};

struct Step<'a, M, V> {
    w: &'a mut [f32],
    g: &'a [f32],
    m: &'a mut [M],
    v: &'a mut [V],
    f: Factors,
}

impl<M: Elem, V: Elem> Pointwise for Step<'_, M, V> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let n = self.w.len();
        let (w, g, m, v, f) = (self.w, &self.g[..n], &mut self.m[..n], &mut self.v[..n], self.f);
        for i in 0..n {
            (w[i], m[i], v[i]) = update::<FMA, M, V>(w[i], g[i], m[i], v[i], &f);
        }
    }
}

/// One parameter's step: new weight and stored moments.
#[inline(always)]
fn update<const FMA: bool, M: Elem, V: Elem>(w: f32, g: f32, m: M, v: V, f: &Factors) -> (f32, M, V) {
    let g = g * f.grad_scale;
    let m = fma::<FMA>(f.rise1, g - m.get(), m.get());
    let v = fma::<FMA>(f.rise2 * g, g, f.beta2 * v.get());
    let size = fma::<FMA>(v.sqrt(), f.root, f.eps);
    let w = fma::<FMA>(-f.rate, m / size, w * f.keep);
    (w, M::round(m), V::round(v))
}

pub(super) fn step(cx: &Cx, w: &mut Tensor, g: &Tensor, m: &mut Tensor, v: &mut Tensor, hp: &AdamW) {
    let (blocks, f, g) = (Blocks::elements(w.len()), hp.factors(), g.f32());
    let w = DisjointMut::new(w.f32_mut());
    with_elem!(m.dtype(), M => with_elem!(v.dtype(), V => {
        let (m, v) = (DisjointMut::new(M::of_tensor_mut(m)), DisjointMut::new(V::of_tensor_mut(v)));
        cx.threads().each(blocks.count(), |b| {
            let part = blocks.range(b);
            let (start, len) = (part.start, part.len());
            // SAFETY: blocks are disjoint.
            let (w, m, v) = unsafe { (w.slice(start, len), m.slice(start, len), v.slice(start, len)) };
            dispatch(cx.isa(), Step { w, g: &g[part], m, v, f });
        });
    }));
}

/// A task is a block of rows, as in the panels.
pub(super) fn step_packed(
    cx: &Cx,
    w: &mut Tensor,
    g: &Tensor,
    m: &mut Tensor,
    v: &mut Tensor,
    hp: &AdamW,
    packed: &mut PackedWeight,
) {
    let (f, g) = (hp.factors(), g.f32());
    let (groups, n, k) = (packed.groups(), packed.n(), packed.k());
    if packed.dtype() == DType::U8 {
        // The scale of codes depends on the largest value of a 128x128 block, so a task has 128 rows.
        let w = DisjointMut::new(w.f32_mut());
        // SAFETY: the first element; rows are read where `before` below has written them.
        let src = Rows { ptr: unsafe { w.ptr(0) }.cast(), stride: k * 4, dtype: DType::F32 };
        with_elem!(m.dtype(), M => with_elem!(v.dtype(), V => {
            let (m, v) = (DisjointMut::new(M::of_tensor_mut(m)), DisjointMut::new(V::of_tensor_mut(v)));
            codes::pack(cx, packed, src, |group, row, rows| {
                let (start, len) = ((group * n + row) * k, rows * k);
                // SAFETY: blocks of rows are disjoint, and read by their own task only, after this.
                let (w, m, v) = unsafe { (w.slice(start, len), m.slice(start, len), v.slice(start, len)) };
                dispatch(cx.isa(), Step { w, g: &g[start..start + len], m, v, f });
            });
        }));
        return;
    }
    let (blocks, to) = (n.div_ceil(LANES), packed.writer());
    let w = DisjointMut::new(w.f32_mut());
    with_elem!(m.dtype(), M => with_elem!(v.dtype(), V => {
        let (m, v) = (DisjointMut::new(M::of_tensor_mut(m)), DisjointMut::new(V::of_tensor_mut(v)));
        cx.threads().each(groups * blocks, |task| {
            let (group, row) = (task / blocks, task % blocks * LANES);
            let rows = (n - row).min(LANES);
            let (start, len) = ((group * n + row) * k, rows * k);
            // SAFETY: blocks of rows are disjoint.
            let (w, m, v) = unsafe { (w.slice(start, len), m.slice(start, len), v.slice(start, len)) };
            dispatch(cx.isa(), Step { w: &mut *w, g: &g[start..start + len], m, v, f });
            let src = Rows { ptr: w.as_ptr().cast(), stride: k * 4, dtype: DType::F32 };
            // SAFETY: the rows are there, and this task's alone.
            unsafe { to.pack_rows(cx, group, row, rows, src) };
        });
    }));
}

struct Ema<'a> {
    average: &'a mut [f32],
    w: &'a [f32],
    rise: f32,
}

impl Pointwise for Ema<'_> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for (e, w) in self.average.iter_mut().zip(self.w) {
            *e = fma::<FMA>(self.rise, w - *e, *e);
        }
    }
}

pub(super) fn ema(cx: &Cx, ema: &mut Tensor, w: &Tensor, decay: f32) {
    let (blocks, rise, w) = (Blocks::elements(w.len()), (1.0 - f64::from(decay)) as f32, w.f32());
    let ema = DisjointMut::new(ema.f32_mut());
    cx.threads().each(blocks.count(), |b| {
        let part = blocks.range(b);
        // SAFETY: blocks are disjoint.
        let average = unsafe { ema.slice(part.start, part.len()) };
        dispatch(cx.isa(), Ema { average, w: &w[part], rise });
    });
}
