//! Matrix products on the processor: packed panels, register tiles, tasks.
//!
//! One product is `C[m, n] (acc)= A[m, k] B[k, n]`, accumulated in f32. Everything is counted in *steps* of four bytes
//! of the contraction. A step is two neighbouring bf16 values (the input of one lane of the BF16 dot product) or one
//! f32.
//!
//! **Panels (P16).** An operand with `c` lanes (its own dimension) and contraction length `k` is stored as
//! `[ceil(c/16)][steps(k)][16]` four-byte words, that is `[..][ceil(k/2)][16][2]` bf16 or `[..][k][16]` f32, zero padded.
//! The same form serves as either operand. As B, a step is one 64-byte vector. As A, it is sixteen words to broadcast.
//! A may also be plain rows, whose pairs along k are already adjacent.
//!
//! **Order of summation.** Every element of C is computed in blocks of steps. Within a block it is a chain over the
//! steps that starts from zero, and the blocks are added in ascending order. Blocks are at absolute positions and have
//! `BLOCK` steps, fewer in `outer`. So the order is a function of `k` alone. It does not depend on the tile, the row's
//! position in it, the group or the threads. A row gives the same bits everywhere, and the sizes of tiles and tasks can
//! be chosen for caches and threads.

// Operands are byte pointers into tensors, which are aligned; offsets are whole elements.
#![allow(clippy::cast_ptr_alignment)]

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub mod bench;
pub(crate) mod limited;
pub(crate) mod outer;
pub(crate) mod pack;
#[cfg(target_arch = "x86_64")]
mod pack512;
mod peak;
pub(crate) mod places;
mod portable;
mod scaled;
mod task;

pub use peak::{peak_gflops, peak_int8_gops};
pub(crate) use scaled::{ScaledProduct, multiply_scaled};
#[cfg(test)]
pub(crate) use task::CACHED;
pub(crate) use task::{Codes, Product, multiply};

use crate::{Acc, DType, Isa};

/// Lanes of a panel.
pub(crate) const LANES: usize = 16;
/// Bytes of one step of a panel.
pub(crate) const STEP_BYTES: usize = 64;
/// Steps of one block of the contraction. Part of the definition of the result's bits.
pub(crate) const BLOCK: usize = 1024;

/// Number of steps of a contraction over `k` elements.
pub(crate) fn steps(dtype: DType, k: usize) -> usize {
    if dtype == DType::F32 { k } else { k.div_ceil(2) }
}
/// Bytes of an operand in panels. Codes need half as many.
pub(crate) fn panel_bytes(dtype: DType, lanes: usize, k: usize) -> usize {
    let step = if dtype == DType::U8 { STEP_BYTES / 2 } else { STEP_BYTES };
    lanes.div_ceil(LANES) * steps(dtype, k) * step
}

/// Prefetches `bytes` bytes from `p` on into the second-level cache. Any address is allowed.
#[inline]
pub(crate) fn fetch(p: *const u8, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..bytes).step_by(64) {
        // SAFETY: a prefetch accesses nothing as far as the program can tell, and every x86-64 has the instruction.
        unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(p.wrapping_add(line).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (p, bytes);
}

/// Makes streamed stores visible to other threads before later operations.
fn fence() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has the instruction.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

/// How a tile's sums are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Out {
    WriteF32,
    /// Stores f32 past the caches, if the path can. It is for a C of whole cache lines that is larger than the caches.
    StreamF32,
    AddF32,
    WriteBf16,
    AddBf16,
}

impl Out {
    pub(crate) fn new(dtype: DType, acc: Acc) -> Self {
        match (dtype, acc) {
            (DType::F32, Acc::Write) => Self::WriteF32,
            (DType::F32, Acc::Add) => Self::AddF32,
            (DType::Bf16, Acc::Write) => Self::WriteBf16,
            (DType::Bf16, Acc::Add) => Self::AddBf16,
            (other, _) => panic!("gemm: {other:?} output"),
        }
    }
}

/// One register tile: `rows` rows of A by `panels` adjacent panels of B over `steps` steps.
#[derive(Clone, Copy)]
pub(crate) struct Tile {
    /// First row's first step.
    pub(crate) a: *const u8,
    /// Bytes from one row of A to the next.
    pub(crate) a_row: usize,
    /// Bytes from one panel of A to the next, if A is packed.
    pub(crate) a_panel: usize,
    /// Whether a last step follows whose second bf16 does not exist (plain rows, odd k).
    pub(crate) half: bool,
    /// First panel's first step.
    pub(crate) b: *const u8,
    /// Bytes from one panel to the next.
    pub(crate) b_panel: usize,
    pub(crate) steps: usize,
    /// Sums of the previous blocks, which are added first: rows of whole panels. Null if there are none.
    pub(crate) sums: *const f32,
    /// Elements from one row of `sums` to the next.
    pub(crate) sums_row: usize,
    pub(crate) c: *mut u8,
    /// Bytes from one row of C to the next.
    pub(crate) c_row: usize,
    /// Number of existing columns of C, counted from the tile's first: more than `16 * (panels - 1)`.
    pub(crate) cols: usize,
    pub(crate) out: Out,
    /// Scales of blocks of the contraction, if there are any.
    pub(crate) scales: Option<Scales>,
    /// How many bytes ahead of its use B is asked for, by kernels that can; zero if it need not be.
    pub(crate) ahead: usize,
}

/// Scales of a tile's operands (report 3.3.2). The sum of each [`SCALED`] steps is multiplied by a factor of the row
/// and a factor of the lane, and added to the tile's sum in f32.
#[derive(Clone, Copy)]
pub(crate) struct Scales {
    /// First block's factor of the first row.
    pub(crate) a: *const f32,
    /// Elements from one row's to the next.
    pub(crate) a_row: usize,
    /// Elements from one block's to the next.
    pub(crate) a_block: usize,
    /// First block's factors for the first panel's lanes.
    pub(crate) b: *const f32,
    /// Elements from one block's to the next.
    pub(crate) b_block: usize,
}

/// Number of steps that share scales: 128 bf16.
pub(crate) const SCALED: usize = crate::fp8::TILE / 2;

/// A register-tile kernel: `(tile, rows, panels)`.
///
/// # Safety
/// The tile's pointers must be valid for its extents and the processor must have the instructions.
pub(crate) type RunTile = unsafe fn(&Tile, usize, usize);

/// The kernel of an instruction path for a format and a form of A, with its largest tile.
#[derive(Clone, Copy)]
pub(crate) struct Microkernel {
    pub(crate) run: RunTile,
    /// Largest number of rows. If A is packed, it divides 16 or is a multiple of 16.
    pub(crate) rows: usize,
    /// Largest number of panels for a tile with this many rows.
    pub(crate) panels: fn(rows: usize) -> usize,
}

impl Microkernel {
    pub(crate) fn of(isa: Isa, dtype: DType, packed: bool) -> Self {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Amx if dtype == DType::Bf16 => amx::kernel(packed),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 | Isa::Amx => avx512::kernel(dtype, packed),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::kernel(dtype, packed),
            _ => portable::kernel(dtype, packed),
        }
    }
}
