//! `[[extension]]`: what is trained after the main run, with longer sequences under YaRN (report section 4.3).

use serde::{Deserialize, Serialize};

use super::{Amount, Lr};

/// One extension as written. It goes on with the weights, the optimiser's moments and the data of what comes before it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extension {
    /// Tokens of one training sequence.
    pub seq_len: usize,
    /// YaRN's factor: the context becomes so many times longer than `original_len` [default: just what `seq_len` needs].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub factor: Option<f64>,
    /// Length of the training that the rotary frequencies come from [default: the main run's].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original_len: Option<usize>,
    /// Length of the extension: tokens or steps.
    pub total_tokens: Amount,
    /// Its learning rate: a number or a share of `schedule.peak_lr` [default: where the main run ends].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lr: Option<Lr>,
    /// The learning rate at its end, reached along a cosine [default: the same throughout].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lr_end: Option<Lr>,
    /// Sequences of one step [default: as many as hold the tokens of the main run's steps].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequences: Option<u64>,
    /// Sequences of one forward and backward pass.
    #[serde(default = "one")]
    pub micro_batch: u64,
}

fn one() -> u64 {
    1
}
