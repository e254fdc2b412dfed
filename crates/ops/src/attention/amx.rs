//! The micro-kernel of [`super::tile`] with AMX, for BF16: eight rows by four panels in the registers of sums.
//!
//! Sixteen steps are one instruction. A row of a tile of B is a step's sixteen lanes, so panels are read as they are. A
//! tile of A has a row's neighbouring words side by side. Where words of a row are apart, they are transposed first.
//! Steps after the last sixteen are padded with zeros.

use super::tile::{Panels, ROWS, Rows, Start};
use super::transpose::transpose16;
use crate::amx::{self, Buffer, HEIGHT, LINE, TILE_BYTES, clear_sums, save_sums};
use std::arch::asm;
use std::arch::x86_64::*;

/// Steps of a tile.
const CHUNK: usize = 16;
/// Bytes of a tile of A.
const A_BYTES: usize = ROWS * LINE;
/// Tiles of A that are transposed at a time.
const AT_ONCE: usize = 8;
/// Panels of a register tile.
const WIDE: usize = 4;

/// Gives the tile registers the shapes that [`strip`] needs: tmm0-3 are sums, tmm4 is A, tmm5-7 are B.
pub(super) fn begin() {
    let (rows, b) = ((ROWS, LINE), (HEIGHT, LINE));
    amx::configure([rows, rows, rows, rows, rows, b, b, b]);
}

/// Ends the use of the tile registers.
pub(super) fn end() {
    amx::release();
}

/// Operands of some chunks of sixteen steps.
#[derive(Clone, Copy)]
struct Chunks {
    a: *const u8,
    /// Bytes from one row of A to the next, and from one chunk to the next.
    a_row: usize,
    a_chunk: usize,
    b: *const u8,
    /// Bytes from one step of B to the next.
    b_step: usize,
    count: usize,
}

/// Adds the products of some chunks to the sums.
macro_rules! products {
    ($name:ident, $($line:literal)*) => {
        /// # Safety
        /// The tile registers must have their shapes, and the chunks must be valid. `count` is not zero.
        #[inline]
        unsafe fn $name(c: Chunks) {
            // SAFETY: the caller's promise; no compiled code uses tile registers.
            unsafe {
                asm!(
                    ".p2align 4",
                    "2:",
                    "tileloadd tmm4, [{a} + {a_row}]",
                    "tileloadd tmm5, [{b} + {b_step}]",
                    "tdpbf16ps tmm0, tmm4, tmm5",
                    $($line,)*
                    "add {a}, {a_chunk}",
                    "add {b}, {b_chunk}",
                    "dec {n}",
                    "jnz 2b",
                    a = inout(reg) c.a => _,
                    a_row = in(reg) c.a_row,
                    a_chunk = in(reg) c.a_chunk,
                    b = inout(reg) c.b => _,
                    b_step = in(reg) c.b_step,
                    b_chunk = in(reg) CHUNK * c.b_step,
                    n = inout(reg) c.count => _,
                    options(nostack, readonly),
                );
            }
        }
    };
}
products!(by_one,);
products!(by_two,
    "tileloadd tmm6, [{b} + {b_step} + 64]"
    "tdpbf16ps tmm1, tmm4, tmm6"
);
products!(by_three,
    "tileloadd tmm6, [{b} + {b_step} + 64]"
    "tdpbf16ps tmm1, tmm4, tmm6"
    "tileloadd tmm7, [{b} + {b_step} + 128]"
    "tdpbf16ps tmm2, tmm4, tmm7"
);
products!(by_four,
    "tileloadd tmm6, [{b} + {b_step} + 64]"
    "tdpbf16ps tmm1, tmm4, tmm6"
    "tileloadd tmm7, [{b} + {b_step} + 128]"
    "tdpbf16ps tmm2, tmm4, tmm7"
    "tileloadd tmm5, [{b} + {b_step} + 192]"
    "tdpbf16ps tmm3, tmm4, tmm5"
);

/// # Safety
/// As `products!`, but `count` may be zero.
#[inline]
unsafe fn multiply(c: Chunks, panels: usize) {
    if c.count == 0 {
        return;
    }
    // SAFETY: the caller's promise.
    unsafe {
        match panels {
            1 => by_one(c),
            2 => by_two(c),
            3 => by_three(c),
            _ => by_four(c),
        }
    }
}

/// `c[8, 16 count] = start + a b` over `k` steps. Rows of `c` are `ldc` apart.
///
/// # Safety
/// All words read and written must be in bounds, and [`begin`] must have been called.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) unsafe fn strip(mut a: Rows, mut b: Panels, mut k: usize, c: *mut f32, ldc: usize, mut start: Start) {
    let mut plain = Buffer::<{ AT_ONCE * A_BYTES }>::new();
    // SAFETY: the caller's promise.
    unsafe {
        if a.cs == 1 {
            return product(a, b, k, 4 * a.rs, LINE, c, ldc, start);
        }
        debug_assert!(a.rs == 1);
        loop {
            let steps = k.min(AT_ONCE * CHUNK);
            transpose(a, steps, plain.ptr());
            product(Rows { ptr: plain.ptr().cast(), ..a }, b, steps, LINE, A_BYTES, c, ldc, start);
            (a.ptr, b.ptr, k) = (a.ptr.wrapping_add(steps * a.cs), b.ptr.wrapping_add(steps * b.bs), k - steps);
            if k == 0 {
                return;
            }
            start = Start::Load;
        }
    }
}

/// Tiles of A from rows whose words are `a.cs` apart. Missing steps are zero.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn transpose(a: Rows, k: usize, to: *mut u8) {
    for first in (0..k).step_by(CHUNK) {
        let mut x = [_mm512_setzero_si512(); 16];
        // SAFETY: the caller promises the steps, and room for the tiles.
        unsafe {
            for j in 0..CHUNK.min(k - first) {
                let words = _mm256_loadu_si256(a.ptr.add((first + j) * a.cs).cast());
                x[j] = _mm512_castsi256_si512(words);
            }
            transpose16(x, to.add(first / CHUNK * A_BYTES).cast(), LINE / 4, ROWS);
        }
    }
}

/// The product with A in rows `a_row` bytes apart, whose chunks are `a_chunk` bytes apart.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn product(a: Rows, b: Panels, k: usize, a_row: usize, a_chunk: usize, c: *mut f32, ldc: usize, start: Start) {
    let (whole, rest) = (k / CHUNK, k % CHUNK);
    let mut a_last = Buffer::<A_BYTES>::new();
    let mut b_last = Buffer::<{ WIDE * TILE_BYTES }>::new();
    let mut sums = Buffer::<{ WIDE * TILE_BYTES }>::new();
    let a: *const u8 = a.ptr.cast();
    // SAFETY: the caller's promise.
    unsafe {
        if rest > 0 {
            let mask = (1u16 << rest) - 1;
            for r in 0..ROWS {
                let words = _mm512_maskz_loadu_epi32(mask, a.add(r * a_row + whole * a_chunk).cast());
                _mm512_store_si512(a_last.ptr().add(r * LINE).cast(), words);
            }
        }
        for first in (0..b.count).step_by(WIDE) {
            let panels = WIDE.min(b.count - first);
            let (b_ptr, c): (*const u8, _) = (b.ptr.add(16 * first).cast(), c.add(16 * first));
            clear_sums();
            multiply(Chunks { a, a_row, a_chunk, b: b_ptr, b_step: 4 * b.bs, count: whole }, panels);
            if rest > 0 {
                for step in 0..CHUNK {
                    for p in 0..panels {
                        let from = b.ptr.add((whole * CHUNK + step) * b.bs + 16 * (first + p));
                        let words = if step < rest { _mm512_loadu_si512(from.cast()) } else { _mm512_setzero_si512() };
                        _mm512_store_si512(b_last.ptr().add(step * WIDE * LINE + p * LINE).cast(), words);
                    }
                }
                let b = b_last.ptr().cast_const();
                let last = Chunks { a: a_last.ptr(), a_row: LINE, a_chunk: 0, b, b_step: WIDE * LINE, count: 1 };
                multiply(last, panels);
            }
            save_sums(sums.ptr());
            let sums: *const f32 = sums.ptr().cast_const().cast();
            for r in 0..ROWS {
                for p in 0..panels {
                    let to = c.add(r * ldc + 16 * p);
                    let new = _mm512_load_ps(sums.add(p * TILE_BYTES / 4 + r * 16));
                    let new = match start {
                        Start::Zero => new,
                        Start::Load => _mm512_add_ps(_mm512_loadu_ps(to), new),
                        Start::Scale(by) => _mm512_fmadd_ps(_mm512_loadu_ps(to), _mm512_set1_ps(*by.add(r)), new),
                    };
                    _mm512_storeu_ps(to, new);
                }
            }
        }
    }
}
