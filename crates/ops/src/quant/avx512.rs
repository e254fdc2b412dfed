//! The kernel with AVX-512: 64 products per instruction, with a tile's integer sums in registers.
//!
//! Int4 codes are looked up on the way. `vpermb` reads only the low six bits of an index, so with a table that repeats
//! four times neither half of a byte needs a mask.

use super::format::{LINE, QuantFormat, STEP, STEPS, TABLE, WIDE};
use super::tile::{Kernel, Tile};
use std::arch::x86_64::*;
use std::hint::black_box;

pub(super) const KERNEL: Kernel = Kernel {
    run,
    widen,
    rows: 8,
    panels: |rows, format| match (rows, format) {
        (0..=1, _) => 8,
        (2, _) => 6,
        (3..=4, _) => 4,
        (_, QuantFormat::Int8) => 3,
        (_, QuantFormat::Int4) => 2,
    },
};

/// Whether this processor has the instructions. (Cooper Lake has the BF16 dot product and no `vpermb`.)
pub(super) fn available() -> bool {
    is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512vbmi")
}

unsafe fn run(t: &Tile, format: QuantFormat, rows: usize, panels: usize) {
    macro_rules! tiles {
        ($four:literal $far:literal: $($r:literal: $($p:literal)*;)*) => {
            match (rows, panels) {
                // SAFETY: the caller promises a valid tile and a processor with the instructions.
                $($(($r, $p) => unsafe { tile::<$r, $p, $four, $far>(t) },)*)*
                _ => unreachable!("tile of {rows} rows by {panels} panels"),
            }
        };
        ($four:literal $far:literal) => {
            tiles! { $four $far:
                1: 1 2 3 4 5 6 7 8;
                2: 1 2 3 4 5 6;
                3: 1 2 3 4;
                4: 1 2 3 4;
                5: 1 2 3;
                6: 1 2 3;
                7: 1 2 3;
                8: 1 2 3;
            }
        };
    }
    match (format, t.ahead > 0) {
        (QuantFormat::Int8, false) => tiles!(false false),
        (QuantFormat::Int8, true) => tiles!(false true),
        (QuantFormat::Int4, false) => tiles!(true false),
        (QuantFormat::Int4, true) => tiles!(true true),
    }
}

/// One step: a line of each panel by four inputs of each row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
unsafe fn step<const R: usize, const P: usize>(
    acc: &mut [[__m512i; P]; R],
    w: [__m512i; P],
    x: *const u8,
    x_row: usize,
) {
    for r in 0..R {
        // SAFETY: the caller promises the inputs.
        let x = _mm512_set1_epi32(unsafe { x.add(r * x_row).cast::<i32>().read_unaligned() });
        for p in 0..P {
            acc[r][p] = _mm512_dpbusd_epi32(acc[r][p], w[p], x);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
unsafe fn tile<const R: usize, const P: usize, const FOUR: bool, const FAR: bool>(t: &Tile) {
    let table = _mm512_broadcast_i32x4(load_table());
    let (w_panel, x_row) = (t.w_panel, t.x_row);
    let block_bytes = if FOUR { QuantFormat::Int4.block_bytes() } else { WIDE };
    // Loops of a length that the compiler does not know: unrolled, they would need more registers than there are.
    let lines = black_box(if FOUR { STEPS / 2 } else { STEPS });
    // SAFETY: the caller promises rows, panels and sums of the tile. A prefetch may name any address.
    unsafe {
        if t.first {
            for r in 0..R {
                for p in 0..P {
                    _mm512_storeu_ps(t.sums.add(r * t.sums_row + 16 * p), _mm512_setzero_ps());
                }
            }
        }
        let (mut w, mut x, mut meta) = (t.w, t.x, t.meta);
        for _ in 0..t.blocks {
            let mut codes = w.add(LINE);
            for g in 0..2 {
                let mut acc = [[_mm512_setzero_si512(); P]; R];
                for r in 0..R {
                    let start = _mm512_set1_epi32((*meta.add(r * t.meta_row)).start);
                    for p in 0..P {
                        acc[r][p] = start;
                    }
                }
                for _ in 0..lines {
                    let mut words = [_mm512_setzero_si512(); P];
                    for p in 0..P {
                        words[p] = line::<FAR>(codes.add(p * w_panel), t.ahead);
                    }
                    if FOUR {
                        let low = words.map(|w| _mm512_permutexvar_epi8(w, table));
                        step::<R, P>(&mut acc, low, x, x_row);
                        x = x.add(STEP);
                        words = words.map(|w| _mm512_permutexvar_epi8(_mm512_srli_epi16::<4>(w), table));
                    }
                    step::<R, P>(&mut acc, words, x, x_row);
                    x = x.add(STEP);
                    codes = codes.add(LINE);
                }
                for p in 0..P {
                    let scale = line::<FAR>(w.add(p * w_panel), t.ahead);
                    let scale = if g == 0 {
                        _mm512_slli_epi32::<16>(scale)
                    } else {
                        _mm512_and_si512(scale, _mm512_set1_epi32(0xffff_0000_u32 as i32))
                    };
                    for r in 0..R {
                        let meta = (*meta.add(r * t.meta_row)).scale;
                        let factor = _mm512_mul_ps(_mm512_castsi512_ps(scale), _mm512_set1_ps(meta));
                        // Sums stay in the first-level cache: there are registers for one set.
                        let to = t.sums.add(r * t.sums_row + 16 * p);
                        let sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[r][p]), factor, _mm512_loadu_ps(to));
                        _mm512_storeu_ps(to, sum);
                    }
                }
                meta = meta.add(1);
            }
            w = w.add(block_bytes);
        }
    }
}

/// A line of a panel. If FAR, the line `ahead` bytes further on is prefetched.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn line<const FAR: bool>(p: *const u8, ahead: usize) -> __m512i {
    if FAR {
        _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(ahead).cast());
    }
    // SAFETY: the caller promises the line.
    unsafe { _mm512_loadu_si512(p.cast()) }
}

#[inline]
fn load_table() -> __m128i {
    // SAFETY: sixteen bytes.
    unsafe { _mm_loadu_si128(TABLE.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
unsafe fn widen(mut from: *const u8, blocks: usize, ahead: usize, mut to: *mut u8) {
    let table = _mm512_broadcast_i32x4(load_table());
    for _ in 0..blocks {
        // SAFETY: the caller promises the blocks.
        unsafe {
            _mm512_storeu_si512(to.cast(), line::<true>(from, ahead));
            for i in 0..STEPS {
                let pair = line::<true>(from.add(LINE + i * LINE), ahead);
                let at = to.add(LINE + 2 * i * LINE);
                _mm512_storeu_si512(at.cast(), _mm512_permutexvar_epi8(pair, table));
                let high = _mm512_permutexvar_epi8(_mm512_srli_epi16::<4>(pair), table);
                _mm512_storeu_si512(at.add(LINE).cast(), high);
            }
            from = from.add(QuantFormat::Int4.block_bytes());
            to = to.add(WIDE);
        }
    }
}
