//! Sixteen f32 values in registers, on every instruction path, and the exponential that all of them share.
//!
//! `exp2(x)` for x in [-126, 127]: x = n + f with |f| <= 1/2, and 2^f = 1 + f q(f) with a minimax q of degree 5
//! (relative error 2.6e-9), scaled by 2^n. Including rounding, the result is within 2 ulp of the true value (tested).
//! Below -126 it is exactly 0, so that a masked score (-inf) has weight 0. A NaN stays NaN.
//!
//! The methods are `inline(always)` and have no target feature of their own. So they are compiled to the caller's
//! instructions.

/// Coefficients of q, starting with the constant term.
const Q: [f32; 6] = [6.931_472e-1, 2.402_265_2e-1, 5.550_310_7e-2, 9.617_693e-3, 1.340_664_4e-3, 1.559_467_8e-4];
/// Smallest exponent whose result is a normal number.
const LEAST: f32 = -126.0;

/// Sixteen f32 values.
pub(crate) trait Lanes: Copy {
    /// All lanes `x`.
    unsafe fn splat(x: f32) -> Self;
    /// From memory, unaligned.
    unsafe fn load(p: *const f32) -> Self;
    /// To memory, unaligned.
    unsafe fn store(self, p: *mut f32);
    /// Sum.
    unsafe fn add(self, o: Self) -> Self;
    /// Difference.
    unsafe fn sub(self, o: Self) -> Self;
    /// Product.
    unsafe fn mul(self, o: Self) -> Self;
    /// `self * b + c`, rounded once except on the portable path.
    unsafe fn mul_add(self, b: Self, c: Self) -> Self;
    /// Maximum. If `o` is NaN, so is the result.
    unsafe fn max(self, o: Self) -> Self;
    /// Replaces the lanes below `lane` by `other`.
    unsafe fn keep_from(self, lane: i32, other: f32) -> Self;
    /// 2^self.
    unsafe fn exp2(self) -> Self;
}

/// The portable form.
#[derive(Clone, Copy)]
pub(crate) struct Plain([f32; 16]);

impl Plain {
    #[inline(always)]
    fn zip(self, o: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        let mut r = self;
        for i in 0..16 {
            r.0[i] = f(self.0[i], o.0[i]);
        }
        r
    }
}

impl Lanes for Plain {
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self([x; 16])
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller passes 16 readable values.
        Self(unsafe { p.cast::<[f32; 16]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the caller passes room for 16 values.
        unsafe { p.cast::<[f32; 16]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn add(self, o: Self) -> Self {
        self.zip(o, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(self, o: Self) -> Self {
        self.zip(o, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(self, o: Self) -> Self {
        self.zip(o, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        self.zip(b, |a, b| a * b).zip(c, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn max(self, o: Self) -> Self {
        self.zip(o, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn keep_from(self, lane: i32, other: f32) -> Self {
        let mut r = self;
        for i in 0..16 {
            r.0[i] = if (i as i32) < lane { other } else { self.0[i] };
        }
        r
    }
    #[inline(always)]
    unsafe fn exp2(self) -> Self {
        let mut r = self;
        for i in 0..16 {
            // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits.
            const MAGIC: f32 = 12_582_912.0;
            let x = self.0[i];
            let t = x + MAGIC;
            let f = x - (t - MAGIC);
            let mut q = Q[5];
            for k in (0..5).rev() {
                q = q * f + Q[k];
            }
            let scale = f32::from_bits((t.to_bits() << 23).wrapping_add(0x3f80_0000));
            let y = (q * f + 1.0) * scale;
            r.0[i] = if x < LEAST { 0.0 } else { y };
        }
        r
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Ymm2, Zmm};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{LEAST, Lanes, Q};
    use std::arch::x86_64::*;

    /// One 512-bit register. Callers run with AVX-512 F enabled.
    #[derive(Clone, Copy)]
    pub(crate) struct Zmm(pub(crate) __m512);

    // SAFETY (all methods): callers have AVX-512 F; pointers hold 16 values.
    #[allow(clippy::undocumented_unsafe_blocks)]
    impl Lanes for Zmm {
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            Self(unsafe { _mm512_set1_ps(x) })
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self {
            Self(unsafe { _mm512_loadu_ps(p) })
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f32) {
            unsafe { _mm512_storeu_ps(p, self.0) }
        }
        #[inline(always)]
        unsafe fn add(self, o: Self) -> Self {
            Self(unsafe { _mm512_add_ps(self.0, o.0) })
        }
        #[inline(always)]
        unsafe fn sub(self, o: Self) -> Self {
            Self(unsafe { _mm512_sub_ps(self.0, o.0) })
        }
        #[inline(always)]
        unsafe fn mul(self, o: Self) -> Self {
            Self(unsafe { _mm512_mul_ps(self.0, o.0) })
        }
        #[inline(always)]
        unsafe fn mul_add(self, b: Self, c: Self) -> Self {
            Self(unsafe { _mm512_fmadd_ps(self.0, b.0, c.0) })
        }
        #[inline(always)]
        unsafe fn max(self, o: Self) -> Self {
            Self(unsafe { _mm512_max_ps(self.0, o.0) })
        }
        #[inline(always)]
        unsafe fn keep_from(self, lane: i32, other: f32) -> Self {
            let keep = (0xffff_u32 << lane.clamp(0, 16)) as __mmask16;
            Self(unsafe { _mm512_mask_blend_ps(keep, _mm512_set1_ps(other), self.0) })
        }
        #[inline(always)]
        unsafe fn exp2(self) -> Self {
            unsafe {
                let n = _mm512_roundscale_ps::<0>(self.0);
                let f = _mm512_sub_ps(self.0, n);
                let mut q = _mm512_set1_ps(Q[5]);
                for k in (0..5).rev() {
                    q = _mm512_fmadd_ps(q, f, _mm512_set1_ps(Q[k]));
                }
                let y = _mm512_fmadd_ps(q, f, _mm512_set1_ps(1.0));
                let normal = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(self.0, _mm512_set1_ps(LEAST));
                Self(_mm512_maskz_scalef_ps(normal, y, n))
            }
        }
    }

    /// Two 256-bit registers. Callers run with AVX2 and FMA enabled.
    #[derive(Clone, Copy)]
    pub(crate) struct Ymm2(pub(crate) __m256, pub(crate) __m256);

    #[inline(always)]
    unsafe fn exp2_256(x: __m256) -> __m256 {
        // SAFETY: the caller has AVX2 and FMA.
        unsafe {
            let n = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x);
            let f = _mm256_sub_ps(x, n);
            let mut q = _mm256_set1_ps(Q[5]);
            for k in (0..5).rev() {
                q = _mm256_fmadd_ps(q, f, _mm256_set1_ps(Q[k]));
            }
            let y = _mm256_fmadd_ps(q, f, _mm256_set1_ps(1.0));
            let exponent = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)));
            let normal = _mm256_cmp_ps::<_CMP_NLT_UQ>(x, _mm256_set1_ps(LEAST));
            _mm256_and_ps(normal, _mm256_mul_ps(y, _mm256_castsi256_ps(exponent)))
        }
    }

    #[inline(always)]
    unsafe fn keep_256(x: __m256, lane: i32, other: f32) -> __m256 {
        // SAFETY: the caller has AVX2.
        unsafe {
            let index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let below = _mm256_cmpgt_epi32(_mm256_set1_epi32(lane), index);
            _mm256_blendv_ps(x, _mm256_set1_ps(other), _mm256_castsi256_ps(below))
        }
    }

    // SAFETY (all methods): callers have AVX2 and FMA; pointers hold 16 values.
    #[allow(clippy::undocumented_unsafe_blocks)]
    impl Lanes for Ymm2 {
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            unsafe { Self(_mm256_set1_ps(x), _mm256_set1_ps(x)) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self {
            unsafe { Self(_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))) }
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f32) {
            unsafe {
                _mm256_storeu_ps(p, self.0);
                _mm256_storeu_ps(p.add(8), self.1);
            }
        }
        #[inline(always)]
        unsafe fn add(self, o: Self) -> Self {
            unsafe { Self(_mm256_add_ps(self.0, o.0), _mm256_add_ps(self.1, o.1)) }
        }
        #[inline(always)]
        unsafe fn sub(self, o: Self) -> Self {
            unsafe { Self(_mm256_sub_ps(self.0, o.0), _mm256_sub_ps(self.1, o.1)) }
        }
        #[inline(always)]
        unsafe fn mul(self, o: Self) -> Self {
            unsafe { Self(_mm256_mul_ps(self.0, o.0), _mm256_mul_ps(self.1, o.1)) }
        }
        #[inline(always)]
        unsafe fn mul_add(self, b: Self, c: Self) -> Self {
            unsafe { Self(_mm256_fmadd_ps(self.0, b.0, c.0), _mm256_fmadd_ps(self.1, b.1, c.1)) }
        }
        #[inline(always)]
        unsafe fn max(self, o: Self) -> Self {
            unsafe { Self(_mm256_max_ps(self.0, o.0), _mm256_max_ps(self.1, o.1)) }
        }
        #[inline(always)]
        unsafe fn keep_from(self, lane: i32, other: f32) -> Self {
            unsafe { Self(keep_256(self.0, lane, other), keep_256(self.1, lane - 8, other)) }
        }
        #[inline(always)]
        unsafe fn exp2(self) -> Self {
            unsafe { Self(exp2_256(self.0), exp2_256(self.1)) }
        }
    }
}
