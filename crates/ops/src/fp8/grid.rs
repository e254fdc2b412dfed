//! Converts E4M3 codes to the bf16 of the same value, which products multiply. The scales stay separate.

use super::codec::{Codec, FourThree};
use crate::Isa;
use crate::kernel::{Pointwise, dispatch};

/// Converts `n` codes at `from` to bf16 at `to`.
///
/// # Safety
/// Both must be valid for `n` elements, and the processor must have `isa`.
pub(crate) unsafe fn to_bf16(isa: Isa, from: *const u8, n: usize, to: *mut u16) {
    #[cfg(target_arch = "x86_64")]
    if has_tables(isa) {
        // SAFETY: the caller's promise, and the processor was asked.
        unsafe { tables::look_up(&tables::VALUE, from, n, to) };
        return;
    }
    // SAFETY: the caller's promise.
    let (from, to) = unsafe { (std::slice::from_raw_parts(from, n), std::slice::from_raw_parts_mut(to, n)) };
    dispatch(isa, Plain { from, to });
}

/// The same as a plain loop.
pub(super) struct Plain<'a> {
    pub(super) from: &'a [u8],
    pub(super) to: &'a mut [u16],
}

impl Pointwise for Plain<'_> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for (to, code) in self.to.iter_mut().zip(self.from) {
            *to = (FourThree::value(u32::from(*code)).to_bits() >> 16) as u16;
        }
    }
}

/// Whether codes are looked up in tables, which is faster than computing with them.
pub(super) fn has_tables(isa: Isa) -> bool {
    #[cfg(target_arch = "x86_64")]
    return isa.has_avx512() && is_x86_feature_detected!("avx512vbmi");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

#[cfg(target_arch = "x86_64")]
pub(super) use tables::look_up;

/// Other processors have no such instruction, and do not call this.
///
/// # Safety
/// There is nothing to promise.
#[cfg(not(target_arch = "x86_64"))]
pub(super) unsafe fn look_up(_: &super::widen::Table, _: *const u8, _: usize, _: *mut u16) {
    unreachable!("tables are looked up with AVX-512 VBMI");
}

/// With AVX-512 VBMI, both bytes of the bf16 of a code are looked up in tables of 128 entries, for 64 codes at a time.
#[cfg(target_arch = "x86_64")]
mod tables {
    use super::super::widen::Table;
    use std::arch::x86_64::*;

    /// The bf16 bits of the positive code `c`.
    const fn bits(c: u8) -> u16 {
        let (e, m) = ((c >> 3) as u16, (c & 7) as u16);
        if c == 0x7f {
            0x7fc0
        } else if e > 0 {
            (e + 120) << 7 | m << 4
        } else if m == 0 {
            0
        } else {
            // m * 2^-9, whose leading bit is at 2^p.
            let p = m.ilog2() as u16;
            (118 + p) << 7 | (m << (7 - p)) & 0x7f
        }
    }

    const fn table(shift: u32) -> [u8; 128] {
        let mut t = [0; 128];
        let mut c = 0;
        while c < 128 {
            t[c] = (bits(c as u8) >> shift) as u8;
            c += 1;
        }
        t
    }
    /// The codes' own values.
    pub(super) static VALUE: Table = Table { low: table(0), high: table(8) };
    /// Puts the codes in such an order that unpacking, which works on pieces of 128 bits, restores the original order.
    static ORDER: [u64; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

    /// The table's entry for each of `n` codes at `from`, with the code's sign.
    ///
    /// # Safety
    /// Both must be valid for `n` elements, and the processor must have AVX-512 VBMI.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
    pub(in super::super) unsafe fn look_up(table: &Table, from: *const u8, n: usize, to: *mut u16) {
        // SAFETY: tables have 128 entries; masked loads and stores touch the n elements that the caller promises.
        unsafe {
            let half = |t: &[u8; 128], i: usize| _mm512_loadu_si512(t.as_ptr().add(64 * i).cast());
            let low = [half(&table.low, 0), half(&table.low, 1)];
            let high = [half(&table.high, 0), half(&table.high, 1)];
            let order = _mm512_loadu_si512(ORDER.as_ptr().cast());
            let sign = _mm512_set1_epi8(-128);
            for i in (0..n).step_by(64) {
                let left = n - i;
                let codes = if left >= 64 {
                    _mm512_loadu_si512(from.add(i).cast())
                } else {
                    _mm512_maskz_loadu_epi8((1 << left) - 1, from.add(i).cast())
                };
                let codes = _mm512_permutexvar_epi64(order, codes);
                let lo = _mm512_permutex2var_epi8(low[0], codes, low[1]);
                let hi = _mm512_permutex2var_epi8(high[0], codes, high[1]);
                let hi = _mm512_or_si512(hi, _mm512_and_si512(codes, sign));
                let (a, b) = (_mm512_unpacklo_epi8(lo, hi), _mm512_unpackhi_epi8(lo, hi));
                if left >= 64 {
                    _mm512_storeu_si512(to.add(i).cast(), a);
                    _mm512_storeu_si512(to.add(i + 32).cast(), b);
                } else {
                    let mask = |n: usize| if n >= 32 { u32::MAX } else { (1 << n) - 1 };
                    _mm512_mask_storeu_epi16(to.add(i).cast(), mask(left), a);
                    if left > 32 {
                        _mm512_mask_storeu_epi16(to.add(i + 32).cast(), mask(left - 32), b);
                    }
                }
            }
        }
    }
}
