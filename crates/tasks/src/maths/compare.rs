//! Whether two answers that were read are equal.

use std::collections::BTreeSet;

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{Pow, Signed};

use super::evaluate::{Expr, Value};
use super::parse::{Answer, Piece, Scalar, pieces};

/// The most elements of a set that are compared.
const MAX_ELEMENTS: usize = 60;

/// Decimals with fewer places than this are not taken for rounded numbers.
const PLACES: usize = 6;
/// Places beyond these are noise of floating-point numbers.
const MAX_PLACES: usize = 12;

/// Whether two answers are equal. A set or list of one element is that element.
pub(super) fn equal(a: &Answer, b: &Answer) -> bool {
    match (a, b) {
        (Answer::Set(_), Answer::Set(_) | Answer::Intervals { .. } | Answer::List(_)) => same(a, b),
        (Answer::Set(elements), other) | (other, Answer::Set(elements)) => match elements.as_slice() {
            [only] => same(only, other),
            _ => same(a, b),
        },
        _ => same(a, b),
    }
}

fn same(a: &Answer, b: &Answer) -> bool {
    use Answer::{Equation, Infinity, Intervals, List, Named, NotEqual, Positive, Set, Tuple, Words};
    match (a, b) {
        (Named { name: m, value: a }, Named { name: n, value: b }) => m == n && same(a, b),
        (Named { name, value }, Equation(difference)) | (Equation(difference), Named { name, value }) => {
            let Answer::Scalar(value) = value.as_ref() else { return false };
            let named =
                Expr::Add(Box::new(Expr::Letter(name.clone())), Box::new(Expr::Neg(Box::new(value.expr.clone()))));
            same_or_opposite(&named, difference)
        }
        (Named { value, .. }, other) | (other, Named { value, .. }) => same(value, other),
        (Set(a) | List(a), Set(b) | List(b)) => same_elements(a, b),
        (Tuple(a), Tuple(b) | List(b)) | (List(a), Tuple(b)) => {
            a.len() == b.len() && a.len() <= MAX_ELEMENTS && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Intervals { letter: Some(x), .. }, Intervals { letter: Some(y), .. }) if x != y => false,
        (Intervals { .. }, Intervals { .. } | Tuple(_) | Set(_)) | (Tuple(_) | Set(_), Intervals { .. }) => {
            let merged = |answer| Region::of(&pieces(answer)?);
            merged(a).zip(merged(b)).is_some_and(|(a, b)| a.same(&b))
        }
        (Infinity { negative: a }, Infinity { negative: b }) => a == b,
        (Equation(a), Equation(b)) | (NotEqual(a), NotEqual(b)) => same_or_opposite(a, b),
        (Positive { difference: a, strict: s }, Positive { difference: b, strict: t }) => s == t && same_value(a, b),
        (Words(a), Words(b)) => a == b,
        (Answer::Scalar(a), Answer::Scalar(b)) => scalars(a, b),
        _ => false,
    }
}

/// Whether each element of one side equals one of the other.
fn same_elements(a: &[Answer], b: &[Answer]) -> bool {
    if a.len() > MAX_ELEMENTS || b.len() > MAX_ELEMENTS {
        return false;
    }
    let covers = |a: &[Answer], b: &[Answer]| a.iter().all(|x| b.iter().any(|y| same(x, y)));
    covers(a, b) && covers(b, a)
}

fn same_or_opposite(a: &Expr, b: &Expr) -> bool {
    same_value(a, b) || same_value(&Expr::Neg(Box::new(a.clone())), b)
}

fn scalars(a: &Scalar, b: &Scalar) -> bool {
    if let (Some(a), Some(b)) = (&a.unit, &b.unit)
        && a != b
    {
        return false;
    }
    match (a.percent, b.percent) {
        (true, false) => return percent(&a.expr, &b.expr),
        (false, true) => return percent(&b.expr, &a.expr),
        _ => {}
    }
    same_value(&a.expr, &b.expr) || rounded(a, b)
}

/// Whether `percent` per cent is `plain`, or both are the same whole number.
fn percent(percent: &Expr, plain: &Expr) -> bool {
    let hundred = Expr::Number(BigRational::from_integer(BigInt::from(100)));
    if same_value(&Expr::Div(Box::new(percent.clone()), Box::new(hundred)), plain) {
        return true;
    }
    matches!(percent.value(&|_| 0), Some(Value::Exact(whole)) if whole.is_integer()) && same_value(percent, plain)
}

/// Whether one is a decimal to which the other, which is none, rounds.
fn rounded(a: &Scalar, b: &Scalar) -> bool {
    let (decimal, places, other) = match (a.places, b.places) {
        (Some(places), None) => (a, places, b),
        (None, Some(places)) => (b, places, a),
        _ => return false,
    };
    let constant = |scalar: &Scalar| letters(&[&scalar.expr]).is_empty();
    if places < PLACES || !constant(decimal) || !constant(other) {
        return false;
    }
    let power: BigInt = Pow::pow(BigInt::from(10), places.min(MAX_PLACES) as u32);
    let tolerance = BigRational::new(BigInt::from(1), power * 2);
    let (Some(Value::Exact(x)), Some(y)) = (decimal.expr.value(&|_| 0), other.expr.value(&|_| 0)) else { return false };
    // A decimal of few digits that are not zero tells too little.
    if x.abs() < &tolerance * BigRational::from_integer(BigInt::from(100_000)) {
        return false;
    }
    let (low, high) = (Value::Exact(&x - &tolerance), Value::Exact(x + tolerance));
    low.compare(&y).is_some_and(|sign| sign <= 0) && high.compare(&y).is_some_and(|sign| sign >= 0)
}

fn letters(exprs: &[&Expr]) -> Vec<String> {
    let mut letters = BTreeSet::new();
    exprs.iter().for_each(|expr| expr.letters(&mut letters));
    letters.into_iter().collect()
}

/// Whether two expressions have the same value, at each of eight points if there are letters.
fn same_value(a: &Expr, b: &Expr) -> bool {
    let letters = letters(&[a, b]);
    if letters.is_empty() {
        let values = a.value(&|_| 0).zip(b.value(&|_| 0));
        return values.is_some_and(|(a, b)| a.compare(&b) == Some(0));
    }
    if letters.len() > 20 {
        return false;
    }
    let mut equal = 0;
    for point in 0..8i64 {
        let number = |letter: &str| {
            let index = letters.iter().position(|l| l == letter).unwrap_or(0) as i64;
            // Numbers that share no pattern: different for each letter, positive at five points and negative at three.
            let size = (7 + 31 * (index + 1) * (point + 3) + 17 * point * point * (index + 2)) % 911 + 2;
            if (point + index) % 3 == 2 { -size } else { size }
        };
        match (a.value(&number), b.value(&number)) {
            (Some(a), Some(b)) if a.compare(&b) == Some(0) => equal += 1,
            (None, None) => {}
            _ => return false,
        }
    }
    equal >= 3
}

/// A set of real numbers as intervals in order, merged where they touch.
struct Region(Vec<[Bound; 2]>);

/// The end of an interval: minus infinity, a number or infinity, and on which side of the number the cut is.
#[derive(Clone, Debug)]
struct Bound {
    /// -1 and 1 for the infinities.
    infinite: i32,
    value: Value,
    /// -1: just before the number. 1: just behind it.
    side: i32,
}

impl Bound {
    fn of(end: Option<&Expr>, low: bool, closed: bool) -> Option<Self> {
        let value = match end {
            Some(expr) if letters(&[expr]).is_empty() => expr.value(&|_| 0)?,
            Some(_) => return None,
            None => return Some(Self { infinite: if low { -1 } else { 1 }, value: Value::integer(0), side: 0 }),
        };
        Some(Self { infinite: 0, value, side: if low == closed { -1 } else { 1 } })
    }

    fn compare(&self, other: &Self) -> Option<i32> {
        if self.infinite != other.infinite {
            return Some((self.infinite - other.infinite).signum());
        }
        Some(match self.value.compare(&other.value)? {
            0 => (self.side - other.side).signum(),
            sign => sign,
        })
    }
}

impl Region {
    fn of(pieces: &[Piece]) -> Option<Self> {
        if pieces.len() > MAX_ELEMENTS {
            return None;
        }
        let mut sorted: Vec<[Bound; 2]> = Vec::new();
        for piece in pieces {
            let low = Bound::of(piece.low.as_ref(), true, piece.low_closed)?;
            let high = Bound::of(piece.high.as_ref(), false, piece.high_closed)?;
            // An interval whose ends are the wrong way round has no number in it.
            if low.compare(&high)? >= 0 {
                return None;
            }
            let mut at = 0;
            while at < sorted.len() && sorted[at][0].compare(&low)? < 0 {
                at += 1;
            }
            sorted.insert(at, [low, high]);
        }
        let mut merged: Vec<[Bound; 2]> = Vec::new();
        for [low, high] in sorted {
            match merged.last_mut() {
                Some(last) if low.compare(&last[1])? <= 0 => {
                    if high.compare(&last[1])? > 0 {
                        last[1] = high;
                    }
                }
                _ => merged.push([low, high]),
            }
        }
        Some(Self(merged))
    }

    fn same(&self, other: &Self) -> bool {
        let ends = |region: &Self| region.0.iter().flatten().cloned().collect::<Vec<_>>();
        let (a, b) = (ends(self), ends(other));
        a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| a.compare(b) == Some(0))
    }
}

/// The intervals that two unions have in common.
pub(super) fn intersection(a: &[Piece], b: &[Piece]) -> Option<Vec<Piece>> {
    if a.len() * b.len() > MAX_ELEMENTS {
        return None;
    }
    let mut common = Vec::new();
    for a in a {
        for b in b {
            let lows = [a, b].map(|p| Bound::of(p.low.as_ref(), true, p.low_closed));
            let highs = [a, b].map(|p| Bound::of(p.high.as_ref(), false, p.high_closed));
            let ([Some(la), Some(lb)], [Some(ha), Some(hb)]) = (lows, highs) else { return None };
            let low = if la.compare(&lb)? >= 0 { (a, la) } else { (b, lb) };
            let high = if ha.compare(&hb)? <= 0 { (a, ha) } else { (b, hb) };
            if low.1.compare(&high.1)? < 0 {
                common.push(Piece {
                    low: low.0.low.clone(),
                    high: high.0.high.clone(),
                    low_closed: low.0.low_closed,
                    high_closed: high.0.high_closed,
                });
            }
        }
    }
    Some(common)
}

/// A unit's usual short name, without case and plural.
pub(super) fn unit_name(text: &str) -> String {
    let small = text.trim().trim_end_matches('.').to_lowercase();
    let one = small.strip_suffix('s').filter(|one| one.len() > 1).unwrap_or(&small);
    let short = match one {
        "centimeter" | "centimetre" => "cm",
        "millimeter" | "millimetre" => "mm",
        "kilometer" | "kilometre" => "km",
        "meter" | "metre" => "m",
        "kilogram" => "kg",
        "gram" => "g",
        "hour" | "hr" => "h",
        "minute" => "min",
        "second" => "sec",
        "foot" | "feet" => "ft",
        "inche" | "inch" => "in",
        "pound" => "lb",
        "mile per hour" | "miles per hour" => "mph",
        "cent" => "cent",
        other => other,
    };
    short.to_owned()
}
