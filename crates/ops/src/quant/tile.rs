//! The work of a kernel, and the kernel of each instruction path.

use super::format::QuantFormat;
use super::portable;
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use crate::Isa;

/// The scale and the correction of a group of 32 inputs of a row.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Meta {
    pub(super) scale: f32,
    /// The number with which the integer sum over the group begins: -128 times the sum of the codes.
    pub(super) start: i32,
}

/// `rows` rows by `panels` adjacent panels over `blocks` blocks of the contraction.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    /// The first row's codes (signed bytes), from the first block on.
    pub(super) x: *const u8,
    /// Bytes from one row to the next.
    pub(super) x_row: usize,
    /// The first row's groups, from the first block on.
    pub(super) meta: *const Meta,
    /// Elements from one row to the next.
    pub(super) meta_row: usize,
    /// The first panel's first block.
    pub(super) w: *const u8,
    /// Bytes from one panel to the next.
    pub(super) w_panel: usize,
    pub(super) blocks: usize,
    /// The sums, sixteen for each panel of a row, side by side.
    pub(super) sums: *mut f32,
    /// Elements from one row of sums to the next.
    pub(super) sums_row: usize,
    /// Whether the sums start from zero, or from what is there.
    pub(super) first: bool,
    /// How many bytes ahead of its use each line of a panel is prefetched (0: not at all).
    pub(super) ahead: usize,
}

/// Adds the tile's products to its sums: `(tile, format, rows, panels)`.
///
/// # Safety
/// The tile's pointers must be valid for its extents, and the processor must have the instructions.
pub(super) type RunTile = unsafe fn(&Tile, QuantFormat, usize, usize);

/// Widens Int4 blocks to Int8 blocks: `(from, blocks, ahead, to)`. Scales are copied. Lines `ahead` bytes further on
/// are prefetched.
///
/// # Safety
/// Source and target must be valid for `blocks` blocks, and the processor must have the instructions.
pub(super) type Widen = unsafe fn(*const u8, usize, usize, *mut u8);

/// The kernels of an instruction path.
#[derive(Clone, Copy)]
pub(super) struct Kernel {
    pub(super) run: RunTile,
    pub(super) widen: Widen,
    /// Largest number of rows of a tile.
    pub(super) rows: usize,
    /// Largest number of panels of a tile with `rows` rows, if the panels are read in this format.
    pub(super) panels: fn(rows: usize, QuantFormat) -> usize,
}

impl Kernel {
    pub(super) fn of(isa: Isa) -> Self {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 | Isa::Amx if avx512::available() => avx512::KERNEL,
            #[cfg(target_arch = "x86_64")]
            Isa::Amx | Isa::Avx512Bf16 | Isa::Avx2 => avx2::kernel(),
            _ => portable::KERNEL,
        }
    }
}
