//! The `[schedule]` of a recipe: length, learning rate, and the weight of MTP's losses (report section 4.2).

use super::Amount;
use serde::{Deserialize, Serialize};

/// Length of the run, learning rate, and other values that change during the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Number of training tokens, or `"measured"`: as many as this machine can train on in `minutes`.
    pub total_tokens: Total,
    /// With `"measured"`: minutes of training.
    #[serde(default = "defaults::minutes")]
    pub minutes: f64,
    /// With `"measured"`: the largest number of tokens, however fast the machine is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<Amount>,
    /// Linear warm-up from 0 to `peak_lr`.
    #[serde(default = "defaults::warmup")]
    pub warmup: Amount,
    pub peak_lr: f64,
    /// The learning rate from the start to the end of the run, one phase after another.
    #[serde(default = "defaults::phases")]
    pub phases: Vec<Phase>,
    /// Weight of the MTP losses ...
    #[serde(default = "defaults::mtp_weight")]
    pub mtp_weight: f64,
    /// ... until this point ...
    #[serde(default = "defaults::mtp_until")]
    pub mtp_until: Amount,
    /// ... and after it.
    #[serde(default = "defaults::mtp_weight_late")]
    pub mtp_weight_late: f64,
}

/// `schedule.total_tokens` as written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Total {
    /// Determined by measuring the machine.
    Measured,
    Tokens(u64),
}

impl Serialize for Total {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Measured => s.serialize_str("measured"),
            Self::Tokens(n) => s.serialize_u64(*n),
        }
    }
}

impl<'de> Deserialize<'de> for Total {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        match toml::Value::deserialize(d)? {
            toml::Value::String(s) if s == "measured" => Ok(Self::Measured),
            toml::Value::Integer(n) if n > 0 => Ok(Self::Tokens(n as u64)),
            toml::Value::String(s) => match Amount::parse(&s) {
                Ok(Amount::Tokens(n)) if n > 0 => Ok(Self::Tokens(n)),
                _ => Err(D::Error::custom(format!("`{s}` is not a length: write tokens (\"20M\") or \"measured\""))),
            },
            _ => Err(D::Error::custom("write tokens (20_000_000 or \"20M\") or \"measured\"")),
        }
    }
}

/// One phase of the learning rate. It begins where the previous phase ends, with that phase's final `lr`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// The end of the phase. The last phase ends at `"100%"`.
    pub until: Amount,
    pub shape: Shape,
    /// The learning rate at the phase's end, as a number or as a share of `peak_lr` ("10%", "1/10").
    pub lr: Lr,
}

/// How a phase reaches its `lr`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// At once, then constant.
    Constant,
    /// Along a straight line from the previous phase.
    Linear,
    /// Along half a cosine from the previous phase.
    Cosine,
}

/// A learning rate as written.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a learning rate (2.2e-5) or a share of peak_lr (\"10%\")")]
pub enum Lr {
    Absolute(f64),
    OfPeak(Amount),
}

impl Lr {
    /// The learning rate for this `schedule.peak_lr`. The error says what is wrong.
    pub(crate) fn of(self, peak: f64) -> Result<f64, &'static str> {
        match self {
            Self::Absolute(lr) => Ok(lr),
            Self::OfPeak(Amount::Share { part, whole }) => Ok(peak * part / whole),
            Self::OfPeak(_) => Err("is neither a learning rate nor a share of peak_lr"),
        }
    }
}

mod defaults {
    use super::{Amount, Lr, Phase, Shape};

    pub(super) fn minutes() -> f64 {
        8.0
    }
    pub(super) fn warmup() -> Amount {
        Amount::Share { part: 1.0, whole: 100.0 }
    }
    pub(super) fn mtp_weight() -> f64 {
        0.3
    }
    pub(super) fn mtp_weight_late() -> f64 {
        0.1
    }
    pub(super) fn mtp_until() -> Amount {
        Amount::Share { part: 10.0, whole: 14.8 }
    }
    /// The report's phases, as shares of its 14.8T tokens and its peak of 2.2e-4.
    pub(super) fn phases() -> Vec<Phase> {
        let share = |part, whole| Amount::Share { part, whole };
        let phase = |until, shape, lr| Phase { until: share(until, 14.8), shape, lr: Lr::OfPeak(lr) };
        vec![
            phase(10.0, Shape::Constant, share(100.0, 100.0)),
            phase(14.3, Shape::Cosine, share(10.0, 100.0)),
            phase(14.633, Shape::Constant, share(10.0, 100.0)),
            phase(14.8, Shape::Constant, share(7.3, 220.0)),
        ]
    }
}
