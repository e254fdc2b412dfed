//! Permutation between tokens and experts (report 2.1.2, eq. 12: the sum over selected experts, and the gather before
//! it).
//!
//! T tokens, K experts per token, E experts, D columns. A slot is `t * K + k`. A row is the position of a slot when
//! slots are sorted by expert. The sort is stable, so within an expert, rows ascend by token.
//!
//! ```text
//! permute   out[row]  = x[token_of[row]]                  any to any float type; also the gradient of combine
//! combine   out[t]    = sum_k y[row_of[t, k]]             any to f32, in the order of k; also the gradient of permute
//! ```
//!
//! No token is dropped: there are exactly T * K rows. The result for a token does not depend on the other tokens,
//! although the positions of its rows do: combine adds in the order of k, not of rows.

mod cpu;
mod plan;
#[cfg(test)]
mod tests;

pub(crate) use cpu::copy_rows;
pub use plan::{Plan, loads, plan};

use crate::kernel::expect_float;
use crate::{Acc, Cx, DType, Device, MatMut, MatRef, Tensor};

fn check_rows(op: &str, name: &str, (rows, cols): (usize, usize), want: (usize, usize)) {
    assert!((rows, cols) == want, "{op}: {name} is [{rows}, {cols}], expected [{}, {}]", want.0, want.1);
}

/// `x` [T, D] any float type to `out` [T*K, D] any float type, sorted by expert.
pub fn permute<'a>(cx: &Cx, x: impl Into<MatRef<'a>>, plan: &Plan, out: &mut Tensor) {
    let _scope = cx.scope("moe permute", 0, 2 * out.bytes() as u64);
    let (op, x) = ("moe::permute", x.into());
    check_rows(op, "x", (x.rows(), x.cols()), (plan.tokens(), x.cols()));
    check_rows(op, "out", (out.rows(), out.cols()), (plan.rows(), x.cols()));
    expect_float(op, x.dtype());
    expect_float(op, out.dtype());
    match x.device() {
        Device::Cpu => cpu::permute(cx, &x, plan.token_of.i32(), &mut out.mat_mut()),
    }
}

/// `y` [T*K, D] any float type, summed over the K rows of each token into `out` f32 [T, D] (acc).
pub fn combine<'a>(cx: &Cx, y: &Tensor, plan: &Plan, out: impl Into<MatMut<'a>>, acc: Acc) {
    let _scope = cx.scope("moe combine", 0, y.bytes() as u64);
    let (op, mut out) = ("moe::combine", out.into());
    check_rows(op, "y", (y.rows(), y.cols()), (plan.rows(), out.cols()));
    check_rows(op, "out", (out.rows(), out.cols()), (plan.tokens(), out.cols()));
    expect_float(op, y.dtype());
    assert!(out.dtype() == DType::F32, "{op}: out is {:?}, expected F32", out.dtype());
    match y.device() {
        Device::Cpu => cpu::combine(cx, &y.mat(), plan.row_of.i32(), plan.top_k(), &mut out, acc),
    }
}

/// Copies `weight` f32 [T, K] to `out` f32 `[T*K]` by row: the scale of each expert's input row.
pub fn gather_scale(cx: &Cx, weight: &Tensor, plan: &Plan, out: &mut Tensor) {
    let _scope = cx.scope("moe scales", 0, 0);
    let op = "moe::gather_scale";
    assert!(weight.len() == plan.rows() && out.len() == plan.rows(), "{op}: {weight:?}, {out:?}, {} rows", plan.rows());
    match weight.device() {
        Device::Cpu => cpu::gather(cx, weight.f32(), plan.slot_of.i32(), out.f32_mut()),
    }
}

/// Copies `d` f32 `[T*K]` by row to `out` f32 [T, K]: the gradient of [`gather_scale`].
pub fn scatter_scale(cx: &Cx, d: &Tensor, plan: &Plan, out: &mut Tensor) {
    let _scope = cx.scope("moe scales", 0, 0);
    let op = "moe::scatter_scale";
    assert!(d.len() == plan.rows() && out.len() == plan.rows(), "{op}: {d:?}, {out:?}, {} rows", plan.rows());
    match d.device() {
        // Rows and slots are inverse permutations: gathering by row_of writes every slot once.
        Device::Cpu => cpu::gather(cx, d.f32(), plan.row_of.i32(), out.f32_mut()),
    }
}
