//! `[[extension]]`: training after the main run, with longer sequences and YaRN (report section 4.3).

use serde::{Deserialize, Serialize};

use super::{Amount, Lr};

/// One extension as written. It continues with the weights, the optimiser's moments and the data of the previous run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extension {
    /// Tokens per training sequence.
    pub seq_len: usize,
    /// Factor of YaRN: the context becomes this many times as long as `original_len` [default: as large as `seq_len`
    /// needs].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub factor: Option<f64>,
    /// Sequence length of the training that the rotary frequencies come from [default: the main run's].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original_len: Option<usize>,
    /// Length of the extension: tokens or steps.
    pub total_tokens: Amount,
    /// The learning rate: a number or a share of `schedule.peak_lr` [default: the rate at the end of the main run].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lr: Option<Lr>,
    /// The learning rate at the end, reached along a cosine [default: constant].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lr_end: Option<Lr>,
    /// Sequences per step [default: as many as give the tokens per step of the main run].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequences: Option<u64>,
    /// Sequences per forward and backward pass.
    #[serde(default = "one")]
    pub micro_batch: u64,
}

fn one() -> u64 {
    1
}
