//! Linear layers, plain and grouped over experts: `y = x W^T` and its two gradients.
//!
//! T rows (tokens), n outputs, k inputs, G groups (experts). The rows of a group, `offsets[g]..offsets[g+1]`, are
//! consecutive.
//!
//! | function | result | reads |
//! | --- | --- | --- |
//! | `forward` | `y[T,n] (acc)= x[T,k] W[n,k]^T` | the weight's forward panels |
//! | `backward_input` | `dx[T,k] (acc)= dy[T,n] W[n,k]` | its backward panels |
//! | `backward_weight` | `dw[n,k] (acc)= dy[T,n]^T x[T,k]` | dy and x, both packed here |
//!
//! Products are in the weight's format: bf16, f32, or E4M3 (`DType::U8`) as in report 3.3. An operand in another format
//! is first rounded, widened or quantised ([`Operand`]). Sums are f32, in an order that depends only on the length of
//! the contraction (see `gemm`), and are rounded once on output. In E4M3, weights have one scale per 128x128, operands
//! one per 1x128 along the contraction, and sums over 128 are promoted to f32.
//!
//! With `PackedWeight::with_gradients`, blocks of 128 rows can share a scale in `backward_input`. If they are made from
//! floats, every group starts new blocks. Then a row's bits depend on the other rows of its block.
//!
//! Panics if shapes disagree, an operand is i32, or a gradient needs a form that the weight does not have.

pub mod accumulator;
#[cfg(test)]
mod blocks_tests;
mod coded;
#[cfg(test)]
mod coded_tests;
pub(crate) mod codes;
#[cfg(test)]
mod codes_tests;
mod grad;
mod operand;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod split_tests;
#[cfg(test)]
mod tests;
mod weight;

pub use coded::{CodedWeight, coded_forward};
pub use grad::{backward_weight, grouped_backward_weight};
pub use operand::Operand;
pub use weight::PackedWeight;

use crate::fp8::Quantized;
use crate::gemm::pack::{PACK_ROWS, convert_row};
use crate::gemm::places::Rows;
use crate::gemm::{Product, ScaledProduct, multiply, multiply_scaled};
use crate::{Acc, Cx, DType, MatMut, MatRef, Tensor};

/// `y[T,n] (acc)= x[T,k] W[n,k]^T`
pub fn forward<'a, 'b>(cx: &Cx, x: impl Into<Operand<'a>>, w: &PackedWeight, y: impl Into<MatMut<'b>>, acc: Acc) {
    grouped_forward(cx, x, w, None, y, acc);
}

/// `dx[T,k] (acc)= dy[T,n] W[n,k]`
pub fn backward_input<'a, 'b>(
    cx: &Cx,
    dy: impl Into<Operand<'a>>,
    w: &PackedWeight,
    dx: impl Into<MatMut<'b>>,
    acc: Acc,
) {
    grouped_backward_input(cx, dy, w, None, dx, acc);
}

/// `y[r,n] (acc)= x[r,k] W_g[n,k]^T` for the rows r of every group g. Rows from `offsets[G]` on are not changed.
/// Without offsets there is one group of all rows.
pub fn grouped_forward<'a, 'b, 'c>(
    cx: &Cx,
    x: impl Into<Operand<'a>>,
    w: &PackedWeight,
    offsets: impl Into<Option<&'c Tensor>>,
    y: impl Into<MatMut<'b>>,
    acc: Acc,
) {
    let offsets = offsets.into();
    let op = if offsets.is_some() { "grouped forward" } else { "linear forward" };
    by_weight(cx, op, x.into(), w, false, offsets, y.into(), acc);
}

/// `dx[r,k] (acc)= dy[r,n] W_g[n,k]` for the rows r of every group g, like [`grouped_forward`].
pub fn grouped_backward_input<'a, 'b, 'c>(
    cx: &Cx,
    dy: impl Into<Operand<'a>>,
    w: &PackedWeight,
    offsets: impl Into<Option<&'c Tensor>>,
    dx: impl Into<MatMut<'b>>,
    acc: Acc,
) {
    let offsets = offsets.into();
    let op = if offsets.is_some() { "grouped backward_input" } else { "linear backward_input" };
    by_weight(cx, op, dy.into(), w, true, offsets, dx.into(), acc);
}

/// The groups' row ranges: `[0, rows]` when there is one group.
pub(crate) struct Groups<'a> {
    offsets: Option<&'a [i32]>,
    rows: usize,
}

impl<'a> Groups<'a> {
    pub(crate) fn new(op: &str, offsets: Option<&'a Tensor>, groups: usize, rows: usize) -> Self {
        let offsets = offsets.map(|t| {
            assert_eq!(t.len(), groups + 1, "{op}: offsets {:?} for {groups} groups", t.shape());
            let o = t.i32();
            let ascending = o[0] >= 0 && o.windows(2).all(|w| w[0] <= w[1]);
            assert!(ascending && o[groups] as usize <= rows, "{op}: offsets {o:?} for {rows} rows");
            o
        });
        Self { offsets, rows }
    }
    /// First row and number of rows of a group.
    pub(crate) fn range(&self, g: usize) -> (usize, usize) {
        self.offsets.map_or((0, self.rows), |o| (o[g] as usize, (o[g + 1] - o[g]) as usize))
    }
}

fn by_weight(
    cx: &Cx,
    op: &'static str,
    x: Operand<'_>,
    w: &PackedWeight,
    backward: bool,
    offsets: Option<&Tensor>,
    mut y: MatMut<'_>,
    acc: Acc,
) {
    let product = ByWeight::new(op, &x, (w.groups(), w.n(), w.k()), backward, offsets, &mut y);
    let ByWeight { k, n, ref groups, c, c_dtype, c_row, .. } = product;
    let _scope = cx.scope(op, 2 * (x.rows() * n * k) as u64, 0);
    let dtype = w.dtype();
    if dtype == DType::U8 {
        let mut kept = None;
        let x = x.tiles(cx, w.style(backward), (w.groups(), groups), &mut kept);
        // SAFETY: shapes were checked above; groups' rows do not overlap since offsets ascend.
        unsafe { multiply_scaled(cx, w.groups(), product.codes(x, w, acc)) };
        return;
    }
    let mut kept = None;
    let x = x.floats(cx, dtype, &mut kept);
    let converted = (x.dtype() != dtype).then(|| convert(cx, &x, dtype));
    let source = Rows::of(&converted.as_ref().map_or(x, Tensor::mat));
    // SAFETY: shapes were checked above; groups' rows do not overlap since offsets ascend.
    unsafe {
        multiply(cx, w.groups(), |g| {
            let (first, m) = groups.range(g);
            let (a, a_row) = (source.at(first, 0).ptr, source.stride);
            let b = if backward { w.backward_panels(g) } else { w.forward_panels(g) };
            let c = c.get().add(first * c_row);
            Product { m, n, k, dtype, a, a_row, b, codes: None, c, c_row, c_dtype, acc }
        });
    }
}

/// A product with a weight: its checked shapes, and the position of the result.
struct ByWeight<'a> {
    /// Whether the weight is read as in `backward_input`.
    backward: bool,
    k: usize,
    n: usize,
    groups: Groups<'a>,
    c: Shared,
    c_dtype: DType,
    /// Bytes from one row of the result to the next.
    c_row: usize,
}

impl<'a> ByWeight<'a> {
    fn new(
        op: &str,
        x: &Operand<'_>,
        (count, of_n, of_k): (usize, usize, usize),
        backward: bool,
        offsets: Option<&'a Tensor>,
        y: &mut MatMut<'_>,
    ) -> Self {
        assert!(offsets.is_some() || count == 1, "{op}: a weight of {count} groups needs offsets");
        let (k, n) = if backward { (of_n, of_k) } else { (of_k, of_n) };
        let shapes = (x.cols(), y.cols(), x.rows());
        assert!(
            shapes == (k, n, y.rows()),
            "{op}: [{}, {}] by a weight of {of_n} x {of_k} into [{}, {}]",
            x.rows(),
            x.cols(),
            y.rows(),
            y.cols()
        );
        let groups = Groups::new(op, offsets, count, x.rows());
        let (c_dtype, c_row) = (y.dtype(), y.stride() * y.dtype().size());
        let c = match c_dtype {
            DType::F32 => Shared(y.f32_mut().as_mut_ptr().cast()),
            _ => Shared(y.bf16_mut().as_mut_ptr().cast()),
        };
        Self { backward, k, n, groups, c, c_dtype, c_row }
    }

    /// The products of all groups, for the codes of an operand and of a weight.
    fn codes<'b>(&'b self, x: &'b Quantized, w: &'b PackedWeight, acc: Acc) -> impl Fn(usize) -> ScaledProduct + Sync {
        let (codes, scales) = (x.codes(), x.scales());
        let (a_row, a_scales_row) = (codes.cols(), scales.cols());
        move |g| {
            let (first, m) = self.groups.range(g);
            let (b, b_scales, b_lanes) = w.codes(g, self.backward);
            ScaledProduct {
                m,
                n: self.n,
                k: self.k,
                a: codes.u8().as_ptr().wrapping_add(first * a_row),
                a_row,
                a_scales: scales.f32().as_ptr().wrapping_add(first * a_scales_row),
                a_scales_row,
                b,
                b_scales,
                b_lanes,
                c: self.c.get().wrapping_add(first * self.c_row),
                c_row: self.c_row,
                c_dtype: self.c_dtype,
                acc,
            }
        }
    }
}

/// A pointer that tasks share. They write disjoint elements through it.
#[derive(Clone, Copy)]
pub(crate) struct Shared(pub(crate) *mut u8);
// SAFETY: users write disjoint elements, as each states.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}
impl Shared {
    pub(crate) fn of(t: &mut Tensor) -> Self {
        match t.dtype() {
            DType::F32 => Self(t.f32_mut().as_mut_ptr().cast()),
            DType::Bf16 => Self(t.bf16_mut().as_mut_ptr().cast()),
            other => panic!("linear: {other:?} operand"),
        }
    }
    pub(crate) fn get(self) -> *mut u8 {
        self.0
    }
}

/// A copy of `x` in the other float format.
fn convert(cx: &Cx, x: &MatRef<'_>, dtype: DType) -> Tensor {
    let (rows, cols) = (x.rows(), x.cols());
    let mut out = cx.empty(&[rows, cols], dtype);
    let to = Shared::of(&mut out);
    let (from, row_bytes) = (Rows::of(x), cols * dtype.size());
    cx.threads().each(rows.div_ceil(PACK_ROWS), |i| {
        for r in i * PACK_ROWS..((i + 1) * PACK_ROWS).min(rows) {
            // SAFETY: row r exists in both; tasks write disjoint rows.
            unsafe {
                convert_row(cx.isa(), from.at(r, 0).ptr, from.dtype, cols, to.get().add(r * row_bytes), dtype);
            }
        }
    });
    out
}
