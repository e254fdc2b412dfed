//! Linear layers whose weights stay E4M3 codes at run time, for inference: `y[T, n] (acc)= x[T, k] W[n, k]^T`.
//!
//! A weight is `bf16(code * scale)`. Its tasks widen the codes to these numbers, a block of the contraction at a time,
//! and multiply them as BF16. Inputs are not quantised. So the result has the bits of the product with a BF16 weight of
//! the same values ([`super::grouped_forward`]), on every instruction path, in half of the memory.
//!
//! There is one scale per row and 128 of k, so that a matrix may consist of parts, each with its own blocks of 128x128.
//!
//! Layout: codes in panels `[ceil(n/16)][ceil(k/2)][16][2]`, scales f32 `[ceil(k/128)][lanes]`, n in whole panels.
//!
//! Panics when shapes disagree, x or y are not floating point, or a weight of several groups comes without offsets.

use super::{ByWeight, Operand, convert};
use crate::fp8::{E4M3, TILE};
use crate::gemm::pack::codes_from_rows;
use crate::gemm::places::Rows;
use crate::gemm::{Codes, LANES, Product, multiply, panel_bytes};
use crate::kernel::expect_float;
use crate::{Acc, Cx, DType, DisjointMut, MatMut, MatRef, Room, Tensor};

/// Weights `[groups, n, k]` as codes and scales, in memory of exactly their size outside of the pool.
pub struct CodedWeight {
    groups: usize,
    n: usize,
    k: usize,
    codes: Tensor,
    scales: Tensor,
}

impl CodedWeight {
    /// Memory for weights. [`CodedWeight::fill`] must fill it before it is used.
    pub fn new(cx: &Cx, groups: usize, n: usize, k: usize) -> Self {
        match Self::in_room(groups, n, k, &mut cx.room()) {
            Ok(weight) => weight,
        }
    }
    /// Weights in the memory that `room` provides for their `codes` and `scales`.
    ///
    /// # Errors
    /// Those of `room`.
    pub fn in_room<E>(groups: usize, n: usize, k: usize, room: &mut Room<'_, E>) -> Result<Self, E> {
        assert!(groups > 0, "coded weight: no groups");
        let codes = room("codes", &[groups * panel_bytes(DType::U8, n, k)], DType::U8)?;
        let scales = room("scales", &[groups * k.div_ceil(TILE) * n.next_multiple_of(LANES)], DType::F32)?;
        Ok(Self { groups, n, k, codes, scales })
    }
    /// Number of matrices.
    pub fn groups(&self) -> usize {
        self.groups
    }
    /// Number of outputs per matrix.
    pub fn n(&self) -> usize {
        self.n
    }
    /// Number of inputs per matrix.
    pub fn k(&self) -> usize {
        self.k
    }
    /// All codes in panels.
    pub fn codes(&self) -> &Tensor {
        &self.codes
    }
    /// All scales.
    pub fn scales(&self) -> &Tensor {
        &self.scales
    }
    /// Bytes of codes and scales.
    pub fn bytes(&self) -> usize {
        self.codes.bytes() + self.scales.bytes()
    }

    /// Packs all rows in bands. `codes` gives a band of codes `[rows, k]` from a row on. `scales` gives the scales of
    /// one row, one for every 128 of k. Rows are counted over all groups. Several threads call both.
    ///
    /// # Errors
    /// Returns the first error of `codes`.
    pub fn fill<E: Send>(
        &mut self,
        cx: &Cx,
        codes: &(dyn Fn(usize, &mut Tensor) -> Result<(), E> + Sync),
        scales: &(dyn Fn(usize, &mut [f32]) + Sync),
    ) -> Result<(), E> {
        let shape = (self.groups, self.n, self.k);
        let (n, k, tiles, lanes) = (self.n, self.k, self.k.div_ceil(TILE), self.n.next_multiple_of(LANES));
        let panel = panel_bytes(DType::U8, LANES, k);
        let to_codes = DisjointMut::new(self.codes.u8_mut());
        let to_scales = DisjointMut::new(self.scales.f32_mut());
        crate::bands::read_bands(cx, shape, DType::U8, codes, |group, row, values| {
            let mut of_row = vec![0.0; tiles];
            for first in (0..values.rows()).step_by(LANES) {
                let (at, rows) = (row + first, (values.rows() - first).min(LANES));
                // SAFETY: panels do not overlap, and this one is the task's.
                let to = unsafe { to_codes.slice((group * lanes + at) / LANES * panel, panel) };
                pack_panel(cx, &values.u8()[first * k..][..rows * k], k, to);
                for lane in 0..LANES {
                    // Lanes without a row have the last row's scales, so that a panel's lanes are equal if they can be.
                    if lane < rows {
                        scales(group * n + at + lane, &mut of_row);
                    }
                    for (tile, scale) in of_row.iter().enumerate() {
                        // SAFETY: as above.
                        unsafe { to_scales.slice((group * tiles + tile) * lanes + at + lane, 1)[0] = *scale };
                    }
                }
            }
        })
    }

    /// The values of row `row`: code times scale in f32. Rows are counted over all groups.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        let (group, row) = (row / self.n, row % self.n);
        assert!(group < self.groups && out.len() == self.k, "row {row} of group {group} into {} values", out.len());
        let (lanes, tiles) = (self.n.next_multiple_of(LANES), self.k.div_ceil(TILE));
        let panel = panel_bytes(DType::U8, LANES, self.k);
        let codes = &self.codes.u8()[(group * lanes + row) / LANES * panel..][..panel];
        for (i, out) in out.iter_mut().enumerate() {
            let code = codes[(i / 2 * LANES + row % LANES) * 2 + i % 2];
            *out = E4M3.decode(u16::from(code)) * self.scales.f32()[(group * tiles + i / TILE) * lanes + row];
        }
    }
}

/// Packs at most sixteen rows of `k` codes.
fn pack_panel(cx: &Cx, rows: &[u8], k: usize, panel: &mut [u8]) {
    // Codes of a block, zero where it has no element.
    let mut block = [[0u8; TILE]; LANES];
    for (col, to) in (0..k).step_by(TILE).zip(panel.chunks_mut(TILE * LANES)) {
        let cols = TILE.min(k - col);
        block.as_flattened_mut().fill(0);
        for (block, row) in block.iter_mut().zip(rows.chunks_exact(k)) {
            block[..cols].copy_from_slice(&row[col..col + cols]);
        }
        // SAFETY: sixteen rows of 128 codes, and the panel's steps of this block.
        unsafe {
            codes_from_rows(cx.isa(), block.as_flattened().as_ptr(), TILE, to.len() / (2 * LANES), to.as_mut_ptr());
        };
    }
}

/// `y[r, n] (acc)= x[r, k] W_g[n, k]^T` for the rows r of every group g. Rows of no group are left as they are. Without
/// offsets there is one group of all rows.
pub fn coded_forward<'a, 'b, 'c>(
    cx: &Cx,
    x: impl Into<MatRef<'a>>,
    w: &CodedWeight,
    offsets: impl Into<Option<&'c Tensor>>,
    y: impl Into<MatMut<'b>>,
    acc: Acc,
) {
    let (x, offsets, mut y) = (x.into(), offsets.into(), y.into());
    let op = "coded forward";
    expect_float(op, x.dtype());
    expect_float(op, y.dtype());
    let by = ByWeight::new(op, &Operand::Plain(x), (w.groups, w.n, w.k), false, offsets, &mut y);
    let _scope = cx.scope(op, 2 * (x.rows() * w.n * w.k) as u64, 0);
    let dtype = DType::Bf16;
    let converted = (x.dtype() != dtype).then(|| convert(cx, &x, dtype));
    let source = Rows::of(&converted.as_ref().map_or(x, Tensor::mat));
    let (lanes, panels) = (w.n.next_multiple_of(LANES), panel_bytes(DType::U8, w.n, w.k));
    let ByWeight { n, k, ref groups, c, c_dtype, c_row, .. } = by;
    // SAFETY: shapes were checked above; groups' rows do not overlap since offsets ascend.
    unsafe {
        multiply(cx, w.groups, |g| {
            let (first, m) = groups.range(g);
            let (a, a_row) = (source.at(first, 0).ptr, source.stride);
            let b = w.codes.u8()[g * panels..].as_ptr();
            let scales = w.scales.f32()[g * k.div_ceil(TILE) * lanes..].as_ptr();
            let codes = Some(Codes { scales, lanes });
            Product { m, n, k, dtype, a, a_row, b, codes, c: c.get().add(first * c_row), c_row, c_dtype, acc }
        });
    }
}
