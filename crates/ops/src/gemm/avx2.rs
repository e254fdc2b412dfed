//! Register tiles with AVX2 and FMA: up to 4 rows by 1 panel (8 accumulators). BF16 is widened by shift and mask.

use super::portable::{promote, store};
use super::{Kernel, SCALED, Tile};
use crate::DType;
use std::arch::x86_64::*;

pub(super) fn kernel(dtype: DType, packed: bool) -> Kernel {
    let run = match (dtype, packed) {
        (DType::Bf16, false) => dispatch::<true, 4>,
        (DType::Bf16, true) => dispatch::<true, 64>,
        (_, false) => dispatch::<false, 4>,
        (_, true) => dispatch::<false, 64>,
    };
    Kernel { run, rows: 4, panels: |_| 1 }
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

/// The first (low) and second (high) bf16 of every word, widened.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn widen(words: __m256i) -> (__m256, __m256) {
    let high = _mm256_and_si256(words, _mm256_set1_epi32(0xffff_0000_u32 as i32));
    (_mm256_castsi256_ps(_mm256_slli_epi32::<16>(words)), _mm256_castsi256_ps(high))
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn step<const R: usize, const BF16: bool>(acc: &mut [[__m256; 2]; R], a: [i32; R], b: [__m256i; 2]) {
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

#[target_feature(enable = "avx2,fma")]
unsafe fn tile<const R: usize, const BF16: bool, const STEP: usize>(t: &Tile) {
    let mut acc = [[_mm256_setzero_ps(); 2]; R];
    let (mut a, mut b) = (t.a, t.b);
    let mut sums = [[0f32; 16]; R];
    // SAFETY: the caller promises `steps` (and one more if `half`) steps of every row and of the panel.
    unsafe {
        let panel = |b: *const u8| [_mm256_loadu_si256(b.cast()), _mm256_loadu_si256(b.add(32).cast())];
        if t.scales.is_some() {
            for block in 0..t.steps.div_ceil(SCALED) {
                let mut acc = [[_mm256_setzero_ps(); 2]; R];
                for _ in 0..SCALED.min(t.steps - block * SCALED) {
                    let av = std::array::from_fn(|r| a.add(r * t.a_row).cast::<i32>().read_unaligned());
                    step::<R, BF16>(&mut acc, av, panel(b));
                    a = a.add(STEP);
                    b = b.add(super::STEP_BYTES);
                }
                let mut part = [[0f32; 16]; R];
                for r in 0..R {
                    _mm256_storeu_ps(part[r].as_mut_ptr(), acc[r][0]);
                    _mm256_storeu_ps(part[r].as_mut_ptr().add(8), acc[r][1]);
                }
                promote(&mut sums, &part, t, block);
            }
            store(&sums, t);
            return;
        }
        for _ in 0..t.steps {
            let av = std::array::from_fn(|r| a.add(r * t.a_row).cast::<i32>().read_unaligned());
            step::<R, BF16>(&mut acc, av, panel(b));
            a = a.add(STEP);
            b = b.add(super::STEP_BYTES);
        }
        if t.half {
            let av = std::array::from_fn(|r| i32::from(a.add(r * t.a_row).cast::<u16>().read_unaligned()));
            step::<R, BF16>(&mut acc, av, panel(b));
        }
        for r in 0..R {
            _mm256_storeu_ps(sums[r].as_mut_ptr(), acc[r][0]);
            _mm256_storeu_ps(sums[r].as_mut_ptr().add(8), acc[r][1]);
        }
        store(&sums, t);
    }
}
