//! Gradients of weights: the contraction runs over the tokens.

use super::{Groups, Shared};
use crate::gemm::outer::{Outer, outer};
use crate::gemm::pack::Rows;
use crate::{Acc, Cx, DType, MatRef, Tensor};

/// `dw[n,k] (acc)= dy[T,n]^T x[T,k]`, dw f32. `dtype` is the format of the product.
pub fn backward_weight<'a, 'b>(
    cx: &Cx,
    dy: impl Into<MatRef<'a>>,
    x: impl Into<MatRef<'b>>,
    dtype: DType,
    dw: &mut Tensor,
    acc: Acc,
) {
    by_tokens(cx, "linear backward_weight", dy.into(), x.into(), None, dtype, dw, acc);
}

/// `dw_g[n,k] (acc)= dy_g^T x_g` over the rows of every group g; dw `[G*n, k]` or `[G, n, k]`. A group without rows gets
/// zeros (or adds nothing).
pub fn grouped_backward_weight<'a, 'b>(
    cx: &Cx,
    dy: impl Into<MatRef<'a>>,
    x: impl Into<MatRef<'b>>,
    offsets: &Tensor,
    dtype: DType,
    dw: &mut Tensor,
    acc: Acc,
) {
    by_tokens(cx, "grouped backward_weight", dy.into(), x.into(), Some(offsets), dtype, dw, acc);
}

fn by_tokens(
    cx: &Cx,
    op: &'static str,
    dy: MatRef<'_>,
    x: MatRef<'_>,
    offsets: Option<&Tensor>,
    dtype: DType,
    dw: &mut Tensor,
    acc: Acc,
) {
    let count = offsets.map_or(1, |o| o.len() - 1);
    let (rows, n, k) = (x.rows(), dy.cols(), x.cols());
    assert_eq!(dy.rows(), rows, "{op}: dy [{}, {n}] and x [{rows}, {k}]", dy.rows());
    assert_eq!(dw.len(), count * n * k, "{op}: dw {:?} for {count} x {n} x {k}", dw.shape());
    assert_eq!(dw.dtype(), DType::F32, "{op}: dw {:?}", dw.dtype());
    let groups = Groups::new(op, offsets, count, rows);
    let _scope = cx.scope(op, 2 * (rows * n * k) as u64, 0);
    let (a, b, c) = (Rows::of(&dy), Rows::of(&x), Shared::of(dw));
    // SAFETY: shapes were checked; every group has rows and a part of dw to itself.
    unsafe {
        outer(cx, count, rows, (n, k), dtype, acc, |g| {
            let (first, rows) = groups.range(g);
            Outer { rows, a: a.at(first, 0), b: b.at(first, 0), c: c.get().add(g * n * k * 4) }
        });
    }
}
