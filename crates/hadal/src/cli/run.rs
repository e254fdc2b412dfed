//! The options of commands that run a model: which model, in which formats, and what it writes.

use super::{at_least_one, share};
use anyhow::{Result, ensure};
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};
use hadal_infer::{SampleParams, Speculation};
use hadal_ops::DType;
use hadal_weights::precision::{RunFormat, RunFormats};
use std::path::PathBuf;

/// Options of every command that draws tokens.
#[derive(Args, Clone, Copy)]
pub(crate) struct SampleArgs {
    /// Divide the logits by this number; 0 always takes the most likely token
    #[arg(long, default_value_t = 0.8, value_parser = temperature)]
    pub(crate) temperature: f32,
    /// Keep the most likely tokens up to this total probability
    #[arg(long, default_value_t = 0.95, value_parser = share)]
    pub(crate) top_p: f32,
    /// Keep only this many of the most likely tokens (0: all)
    #[arg(long, default_value_t = 0)]
    pub(crate) top_k: usize,
    /// Drop tokens less likely than this share of the most likely token's probability
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    pub(crate) min_p: f32,
    /// The same seed gives the same text
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Largest number of new tokens [default: 128; in a chat, as many as fit]
    #[arg(long, short = 'n', value_parser = at_least_one)]
    pub(crate) max_new: Option<usize>,
    /// Let the model's MTP module draft tokens. This changes the speed and never the text
    #[arg(long, value_enum, default_value_t = Speculate::Auto)]
    pub(crate) speculation: Speculate,
}

impl SampleArgs {
    pub(crate) fn params(&self) -> SampleParams {
        let Self { temperature, top_p, top_k, min_p, seed, .. } = *self;
        SampleParams { temperature, top_k, top_p, min_p, seed, ..SampleParams::default() }
    }

    /// Largest number of new tokens of a single text.
    pub(crate) fn max_new(&self) -> usize {
        self.max_new.unwrap_or(128)
    }
}

/// Options of every command that writes a model's text: where it ends, and what it may be.
#[derive(Args)]
pub(crate) struct FormArgs {
    /// End the text before this string. May be given several times
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) stop: Vec<String>,
    /// Generate only JSON that the JSON schema in this file allows
    #[arg(long, value_name = "FILE", conflicts_with_all = ["regex", "grammar"])]
    pub(crate) json_schema: Option<PathBuf>,
    /// Generate only text that this regular expression matches from its start to its end
    #[arg(long, value_name = "REGEX", conflicts_with = "grammar")]
    pub(crate) regex: Option<String>,
    /// Generate only text of the grammar in this file, in Lark's syntax
    #[arg(long, value_name = "FILE")]
    pub(crate) grammar: Option<PathBuf>,
}

/// Options of every command that runs a model.
#[derive(Args)]
pub(crate) struct ModelArgs {
    /// A run's folder, one of its checkpoints, a Hugging Face checkpoint, the name of a repository there (ORG/NAME), or
    /// a folder that `hadal quantize` wrote
    pub(crate) model: PathBuf,
    /// Format of the computation
    #[arg(long, value_enum, default_value_t = Format::Bf16)]
    pub(crate) dtype: Format,
    /// Storage format of the weights while the model runs [default: fp8 for what the checkpoint has in FP8, full for
    /// the rest; both give the same results]
    #[arg(long, value_enum)]
    pub(crate) weights: Option<RunWeights>,
    /// Storage format of the weights of attention and of the output head [default: int8 with --weights int4, otherwise
    /// as --weights]
    #[arg(long, value_enum)]
    pub(crate) attention_weights: Option<RunWeights>,
    /// Number of threads (0: one for each core)
    #[arg(long, default_value_t = 0)]
    pub(crate) threads: usize,
}

impl ModelArgs {
    /// The formats of the weights.
    pub(crate) fn formats(&self) -> Result<RunFormats> {
        let given = [self.weights, self.attention_weights];
        let fp8 = given.contains(&Some(RunWeights::Fp8));
        ensure!(!fp8 || self.dtype == Format::Bf16, "FP8 weights are multiplied in BF16: leave out --dtype f32");
        let attention = match self.weights {
            Some(RunWeights::Int4) => Some(RunWeights::Int8),
            weights => weights,
        };
        let format = |weights: Option<RunWeights>| weights.map_or(RunFormat::Stored, RunWeights::format);
        let attention = format(self.attention_weights.or(attention));
        Ok(RunFormats { attention, experts: format(self.weights), head: attention })
    }
    /// Whether it says how weights are stored.
    pub(crate) fn has_formats(&self) -> bool {
        self.weights.is_some() || self.attention_weights.is_some()
    }
}

/// Whether an MTP module drafts tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Speculate {
    /// Never
    Off,
    /// While it pays, according to measured times and acceptance
    Auto,
    /// Always, if the model has a module
    Always,
}

impl Speculate {
    /// The same for the engine.
    pub(crate) fn speculation(self) -> Speculation {
        match self {
            Self::Off => Speculation::Off,
            Self::Auto => Speculation::Auto,
            Self::Always => Speculation::Always,
        }
    }
}

/// How weights are stored while a model runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RunWeights {
    /// In the format of the computation
    Full,
    /// E4M3 with one scale per block of 128x128, for all weights that are FP8 in the released checkpoints: half the
    /// memory of BF16. Weights of an FP8 checkpoint stay as they are
    Fp8,
    /// 8 bits, with one scale per 32 weights: about half the memory of BF16
    Int8,
    /// 4 bits, with one scale per 32 weights: about a quarter of the memory of BF16
    Int4,
}

impl RunWeights {
    fn format(self) -> RunFormat {
        match self {
            Self::Full => RunFormat::Compute,
            Self::Fp8 => RunFormat::Fp8,
            Self::Int8 => RunFormat::Int8,
            Self::Int4 => RunFormat::Int4,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Single precision
    F32,
    /// bfloat16 with f32 accumulation
    Bf16,
}

impl Format {
    pub(crate) fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::Bf16,
        }
    }
}

#[derive(Args)]
pub(crate) struct QuantizeArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Folder to write. All commands that run a model take it. It is not a checkpoint: keep the checkpoint to train or
    /// convert the model
    #[arg(long)]
    pub(crate) out: PathBuf,
}

#[derive(Args)]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// The text to continue (`-`: read it from standard input). The name of a special token, such as `<｜User｜>`, stands
    /// for that token
    pub(crate) prompt: String,
    /// Read the names of special tokens in the prompt as ordinary characters
    #[arg(long)]
    pub(crate) literal: bool,
    #[command(flatten)]
    pub(crate) sample: SampleArgs,
    #[command(flatten)]
    pub(crate) form: FormArgs,
}

#[derive(Args)]
pub(crate) struct CompleteArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Text before the gap; without it, the command asks for texts until you leave it
    #[arg(long)]
    pub(crate) prefix: Option<String>,
    /// Text after the gap
    #[arg(long, default_value = "", requires = "prefix")]
    pub(crate) suffix: String,
    /// Also show the text around the gap
    #[arg(long)]
    pub(crate) whole: bool,
    /// Fill the gap marked `<FILL>` in this file
    #[arg(long, conflicts_with_all = ["prefix", "suffix"])]
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) sample: SampleArgs,
    #[command(flatten)]
    pub(crate) form: FormArgs,
}

pub(super) fn temperature(text: &str) -> Result<f32, String> {
    text.parse().ok().filter(|t: &f32| t.is_finite() && *t >= 0.0).ok_or_else(|| "must be a number, 0 or more".into())
}
