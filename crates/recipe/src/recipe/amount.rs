//! A length of training, as people write it: tokens, steps, or a share of the whole run.
//!
//! | written | meaning |
//! | --- | --- |
//! | `20_000_000`, `"20M"`, `"469B"`, `"14.8T"` | tokens |
//! | `"2000 steps"` | optimiser steps, however many tokens they hold |
//! | `"3.4%"`, `"10/14.8"` | share of the run's tokens |
//!
//! Because of shares, one recipe fits runs of any length. The report's "constant until 10T of 14.8T tokens" is
//! `"10/14.8"`, and this is the same point of the schedule in a run of ten minutes.

use std::fmt;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Tokens, steps, or a share of the run. See the module's table for how each is written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    /// A number of tokens.
    Tokens(u64),
    /// A number of optimiser steps.
    Steps(u64),
    /// `part` of `whole`, as a share of the run's tokens.
    Share { part: f64, whole: f64 },
}

const FORMS: &str =
    r#"write tokens (20_000_000 or "20M"), steps ("2000 steps") or a share of the run ("3.4%" or "10/14.8")"#;

impl Amount {
    /// Reads one of the written forms.
    pub fn parse(text: &str) -> Result<Self, String> {
        let t = text.trim().replace('_', "");
        let bad = || format!("`{text}` is not an amount: {FORMS}");
        if let Some(percent) = t.strip_suffix('%') {
            return Self::share(number(percent).ok_or_else(bad)?, 100.0).ok_or_else(bad);
        }
        if let Some((part, whole)) = t.split_once('/') {
            return Self::share(number(part).ok_or_else(bad)?, number(whole).ok_or_else(bad)?).ok_or_else(bad);
        }
        for suffix in ["steps", "step"] {
            if let Some(n) = t.strip_suffix(suffix) {
                return n.trim().parse().map(Self::Steps).map_err(|_| bad());
            }
        }
        let t = t.strip_suffix("tokens").map_or(t.as_str(), str::trim_end);
        let (digits, unit) = match t.chars().last() {
            Some('K' | 'k') => (&t[..t.len() - 1], 1e3),
            Some('M') => (&t[..t.len() - 1], 1e6),
            Some('B' | 'G') => (&t[..t.len() - 1], 1e9),
            Some('T') => (&t[..t.len() - 1], 1e12),
            _ => return t.parse().map(Self::Tokens).map_err(|_| bad()),
        };
        let value = number(digits).ok_or_else(bad)? * unit;
        if (0.0..=9.0e15).contains(&value) { Ok(Self::Tokens(value.round() as u64)) } else { Err(bad()) }
    }

    fn share(part: f64, whole: f64) -> Option<Self> {
        (whole > 0.0 && (0.0..=1.0).contains(&(part / whole))).then_some(Self::Share { part, whole })
    }

    /// The amount in tokens for a run of `total` tokens. `None` for steps, because only the batch schedule knows their
    /// size.
    pub fn tokens_of(self, total: u64) -> Option<u64> {
        match self {
            Self::Tokens(n) => Some(n),
            Self::Steps(_) => None,
            Self::Share { part, whole } => Some((total as f64 * part / whole).round() as u64),
        }
    }
}

fn number(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|x: &f64| x.is_finite())
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Tokens(n) => write!(f, "{n}"),
            Self::Steps(n) => write!(f, "{n} steps"),
            Self::Share { part, whole: 100.0 } => write!(f, "{part}%"),
            Self::Share { part, whole } => write!(f, "{part}/{whole}"),
        }
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Tokens(n) => s.serialize_u64(*n),
            other => s.collect_str(other),
        }
    }
}

struct AmountVisitor;

impl Visitor<'_> for AmountVisitor {
    type Value = Amount;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(r#"an amount: tokens (20_000_000 or "20M"), steps ("2000 steps") or a share ("3.4%" or "10/14.8")"#)
    }

    fn visit_i64<E: de::Error>(self, v: i64) -> Result<Amount, E> {
        u64::try_from(v).map(Amount::Tokens).map_err(|_| E::custom("an amount of tokens cannot be negative"))
    }

    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Amount, E> {
        Ok(Amount::Tokens(v))
    }

    fn visit_str<E: de::Error>(self, v: &str) -> Result<Amount, E> {
        Amount::parse(v).map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(AmountVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read_and_written_back() {
        for (text, amount) in [
            ("20_000_000", Amount::Tokens(20_000_000)),
            ("20M", Amount::Tokens(20_000_000)),
            ("14.8T", Amount::Tokens(14_800_000_000_000)),
            ("512k tokens", Amount::Tokens(512_000)),
            ("2000 steps", Amount::Steps(2000)),
            ("1 step", Amount::Steps(1)),
            ("3.4%", Amount::Share { part: 3.4, whole: 100.0 }),
            ("10/14.8", Amount::Share { part: 10.0, whole: 14.8 }),
        ] {
            assert_eq!(Amount::parse(text), Ok(amount), "{text}");
            assert_eq!(Amount::parse(&amount.to_string()), Ok(amount), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_the_forms() {
        for text in ["", "many", "-3", "120%", "3/2", "1/0", "1.5", "nanT", "1e400B", "2.5 steps"] {
            assert!(Amount::parse(text).unwrap_err().contains("3.4%"), "{text}");
        }
    }

    #[test]
    fn a_share_scales_with_the_run() {
        let a = Amount::parse("10/14.8").unwrap();
        assert_eq!(a.tokens_of(14_800_000_000_000), Some(10_000_000_000_000));
        assert_eq!(a.tokens_of(148), Some(100));
        assert_eq!(Amount::Steps(3).tokens_of(148), None);
    }
}
