//! Real numbers as intervals of fixed-point numbers: `[low, high] / 2^BITS` surely contains the number.

use std::sync::OnceLock;

use num_bigint::{BigInt, Sign};
use num_integer::Integer;
use num_rational::BigRational;
use num_traits::{One, Signed, Zero};

use super::evaluate::MAX_DEGREE;

/// Bits behind the point.
const BITS: u64 = 2048;
/// Numbers above 2^LIMIT or below 2^-LIMIT are refused, so that a difference of nearly 2^-BITS means that there is none.
const LIMIT: u64 = 512;
/// The widest interval that counts as a known number: 2^-(BITS - WIDTH).
const WIDTH: u64 = 900;

/// A real number that is not exact.
#[derive(Clone, Debug)]
pub(super) struct Near {
    low: BigInt,
    high: BigInt,
}

impl Near {
    /// The interval around a fraction. Very large and very small ones are refused.
    pub(super) fn of(value: &BigRational) -> Option<Self> {
        let scaled = value.numer() << BITS;
        let (low, high) = (scaled.div_floor(value.denom()), scaled.div_ceil(value.denom()));
        Self { low, high }.in_range(value.is_zero())
    }

    /// The number π, from Machin's formula.
    pub(super) fn pi() -> Self {
        static PI: OnceLock<BigInt> = OnceLock::new();
        let low = PI.get_or_init(|| {
            // 64 more bits, so that the sums of rounded terms leave the last kept bit right to within one.
            let bits = BITS + 64;
            let arctan = |n: u32| {
                let (n2, mut power, mut sum, mut k) =
                    (BigInt::from(n * n), (BigInt::one() << bits) / n, BigInt::zero(), 0u32);
                while !power.is_zero() {
                    let term = &power / (2 * k + 1);
                    sum = if k % 2 == 0 { sum + term } else { sum - term };
                    power /= &n2;
                    k += 1;
                }
                sum
            };
            (BigInt::from(16) * arctan(5) - BigInt::from(4) * arctan(239)) >> 64u32
        });
        Self { low: low - 1u32, high: low + 2u32 }
    }

    fn in_range(self, zero: bool) -> Option<Self> {
        let size = self.low.bits().max(self.high.bits());
        let fits = size <= BITS + LIMIT && (zero || size >= BITS - LIMIT);
        fits.then_some(self)
    }

    pub(super) fn neg(&self) -> Self {
        Self { low: -&self.high, high: -&self.low }
    }

    pub(super) fn add(&self, other: &Self) -> Option<Self> {
        Self { low: &self.low + &other.low, high: &self.high + &other.high }.in_range(true)
    }

    pub(super) fn mul(&self, other: &Self) -> Option<Self> {
        let products =
            [&self.low * &other.low, &self.low * &other.high, &self.high * &other.low, &self.high * &other.high];
        let one = BigInt::one() << BITS;
        let low = products.iter().min()?.div_floor(&one);
        let high = products.iter().max()?.div_ceil(&one);
        Self { low, high }.in_range(false)
    }

    /// One divided by the number. Nothing if it may be zero.
    pub(super) fn reciprocal(&self) -> Option<Self> {
        if self.low.sign() != self.high.sign() || self.low.is_zero() {
            return None;
        }
        let one = BigInt::one() << (2 * BITS);
        Self { low: one.div_floor(&self.high), high: one.div_ceil(&self.low) }.in_range(false)
    }

    /// The root of a positive number.
    pub(super) fn root(&self, degree: u32) -> Option<Self> {
        if self.low.sign() != Sign::Plus || degree == 0 || degree > MAX_DEGREE {
            return None;
        }
        let shift = BITS * u64::from(degree - 1);
        let low = (&self.low << shift).nth_root(degree);
        let high = (&self.high << shift).nth_root(degree) + 1u32;
        Self { low, high }.in_range(false)
    }

    /// -1, 0 or 1. Nothing if the interval is too wide to tell.
    pub(super) fn sign(&self) -> Option<i32> {
        if self.low.is_positive() {
            return Some(1);
        }
        if self.high.is_negative() {
            return Some(-1);
        }
        ((&self.high - &self.low).bits() <= WIDTH).then_some(0)
    }
}
