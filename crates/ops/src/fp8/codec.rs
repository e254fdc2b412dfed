//! The formats as branch-free code that compilers vectorise. `format` defines the results.

use super::{E4M3, E5M2, E5M6, MiniFloat, TILE};
use crate::Isa;
use crate::kernel::Elem;

/// A format known at compile time.
pub(crate) trait Codec: Copy + Send + Sync + 'static {
    const FORMAT: MiniFloat;
    /// Whether a code has four bits in addition to a byte, stored separately.
    const LOW: bool = Self::FORMAT.bits() > 8;

    /// The code of `v`, sign included, in the low bits.
    #[inline(always)]
    fn code(v: f32) -> u32 {
        let MiniFloat { exponent_bits, mantissa_bits, bias, max_code, nan_code } = Self::FORMAT;
        let (bits, drop) = (v.to_bits(), 23 - mantissa_bits);
        let a = bits & 0x7fff_ffff;
        // Rounds the bits to nearest even. A carry goes into the exponent.
        let rounded = a.wrapping_add((1 << (drop - 1)) - 1 + ((a >> drop) & 1)) >> drop;
        let normal = rounded.wrapping_sub(((127 - bias) as u32) << mantissa_bits).min(u32::from(max_code));
        // The last bit of this number has the weight of the smallest subnormal number. Adding it rounds to that bit.
        let magic = f32::from_bits(((127 + 24 - bias - mantissa_bits as i32) as u32) << 23);
        let small = (f32::from_bits(a) + magic).to_bits().wrapping_sub(magic.to_bits());
        let least = ((128 - bias) as u32) << 23;
        let code = if a < least { small } else { normal };
        let code = if a > 0x7f80_0000 { u32::from(nan_code) } else { code };
        code | (bits >> 31) << (exponent_bits + mantissa_bits)
    }

    /// The value of a finite code or NaN.
    #[inline(always)]
    fn value(code: u32) -> f32 {
        let MiniFloat { exponent_bits, mantissa_bits, bias, nan_code, .. } = Self::FORMAT;
        let magnitude = code & ((1 << (exponent_bits + mantissa_bits)) - 1);
        let sign = (code >> (exponent_bits + mantissa_bits)) << 31;
        let normal = (magnitude << (23 - mantissa_bits)) + (((127 - bias) as u32) << 23);
        let least = f32::from_bits(((127 + 1 - bias - mantissa_bits as i32) as u32) << 23);
        let small = (magnitude as i32 as f32 * least).to_bits();
        let bits = if magnitude < 1 << mantissa_bits { small } else { normal };
        let bits = if magnitude == u32::from(nan_code) { 0x7fc0_0000 } else { bits };
        f32::from_bits(bits | sign)
    }
}

/// [`E4M3`] as a type.
#[derive(Clone, Copy, Default)]
pub(crate) struct FourThree;
/// [`E5M2`] as a type.
#[derive(Clone, Copy, Default)]
pub(crate) struct FiveTwo;
/// [`E5M6`] as a type.
#[derive(Clone, Copy, Default)]
pub(crate) struct FiveSix;

impl Codec for FourThree {
    const FORMAT: MiniFloat = E4M3;
}
impl Codec for FiveTwo {
    const FORMAT: MiniFloat = E5M2;
}
impl Codec for FiveSix {
    const FORMAT: MiniFloat = E5M6;
}

/// Evaluates an expression with the type alias `$t` standing for a format: one of the three, or it panics.
macro_rules! with_codec {
    ($format:expr, $t:ident => $body:expr) => {
        match $format {
            $crate::fp8::E4M3 => {
                type $t = $crate::fp8::codec::FourThree;
                $body
            }
            $crate::fp8::E5M2 => {
                type $t = $crate::fp8::codec::FiveTwo;
                $body
            }
            $crate::fp8::E5M6 => {
                type $t = $crate::fp8::codec::FiveSix;
                $body
            }
            other => panic!("fp8: no codes of {other:?}"),
        }
    };
}
pub(crate) use with_codec;

/// `v` rounded to a value of E4M3, with saturation.
#[inline(always)]
pub(crate) fn to_grid(v: f32) -> f32 {
    const MAGIC: f32 = 16384.0; // its last bit is 2^-9
    let bits = v.to_bits();
    let a = bits & 0x7fff_ffff;
    let normal = (a.wrapping_add(0x7_ffff + ((a >> 20) & 1)) & !0xf_ffff).min(448f32.to_bits());
    let small = ((f32::from_bits(a) + MAGIC) - MAGIC).to_bits();
    let grid = if a < (121 << 23) { small } else { normal };
    let grid = if a > 0x7f80_0000 { 0x7fc0_0000 } else { grid };
    f32::from_bits(grid | (bits & 0x8000_0000))
}

/// The scale of values whose largest magnitude has the bits `amax`: the magnitude divided by the format's largest
/// value, or the next power of two. For zeros it is 1. It is a normal number, so its inverse is finite and a quotient
/// keeps its bits. If all values are below `max * 2^-126`, the scale is 2^-126. If there is an infinity, the scale is
/// infinite, and then every value of the tile is NaN. If there is a NaN, the scale is 1, and the NaN's code is NaN.
#[inline(always)]
pub fn scale_of(amax: u32, max: f32, power_of_two: bool) -> f32 {
    let least = f32::MIN_POSITIVE;
    let scale = f32::from_bits(amax) / max;
    let scale = if scale < least { least } else { scale };
    let up = f32::from_bits(scale.to_bits().wrapping_add(0x7f_ffff) & 0xff80_0000);
    let scale = if power_of_two { up } else { scale };
    if amax == 0 || amax > 0x7f80_0000 { 1.0 } else { scale }
}

/// Codes of a row with one scale per [`TILE`] values, in a one-byte format, on a path that the processor supports.
#[inline(always)]
pub(crate) fn encode_with<X: Elem, F: Codec>(isa: Isa, row: &[X], scales: &[f32], codes: &mut [u8]) {
    assert!(!F::LOW && codes.len() == row.len() && scales.len() == row.len().div_ceil(TILE));
    #[cfg(target_arch = "x86_64")]
    if isa.has_avx512() && F::FORMAT == E4M3 {
        // SAFETY: the path's processor; lengths are as they should be.
        unsafe { super::rows512::encode(row, scales, codes) };
        return;
    }
    for ((row, codes), scale) in row.chunks(TILE).zip(codes.chunks_mut(TILE)).zip(scales) {
        for (code, x) in codes.iter_mut().zip(row) {
            *code = F::code(x.get() / scale) as u8;
        }
    }
}

/// E4M3 codes of a row with one scale per [`TILE`] values: `E4M3.encode(x / scale)`.
pub fn encode(row: &[f32], scales: &[f32], codes: &mut [u8]) {
    encode_with::<f32, FourThree>(Isa::detect(), row, scales, codes);
}
