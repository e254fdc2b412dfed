//! Transposes sixteen by sixteen words in registers.

use std::arch::x86_64::*;

/// Stores column `w` of the rows `x` as row `w` of `dst`, for `w < words <= 16`; rows of `dst` are `ld` words apart.
///
/// Four rounds of shuffles exchange ever larger groups: pairs of words, pairs of pairs, then 128-bit quarters twice.
///
/// # Safety
/// AVX-512 F must be enabled in the caller, and the rows of `dst` be in bounds.
#[inline(always)]
pub(super) unsafe fn transpose16(x: [__m512i; 16], dst: *mut u32, ld: usize, words: usize) {
    // SAFETY: the caller's.
    unsafe {
        let zero = _mm512_setzero_si512();
        let (mut a, mut b) = ([zero; 16], [zero; 16]);
        // a[2i], a[2i + 1]: words of rows 2i and 2i + 1 side by side.
        for i in 0..8 {
            a[2 * i] = _mm512_unpacklo_epi32(x[2 * i], x[2 * i + 1]);
            a[2 * i + 1] = _mm512_unpackhi_epi32(x[2 * i], x[2 * i + 1]);
        }
        // b[4i + c]: in quarter q, column 4q + c of rows 4i..4i + 4.
        for i in 0..4 {
            b[4 * i] = _mm512_unpacklo_epi64(a[4 * i], a[4 * i + 2]);
            b[4 * i + 1] = _mm512_unpackhi_epi64(a[4 * i], a[4 * i + 2]);
            b[4 * i + 2] = _mm512_unpacklo_epi64(a[4 * i + 1], a[4 * i + 3]);
            b[4 * i + 3] = _mm512_unpackhi_epi64(a[4 * i + 1], a[4 * i + 3]);
        }
        for c in 0..4 {
            // Quarters 0 and 2, then 1 and 3, of all four groups of rows.
            let even =
                (_mm512_shuffle_i32x4::<0x88>(b[c], b[4 + c]), _mm512_shuffle_i32x4::<0x88>(b[8 + c], b[12 + c]));
            let odd = (_mm512_shuffle_i32x4::<0xdd>(b[c], b[4 + c]), _mm512_shuffle_i32x4::<0xdd>(b[8 + c], b[12 + c]));
            a[c] = _mm512_shuffle_i32x4::<0x88>(even.0, even.1);
            a[4 + c] = _mm512_shuffle_i32x4::<0x88>(odd.0, odd.1);
            a[8 + c] = _mm512_shuffle_i32x4::<0xdd>(even.0, even.1);
            a[12 + c] = _mm512_shuffle_i32x4::<0xdd>(odd.0, odd.1);
        }
        if words == 16 {
            for w in 0..16 {
                _mm512_storeu_si512(dst.add(w * ld).cast(), a[w]);
            }
        } else {
            for w in 0..words {
                _mm512_storeu_si512(dst.add(w * ld).cast(), a[w]);
            }
        }
    }
}
