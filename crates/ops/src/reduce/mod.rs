//! Sums over all elements of a tensor (the global gradient norm, losses), the test for infinities and NaN, and the place
//! of the largest value.
//!
//! Elements are F32 or Bf16, sums are f64. They use 32 lanes inside a fixed block of elements, then add the blocks in
//! order. The result does not depend on threads or on the instruction path: a square of an f32 is exact in f64, so
//! fused and separate multiply-add agree. f64 cannot overflow here, so `sum_squares` is finite exactly if all elements
//! are.

mod cpu;
#[cfg(test)]
mod tests;

use crate::kernel::expect_float;
use crate::{Cx, DType, Device, Tensor};

/// `sum x^2`.
pub fn sum_squares(cx: &Cx, x: &Tensor) -> f64 {
    let _scope = cx.scope("sum of squares", 0, x.bytes() as u64);
    expect_float("sum_squares", x.dtype());
    match x.device() {
        Device::Cpu => cpu::sum::<true>(cx, x),
    }
}

/// `sum x`.
pub fn sum(cx: &Cx, x: &Tensor) -> f64 {
    expect_float("sum", x.dtype());
    match x.device() {
        Device::Cpu => cpu::sum::<false>(cx, x),
    }
}

/// `sum x y` of two f32 tensors, in the order of [`sum`]. If all `y` are one, it has the bits of [`sum`].
pub fn dot(cx: &Cx, x: &Tensor, y: &Tensor) -> f64 {
    let of = (x.dtype(), y.dtype(), x.len());
    assert_eq!(of, (DType::F32, DType::F32, y.len()), "dot: {x:?} with {y:?}");
    match x.device() {
        Device::Cpu => cpu::dot(cx, x, y),
    }
}

/// Whether no element is infinite or NaN.
pub fn all_finite(cx: &Cx, x: &Tensor) -> bool {
    expect_float("all_finite", x.dtype());
    match x.device() {
        Device::Cpu => cpu::all_finite(cx, x),
    }
}

/// Index of the largest value of a row on the host. If there are several, the first. A NaN is never larger.
pub fn argmax(values: &[f32]) -> usize {
    let mut best = 0;
    for (i, v) in values.iter().enumerate() {
        if *v > values[best] {
            best = i;
        }
    }
    best
}
