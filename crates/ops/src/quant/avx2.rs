//! The kernel with AVX2: codes and inputs become 16-bit numbers, whose products are added in pairs exactly.
//! (`vpmaddubsw` would saturate.) Processors with AVX-VNNI multiply bytes directly.

use super::format::{LINE, QuantFormat, STEP, STEPS, TABLE, WIDE};
use super::tile::{Kernel, Tile};
use std::arch::x86_64::*;

/// The kernel of this processor.
pub(super) fn kernel() -> Kernel {
    if is_x86_feature_detected!("avxvnni") { Kernel { run: run::<true>, ..PAIRS } } else { PAIRS }
}

/// The kernel of processors without AVX-VNNI.
pub(super) const PAIRS: Kernel = Kernel { run: run::<false>, widen, rows: 2, panels: |_, _| 1 };

unsafe fn run<const VNNI: bool>(t: &Tile, format: QuantFormat, rows: usize, panels: usize) {
    debug_assert_eq!(panels, 1);
    let four = format == QuantFormat::Int4;
    // SAFETY: the caller promises a valid tile and a processor with the instructions.
    unsafe {
        match (VNNI, rows, four) {
            (true, 1, false) => vnni::<1, false>(t),
            (true, 1, true) => vnni::<1, true>(t),
            (true, 2, false) => vnni::<2, false>(t),
            (true, 2, true) => vnni::<2, true>(t),
            (false, 1, false) => pairs::<1, false>(t),
            (false, 1, true) => pairs::<1, true>(t),
            (false, 2, false) => pairs::<2, false>(t),
            (false, 2, true) => pairs::<2, true>(t),
            _ => unreachable!("tile of {rows} rows"),
        }
    }
}

/// A half line of codes.
type Half = __m256i;

#[inline]
#[target_feature(enable = "avx2")]
fn table() -> __m256i {
    // SAFETY: sixteen bytes.
    _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(TABLE.as_ptr().cast()) })
}

/// The halves of step `s` of a block.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn halves<const FOUR: bool>(block: *const u8, s: usize) -> [Half; 2] {
    // SAFETY: the caller promises the block.
    unsafe {
        if !FOUR {
            let at = block.add(LINE + s * LINE);
            return [_mm256_loadu_si256(at.cast()), _mm256_loadu_si256(at.add(32).cast())];
        }
        let at = block.add(LINE + s / 2 * LINE);
        let mut halves = [_mm256_loadu_si256(at.cast()), _mm256_loadu_si256(at.add(32).cast())];
        for half in &mut halves {
            let index = if s.is_multiple_of(2) { *half } else { _mm256_srli_epi16::<4>(*half) };
            *half = _mm256_shuffle_epi8(table(), _mm256_and_si256(index, _mm256_set1_epi8(15)));
        }
        halves
    }
}

/// The scales of group `g` of a block.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn scales(block: *const u8, g: usize) -> [__m256; 2] {
    // SAFETY: the caller promises the block.
    let pairs = unsafe { [_mm256_loadu_si256(block.cast()), _mm256_loadu_si256(block.add(32).cast())] };
    let high = _mm256_set1_epi32(0xffff_0000_u32 as i32);
    pairs.map(|p| _mm256_castsi256_ps(if g == 0 { _mm256_slli_epi32::<16>(p) } else { _mm256_and_si256(p, high) }))
}

/// The loops around the integer sums: `$dots` gives those of a row over a group.
macro_rules! kernel {
    ($name:ident, $features:literal, $dots:ident) => {
        #[target_feature(enable = $features)]
        unsafe fn $name<const R: usize, const FOUR: bool>(t: &Tile) {
            let bytes = if FOUR { QuantFormat::Int4.block_bytes() } else { WIDE };
            let mut sums = [[_mm256_setzero_ps(); 2]; R];
            // SAFETY: the caller promises rows, panel and sums of the tile.
            unsafe {
                if !t.first {
                    for r in 0..R {
                        let at = t.sums.add(r * t.sums_row);
                        sums[r] = [_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(8))];
                    }
                }
                for b in 0..t.blocks {
                    let block = t.w.add(b * bytes);
                    for g in 0..2 {
                        let x = t.x.add((b * 2 + g) * STEPS * STEP);
                        let meta = t.meta.add(b * 2 + g);
                        let dots = $dots::<R, FOUR>(block, g, x, t.x_row);
                        let scales = scales(block, g);
                        for r in 0..R {
                            let meta = *meta.add(r * t.meta_row);
                            for h in 0..2 {
                                let factor = _mm256_mul_ps(scales[h], _mm256_set1_ps(meta.scale));
                                let dots = _mm256_add_epi32(dots[r][h], _mm256_set1_epi32(meta.start));
                                sums[r][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots), factor, sums[r][h]);
                            }
                        }
                    }
                }
                for r in 0..R {
                    let at = t.sums.add(r * t.sums_row);
                    _mm256_storeu_ps(at, sums[r][0]);
                    _mm256_storeu_ps(at.add(8), sums[r][1]);
                }
            }
        }
    };
}
kernel!(pairs, "avx2,fma", dots_of_pairs);
kernel!(vnni, "avx2,fma,avxvnni", dots_of_bytes);

/// Sums of products over a group: two rows of lanes for each row.
#[inline]
#[target_feature(enable = "avx2,fma,avxvnni")]
unsafe fn dots_of_bytes<const R: usize, const FOUR: bool>(
    block: *const u8,
    g: usize,
    x: *const u8,
    x_row: usize,
) -> [[__m256i; 2]; R] {
    let mut acc = [[_mm256_setzero_si256(); 2]; R];
    for s in 0..STEPS {
        // SAFETY: the caller promises the block and the inputs.
        unsafe {
            let w = halves::<FOUR>(block, g * STEPS + s);
            for r in 0..R {
                let x = _mm256_set1_epi32(x.add(r * x_row + s * STEP).cast::<i32>().read_unaligned());
                for h in 0..2 {
                    acc[r][h] = _mm256_dpbusd_avx_epi32(acc[r][h], w[h], x);
                }
            }
        }
    }
    acc
}

/// The same by 16-bit products. A lane has two sums until the end.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn dots_of_pairs<const R: usize, const FOUR: bool>(
    block: *const u8,
    g: usize,
    x: *const u8,
    x_row: usize,
) -> [[__m256i; 2]; R] {
    let mut acc = [[[_mm256_setzero_si256(); 2]; 2]; R];
    let zero = _mm256_setzero_si256();
    for s in 0..STEPS {
        // SAFETY: the caller promises the block and the inputs.
        unsafe {
            let w = halves::<FOUR>(block, g * STEPS + s);
            let w = w.map(|w| [_mm256_unpacklo_epi8(w, zero), _mm256_unpackhi_epi8(w, zero)]);
            for r in 0..R {
                let x = _mm_cvtsi32_si128(x.add(r * x_row + s * STEP).cast::<i32>().read_unaligned());
                let x = _mm256_broadcastq_epi64(_mm_cvtepi8_epi16(x));
                for h in 0..2 {
                    for i in 0..2 {
                        acc[r][h][i] = _mm256_add_epi32(acc[r][h][i], _mm256_madd_epi16(w[h][i], x));
                    }
                }
            }
        }
    }
    // Lanes 0, 1, 4 and 5 of a half came from its low parts, 2, 3, 6 and 7 from its high ones.
    acc.map(|row| row.map(|[low, high]| _mm256_hadd_epi32(low, high)))
}

#[target_feature(enable = "avx2")]
unsafe fn widen(from: *const u8, blocks: usize, _ahead: usize, to: *mut u8) {
    for b in 0..blocks {
        // SAFETY: the caller promises the blocks.
        unsafe {
            let (from, to) = (from.add(b * QuantFormat::Int4.block_bytes()), to.add(b * WIDE));
            to.copy_from_nonoverlapping(from, LINE);
            for s in 0..2 * STEPS {
                let [low, high] = halves::<true>(from, s);
                _mm256_storeu_si256(to.add(LINE + s * LINE).cast(), low);
                _mm256_storeu_si256(to.add(LINE + s * LINE + 32).cast(), high);
            }
        }
    }
}
