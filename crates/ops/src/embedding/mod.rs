//! Token embedding: `x[t] = table[ids[t]]`. Its gradient is `dtable[ids[t]] += dx[t]`.
//!
//! Shapes: `table` f32 or bf16 [V, D], or the panels of an output head that is also the table; `ids` i32 `[T]`; x and
//! dx [T, D] in F32 or Bf16. The gradient is f32. It sums the uses of a token in the order of t, for any number of
//! threads. Both are row moves of [`crate::elementwise`].

#[cfg(test)]
mod tests;

use crate::elementwise::{check_rows, gather, scatter_add};
use crate::kernel::{Blocks, expect_float};
use crate::{Acc, Cx, DType, Device, DisjointMut, MatRef, Tensor};

/// Overwrites `x` [T, D].
pub fn forward(cx: &Cx, table: &Tensor, ids: &Tensor, x: &mut Tensor) {
    let _scope = cx.scope("embedding forward", 0, 2 * x.bytes() as u64);
    let op = "embedding forward";
    expect_float(op, table.dtype());
    expect_float(op, x.dtype());
    check_rows(op, ids, x.rows(), table.rows());
    assert_eq!(x.cols(), table.cols(), "{op}: columns of x and the table");
    match x.device() {
        Device::Cpu => gather(cx, table.mat(), ids, x.mat_mut()),
    }
}

/// Like [`forward`] into `x` f32 [T, D], but the table of `(rows, columns)` is a head's weight, whose form has a function
/// that gives a row.
pub fn forward_by(
    cx: &Cx,
    (rows, cols): (usize, usize),
    row_of: &(dyn Fn(usize, &mut [f32]) + Sync),
    ids: &Tensor,
    x: &mut Tensor,
) {
    let _scope = cx.scope("embedding forward", 0, 2 * x.bytes() as u64);
    let op = "embedding forward";
    assert_eq!(x.dtype(), DType::F32, "{op}: type of x");
    check_rows(op, ids, x.rows(), rows);
    let (d, ids) = (x.cols(), ids.i32());
    assert_eq!(d, cols, "{op}: columns of x and the table");
    let rows = DisjointMut::new(x.f32_mut());
    cx.threads().each(ids.len(), |t| {
        // SAFETY: a task has a row.
        row_of(ids[t] as usize, unsafe { rows.slice(t * d, d) });
    });
}

/// Overwrites or adds to `dtable` f32 [V, D]. When overwriting, rows of unused tokens become zero.
pub fn backward<'a>(cx: &Cx, dx: impl Into<MatRef<'a>>, ids: &Tensor, dtable: &mut Tensor, acc: Acc) {
    let _scope = cx.scope("embedding backward", 0, dtable.bytes() as u64);
    let (dx, op) = (dx.into(), "embedding backward");
    expect_float(op, dx.dtype());
    assert_eq!(dtable.dtype(), DType::F32, "{op}: type of dtable");
    check_rows(op, ids, dx.rows(), dtable.rows());
    assert_eq!(dx.cols(), dtable.cols(), "{op}: columns of dx and dtable");
    match dx.device() {
        Device::Cpu => {
            if acc == Acc::Write {
                zero(cx, dtable);
            }
            scatter_add(cx, dx, ids, dtable);
        }
    }
}

fn zero(cx: &Cx, t: &mut Tensor) {
    let blocks = Blocks::elements(t.len());
    let elements = DisjointMut::new(t.f32_mut());
    cx.threads().each(blocks.count(), |b| {
        let part = blocks.range(b);
        // SAFETY: blocks are disjoint.
        unsafe { elements.slice(part.start, part.len()) }.fill(0.0);
    });
}
