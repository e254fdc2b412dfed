//! RMSNorm (before each sub-layer, on the latents of MLA, and in MTP; report 2.1.1): `y = w x rstd`,
//! `rstd = 1 / sqrt(mean(x^2) + eps)`, the mean over the D columns of a row.
//!
//! Shapes: T rows, D columns; `w` f32 `[D]`, `rstd` f32 `[T]`. x, y and gradients may each be F32 or Bf16. Statistics
//! and arithmetic are f32, with one rounding at the end. (The released code also rounds before the product with w.)
//!
//! Backward, with `n = x rstd` and `g = dy w`: `dx = rstd (g - n mean(g n))`, `dw = sum_t dy n`. The sum over rows is
//! first computed inside fixed blocks of rows, then over the blocks in order.

mod cpu;
#[cfg(test)]
mod tests;

use crate::kernel::expect_float;
use crate::{Acc, Cx, DType, Device, MatMut, MatRef, Tensor};

fn check(op: &str, x: &MatRef<'_>, w: &Tensor, rstd: &Tensor) {
    expect_float(op, x.dtype());
    let (t, d) = (x.rows(), x.cols());
    assert!(w.len() == d && w.dtype() == DType::F32, "{op}: weight {w:?} for {d} columns");
    assert!(rstd.len() == t && rstd.dtype() == DType::F32, "{op}: rstd {rstd:?} for {t} rows");
}

/// Overwrites `y` [T, D] and `rstd` `[T]`.
pub fn forward<'x, 'y>(
    cx: &Cx,
    x: impl Into<MatRef<'x>>,
    w: &Tensor,
    eps: f32,
    y: impl Into<MatMut<'y>>,
    rstd: &mut Tensor,
) {
    let _scope = cx.scope("rmsnorm forward", 0, 0);
    let (x, y, op) = (x.into(), y.into(), "rmsnorm forward");
    check(op, &x, w, rstd);
    expect_float(op, y.dtype());
    assert!(
        (y.rows(), y.cols()) == (x.rows(), x.cols()),
        "{op}: {}x{} to {}x{}",
        x.rows(),
        x.cols(),
        y.rows(),
        y.cols()
    );
    match x.device() {
        Device::Cpu => cpu::forward(cx, x, w, eps, y, rstd),
    }
}

/// Gradients `dx` [T, D] and `dw` f32 `[D]`, each overwritten or added to. `rstd` comes from forward.
pub fn backward<'d, 'x, 'g>(
    cx: &Cx,
    dy: impl Into<MatRef<'d>>,
    x: impl Into<MatRef<'x>>,
    w: &Tensor,
    rstd: &Tensor,
    dx: impl Into<MatMut<'g>>,
    dx_acc: Acc,
    dw: &mut Tensor,
    dw_acc: Acc,
) {
    let _scope = cx.scope("rmsnorm backward", 0, 0);
    let (dy, x, dx, op) = (dy.into(), x.into(), dx.into(), "rmsnorm backward");
    check(op, &x, w, rstd);
    expect_float(op, dy.dtype());
    expect_float(op, dx.dtype());
    let shape = (x.rows(), x.cols());
    assert!((dy.rows(), dy.cols()) == shape, "{op}: dy {}x{} for x {shape:?}", dy.rows(), dy.cols());
    assert!((dx.rows(), dx.cols()) == shape, "{op}: dx {}x{} for x {shape:?}", dx.rows(), dx.cols());
    assert!(dw.len() == x.cols() && dw.dtype() == DType::F32, "{op}: dw {dw:?} for {} columns", x.cols());
    match x.device() {
        Device::Cpu => cpu::backward(cx, dy, x, w, rstd, dx, dx_acc, dw, dw_acc),
    }
}
