//! SwiGLU (report 2.1.2 uses it in every FFN): `h = silu(gate) * up * scale`, `silu(x) = x sigmoid(x)`.
//!
//! Shapes: R rows, I intermediate channels. `gu` [R, 2I] contains gate, then up, as computed by one product. `scale`
//! `[R]` is the gate value of a routed row, or absent (1). It is applied here instead of after the down projection.
//! That projection is linear, so the result is the same. Elements are F32 or Bf16, the same for all operands.
//! Arithmetic is f32 with one rounding at the end.
//!
//! Backward, with `s = sigmoid(gate)` recomputed:
//! `d_gate = dh scale up s (1 + gate (1 - s))`, `d_up = dh scale silu(gate)`, `d_scale = dh . (silu(gate) up)`.
//! It also writes `h` again, so that forward need not keep it for the down projection's weight gradient. Its bits are
//! those of forward if `gu` has the bits that forward read. If `gu` was kept in E4M3, it is the `h` of the rounded
//! numbers.

mod cpu;
#[cfg(test)]
mod tests;

use crate::kernel::expect_float;
use crate::{Cx, DType, Device, Tensor};

fn check(op: &str, gu: &Tensor, row_scale: Option<&Tensor>, h: &Tensor) {
    expect_float(op, gu.dtype());
    let (r, i) = (h.rows(), h.cols());
    assert!(gu.rows() == r && gu.cols() == 2 * i, "{op}: gu {gu:?} beside {h:?}");
    assert_eq!(gu.dtype(), h.dtype(), "{op}: types of gu and h");
    if let Some(scale) = row_scale {
        assert!(scale.len() == r && scale.dtype() == DType::F32, "{op}: row_scale {scale:?} for {r} rows");
    }
}

/// `h = silu(gate) * up * row_scale`; `h` [R, I] is overwritten.
pub fn forward(cx: &Cx, gu: &Tensor, row_scale: Option<&Tensor>, h: &mut Tensor) {
    let _scope = cx.scope("swiglu forward", 0, (gu.bytes() + h.bytes()) as u64);
    check("swiglu forward", gu, row_scale, h);
    match gu.device() {
        Device::Cpu => cpu::forward(cx, gu, row_scale, h),
    }
}

/// Overwrites `dgu` [R, 2I], `h_out` [R, I] (the scaled h of this `gu`) and, if given, `d_scale` f32 `[R]`
/// (the gradient with respect to `row_scale`). `dh` [R, I] is the gradient with respect to the scaled h.
pub fn backward(
    cx: &Cx,
    dh: &Tensor,
    gu: &Tensor,
    row_scale: Option<&Tensor>,
    dgu: &mut Tensor,
    h_out: &mut Tensor,
    d_scale: Option<&mut Tensor>,
) {
    let _scope = cx.scope("swiglu backward", 0, (dh.bytes() + 2 * gu.bytes() + h_out.bytes()) as u64);
    let op = "swiglu backward";
    check(op, gu, row_scale, h_out);
    check(op, dgu, row_scale, dh);
    assert_eq!(gu.dtype(), dgu.dtype(), "{op}: types of gu and dgu");
    assert_eq!(gu.shape(), dgu.shape(), "{op}: shapes of gu and dgu");
    if let Some(d) = &d_scale {
        assert!(d.len() == gu.rows() && d.dtype() == DType::F32, "{op}: d_scale {d:?} for {} rows", gu.rows());
    }
    match gu.device() {
        Device::Cpu => cpu::backward(cx, dh, gu, row_scale, dgu, h_out, d_scale),
    }
}
