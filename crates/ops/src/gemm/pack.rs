//! Packs rows into panels (the P16 form of `gemm`), and converts float formats.
//!
//! There are two directions, both including the conversion. `lanes_from_rows` makes one panel from sixteen rows. The
//! contraction is along the columns, as in a weight's forward form. `lanes_from_cols` interleaves neighbouring rows.
//! The contraction is along the rows, as in a weight's backward form and in both operands of a weight gradient.

#[cfg(target_arch = "x86_64")]
use super::pack512;
use super::places::{Panels, Rows};
use super::{LANES, STEP_BYTES};
use crate::{DType, Isa};
use half::bf16;

/// One panel whose lanes are `rows` (at most 16) rows of `cols` elements. Missing lanes and the odd half are zero.
///
/// # Safety
/// Source and the panel's `steps(cols)` steps must be valid, and the processor must have `isa`.
pub(crate) unsafe fn lanes_from_rows(isa: Isa, src: Rows, rows: usize, cols: usize, dst: Panels) {
    debug_assert!(rows <= LANES);
    // SAFETY: the caller's promise.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 | Isa::Amx => pack512::lanes_from_rows(src, rows, cols, dst),
            _ => portable_rows(src, rows, cols, dst),
        }
    }
}

/// Panels whose lanes are `cols` columns, with `steps(rows)` steps from step 0 of `dst` on. Missing lanes and the odd
/// half are zero.
///
/// # Safety
/// Source and panels must be valid for these extents, and the processor must have `isa`.
pub(crate) unsafe fn lanes_from_cols(isa: Isa, src: Rows, rows: usize, cols: usize, dst: Panels) {
    // SAFETY: the caller's promise.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 | Isa::Amx => pack512::lanes_from_cols(src, rows, cols, dst),
            _ => portable_cols(src, rows, cols, dst),
        }
    }
}

/// One panel of codes, `[steps][16][2]` bytes, from sixteen rows of `2 * steps` codes (padded to a multiple of 64) that
/// are `stride` bytes apart.
///
/// # Safety
/// Source and panel must be valid for these extents, and the processor must have `isa`.
pub(crate) unsafe fn codes_from_rows(isa: Isa, src: *const u8, stride: usize, steps: usize, to: *mut u8) {
    #[cfg(target_arch = "x86_64")]
    if isa.has_avx512() {
        // SAFETY: the caller's promise.
        return unsafe { pack512::codes_from_rows(src, stride, steps, to) };
    }
    for s in 0..steps {
        for lane in 0..LANES {
            // SAFETY: the caller's promise; both are pairs of bytes.
            unsafe {
                let pair = src.add(lane * stride + 2 * s).cast::<[u8; 2]>().read();
                to.add((s * LANES + lane) * 2).cast::<[u8; 2]>().write(pair);
            }
        }
    }
    let _ = isa;
}

/// A float format in memory.
trait Float: Copy {
    fn to_f32(self) -> f32;
    fn from_f32(v: f32) -> Self;
    const ZERO: Self;
    /// Elements per step.
    const PER_STEP: usize;
}
impl Float for f32 {
    fn to_f32(self) -> f32 {
        self
    }
    fn from_f32(v: f32) -> Self {
        v
    }
    const ZERO: Self = 0.0;
    const PER_STEP: usize = 1;
}
impl Float for bf16 {
    fn to_f32(self) -> f32 {
        Self::to_f32(self)
    }
    fn from_f32(v: f32) -> Self {
        Self::from_f32(v)
    }
    const ZERO: Self = Self::ZERO;
    const PER_STEP: usize = 2;
}

macro_rules! by_format {
    ($src:expr, $dst:expr, $f:ident($($arg:expr),*)) => {
        match ($src, $dst) {
            (DType::F32, DType::F32) => $f::<f32, f32>($($arg),*),
            (DType::F32, _) => $f::<f32, bf16>($($arg),*),
            (_, DType::F32) => $f::<bf16, f32>($($arg),*),
            (_, _) => $f::<bf16, bf16>($($arg),*),
        }
    };
}

unsafe fn portable_rows(src: Rows, rows: usize, cols: usize, dst: Panels) {
    // SAFETY: the caller's promise.
    unsafe { by_format!(src.dtype, dst.dtype, plain_rows(src, rows, cols, dst)) }
}

unsafe fn portable_cols(src: Rows, rows: usize, cols: usize, dst: Panels) {
    // SAFETY: the caller's promise.
    unsafe { by_format!(src.dtype, dst.dtype, plain_cols(src, rows, cols, dst)) }
}

unsafe fn plain_rows<S: Float, D: Float>(src: Rows, rows: usize, cols: usize, dst: Panels) {
    let elements = cols.next_multiple_of(D::PER_STEP) * LANES;
    // SAFETY: the panel's steps and the rows' elements, as the caller promises.
    unsafe {
        let panel = std::slice::from_raw_parts_mut(dst.ptr.cast::<D>(), elements);
        if rows < LANES || !cols.is_multiple_of(D::PER_STEP) {
            panel.fill(D::ZERO);
        }
        for lane in 0..rows {
            let row = std::slice::from_raw_parts(src.ptr.add(lane * src.stride).cast::<S>(), cols);
            for (k, v) in row.iter().enumerate() {
                panel[k / D::PER_STEP * (LANES * D::PER_STEP) + lane * D::PER_STEP + k % D::PER_STEP] =
                    D::from_f32(v.to_f32());
            }
        }
    }
}

unsafe fn plain_cols<S: Float, D: Float>(src: Rows, rows: usize, cols: usize, dst: Panels) {
    for first in (0..cols).step_by(LANES) {
        let lanes = (cols - first).min(LANES);
        for k in (0..rows).step_by(D::PER_STEP) {
            // SAFETY: a step of a panel, and elements of existing rows, as the caller promises.
            unsafe {
                let step = dst.ptr.add(first / LANES * dst.panel + k / D::PER_STEP * STEP_BYTES);
                let step = std::slice::from_raw_parts_mut(step.cast::<D>(), LANES * D::PER_STEP);
                if lanes < LANES || k + D::PER_STEP > rows {
                    step.fill(D::ZERO);
                }
                for i in 0..D::PER_STEP.min(rows - k) {
                    let row = src.ptr.add((k + i) * src.stride).cast::<S>().add(first);
                    let row = std::slice::from_raw_parts(row, lanes);
                    for (to, v) in step[i..].iter_mut().step_by(D::PER_STEP).zip(row) {
                        *to = D::from_f32(v.to_f32());
                    }
                }
            }
        }
    }
}

unsafe fn plain_convert<S: Float, D: Float>(src: *const u8, n: usize, dst: *mut u8) {
    // SAFETY: n elements each, as the caller promises.
    let (from, to) =
        unsafe { (std::slice::from_raw_parts(src.cast::<S>(), n), std::slice::from_raw_parts_mut(dst.cast::<D>(), n)) };
    to.iter_mut().zip(from).for_each(|(to, v)| *to = D::from_f32(v.to_f32()));
}

/// Converts `n` elements from one float format to the other, with the same rounding as packing.
///
/// # Safety
/// Both must be valid for `n` elements, and the processor must have `isa`.
pub(crate) unsafe fn convert_row(isa: Isa, src: *const u8, from: DType, n: usize, dst: *mut u8, to: DType) {
    // SAFETY: the caller's promise.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 | Isa::Amx => pack512::convert_row(src, from, n, dst, to),
            _ => by_format!(from, to, plain_convert(src, n, dst)),
        }
    }
}

/// Rows per task of a conversion.
pub(crate) const PACK_ROWS: usize = 64;
