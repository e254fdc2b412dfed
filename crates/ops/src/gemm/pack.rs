//! From rows to panels (the P16 form of `gemm`), and from one float format to the other.
//!
//! Two directions, both with the conversion fused in: `lanes_from_rows` makes one panel of sixteen rows (contraction
//! along the columns: a weight's forward form), `lanes_from_cols` interleaves neighbouring rows (contraction along the
//! rows: a weight's backward form, and both operands of a weight gradient).

#[cfg(target_arch = "x86_64")]
use super::pack512;
use super::{LANES, STEP_BYTES, steps};
use crate::{DType, Isa, MatRef};
use half::bf16;

/// Plain rows in memory.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    pub(crate) ptr: *const u8,
    /// Bytes from one row to the next.
    pub(crate) stride: usize,
    pub(crate) dtype: DType,
}

// SAFETY: only names memory; every use is unsafe and states its own contract.
unsafe impl Send for Rows {}
// SAFETY: as above.
unsafe impl Sync for Rows {}

impl Rows {
    pub(crate) fn of(m: &MatRef<'_>) -> Self {
        let ptr = match m.dtype() {
            DType::F32 => m.f32().as_ptr().cast(),
            DType::Bf16 => m.bf16().as_ptr().cast(),
            DType::I32 => panic!("gemm: i32 operand"),
        };
        Self { ptr, stride: m.stride() * m.dtype().size(), dtype: m.dtype() }
    }
    /// The rows from `row` on, from column `col` on.
    ///
    /// # Safety
    /// They must exist (or be one past the end).
    pub(crate) unsafe fn at(self, row: usize, col: usize) -> Self {
        // SAFETY: the caller's promise.
        Self { ptr: unsafe { self.ptr.add(row * self.stride + col * self.dtype.size()) }, ..self }
    }
}

/// Panels being written.
#[derive(Clone, Copy)]
pub(crate) struct Panels {
    pub(crate) ptr: *mut u8,
    /// Bytes from one panel to the next.
    pub(crate) panel: usize,
    pub(crate) dtype: DType,
    /// Whether they are not needed soon, so that writing them should leave the caches alone.
    pub(crate) stream: bool,
}

// SAFETY: only names memory; every use is unsafe and states its own contract.
unsafe impl Send for Panels {}
// SAFETY: as above.
unsafe impl Sync for Panels {}

/// One panel whose lanes are `rows` (at most 16) rows of `cols` elements; missing lanes and the odd half are zero.
///
/// # Safety
/// Source and the panel's `steps(cols)` steps must be valid, and the processor have `isa`.
pub(crate) unsafe fn lanes_from_rows(isa: Isa, src: Rows, rows: usize, cols: usize, dst: Panels) {
    debug_assert!(rows <= LANES);
    // SAFETY: the caller's promise.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => pack512::lanes_from_rows(src, rows, cols, dst),
            _ => portable_rows(src, rows, cols, dst),
        }
    }
}

/// Panels whose lanes are `cols` columns, from step 0 of `dst` on, `steps(rows)` steps; missing lanes and the odd half
/// are zero.
///
/// # Safety
/// Source and the panels must be valid for these extents, and the processor have `isa`.
pub(crate) unsafe fn lanes_from_cols(isa: Isa, src: Rows, rows: usize, cols: usize, dst: Panels) {
    // SAFETY: the caller's promise.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => pack512::lanes_from_cols(src, rows, cols, dst),
            _ => portable_cols(src, rows, cols, dst),
        }
    }
}

/// Element `(row, col)` in f32.
unsafe fn get(src: Rows, row: usize, col: usize) -> f32 {
    // SAFETY: the caller promises that the element exists; tensors are aligned to their elements.
    unsafe {
        let row = src.ptr.add(row * src.stride);
        if src.dtype == DType::F32 { *row.cast::<f32>().add(col) } else { (*row.cast::<bf16>().add(col)).to_f32() }
    }
}

/// Writes element `k` of the contraction for `lane` of the panel at `panel`.
unsafe fn put(panel: *mut u8, dtype: DType, k: usize, lane: usize, v: f32) {
    // SAFETY: the caller promises that the panel has the step.
    unsafe {
        if dtype == DType::F32 {
            *panel.add(k * STEP_BYTES).cast::<f32>().add(lane) = v;
        } else {
            *panel.add(k / 2 * STEP_BYTES).cast::<bf16>().add(lane * 2 + k % 2) = bf16::from_f32(v);
        }
    }
}

/// Contraction elements a panel has room for.
fn padded(dtype: DType, k: usize) -> usize {
    if dtype == DType::Bf16 { steps(dtype, k) * 2 } else { k }
}

unsafe fn portable_rows(src: Rows, rows: usize, cols: usize, dst: Panels) {
    for k in 0..padded(dst.dtype, cols) {
        for lane in 0..LANES {
            // SAFETY: inside the extents the caller promised.
            unsafe {
                let v = if lane < rows && k < cols { get(src, lane, k) } else { 0.0 };
                put(dst.ptr, dst.dtype, k, lane, v);
            }
        }
    }
}

unsafe fn portable_cols(src: Rows, rows: usize, cols: usize, dst: Panels) {
    for k in 0..padded(dst.dtype, rows) {
        for col in 0..cols.next_multiple_of(LANES) {
            // SAFETY: inside the extents the caller promised.
            unsafe {
                let v = if k < rows && col < cols { get(src, k, col) } else { 0.0 };
                put(dst.ptr.add(col / LANES * dst.panel), dst.dtype, k, col % LANES, v);
            }
        }
    }
}

/// `n` elements from one float format to the other, as packing would round them.
///
/// # Safety
/// Both must be valid for `n` elements, and the processor have `isa`.
pub(crate) unsafe fn convert_row(isa: Isa, src: *const u8, from: DType, n: usize, dst: *mut u8, to: DType) {
    // SAFETY: the caller's promise.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => pack512::convert_row(src, from, n, dst, to),
            _ => {
                for i in 0..n {
                    let v = get(Rows { ptr: src, stride: 0, dtype: from }, 0, i);
                    if to == DType::F32 {
                        *dst.cast::<f32>().add(i) = v;
                    } else {
                        *dst.cast::<bf16>().add(i) = bf16::from_f32(v);
                    }
                }
            }
        }
    }
}

/// Rows of a task that packs or converts.
pub(crate) const PACK_ROWS: usize = 64;
