//! Elementary functions in f32, written so that a plain loop over them vectorises.
//!
//! Everything here is branch-free and `inline(always)`. In a loop inside a `#[target_feature]` function (see
//! [`crate::kernel`]) it becomes vector code of that path. The parameter `FMA` says whether that function has fused
//! multiply-add. Without it, `f32::mul_add` would be a library call.
//!
//! `exp(x) = 2^n e^r` with `n = round(x / ln 2)` and `|r| <= ln 2 / 2`. `e^r = 1 + r + r^2 p(r)` with p of degree 4,
//! fitted (Remez, relative error of `e^r`) to 3.1e-9. That is a twentieth of an ulp, so the remaining error is
//! rounding.

/// `a * b + c`, with one rounding if `FMA`.
#[inline(always)]
pub(crate) fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Below this `exp` gives 0 (the true value is under 1.8e-38).
const EXP_LOW: f32 = -86.9;
/// Above this `exp` gives infinity; e^88.7228 is the largest finite f32.
const EXP_HIGH: f32 = 88.72283;

/// Largest relative error of [`exp`], for results that are not 0 or infinite.
#[cfg(test)]
const EXP_ERROR: f64 = 1.5 * 1.192_092_9e-7;

/// e^x within 1.5 * 2^-23. Exactly 1 at 0, 0 for x < -86.9 and -inf, inf for x above the range, NaN for NaN.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer, and leaves it in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts. The first has 9 bits below the leading one, so n * LN2_HIGH is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let shifted = fma::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = fma::<FMA>(n, -LN2_LOW, fma::<FMA>(n, -LN2_HIGH, x));
    let mut p = 1.381_432e-3;
    p = fma::<FMA>(p, r, 8.368_851e-3);
    p = fma::<FMA>(p, r, 4.166_84e-2);
    p = fma::<FMA>(p, r, 0.166_665_2);
    p = fma::<FMA>(p, r, 0.499_999_94);
    let p = fma::<FMA>(p * r, r, r) + 1.0;
    // 2^(n-1) from its exponent bits, times 2. n can be 128, although 2^128 does not exist.
    let scale = f32::from_bits(shifted.to_bits().wrapping_shl(23).wrapping_add(126 << 23));
    let y = (p + p) * scale;
    let y = if x < EXP_LOW { 0.0 } else { y };
    // The comparison is false for NaN, and the product is NaN.
    if x > EXP_HIGH { f32::INFINITY } else { y }
}

/// 1 / (1 + e^-x) within 3 * 2^-23 for x > -86; 0 far below.
#[inline(always)]
pub(crate) fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x))
}

/// The bits of the nearest bf16 to `v`. Ties go to even, overflow gives infinity, NaN stays NaN.
#[inline(always)]
pub(crate) fn bf16_bits(v: f32) -> u16 {
    let bits = v.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    // The quiet bit is set, so that a NaN whose payload is in the lower half does not become infinity.
    let nan = (bits >> 16) | 0x40;
    (if bits & 0x7fff_ffff > 0x7f80_0000 { nan } else { rounded }) as u16
}

/// The f32 of bf16 bits, exactly.
#[inline(always)]
pub(crate) fn bf16_value(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    fn inputs() -> impl Iterator<Item = f32> {
        // Every 997th bit pattern covers all exponents, both signs, denormals, infinities and NaNs.
        (0..=u32::MAX).step_by(997).map(f32::from_bits)
    }

    fn exp_error<const FMA: bool>() -> f64 {
        let mut worst = 0.0f64;
        let check = |x: f32| {
            let (y, want) = (exp::<FMA>(x), f64::from(x).exp());
            if x.is_nan() {
                assert!(y.is_nan());
            } else if x > EXP_HIGH {
                assert_eq!(y, f32::INFINITY);
            } else if x < EXP_LOW {
                assert!(y == 0.0 && want < 1.9e-38);
            } else {
                return (f64::from(y) / want - 1.0).abs();
            }
            0.0
        };
        for x in inputs().chain((-870_000..887_000).map(|i| i as f32 * 1e-4)) {
            worst = worst.max(check(x));
        }
        worst
    }

    #[test]
    fn exp_is_within_its_bound_with_and_without_fused_multiply_add() {
        let (plain, fused) = (exp_error::<false>(), exp_error::<true>());
        assert!(plain < EXP_ERROR && fused < EXP_ERROR, "{plain:e} {fused:e}");
        for x in [0.0, -0.0] {
            assert!(exp::<false>(x) == 1.0 && exp::<true>(x) == 1.0);
        }
        assert!(exp::<true>(EXP_HIGH).is_finite() && exp::<false>(EXP_HIGH).is_finite());
        assert_eq!(exp::<true>(f32::NEG_INFINITY), 0.0);
    }

    #[test]
    fn sigmoid_is_within_its_bound() {
        for x in (-860_000..=1_000_000).map(|i| i as f32 * 1e-4).chain([f32::INFINITY, f32::MAX]) {
            let want = 1.0 / (1.0 + (-f64::from(x)).exp());
            for y in [sigmoid::<false>(x), sigmoid::<true>(x)] {
                assert!((f64::from(y) / want - 1.0).abs() < 3.0 * 1.192_092_9e-7, "{x}: {y} {want}");
            }
        }
        assert_eq!(sigmoid::<true>(f32::NEG_INFINITY), 0.0);
        assert!(sigmoid::<true>(f32::NAN).is_nan());
    }

    #[test]
    fn bf16_rounding_is_that_of_the_half_crate() {
        // For each upper half, these four lower halves are the tie and its neighbours.
        let ties = (0..=u16::MAX).flat_map(|hi| [0, 0x7fff, 0x8000, 0x8001].map(|lo| u32::from(hi) << 16 | lo));
        for v in inputs().chain(ties.map(f32::from_bits)) {
            assert_eq!(bf16_bits(v), bf16::from_f32(v).to_bits(), "{v:e}");
        }
        for bits in 0..=u16::MAX {
            let (v, want) = (bf16_value(bits), bf16::from_bits(bits).to_f32());
            assert!(v == want || v.is_nan() && want.is_nan());
        }
    }
}
