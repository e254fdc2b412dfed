//! Linear layers with quantised weights, for inference: `y[T, n] (acc)= x[T, k] W[n, k]^T`.
//!
//! T rows (tokens), n outputs, k inputs, G groups (experts) whose rows `offsets[g]..offsets[g+1]` lie together.
//!
//! ```text
//! W[j, i] ~ s[j, b] c[j, i]              b = i / 32; c a whole number in -127..=127, s a bf16
//! x[t, i] ~ r[t, b] q[t, i]              quantised here, row by row: r = max|x| / 127, q = round(127 x / max|x|)
//! y[t, j] = sum_b (s[j, b] r[t, b]) (sum_i c[j, i] q[t, i])
//! ```
//!
//! Precision: the inner sum is an exact integer. It becomes an f32 exactly and is added to the outer sum, which starts
//! from zero and ascends in b, by one fused multiply-add with the factor `s r`, rounded once. The sum is added to the
//! old value of y, or replaces it, and is rounded to y's format. The same is done on every instruction path, so that
//! **the bits of a row of y depend only on that row of x, on the weight and on the old row of y**: not on the other
//! rows, threads, groups or path.
//!
//! | format | codes | bits per weight | error of normal weights (RMS) |
//! | --- | --- | --- | --- |
//! | [`QuantFormat::Int8`] | -127..=127 | 8.5 | 0.54 % |
//! | [`QuantFormat::Int4`] | a code book of sixteen of these | 4.5 | 7.3 % |
//!
//! Special values: a group of 32 that has NaN or an infinity, in a row of x or of W, has the scale NaN. So NaN or an
//! infinity in x makes its row of y NaN, and no other row. A group whose largest magnitude is below 2^-100 counts as
//! zero.
//!
//! **Layout.** Sixteen outputs make a panel. A panel is one sequence of blocks of 64 inputs (the last padded with
//! zeros). A block begins with a line of 64 bytes that has two scales for each lane. The codes follow, plus 128, in
//! steps of four inputs: sixteen lanes of four bytes, which one `vpdpbusd` multiplies with four inputs of a row. Int4
//! packs two steps into a line: the first in the low halves of its bytes, the second in the high ones.
//!
//! Panics when shapes disagree, x or y are not floating point, or a weight of several groups comes without offsets.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod fit;
mod format;
mod inputs;
mod portable;
mod product;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
mod tile;
mod weight;

pub use format::QuantFormat;
pub use weight::QuantWeight;

use crate::kernel::expect_float;
use crate::linear::Groups;
use crate::{Acc, Cx, MatMut, MatRef, Tensor};

/// `y[r, n] (acc)= x[r, k] W_g[n, k]^T` for the rows r of every group g. x and y are f32 or bf16. Rows from
/// `offsets[G]` on, and before `offsets[0]`, are left as they are. Without offsets there is one group of all rows.
pub fn forward<'a, 'b, 'c>(
    cx: &Cx,
    x: impl Into<MatRef<'a>>,
    w: &QuantWeight,
    offsets: impl Into<Option<&'c Tensor>>,
    y: impl Into<MatMut<'b>>,
    acc: Acc,
) {
    let (x, offsets, mut y) = (x.into(), offsets.into(), y.into());
    let op = "quant forward";
    assert!(offsets.is_some() || w.groups() == 1, "{op}: a weight of {} groups needs offsets", w.groups());
    assert!(
        (x.cols(), y.cols(), x.rows()) == (w.k(), w.n(), y.rows()),
        "{op}: [{}, {}] by a weight of {} x {} into [{}, {}]",
        x.rows(),
        x.cols(),
        w.n(),
        w.k(),
        y.rows(),
        y.cols()
    );
    expect_float(op, x.dtype());
    expect_float(op, y.dtype());
    let groups = Groups::new(op, offsets, w.groups(), x.rows());
    let _scope = cx.scope(op, 2 * (x.rows() * w.n() * w.k()) as u64, 0);
    product::multiply(cx, &x, w, &groups, &mut y, acc);
}
