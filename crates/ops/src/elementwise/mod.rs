//! Conversions, sums and row moves that are not part of another operation.
//!
//! Elements are F32 or Bf16. They are converted if the two sides differ. Sums are f32 and are rounded once when they
//! are stored.

mod cpu;
#[cfg(test)]
mod tests;

pub(crate) use cpu::{gather, scatter_add};

use crate::kernel::expect_float;
use crate::{Cx, DType, Device, MatMut, MatRef, Tensor};

fn check_same(op: &str, a: &MatRef<'_>, b: &MatMut<'_>) {
    expect_float(op, a.dtype());
    expect_float(op, b.dtype());
    assert!(
        (a.rows(), a.cols()) == (b.rows(), b.cols()),
        "{op}: {}x{} to {}x{}",
        a.rows(),
        a.cols(),
        b.rows(),
        b.cols()
    );
}

/// `dst = src`.
pub fn cast<'s, 'd>(cx: &Cx, src: impl Into<MatRef<'s>>, dst: impl Into<MatMut<'d>>) {
    let _scope = cx.scope("cast", 0, 0);
    let (src, dst) = (src.into(), dst.into());
    check_same("cast", &src, &dst);
    match src.device() {
        Device::Cpu => cpu::cast(cx, src, dst),
    }
}

/// `x *= factor`, in place.
pub fn scale(cx: &Cx, x: &mut Tensor, factor: f32) {
    expect_float("scale", x.dtype());
    match x.device() {
        Device::Cpu => cpu::scale(cx, x, factor),
    }
}

/// `dst += a`.
pub fn add<'s, 'd>(cx: &Cx, a: impl Into<MatRef<'s>>, dst: impl Into<MatMut<'d>>) {
    let _scope = cx.scope("add", 0, 0);
    let (a, dst) = (a.into(), dst.into());
    check_same("add", &a, &dst);
    match a.device() {
        Device::Cpu => cpu::add(cx, a, dst),
    }
}

/// Panics unless `rows` has `n` numbers below `limit`.
pub(crate) fn check_rows(op: &str, rows: &Tensor, n: usize, limit: usize) {
    assert_eq!(rows.len(), n, "{op}: {rows:?} for {n} rows");
    for r in rows.i32() {
        assert!((0..limit as i64).contains(&i64::from(*r)), "{op}: row {r} of {limit}");
    }
}

/// `out[i] = x[rows[i]]`. `rows` i32 `[R]`, `out` [R, D]. A row may be used any number of times.
pub fn gather_rows<'x>(cx: &Cx, x: impl Into<MatRef<'x>>, rows: &Tensor, out: &mut Tensor) {
    let _scope = cx.scope("gather rows", 0, 0);
    let (x, op) = (x.into(), "gather_rows");
    expect_float(op, x.dtype());
    expect_float(op, out.dtype());
    check_rows(op, rows, out.rows(), x.rows());
    assert_eq!(x.cols(), out.cols(), "{op}: columns of x and out");
    match x.device() {
        Device::Cpu => gather(cx, x, rows, out.mat_mut()),
    }
}

/// `dst[rows[i]] += src[i]`. `src` [R, D], `rows` i32 `[R]`, `dst` f32 [T, D]. If a row occurs twice, both are added,
/// in order.
pub fn scatter_add_rows<'s>(cx: &Cx, src: impl Into<MatRef<'s>>, rows: &Tensor, dst: &mut Tensor) {
    let _scope = cx.scope("scatter rows", 0, 0);
    let (src, op) = (src.into(), "scatter_add_rows");
    expect_float(op, src.dtype());
    assert_eq!(dst.dtype(), DType::F32, "{op}: type of dst");
    check_rows(op, rows, src.rows(), dst.rows());
    assert_eq!(src.cols(), dst.cols(), "{op}: columns of src and dst");
    match src.device() {
        Device::Cpu => scatter_add(cx, src, rows, dst),
    }
}

/// Copies rows `from..from + n` of `src` [.., D] to rows `to..` of `dst` [.., W], starting at column `col`. Both have
/// the same type. A latent cache uses it to grow.
pub fn copy_rows(_cx: &Cx, src: &Tensor, from: usize, n: usize, dst: &mut Tensor, to: usize, col: usize) {
    let (d, w) = (src.cols(), dst.cols());
    assert!(from + n <= src.rows() && to + n <= dst.rows() && col + d <= w, "copy_rows: {src:?} into {dst:?}");
    fn rows<T: Copy>(src: &[T], dst: &mut [T], d: usize, w: usize, col: usize) {
        for (s, row) in src.chunks_exact(d).zip(dst.chunks_exact_mut(w)) {
            row[col..col + d].copy_from_slice(s);
        }
    }
    let (source, target) = (from * d..(from + n) * d, to * w..(to + n) * w);
    match src.dtype() {
        DType::F32 => rows(&src.f32()[source], &mut dst.f32_mut()[target], d, w, col),
        DType::Bf16 => rows(&src.bf16()[source], &mut dst.bf16_mut()[target], d, w, col),
        DType::I32 => rows(&src.i32()[source], &mut dst.i32_mut()[target], d, w, col),
        DType::U8 => rows(&src.u8()[source], &mut dst.u8_mut()[target], d, w, col),
    }
}
