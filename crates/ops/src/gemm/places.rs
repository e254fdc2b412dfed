//! Memory that packing reads and writes: rows and panels, without bounds checks.

use crate::{DType, MatRef};

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
            other => panic!("gemm: {other:?} operand"),
        };
        Self { ptr, stride: m.stride() * m.dtype().size(), dtype: m.dtype() }
    }
    /// The rows from `row` on, starting at column `col`.
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
    /// Whether the panels are not needed soon. Then they are written past the caches.
    pub(crate) stream: bool,
}

// SAFETY: only names memory; every use is unsafe and states its own contract.
unsafe impl Send for Panels {}
// SAFETY: as above.
unsafe impl Sync for Panels {}
