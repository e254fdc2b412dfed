//! Gradients of weights: the contraction runs over the tokens.

use super::{Groups, Operand, Shared};
use crate::fp8::columns::Columns;
use crate::gemm::outer::{Outer, outer};
use crate::gemm::places::Rows;
use crate::{Acc, Cx, DType, Tensor};

/// `dw[n,k] (acc)= dy[T,n]^T x[T,k]`, dw f32. `dtype` is the format of the product. U8 stands for E4M3, with both
/// operands in tiles of 128x1.
pub fn backward_weight<'a, 'b>(
    cx: &Cx,
    dy: impl Into<Operand<'a>>,
    x: impl Into<Operand<'b>>,
    dtype: DType,
    dw: &mut Tensor,
    acc: Acc,
) {
    grouped_backward_weight(cx, dy, x, None, dtype, dw, acc);
}

/// `dw_g[n,k] (acc)= dy_g^T x_g` over the rows of every group g; dw `[G*n, k]` or `[G, n, k]`. The result for a group
/// without rows is zero. Without offsets there is one group of all rows.
pub fn grouped_backward_weight<'a, 'b, 'c>(
    cx: &Cx,
    dy: impl Into<Operand<'a>>,
    x: impl Into<Operand<'b>>,
    offsets: impl Into<Option<&'c Tensor>>,
    dtype: DType,
    dw: &mut Tensor,
    acc: Acc,
) {
    let offsets = offsets.into();
    let op = if offsets.is_some() { "grouped backward_weight" } else { "linear backward_weight" };
    by_tokens(cx, op, dy.into(), x.into(), offsets, dtype, dw, acc);
}

pub(super) fn by_tokens(
    cx: &Cx,
    op: &'static str,
    dy: Operand<'_>,
    x: Operand<'_>,
    offsets: Option<&Tensor>,
    dtype: DType,
    dw: &mut Tensor,
    acc: Acc,
) {
    let product = ByTokens::new(op, &dy, &x, offsets, dw);
    let ByTokens { rows, n, k, count, ref groups, c } = product;
    let _scope = cx.scope(op, 2 * (rows * n * k) as u64, 0);
    if dtype == DType::U8 {
        let (dy, x) = (product.columns(cx, dy), product.columns(cx, x));
        // SAFETY: shapes were checked; every group has rows and a part of dw to itself, and scales.
        unsafe { outer(cx, count, rows, (n, k), DType::Bf16, acc, product.codes(&dy, &x)) };
        return;
    }
    let mut kept = [None, None];
    let [kept_dy, kept_x] = &mut kept;
    let (a, b) = (Rows::of(&dy.floats(cx, dtype, kept_dy)), Rows::of(&x.floats(cx, dtype, kept_x)));
    // SAFETY: shapes were checked; every group has rows and a part of dw to itself.
    unsafe {
        outer(cx, count, rows, (n, k), dtype, acc, |g| {
            let (first, rows) = groups.range(g);
            Outer { rows, a: a.at(first, 0), b: b.at(first, 0), c: c.get().add(g * n * k * 4), scales: None }
        });
    }
}

/// A product over tokens: its checked shapes, and the position of the result.
pub(super) struct ByTokens<'a> {
    pub(super) rows: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    /// Number of groups.
    pub(super) count: usize,
    groups: Groups<'a>,
    c: Shared,
}

impl<'a> ByTokens<'a> {
    pub(super) fn new(
        op: &str,
        dy: &Operand<'_>,
        x: &Operand<'_>,
        offsets: Option<&'a Tensor>,
        dw: &mut Tensor,
    ) -> Self {
        let count = offsets.map_or(1, |o| o.len() - 1);
        let (rows, n, k) = (x.rows(), dy.cols(), x.cols());
        assert_eq!(dy.rows(), rows, "{op}: dy [{}, {n}] and x [{rows}, {k}]", dy.rows());
        assert_eq!(dw.len(), count * n * k, "{op}: dw {:?} for {count} x {n} x {k}", dw.shape());
        assert_eq!(dw.dtype(), DType::F32, "{op}: dw {:?}", dw.dtype());
        Self { rows, n, k, count, groups: Groups::new(op, offsets, count, rows), c: Shared::of(dw) }
    }

    /// An operand in tiles of 128x1.
    pub(super) fn columns(&self, cx: &Cx, x: Operand<'_>) -> Columns {
        let range = |g: usize| self.groups.range(g);
        match x {
            Operand::Plain(x) => Columns::of_floats(cx, &x, self.count, &range),
            Operand::Tiles(x) => Columns::of_tiles(cx, x, self.count, &range),
        }
    }

    /// The products of all groups, for operands in tiles of 128x1.
    pub(super) fn codes<'b>(&'b self, dy: &'b Columns, x: &'b Columns) -> impl Fn(usize) -> Outer + Sync {
        let (a, b) = (Rows::of(&dy.grid.mat()), Rows::of(&x.grid.mat()));
        move |g| {
            let (first, rows) = self.groups.range(g);
            let scales = Some([dy.scales_of(g), x.scales_of(g)]);
            // SAFETY: every group has rows.
            let (a, b) = unsafe { (a.at(first, 0), b.at(first, 0)) };
            Outer { rows, a, b, c: self.c.get().wrapping_add(g * self.n * self.k * 4), scales }
        }
    }
}
