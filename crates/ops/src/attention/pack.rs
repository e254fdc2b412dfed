//! Copies rows of a tensor to the word layouts that the micro-kernel reads.
//!
//! A `Part` is a range of columns of consecutive rows. Query and key have two parts (without position, and rotary),
//! each padded to whole words. Everything beyond the given rows and columns, up to the padded extents, becomes zero.

use super::kernel::{AttentionElem, TileKernel};
use crate::kernel::Elem;

/// Columns `at..at + cols` of the packed rows, followed by zeros up to `to`. `at` and `to` are whole words.
#[derive(Clone, Copy)]
pub(crate) struct Part<E> {
    /// First element of the first row.
    pub(crate) src: *const E,
    /// Elements from one row to the next.
    pub(crate) stride: usize,
    /// Elements per row.
    pub(crate) cols: usize,
    /// First column in the packed rows.
    pub(crate) at: usize,
    /// End of the zeros after the columns.
    pub(crate) to: usize,
}

impl<E: AttentionElem> Part<E> {
    #[inline(always)]
    unsafe fn get(&self, row: usize, col: usize) -> E {
        if col < self.cols {
            // SAFETY: the caller keeps to the part's rows.
            unsafe { *self.src.add(row * self.stride + col) }
        } else {
            E::round(0.0)
        }
    }
}

/// Row-major words `[pad_rows][ld]`. A word covers neighbouring columns.
#[inline(always)]
pub(crate) unsafe fn rows<K: TileKernel>(part: Part<K::E>, rows: usize, pad_rows: usize, dst: *mut u32, ld: usize) {
    let words = (part.to - part.at) / K::PAIR;
    let whole = part.cols / K::PAIR;
    for r in 0..pad_rows {
        // SAFETY: the caller's buffer holds the padded rows; full words lie inside the source row.
        unsafe {
            let d = dst.add(r * ld + part.at / K::PAIR);
            let full = if r < rows { whole } else { 0 };
            K::copy_words(part.src.wrapping_add(r * part.stride), full, d);
            for w in full..words {
                *d.add(w) = if r < rows {
                    K::word(part.get(r, w * K::PAIR), part.get(r, w * K::PAIR + K::PAIR - 1))
                } else {
                    0
                };
            }
        }
    }
}

/// Words `[pad_rows / PAIR][ld]` with columns as lanes. A word covers neighbouring rows.
#[inline(always)]
pub(crate) unsafe fn steps<K: TileKernel>(part: Part<K::E>, rows: usize, pad_rows: usize, dst: *mut u32, ld: usize) {
    let zero = K::E::round(0.0);
    for j in 0..pad_rows / K::PAIR {
        let r = j * K::PAIR;
        // SAFETY: the caller's buffer holds the padded rows; only rows below `rows` are read.
        unsafe {
            let d = dst.add(j * ld + part.at);
            let s = part.src.add(r.min(rows.saturating_sub(1)) * part.stride);
            let used = if r < rows { part.cols } else { 0 };
            if r + K::PAIR <= rows {
                let second = s.add((K::PAIR - 1) * part.stride);
                for c in 0..used {
                    *d.add(c) = K::word(*s.add(c), *second.add(c));
                }
            } else {
                for c in 0..used {
                    *d.add(c) = K::word(*s.add(c), zero);
                }
            }
            for c in used..part.to - part.at {
                *d.add(c) = 0;
            }
        }
    }
}

/// Words `[to / PAIR][ld]` with rows as lanes. A word covers neighbouring columns. `pad_rows` is a multiple of 16.
#[inline(always)]
pub(crate) unsafe fn lanes<K: TileKernel>(part: Part<K::E>, rows: usize, pad_rows: usize, dst: *mut u32, ld: usize) {
    let words = (part.to - part.at) / K::PAIR;
    for w in (0..words).step_by(16) {
        let first = w * K::PAIR;
        let cols = part.cols.saturating_sub(first).min(16 * K::PAIR);
        for r in (0..pad_rows).step_by(16) {
            // SAFETY: the caller's buffer holds `words` rows of pad_rows lanes; only the part's elements are read.
            unsafe {
                let src = part.src.wrapping_add(r * part.stride + first);
                let d = dst.add((part.at / K::PAIR + w) * ld + r);
                K::transpose(src, part.stride, rows.saturating_sub(r).min(16), cols, d, ld, 16.min(words - w));
            }
        }
    }
}
