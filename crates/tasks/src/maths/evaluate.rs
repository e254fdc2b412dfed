//! Expressions and their values.

use std::collections::BTreeSet;

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{One, Pow, Signed, ToPrimitive, Zero};

use super::near::Near;

/// The largest numerator or denominator, in bits.
const MAX_BITS: u64 = 16_384;
/// The largest degree of a root.
pub(super) const MAX_DEGREE: u32 = 16;
/// The largest number whose factorial is computed.
const MAX_FACTORIAL: u32 = 500;

/// An expression.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Expr {
    Number(BigRational),
    Pi,
    Letter(String),
    Neg(Box<Expr>),
    Add(Box<Expr>, Box<Expr>),
    Mul(Box<Expr>, Box<Expr>),
    Div(Box<Expr>, Box<Expr>),
    Pow(Box<Expr>, Box<Expr>),
    Root(u32, Box<Expr>),
    Abs(Box<Expr>),
    Factorial(Box<Expr>),
    Binomial(Box<Expr>, Box<Expr>),
}

/// The value of an expression: a fraction, or an interval.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Exact(BigRational),
    Near(Near),
}

impl Expr {
    pub(super) fn letters(&self, into: &mut BTreeSet<String>) {
        match self {
            Self::Number(_) | Self::Pi => {}
            Self::Letter(name) => {
                into.insert(name.clone());
            }
            Self::Neg(a) | Self::Root(_, a) | Self::Abs(a) | Self::Factorial(a) => a.letters(into),
            Self::Add(a, b) | Self::Mul(a, b) | Self::Div(a, b) | Self::Pow(a, b) | Self::Binomial(a, b) => {
                a.letters(into);
                b.letters(into);
            }
        }
    }

    /// The value with each letter replaced by its number. Nothing if it has none or is out of bounds.
    pub(super) fn value(&self, letter: &dyn Fn(&str) -> i64) -> Option<Value> {
        match self {
            Self::Number(number) => Value::exact(number.clone()),
            Self::Pi => Some(Value::Near(Near::pi())),
            Self::Letter(name) => Some(Value::integer(letter(name))),
            Self::Neg(a) => Some(a.value(letter)?.neg()),
            Self::Add(a, b) => a.value(letter)?.add(&b.value(letter)?),
            Self::Mul(a, b) => a.value(letter)?.mul(&b.value(letter)?),
            Self::Div(a, b) => a.value(letter)?.mul(&b.value(letter)?.reciprocal()?),
            Self::Pow(a, b) => a.value(letter)?.pow(&b.value(letter)?),
            Self::Root(degree, a) => a.value(letter)?.root(*degree),
            Self::Abs(a) => {
                let value = a.value(letter)?;
                Some(if value.sign()? < 0 { value.neg() } else { value })
            }
            Self::Factorial(a) => {
                let n = a.value(letter)?.small()?;
                (n <= MAX_FACTORIAL).then(|| (1..=n).fold(BigInt::one(), |product, k| product * k)).map(Value::whole)
            }
            Self::Binomial(a, b) => {
                let (n, k) = (a.value(letter)?.small()?, b.value(letter)?.small()?);
                let k = k.min(n.checked_sub(k)?);
                (k <= MAX_FACTORIAL)
                    .then(|| (0..k).fold(BigInt::one(), |product, i| product * (n - i) / (i + 1)))
                    .map(Value::whole)
            }
        }
    }
}

impl Value {
    pub(super) fn integer(number: i64) -> Self {
        Self::whole(BigInt::from(number))
    }

    fn whole(number: BigInt) -> Self {
        Self::Exact(BigRational::from_integer(number))
    }

    fn exact(number: BigRational) -> Option<Self> {
        (number.numer().bits() <= MAX_BITS && number.denom().bits() <= MAX_BITS).then_some(Self::Exact(number))
    }

    fn near(&self) -> Option<Near> {
        match self {
            Self::Exact(number) => Near::of(number),
            Self::Near(near) => Some(near.clone()),
        }
    }

    /// A whole number that is not negative and not large.
    fn small(&self) -> Option<u32> {
        match self {
            Self::Exact(number) if number.is_integer() => number.to_integer().to_u32(),
            _ => None,
        }
    }

    pub(super) fn neg(&self) -> Self {
        match self {
            Self::Exact(number) => Self::Exact(-number),
            Self::Near(near) => Self::Near(near.neg()),
        }
    }

    pub(super) fn add(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) => Self::exact(a + b),
            _ => Some(Self::Near(self.near()?.add(&other.near()?)?)),
        }
    }

    pub(super) fn mul(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) => Self::exact(a * b),
            (Self::Exact(zero), _) | (_, Self::Exact(zero)) if zero.is_zero() => Some(Self::integer(0)),
            _ => Some(Self::Near(self.near()?.mul(&other.near()?)?)),
        }
    }

    fn reciprocal(&self) -> Option<Self> {
        match self {
            Self::Exact(number) => (!number.is_zero()).then(|| Self::Exact(number.recip())),
            Self::Near(near) => near.reciprocal().map(Self::Near),
        }
    }

    fn pow(&self, exponent: &Self) -> Option<Self> {
        let Self::Exact(exponent) = exponent else { return None };
        let power = exponent.numer().to_i32()?;
        let degree = exponent.denom().to_u32()?;
        if degree > 1 && self.sign()? < 0 {
            return None;
        }
        self.whole_power(power)?.root(degree)
    }

    fn whole_power(&self, power: i32) -> Option<Self> {
        match self {
            Self::Exact(number) => {
                let size = number.numer().bits().max(number.denom().bits());
                if number.is_zero() && power <= 0 {
                    return (power == 0).then(|| Self::integer(1));
                }
                let trivial = number.abs().is_one();
                if !trivial && size.saturating_mul(u64::from(power.unsigned_abs())) > 2 * MAX_BITS {
                    return None;
                }
                let power = if trivial { power % 2 } else { power };
                Self::exact(Pow::pow(number, power))
            }
            Self::Near(near) => {
                if power.unsigned_abs() > 64 {
                    return None;
                }
                let mut product = Self::integer(1);
                for _ in 0..power.unsigned_abs() {
                    product = product.mul(&Self::Near(near.clone()))?;
                }
                if power < 0 { product.reciprocal() } else { Some(product) }
            }
        }
    }

    /// The real root. It is exact where it is a fraction. An odd root of a negative number is negative.
    fn root(&self, degree: u32) -> Option<Self> {
        if degree == 1 {
            return Some(self.clone());
        }
        match (self.sign()?, degree % 2) {
            (0, _) => return Some(Self::integer(0)),
            (-1, 0) => return None,
            (-1, _) => return Some(self.neg().root(degree)?.neg()),
            _ => {}
        }
        if degree == 0 || degree > MAX_DEGREE {
            return None;
        }
        if let Self::Exact(number) = self {
            let (top, bottom) = (number.numer().nth_root(degree), number.denom().nth_root(degree));
            if &Pow::pow(&top, degree) == number.numer() && &Pow::pow(&bottom, degree) == number.denom() {
                return Some(Self::Exact(BigRational::new(top, bottom)));
            }
        }
        self.near()?.root(degree).map(Self::Near)
    }

    /// -1, 0 or 1. Nothing if it is not known.
    pub(super) fn sign(&self) -> Option<i32> {
        match self {
            Self::Exact(number) => Some(i32::from(number.is_positive()) - i32::from(number.is_negative())),
            Self::Near(near) => near.sign(),
        }
    }

    /// The sign of the difference from another value.
    pub(super) fn compare(&self, other: &Self) -> Option<i32> {
        self.add(&other.neg())?.sign()
    }
}
