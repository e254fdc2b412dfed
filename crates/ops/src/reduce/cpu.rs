//! One pass over memory in blocks of elements.

use crate::kernel::{Blocks, Elem, LANES, Pointwise, dispatch, sum_lanes, with_elem};
use crate::{Cx, DType, DisjointMut, Tensor};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

struct Sum<'a, T, const SQUARES: bool>(&'a [T]);

impl<T: Elem, const SQUARES: bool> Pointwise for Sum<'_, T, SQUARES> {
    type Out = f64;
    #[inline(always)]
    fn run<const FMA: bool>(self) -> f64 {
        let mut acc = [0.0f64; LANES];
        let chunks = self.0.chunks_exact(LANES);
        for (acc, v) in acc.iter_mut().zip(chunks.remainder()) {
            *acc = term::<FMA, SQUARES>(v.get(), 0.0);
        }
        for chunk in chunks {
            for i in 0..LANES {
                acc[i] = term::<FMA, SQUARES>(chunk[i].get(), acc[i]);
            }
        }
        sum_lanes(acc)
    }
}

#[inline(always)]
fn term<const FMA: bool, const SQUARES: bool>(v: f32, acc: f64) -> f64 {
    let v = f64::from(v);
    match (SQUARES, FMA) {
        (false, _) => acc + v,
        (true, false) => acc + v * v,
        (true, true) => v.mul_add(v, acc),
    }
}

pub(super) fn sum<const SQUARES: bool>(cx: &Cx, x: &Tensor) -> f64 {
    with_elem!(x.dtype(), T => {
        let all = T::of_tensor(x);
        by_blocks(cx, x.len(), |part| dispatch(cx.isa(), Sum::<T, SQUARES>(&all[part])))
    })
}

/// The sums of the blocks, computed with all threads and added in order.
fn by_blocks(cx: &Cx, len: usize, sum: impl Fn(Range<usize>) -> f64 + Sync) -> f64 {
    let blocks = Blocks::elements(len);
    // Each f64 is stored as two words, because tensors cannot hold f64.
    let mut parts = cx.empty(&[blocks.count(), 2], DType::I32);
    let words = DisjointMut::new(parts.i32_mut());
    cx.threads().each(blocks.count(), |b| {
        let bits = sum(blocks.range(b)).to_bits();
        // SAFETY: one row of `parts` for each block.
        let part = unsafe { words.slice(2 * b, 2) };
        (part[0], part[1]) = ((bits >> 32) as i32, bits as i32);
    });
    let value = |part: &[i32]| f64::from_bits(u64::from(part[0] as u32) << 32 | u64::from(part[1] as u32));
    parts.i32().chunks_exact(2).map(value).sum()
}

/// Products of two f32 are exact in f64, with or without fused multiply-add.
struct Dot<'a>(&'a [f32], &'a [f32]);

impl Pointwise for Dot<'_> {
    type Out = f64;
    #[inline(always)]
    fn run<const FMA: bool>(self) -> f64 {
        let mut acc = [0.0f64; LANES];
        let (x, y) = (self.0.chunks_exact(LANES), self.1.chunks_exact(LANES));
        for (acc, (x, y)) in acc.iter_mut().zip(x.remainder().iter().zip(y.remainder())) {
            *acc = f64::from(*x) * f64::from(*y);
        }
        for (x, y) in x.zip(y) {
            for i in 0..LANES {
                acc[i] += f64::from(x[i]) * f64::from(y[i]);
            }
        }
        sum_lanes(acc)
    }
}

pub(super) fn dot(cx: &Cx, x: &Tensor, y: &Tensor) -> f64 {
    let (x, y) = (x.f32(), y.f32());
    by_blocks(cx, x.len(), |part| dispatch(cx.isa(), Dot(&x[part.clone()], &y[part])))
}

/// Largest magnitude, as bits. Infinities and NaN are larger than all numbers.
struct Largest<'a, T>(&'a [T]);

impl<T: Elem> Pointwise for Largest<'_, T> {
    type Out = u32;
    #[inline(always)]
    fn run<const FMA: bool>(self) -> u32 {
        self.0.iter().fold(0, |m, v| m.max(v.get().to_bits() & 0x7fff_ffff))
    }
}

pub(super) fn all_finite(cx: &Cx, x: &Tensor) -> bool {
    let blocks = Blocks::elements(x.len());
    let finite = AtomicBool::new(true);
    with_elem!(x.dtype(), T => {
        let x = T::of_tensor(x);
        cx.threads().each(blocks.count(), |b| {
            if dispatch(cx.isa(), Largest(&x[blocks.range(b)])) >= f32::INFINITY.to_bits() {
                finite.store(false, Ordering::Relaxed);
            }
        });
    });
    finite.into_inner()
}
