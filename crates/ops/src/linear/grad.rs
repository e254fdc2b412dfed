//! Gradients of weights: the contraction runs over the tokens, so both operands are packed by pairs of rows.

use super::{Groups, Shared};
use crate::gemm::pack::{PACK_ROWS, Panels, Rows, lanes_from_cols};
use crate::gemm::{LANES, Left, Product, STEP_BYTES, multiply, steps};
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
    op: &str,
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
    let groups = Groups::new(op, offsets, count, rows);
    let mut dy_panels = pack_by_pairs(cx, &dy, &groups, count, dtype);
    let mut x_panels = pack_by_pairs(cx, &x, &groups, count, dtype);
    let (a, b, c) = (Shared::of(&mut dy_panels), Shared::of(&mut x_panels), Shared::of(dw));
    // SAFETY: shapes were checked; every group has a part of dw and of the packed operands to itself.
    unsafe {
        multiply(cx, count, |g| {
            let first = groups.first_step(dtype, g) * STEP_BYTES;
            Product {
                m: n,
                n: k,
                k: groups.range(g).1,
                dtype,
                a: Left::Panels { ptr: a.get().add(first * n.div_ceil(LANES)) },
                b: b.get().add(first * k.div_ceil(LANES)),
                c: c.get().add(g * n * k * 4),
                c_row: k * 4,
                c_dtype: DType::F32,
                acc,
            }
        });
    }
}

/// Every group's rows as panels with the columns as lanes, one group after the other.
fn pack_by_pairs(cx: &Cx, m: &MatRef<'_>, groups: &Groups<'_>, count: usize, dtype: DType) -> Tensor {
    let (lanes, src) = (m.cols(), Rows::of(m));
    let panels = lanes.div_ceil(LANES);
    // Enough for any offsets, so that the size does not depend on them.
    let most = if dtype == DType::Bf16 { (m.rows() + count).div_ceil(2) } else { m.rows() };
    let mut out = cx.empty(&[panels * most * STEP_BYTES / dtype.size()], dtype);
    let to = Shared::of(&mut out);
    let blocks = |g: usize| groups.range(g).1.div_ceil(PACK_ROWS);
    cx.threads().each((0..count).map(blocks).sum(), |task| {
        let (mut g, mut block) = (0, task);
        while block >= blocks(g) {
            block -= blocks(g);
            g += 1;
        }
        let first = groups.first_step(dtype, g);
        let (start, rows) = groups.range(g);
        let row = block * PACK_ROWS;
        let panel = steps(dtype, rows) * STEP_BYTES;
        // SAFETY: blocks start at whole steps, so tasks write disjoint steps; the tensor is large enough.
        unsafe {
            let ptr = to.get().add(first * panels * STEP_BYTES + steps(dtype, row) * STEP_BYTES);
            let part = Panels { ptr, panel, dtype };
            lanes_from_cols(cx.isa(), src.at(start + row, 0), (rows - row).min(PACK_ROWS), lanes, part);
        }
    });
    out
}
