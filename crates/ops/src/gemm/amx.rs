//! Register tiles with AMX: up to 32 rows by pairs of panels, 32 x 1024 products per instruction.
//!
//! A tile of B is sixteen steps of a panel (P16): 16 rows of 64 bytes. A tile of A is sixteen plain rows of 64 bytes,
//! which are sixteen steps as well. Packed rows are transposed first. The tile registers hold four sums (2 x 2, or one
//! by four panels), two tiles of A and two of B.
//!
//! The instruction adds the products of a lane over the sixteen steps in a fixed order, to a sum that it reads once. So
//! the order of a sum depends only on k, as on the other paths. It differs from the order of the AVX-512 path.

use super::pack512::transpose16;
use super::{LANES, Microkernel, SCALED, STEP_BYTES, Scales, Tile, avx512, outer};
use crate::amx::{self, Buffer, HEIGHT, LINE, TILE_BYTES, clear_sums, save_sums};
use std::arch::asm;
use std::arch::x86_64::*;

/// Steps of an AMX tile: bytes of a row over those of a step.
const CHUNK: usize = 16;
/// Most rows of a register tile.
const ROWS: usize = 2 * HEIGHT;

pub(super) fn kernel(packed: bool) -> Microkernel {
    if packed {
        // All panels of a tile of C at once: its rows of A are transposed only once.
        Microkernel { run: packed_tile, rows: ROWS, panels: |_| 32 }
    } else {
        Microkernel { run: plain_tile, rows: ROWS, panels: |rows| if rows <= HEIGHT { 4 } else { 2 } }
    }
}

/// Gives the tile registers their shapes for `rows` rows of A: tmm0-3 are sums, tmm4-5 are A, tmm6-7 are B.
#[inline]
pub(super) fn configure(rows: usize) {
    let (first, second) = (rows.min(HEIGHT), rows.saturating_sub(HEIGHT).max(1));
    // With up to sixteen rows, all sums belong to them.
    let below = if rows <= HEIGHT { first } else { second };
    amx::configure([first, first, below, below, first, second, 16, 16].map(|rows| (rows, LINE)));
}

/// Operands of some chunks of sixteen steps.
#[derive(Clone, Copy)]
struct Chunks {
    /// First row of each tile of A.
    a: [*const u8; 2],
    /// Bytes from one row to the next.
    a_row: usize,
    /// Bytes from one chunk to the next.
    a_chunk: usize,
    /// First panel's first step.
    b: *const u8,
    /// Bytes from one panel to the next.
    b_panel: usize,
    count: usize,
}

/// Adds the products of some chunks to the sums. The lines follow those of the first tile of A by the first panel.
macro_rules! products {
    ($name:ident, $($line:literal)*) => {
        /// # Safety
        /// The tile registers must have shapes, and the chunks must be valid for them. `count` is not zero.
        #[inline]
        unsafe fn $name(c: Chunks) {
            let b = |panel: usize| c.b.wrapping_add(panel * c.b_panel);
            // SAFETY: the caller's promise; no compiled code uses tile registers.
            unsafe {
                asm!(
                    ".p2align 4",
                    "2:",
                    "tileloadd tmm4, [{a0} + {a_row}]",
                    "tileloadd tmm6, [{b0} + {line}]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    $($line,)*
                    "add {a0}, {a_chunk}",
                    "add {a1}, {a_chunk}",
                    "add {b0}, {bytes}",
                    "add {b1}, {bytes}",
                    "add {b2}, {bytes}",
                    "add {b3}, {bytes}",
                    "dec {n}",
                    "jnz 2b",
                    a0 = inout(reg) c.a[0] => _,
                    a1 = inout(reg) c.a[1] => _,
                    a_row = in(reg) c.a_row,
                    a_chunk = in(reg) c.a_chunk,
                    b0 = inout(reg) b(0) => _,
                    b1 = inout(reg) b(1) => _,
                    b2 = inout(reg) b(2) => _,
                    b3 = inout(reg) b(3) => _,
                    line = in(reg) STEP_BYTES,
                    n = inout(reg) c.count => _,
                    bytes = const TILE_BYTES,
                    options(nostack, readonly),
                );
            }
        }
    };
}

products!(one_by_one,);
products!(one_by_two,
    "tileloadd tmm7, [{b1} + {line}]"
    "tdpbf16ps tmm1, tmm4, tmm7"
);
products!(one_by_three,
    "tileloadd tmm7, [{b1} + {line}]"
    "tdpbf16ps tmm1, tmm4, tmm7"
    "tileloadd tmm6, [{b2} + {line}]"
    "tdpbf16ps tmm2, tmm4, tmm6"
);
products!(one_by_four,
    "tileloadd tmm7, [{b1} + {line}]"
    "tdpbf16ps tmm1, tmm4, tmm7"
    "tileloadd tmm6, [{b2} + {line}]"
    "tdpbf16ps tmm2, tmm4, tmm6"
    "tileloadd tmm7, [{b3} + {line}]"
    "tdpbf16ps tmm3, tmm4, tmm7"
);
products!(two_by_one,
    "tileloadd tmm5, [{a1} + {a_row}]"
    "tdpbf16ps tmm2, tmm5, tmm6"
);
products!(two_by_two,
    "tileloadd tmm7, [{b1} + {line}]"
    "tdpbf16ps tmm1, tmm4, tmm7"
    "tileloadd tmm5, [{a1} + {a_row}]"
    "tdpbf16ps tmm2, tmm5, tmm6"
    "tdpbf16ps tmm3, tmm5, tmm7"
);

/// # Safety
/// As `products!`.
#[inline]
unsafe fn multiply(c: Chunks, rows: usize, panels: usize) {
    if c.count == 0 {
        return;
    }
    // SAFETY: the caller's promise.
    unsafe {
        match (rows > HEIGHT, panels) {
            (false, 1) => one_by_one(c),
            (false, 2) => one_by_two(c),
            (false, 3) => one_by_three(c),
            (false, _) => one_by_four(c),
            (true, 1) => two_by_one(c),
            (true, _) => two_by_two(c),
        }
    }
}

/// Where the sum of a row and a panel lies among the saved ones, in f32.
#[inline]
fn place(rows: usize, row: usize, panel: usize) -> usize {
    let tile = if rows <= HEIGHT { panel } else { row / HEIGHT * 2 + panel };
    tile * HEIGHT * LANES + row % HEIGHT * LANES
}

/// Operands of a register tile: whole chunks, and the steps after them.
#[derive(Clone, Copy)]
struct Operands {
    chunks: Chunks,
    /// Steps after the last whole chunk.
    rest: usize,
}

unsafe fn plain_tile(t: &Tile, rows: usize, panels: usize) {
    let whole = t.steps / CHUNK;
    let a = [t.a, t.a.wrapping_add(HEIGHT * t.a_row)];
    let chunks = Chunks { a, a_row: t.a_row, a_chunk: CHUNK * 4, b: t.b, b_panel: t.b_panel, count: whole };
    let rest = t.steps - whole * CHUNK;
    let mut last = Buffer::<{ 2 * TILE_BYTES }>::new();
    configure(rows);
    // SAFETY: the caller promises the steps of every row and panel, and one half of a step more if `half`.
    unsafe {
        if rest > 0 || t.half {
            last.ptr().write_bytes(0, rows * 64);
            for r in 0..rows {
                let from = t.a.add(r * t.a_row + whole * CHUNK * 4);
                from.copy_to_nonoverlapping(last.ptr().add(r * 64), rest * 4 + if t.half { 2 } else { 0 });
            }
        }
        let rest = Operands { chunks, rest: rest + usize::from(t.half) };
        finish_panels(t, rest, last.ptr(), rows, 0, panels);
    }
    amx::release();
}

/// Packed rows, by all panels of a tile of C. The rows are transposed first.
unsafe fn packed_tile(t: &Tile, rows: usize, panels: usize) {
    const MOST: usize = outer::STEPS / CHUNK + 1;
    let mut plain = Buffer::<{ 2 * MOST * TILE_BYTES }>::new();
    let of = t.steps.div_ceil(CHUNK);
    debug_assert!(of <= MOST && !t.half);
    configure(rows);
    // SAFETY: the caller promises the steps. A chunk that is not whole is padded with zeros.
    unsafe {
        let at = |row_tile: usize, chunk: usize| (row_tile * MOST + chunk) * TILE_BYTES;
        for tile in 0..rows.div_ceil(HEIGHT) {
            for chunk in 0..of {
                let count = CHUNK.min(t.steps - chunk * CHUNK);
                let from = t.a.add(tile * t.a_panel + chunk * CHUNK * STEP_BYTES);
                transpose(from, count, plain.ptr().add(at(tile, chunk)));
            }
        }
        let whole = t.steps / CHUNK;
        let a = [plain.ptr().cast_const(), plain.ptr().add(at(1, 0)).cast_const()];
        let mut last = Buffer::<{ 2 * TILE_BYTES }>::new();
        let rest = t.steps - whole * CHUNK;
        if rest > 0 {
            for tile in 0..rows.div_ceil(HEIGHT) {
                let from = plain.ptr().add(at(tile, whole)).cast_const();
                from.copy_to_nonoverlapping(last.ptr().add(tile * TILE_BYTES), TILE_BYTES);
            }
        }
        let wide = if rows <= HEIGHT { 4 } else { 2 };
        for j in (0..panels).step_by(wide) {
            let b = t.b.add(j * t.b_panel);
            let chunks = Chunks { a, a_row: 64, a_chunk: TILE_BYTES, b, b_panel: t.b_panel, count: whole };
            finish_panels(t, Operands { chunks, rest }, last.ptr(), rows, j, wide.min(panels - j));
        }
    }
    amx::release();
}

/// Sums of `count` panels from panel `j` on, and their place in C. `last` has the rows of a chunk that is not whole.
unsafe fn finish_panels(t: &Tile, a: Operands, last: *mut u8, rows: usize, j: usize, count: usize) {
    let mut sums = Buffer::<{ 4 * TILE_BYTES }>::new();
    // SAFETY: the caller's promise.
    unsafe {
        if let Some(scales) = &t.scales {
            scaled(scales, a, last, rows, (j, count), sums.ptr().cast());
        } else {
            clear_sums();
            multiply(a.chunks, rows, count);
            multiply_rest(a, last, rows, count);
            save_sums(sums.ptr());
        }
        store(t, sums.ptr().cast(), rows, j, count);
    }
}

/// Adds the products of the steps after the last whole chunk. They are padded with zeros: A in `last`, B here.
#[inline]
unsafe fn multiply_rest(a: Operands, last: *const u8, rows: usize, panels: usize) {
    if a.rest == 0 {
        return;
    }
    let mut b = Buffer::<{ 4 * TILE_BYTES }>::new();
    // SAFETY: the panels have the steps, as the caller promises.
    unsafe {
        for panel in 0..panels {
            let from = a.chunks.b.add(panel * a.chunks.b_panel + a.chunks.count * TILE_BYTES);
            let to = b.ptr().add(panel * TILE_BYTES);
            from.copy_to_nonoverlapping(to, a.rest * STEP_BYTES);
            to.add(a.rest * STEP_BYTES).write_bytes(0, (CHUNK - a.rest) * STEP_BYTES);
        }
        let a = [last, last.add(TILE_BYTES)];
        let rest = Chunks { a, a_row: 64, a_chunk: 0, b: b.ptr(), b_panel: TILE_BYTES, count: 1 };
        multiply(rest, rows, panels);
    }
}

/// Sums over blocks of [`SCALED`] steps, promoted to f32 (report 3.3.2).
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn scaled(
    scales: &Scales,
    a: Operands,
    last: *const u8,
    rows: usize,
    (j, count): (usize, usize),
    sums: *mut f32,
) {
    const PER_BLOCK: usize = SCALED / CHUNK;
    let mut part = Buffer::<{ 4 * TILE_BYTES }>::new();
    let blocks = (a.chunks.count * CHUNK + a.rest).div_ceil(SCALED);
    // SAFETY: the caller's promise; scales are there for every row, lane and block.
    unsafe {
        if blocks == 0 {
            sums.write_bytes(0, 4 * TILE_BYTES / 4);
        }
        for block in 0..blocks {
            let first = block * PER_BLOCK;
            let chunks = PER_BLOCK.min(a.chunks.count - first);
            let c = Chunks {
                a: a.chunks.a.map(|p| p.wrapping_add(first * a.chunks.a_chunk)),
                b: a.chunks.b.add(first * TILE_BYTES),
                count: chunks,
                ..a.chunks
            };
            clear_sums();
            multiply(c, rows, count);
            if block + 1 == blocks {
                multiply_rest(a, last, rows, count);
            }
            save_sums(part.ptr());
            let part: *const f32 = part.ptr().cast_const().cast();
            for panel in 0..count {
                let b_scale = _mm512_loadu_ps(scales.b.add(block * scales.b_block + (j + panel) * LANES));
                for r in 0..rows {
                    let at = place(rows, r, panel);
                    let a_scale = _mm512_set1_ps(*scales.a.add(r * scales.a_row + block * scales.a_block));
                    let old = if block == 0 { _mm512_setzero_ps() } else { _mm512_load_ps(sums.add(at)) };
                    let scale = _mm512_mul_ps(a_scale, b_scale);
                    _mm512_store_ps(sums.add(at), _mm512_fmadd_ps(_mm512_load_ps(part.add(at)), scale, old));
                }
            }
        }
    }
}

/// Stores the sums in C.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn store(t: &Tile, sums: *const f32, rows: usize, j: usize, count: usize) {
    for panel in 0..count {
        let lanes = (t.cols - (j + panel) * LANES).min(LANES);
        let mask = (0xffff_u32 >> (LANES - lanes)) as u16;
        for r in 0..rows {
            // SAFETY: the tile's C, and sums of blocks before if there are any.
            unsafe {
                let mut v = _mm512_load_ps(sums.add(place(rows, r, panel)));
                if !t.sums.is_null() {
                    v = _mm512_add_ps(_mm512_loadu_ps(t.sums.add(r * t.sums_row + (j + panel) * LANES)), v);
                }
                avx512::store(t.c.add(r * t.c_row), j + panel, v, mask, t.out);
            }
        }
    }
}

/// Sixteen plain rows of sixteen steps from `count` steps of a panel. Missing steps are zero.
#[target_feature(enable = "avx512f")]
unsafe fn transpose(from: *const u8, count: usize, to: *mut u8) {
    // SAFETY: the caller promises the steps, and room for a tile.
    unsafe {
        let mut v = [_mm512_setzero_si512(); 16];
        for (i, v) in v.iter_mut().enumerate().take(count) {
            *v = _mm512_loadu_si512(from.add(i * STEP_BYTES).cast());
        }
        for (i, v) in transpose16(&v).into_iter().enumerate() {
            _mm512_storeu_si512(to.add(i * 64).cast(), v);
        }
    }
}
