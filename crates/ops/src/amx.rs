//! The tile registers of AMX, shared by the kernels that use them.
//!
//! Rust has no stable intrinsics for them, so they are used through assembly. No compiled code touches the registers.
//! Therefore their contents stay as they are from one piece of assembly to the next.

use std::arch::asm;
use std::mem::MaybeUninit;

/// Bytes of a row of a tile register.
pub(crate) const LINE: usize = 64;
/// Bytes of a tile register.
pub(crate) const TILE_BYTES: usize = 1024;
/// Most rows of a tile register.
pub(crate) const HEIGHT: usize = 16;

/// Memory that tiles are read from and written to, on cache lines.
#[repr(align(64))]
pub(crate) struct Buffer<const BYTES: usize>(MaybeUninit<[u8; BYTES]>);

impl<const BYTES: usize> Buffer<BYTES> {
    pub(crate) fn new() -> Self {
        Self(MaybeUninit::uninit())
    }
    pub(crate) fn ptr(&mut self) -> *mut u8 {
        self.0.as_mut_ptr().cast()
    }
}

/// What `ldtilecfg` reads.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Gives the eight tile registers their shapes: rows, and bytes per row. All become zero.
#[inline]
pub(crate) fn configure(shapes: [(usize, usize); 8]) {
    let mut config = Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
    for (i, (rows, bytes)) in shapes.into_iter().enumerate() {
        debug_assert!((1..=HEIGHT).contains(&rows) && (1..=LINE).contains(&bytes));
        (config.rows[i], config.row_bytes[i]) = (rows as u8, bytes as u16);
    }
    // SAFETY: the shapes are valid, and no compiled code uses tile registers.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly)) };
}

/// Ends the use of the tile registers, so that they need not be saved any more.
#[inline]
pub(crate) fn release() {
    // SAFETY: no compiled code uses tile registers.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}

/// Sets the first four tile registers to zero.
#[inline]
pub(crate) fn clear_sums() {
    // SAFETY: no compiled code uses tile registers.
    unsafe { asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", options(nostack, nomem)) };
}

/// Writes the first four tile registers to memory, [`TILE_BYTES`] each.
///
/// # Safety
/// There must be room for four tiles, and the registers must have shapes.
#[inline]
pub(crate) unsafe fn save_sums(to: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "tilestored [{to} + {line}], tmm0",
            "tilestored [{to} + {line} + 1024], tmm1",
            "tilestored [{to} + {line} + 2048], tmm2",
            "tilestored [{to} + {line} + 3072], tmm3",
            to = in(reg) to,
            line = in(reg) LINE,
            options(nostack),
        );
    }
}
