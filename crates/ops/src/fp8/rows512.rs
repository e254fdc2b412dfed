//! Encodes values as E4M3 with AVX-512, in whole cache lines.

use super::TILE;
use crate::kernel::Elem;
use std::arch::x86_64::*;

/// Encodes a row with one scale per [`TILE`] values. The bits are those of the definition.
///
/// # Safety
/// The processor must have the features, and `codes` must be as long as `row`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) unsafe fn encode<X: Elem>(row: &[X], scales: &[f32], codes: &mut [u8]) {
    for ((row, codes), scale) in row.chunks(TILE).zip(codes.chunks_mut(TILE)).zip(scales) {
        let by = _mm512_set1_ps(*scale);
        let whole = row.len() / 64 * 64;
        for i in (0..whole).step_by(64) {
            // SAFETY: 64 values are there, and room for their codes: a whole line, since stores under a mask are slow.
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

/// Sixteen values, with zeros after the first `n`.
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
