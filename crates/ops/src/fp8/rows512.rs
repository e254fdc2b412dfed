//! Rows to codes of E4M3 with AVX-512: a tile stays in eight registers between its largest value and its codes.

use super::codec::scale_of;
use super::{E4M3, TILE};
use crate::kernel::Elem;
use std::arch::x86_64::*;

/// Codes of a row and the scales of its tiles. The same bits as the definition.
///
/// # Safety
/// The processor must have the features; `codes` as long as `row`, a scale for every tile.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(crate) unsafe fn encode<X: Elem>(row: &[X], power_of_two: bool, codes: &mut [u8], scales: &mut [f32]) {
    debug_assert!(codes.len() == row.len() && scales.len() == row.len().div_ceil(TILE));
    let max = E4M3.max();
    for ((row, codes), scale) in row.chunks(TILE).zip(codes.chunks_mut(TILE)).zip(scales) {
        let mut values = [_mm512_setzero_ps(); TILE / 16];
        let mut most = _mm512_setzero_si512();
        let magnitude = _mm512_set1_epi32(0x7fff_ffff);
        for (i, v) in values.iter_mut().enumerate() {
            let left = row.len().saturating_sub(16 * i);
            // SAFETY: masked to the elements that are left.
            *v = unsafe { load(row.as_ptr().wrapping_add(16 * i), left) };
            most = _mm512_max_epi32(most, _mm512_and_si512(_mm512_castps_si512(*v), magnitude));
        }
        *scale = scale_of(_mm512_reduce_max_epi32(most) as u32, max, power_of_two);
        let by = _mm512_set1_ps(*scale);
        if codes.len() == TILE {
            // Whole lines, since stores under a mask are slow.
            for half in 0..2 {
                let part = |i: usize| _mm512_cvtepi32_epi8(code(_mm512_div_ps(values[4 * half + i], by)));
                // SAFETY: half a tile is 64 codes.
                unsafe {
                    let line = join([part(0), part(1), part(2), part(3)]);
                    _mm512_storeu_si512(codes.as_mut_ptr().add(64 * half).cast(), line);
                };
            }
            continue;
        }
        for (i, v) in values.into_iter().enumerate() {
            let left = row.len().saturating_sub(16 * i);
            let code = code(_mm512_div_ps(v, by));
            // SAFETY: masked to the elements that are left.
            unsafe {
                let to = codes.as_mut_ptr().wrapping_add(16 * i);
                _mm_mask_storeu_epi8(to.cast(), mask(left), _mm512_cvtepi32_epi8(code));
            }
        }
    }
}

/// Codes of values with a scale that is known.
///
/// # Safety
/// As for [`encode`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(crate) unsafe fn encode_with<X: Elem>(row: &[X], scale: f32, codes: &mut [u8]) {
    debug_assert!(codes.len() == row.len());
    let by = _mm512_set1_ps(scale);
    let whole = row.len() / 64 * 64;
    for i in (0..whole).step_by(64) {
        // SAFETY: 64 values are there, and room for their codes.
        unsafe {
            let part = |j: usize| {
                let v = load(row.as_ptr().add(i + 16 * j), 16);
                _mm512_cvtepi32_epi8(code(_mm512_div_ps(v, by)))
            };
            _mm512_storeu_si512(codes.as_mut_ptr().add(i).cast(), join([part(0), part(1), part(2), part(3)]));
        }
    }
    for i in (whole..row.len()).step_by(16) {
        let left = row.len() - i;
        // SAFETY: masked to the elements that are left.
        unsafe {
            let code = code(_mm512_div_ps(load(row.as_ptr().add(i), left), by));
            _mm_mask_storeu_epi8(codes.as_mut_ptr().add(i).cast(), mask(left), _mm512_cvtepi32_epi8(code));
        }
    }
}

/// Four quarters of a vector.
#[inline]
#[target_feature(enable = "avx512f")]
fn join(v: [__m128i; 4]) -> __m512i {
    let mut all = _mm512_castsi128_si512(v[0]);
    all = _mm512_inserti32x4::<1>(all, v[1]);
    all = _mm512_inserti32x4::<2>(all, v[2]);
    _mm512_inserti32x4::<3>(all, v[3])
}

/// A mask of the first `n` of 16.
fn mask(n: usize) -> __mmask16 {
    if n >= 16 { u16::MAX } else { (1 << n) - 1 }
}

/// Sixteen values, zero past the first `n`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn load<X: Elem>(p: *const X, n: usize) -> __m512 {
    // SAFETY: masked loads touch only the n elements that the caller promises; X is f32 or bf16.
    unsafe {
        if size_of::<X>() == 4 {
            if n >= 16 { _mm512_loadu_ps(p.cast()) } else { _mm512_maskz_loadu_ps(mask(n), p.cast()) }
        } else if n >= 16 {
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()))))
        } else {
            let v = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask(n), p.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(v))
        }
    }
}

/// `Codec::code` of E4M3, sixteen at a time.
#[inline]
#[target_feature(enable = "avx512f")]
fn code(v: __m512) -> __m512i {
    let set = |x: u32| _mm512_set1_epi32(x as i32);
    let bits = _mm512_castps_si512(v);
    let a = _mm512_and_si512(bits, set(0x7fff_ffff));
    let odd = _mm512_and_si512(_mm512_srli_epi32::<20>(a), set(1));
    let rounded = _mm512_srli_epi32::<20>(_mm512_add_epi32(_mm512_add_epi32(a, set(0x7_ffff)), odd));
    let normal = _mm512_min_epu32(_mm512_sub_epi32(rounded, set(120 << 3)), set(0x7e));
    let magic = _mm512_set1_ps(16384.0);
    let sum = _mm512_castps_si512(_mm512_add_ps(_mm512_castsi512_ps(a), magic));
    let small = _mm512_sub_epi32(sum, _mm512_castps_si512(magic));
    let code = _mm512_mask_mov_epi32(normal, _mm512_cmplt_epu32_mask(a, set(121 << 23)), small);
    let code = _mm512_mask_mov_epi32(code, _mm512_cmpgt_epu32_mask(a, set(0x7f80_0000)), set(0x7f));
    _mm512_or_si512(code, _mm512_and_si512(_mm512_srli_epi32::<24>(bits), set(0x80)))
}
