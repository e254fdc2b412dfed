//! Register tiles with AVX2 and FMA: up to 4 rows by 1 panel (8 accumulators). BF16 is widened with shift and mask.

use super::portable::{Sums, promote, store};
use super::{LANES, Microkernel, SCALED, Tile};
use crate::DType;
use std::arch::x86_64::*;

pub(super) fn kernel(dtype: DType, packed: bool) -> Microkernel {
    let run = match (dtype, packed) {
        (DType::Bf16, false) => dispatch::<true, 4>,
        (DType::Bf16, true) => dispatch::<true, 64>,
        (_, false) => dispatch::<false, 4>,
        (_, true) => dispatch::<false, 64>,
    };
    Microkernel { run, rows: 4, panels: |_| 1 }
}

unsafe fn dispatch<const BF16: bool, const STEP: usize>(t: &Tile, rows: usize, panels: usize) {
    debug_assert_eq!(panels, 1);
    // SAFETY: the caller answers for the tile and the processor.
    unsafe {
        match rows {
            1 => tile::<1, BF16, STEP>(t),
            2 => tile::<2, BF16, STEP>(t),
            3 => tile::<3, BF16, STEP>(t),
            4 => tile::<4, BF16, STEP>(t),
            _ => unreachable!("tile of {rows} rows"),
        }
    }
}

/// Accumulators of a tile's rows.
type Acc<const R: usize> = [[__m256; 2]; R];

/// The first (low) and second (high) bf16 of every word, widened.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn widen(words: __m256i) -> (__m256, __m256) {
    let high = _mm256_and_si256(words, _mm256_set1_epi32(0xffff_0000_u32 as i32));
    (_mm256_castsi256_ps(_mm256_slli_epi32::<16>(words)), _mm256_castsi256_ps(high))
}

/// One step: a word of each row and the panel's words.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn step<const R: usize, const BF16: bool>(acc: &mut Acc<R>, a: [i32; R], b: *const u8) {
    // SAFETY: the caller promises the step.
    let b = unsafe { [_mm256_loadu_si256(b.cast()), _mm256_loadu_si256(b.add(32).cast())] };
    if BF16 {
        let b = [widen(b[0]), widen(b[1])];
        for r in 0..R {
            let (lo, hi) = widen(_mm256_set1_epi32(a[r]));
            for j in 0..2 {
                acc[r][j] = _mm256_fmadd_ps(hi, b[j].1, _mm256_fmadd_ps(lo, b[j].0, acc[r][j]));
            }
        }
    } else {
        for r in 0..R {
            let v = _mm256_castsi256_ps(_mm256_set1_epi32(a[r]));
            for j in 0..2 {
                acc[r][j] = _mm256_fmadd_ps(v, _mm256_castsi256_ps(b[j]), acc[r][j]);
            }
        }
    }
}

/// Sums of `n` steps from step `first` on.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn sum<const R: usize, const BF16: bool, const STEP: usize>(t: &Tile, first: usize, n: usize) -> Acc<R> {
    let mut acc = [[_mm256_setzero_ps(); 2]; R];
    // SAFETY: the caller promises the steps.
    unsafe {
        let (mut a, mut b) = (t.a.add(first * STEP), t.b.add(first * super::STEP_BYTES));
        for _ in 0..n {
            let av = std::array::from_fn(|r| a.add(r * t.a_row).cast::<i32>().read_unaligned());
            step::<R, BF16>(&mut acc, av, b);
            a = a.add(STEP);
            b = b.add(super::STEP_BYTES);
        }
    }
    acc
}

/// The same in memory.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn stored<const R: usize>(acc: Acc<R>) -> Sums<R> {
    let mut sums = [[0.0; LANES]; R];
    for r in 0..R {
        // SAFETY: a row has sixteen lanes.
        unsafe {
            _mm256_storeu_ps(sums[r].as_mut_ptr(), acc[r][0]);
            _mm256_storeu_ps(sums[r].as_mut_ptr().add(8), acc[r][1]);
        }
    }
    sums
}

#[target_feature(enable = "avx2,fma")]
unsafe fn tile<const R: usize, const BF16: bool, const STEP: usize>(t: &Tile) {
    // SAFETY: the caller promises `steps` (and one more if `half`) steps of every row and of the panel.
    unsafe {
        if t.scales.is_some() {
            let mut sums = [[0.0; LANES]; R];
            for block in 0..t.steps.div_ceil(SCALED) {
                let first = block * SCALED;
                let part = stored(sum::<R, BF16, STEP>(t, first, SCALED.min(t.steps - first)));
                promote(&mut sums, &part, t, block);
            }
            store(&sums, t);
            return;
        }
        let mut acc = sum::<R, BF16, STEP>(t, 0, t.steps);
        if t.half {
            let a = t.a.add(t.steps * STEP);
            let av = std::array::from_fn(|r| i32::from(a.add(r * t.a_row).cast::<u16>().read_unaligned()));
            step::<R, BF16>(&mut acc, av, t.b.add(t.steps * super::STEP_BYTES));
        }
        store(&stored(acc), t);
    }
}
