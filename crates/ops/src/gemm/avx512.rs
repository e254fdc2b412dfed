//! Register tiles with AVX-512: up to 8 rows by 3 panels (24 accumulators), with 64 flops per instruction in BF16.
//!
//! A step loads one vector per panel and broadcasts one word per row. So a full tile has 24 multiply instructions for
//! 11 loads. With few rows, tiles have more panels, so that enough sums are in progress (and, for one row, enough
//! memory streams).

use super::{Microkernel, Out, SCALED, Scales, Tile};
use crate::DType;
use std::arch::x86_64::*;

/// Bytes of a step of A: plain rows.
const ROWS: usize = 4;
/// Rows of a tile that may ask for B ahead of its use.
const FEW: usize = 8;
/// Bytes of a step of A: panels.
const PANELS: usize = 64;

pub(super) fn kernel(dtype: DType, packed: bool) -> Microkernel {
    let run = match (dtype, packed) {
        (DType::Bf16, false) => dispatch::<true, ROWS>,
        (DType::Bf16, true) => dispatch::<true, PANELS>,
        (_, false) => dispatch::<false, ROWS>,
        (_, true) => dispatch::<false, PANELS>,
    };
    let panels: fn(usize) -> usize = |rows| match rows {
        0..=2 => 8,
        3..=4 => 6,
        _ => 3,
    };
    Microkernel { run, rows: 8, panels }
}

unsafe fn dispatch<const BF16: bool, const STEP: usize>(t: &Tile, rows: usize, panels: usize) {
    macro_rules! tiles {
        ($($p:literal: $($r:literal)*;)*) => {
            match (panels, rows) {
                // SAFETY: the caller answers for the tile and the processor.
                $($(($p, $r) => unsafe { tile::<$r, $p, BF16, STEP>(t) },)*)*
                _ => unreachable!("tile of {rows} rows by {panels} panels"),
            }
        };
    }
    tiles! {
        1: 1 2 3 4 5 6 7 8;
        2: 1 2 3 4 5 6 7 8;
        3: 1 2 3 4 5 6 7 8;
        4: 1 2 3 4;
        5: 1 2 3 4;
        6: 1 2 3 4;
        7: 1 2;
        8: 1 2;
    }
}

/// A loop over literals. A real loop is not always unrolled, and then the accumulators that it indexes are in memory
/// for the whole kernel.
macro_rules! for_each {
    ($i:ident in [$($n:literal)*] if $there:expr => $body:block) => {
        $({
            let $i: usize = $n;
            if $there $body
        })*
    };
}

/// `acc + a * b` over one step.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn dot<const BF16: bool>(acc: __m512, a: __m512i, b: __m512i) -> __m512 {
    if BF16 {
        // SAFETY: plain vectors of the same size; any bits are valid.
        let (a, b) =
            unsafe { (std::mem::transmute::<__m512i, __m512bh>(a), std::mem::transmute::<__m512i, __m512bh>(b)) };
        _mm512_dpbf16_ps(acc, a, b)
    } else {
        _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), acc)
    }
}

/// Sums of `n` steps from step `first` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn sum<const R: usize, const NP: usize, const BF16: bool, const STEP: usize, const FAR: bool>(
    t: &Tile,
    first: usize,
    n: usize,
) -> [[__m512; NP]; R] {
    let mut acc = [[_mm512_setzero_ps(); NP]; R];
    let (a_row, b_panel) = (t.a_row, t.b_panel);
    // SAFETY: the caller promises the steps. Unaligned loads are used where the contract promises no alignment.
    unsafe {
        let (mut a, mut b) = (t.a.add(first * STEP), t.b.add(first * super::STEP_BYTES));
        for _ in 0..n {
            let mut bv = [_mm512_setzero_si512(); NP];
            for j in 0..NP {
                if FAR {
                    _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(j * b_panel + t.ahead).cast());
                }
                bv[j] = _mm512_loadu_si512(b.add(j * b_panel).cast());
            }
            for r in 0..R {
                let av = _mm512_set1_epi32(a.add(r * a_row).cast::<i32>().read_unaligned());
                for j in 0..NP {
                    acc[r][j] = dot::<BF16>(acc[r][j], av, bv[j]);
                }
            }
            a = a.add(STEP);
            b = b.add(super::STEP_BYTES);
        }
    }
    acc
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn tile<const R: usize, const NP: usize, const BF16: bool, const STEP: usize>(t: &Tile) {
    // SAFETY: the caller promises `steps` (and one more if `half`) steps of every row and panel, and a C of R rows by
    // `cols` columns that no one else touches.
    unsafe {
        // Meanwhile C is prefetched.
        let lines = match t.out {
            Out::StreamF32 => 0,
            Out::WriteF32 | Out::AddF32 => NP,
            _ => NP.div_ceil(2),
        };
        for r in 0..R {
            for j in 0..lines {
                _mm_prefetch::<_MM_HINT_T0>(t.c.wrapping_add(r * t.c_row + 64 * j).cast());
            }
        }
        if let Some(scales) = &t.scales {
            scaled::<R, NP, STEP>(t, scales);
            return;
        }
        // Only few rows are one tile, which reads B from memory.
        let mut acc = if R <= FEW && STEP == ROWS && t.ahead > 0 {
            sum::<R, NP, BF16, STEP, true>(t, 0, t.steps)
        } else {
            sum::<R, NP, BF16, STEP, false>(t, 0, t.steps)
        };
        if t.half {
            let (a, b) = (t.a.add(t.steps * STEP), t.b.add(t.steps * super::STEP_BYTES));
            for r in 0..R {
                let av = _mm512_set1_epi32(i32::from(a.add(r * t.a_row).cast::<u16>().read_unaligned()));
                for j in 0..NP {
                    let bv = _mm512_loadu_si512(b.add(j * t.b_panel).cast());
                    acc[r][j] = dot::<BF16>(acc[r][j], av, bv);
                }
            }
        }
        for_each!(r in [0 1 2 3 4 5 6 7] if r < R => {
            for_each!(j in [0 1 2 3 4 5 6 7] if j < NP => {
                finish::<NP>(t, r, j, acc[r][j]);
            });
        });
    }
}

/// Like the unscaled loop, but in blocks whose sums are promoted (bf16 only). The promoted sums stay in the first-level
/// cache, because there are registers for only one set.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn scaled<const R: usize, const NP: usize, const STEP: usize>(t: &Tile, scales: &Scales) {
    let mut sums = [[_mm512_setzero_ps(); NP]; R];
    // SAFETY: as in `tile`; scales are there for every row, lane and block.
    unsafe {
        for block in 0..t.steps.div_ceil(SCALED) {
            let first = block * SCALED;
            let acc = sum::<R, NP, true, STEP, false>(t, first, SCALED.min(t.steps - first));
            let b_scale = scales.b.add(block * scales.b_block);
            for_each!(r in [0 1 2 3 4 5 6 7] if r < R => {
                let a_scale = _mm512_set1_ps(*scales.a.add(r * scales.a_row + block * scales.a_block));
                for_each!(j in [0 1 2 3 4 5 6 7] if j < NP => {
                    let scale = _mm512_mul_ps(a_scale, _mm512_loadu_ps(b_scale.add(16 * j)));
                    sums[r][j] = _mm512_fmadd_ps(acc[r][j], scale, sums[r][j]);
                });
            });
        }
        for_each!(r in [0 1 2 3 4 5 6 7] if r < R => {
            for_each!(j in [0 1 2 3 4 5 6 7] if j < NP => {
                finish::<NP>(t, r, j, sums[r][j]);
            });
        });
    }
}

/// Stores the sums of row `r` and panel `j`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn finish<const NP: usize>(t: &Tile, r: usize, j: usize, mut sums: __m512) {
    let mask = if j + 1 == NP { 0xffff >> (16 * NP - t.cols) } else { 0xffff };
    // SAFETY: the tile's C, and sums of blocks before if there are any.
    unsafe {
        if !t.sums.is_null() {
            sums = _mm512_add_ps(_mm512_loadu_ps(t.sums.add(r * t.sums_row + 16 * j)), sums);
        }
        store(t.c.add(r * t.c_row), j, sums, mask, t.out);
    }
}

/// Stores the sums of panel `j` of a row of C that starts at `row`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn store(row: *mut u8, j: usize, sums: __m512, mask: __mmask16, out: Out) {
    // SAFETY: the caller promises that the lanes in `mask` exist, and whole aligned lines to stream to.
    unsafe {
        match out {
            Out::WriteF32 => _mm512_mask_storeu_ps(row.cast::<f32>().add(16 * j), mask, sums),
            Out::StreamF32 => _mm512_stream_ps(row.cast::<f32>().add(16 * j), sums),
            Out::AddF32 => {
                let p = row.cast::<f32>().add(16 * j);
                _mm512_mask_storeu_ps(p, mask, _mm512_add_ps(_mm512_maskz_loadu_ps(mask, p), sums));
            }
            Out::WriteBf16 => store_bf16(row.cast::<i16>().add(16 * j), mask, sums),
            Out::AddBf16 => {
                let p = row.cast::<i16>().add(16 * j);
                let old = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, p));
                let old = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(old));
                store_bf16(p, mask, _mm512_add_ps(old, sums));
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn store_bf16(p: *mut i16, mask: __mmask16, v: __m512) {
    // SAFETY: the lanes in `mask` exist; the transmute is between vectors of 256 bits.
    unsafe {
        let v = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v));
        _mm256_mask_storeu_epi16(p, mask, v);
    }
}
