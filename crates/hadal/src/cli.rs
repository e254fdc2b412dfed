//! The commands and their options, as `--help` shows them.

mod chat;
mod measure;
mod serve;

pub(crate) use chat::ChatArgs;
pub(crate) use measure::{
    BenchAccumulatorArgs, BenchArgs, BenchCommand, BenchGemmArgs, BenchInferArgs, BenchTrainArgs, DumpArgs, EvalArgs,
    ExperimentArgs, InspectArgs, NiahArgs, ProductFormat,
};

pub(crate) use serve::{LogForm, ServeArgs};

use anyhow::{Result, ensure};
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use hadal_infer::{SampleParams, Speculation};
use hadal_ops::DType;
use hadal_weights::precision::{RunFormat, RunFormats};
use std::path::PathBuf;

/// DeepSeek-V3, end to end, in Rust: text in, a trained Mixture-of-Experts language model out.
///
/// New here? `hadal quickstart` trains a small model with the whole architecture on Rust sources that are already on
/// this machine. It takes about ten minutes on two cores. Then the model completes code.
#[derive(Parser)]
#[command(version, propagate_version = true, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Train a small DeepSeek-V3 on the Rust sources of this program's own dependencies and show that it learned
    Quickstart(QuickstartArgs),
    /// Train a byte-level BPE tokenizer
    Tokenizer(TokenizerArgs),
    /// Turn text into packed token files
    Data(DataArgs),
    /// Pre-train a model from a recipe, or continue a stopped run
    Pretrain(PretrainArgs),
    /// Extend the context of a finished run: train the extensions of its recipe, or one more
    Extend(ExtendArgs),
    /// Continue a prompt
    Generate(GenerateArgs),
    /// Complete code between a prefix and a suffix (fill in the middle), once or interactively
    Complete(CompleteArgs),
    /// Talk to a model in the terminal
    Chat(ChatArgs),
    /// Serve a model over HTTP with OpenAI's API
    Serve(ServeArgs),
    /// Measure bits per byte and perplexity on text
    Eval(EvalArgs),
    /// Ask for facts hidden in long texts (needle in a haystack), for each text length and needle depth
    Niah(NiahArgs),
    /// Show the parameters, cache, FLOPs and training memory of a configuration
    Inspect(InspectArgs),
    /// Write a run's or a checkpoint's weights as a Hugging Face checkpoint in f32, BF16 or FP8
    Export(ExportArgs),
    /// Check a Hugging Face checkpoint tensor by tensor and convert it, also from and to FP8
    Import(ImportArgs),
    /// Pack a model's weights as they are stored while it runs, so that it starts at once and processes share its
    /// memory
    Quantize(QuantizeArgs),
    /// Write everything a forward and backward pass computes, for comparison with other implementations
    Dump(DumpArgs),
    /// Measure the speed of this machine
    Bench(BenchArgs),
    /// Repeat a comparison of the report: train its runs, plot them, and say whether the claim holds
    Experiment(ExperimentArgs),
}

#[derive(Args)]
pub(crate) struct QuickstartArgs {
    /// Train on these files and folders instead of the dependencies' sources
    #[arg(long, num_args = 1.., value_name = "PATH")]
    pub(crate) text: Vec<PathBuf>,
    /// Folder of the run [default: the folder in the recipe, runs/quickstart]
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
    /// Continue the stopped run in --out
    #[arg(long)]
    pub(crate) resume: bool,
    /// Time for the whole quickstart, in minutes
    #[arg(long, default_value_t = 9.0)]
    pub(crate) minutes: f64,
    /// Change a key of the recipe, as in --set optimizer.clip=0.5
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Number of threads (0: one for each core) [default: the number in the recipe, 0]
    #[arg(long)]
    pub(crate) threads: Option<usize>,
    /// Print plain lines instead of the live view
    #[arg(long)]
    pub(crate) plain: bool,
}

/// Options of every command that reads text.
#[derive(Args)]
pub(crate) struct TextArgs {
    /// Files and folders (.txt, .md, source code, .jsonl)
    #[arg(required = true)]
    pub(crate) text: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) field: FieldArgs,
}

/// Options for files whose documents are records.
#[derive(Args)]
pub(crate) struct FieldArgs {
    /// Name of the field that holds the text in .jsonl, .json and .parquet files
    #[arg(long, value_name = "NAME", default_value = "text")]
    pub(crate) text_field: String,
}

#[derive(Args)]
pub(crate) struct TokenizerArgs {
    #[command(subcommand)]
    pub(crate) command: TokenizerCommand,
}

#[derive(Subcommand)]
pub(crate) enum TokenizerCommand {
    /// Train on text
    Train(TokenizerTrainArgs),
}

#[derive(Args)]
pub(crate) struct TokenizerTrainArgs {
    #[command(flatten)]
    pub(crate) text: TextArgs,
    /// Number of tokens in the vocabulary, special tokens included
    #[arg(long, default_value_t = 8192)]
    pub(crate) vocab: usize,
    /// Most text to learn from, in MB
    #[arg(long, default_value_t = 64)]
    pub(crate) megabytes: usize,
    /// Folder for tokenizer.json and tokenizer_config.json
    #[arg(long)]
    pub(crate) out: PathBuf,
}

#[derive(Args)]
pub(crate) struct DataArgs {
    #[command(subcommand)]
    pub(crate) command: DataCommand,
}

#[derive(Subcommand)]
pub(crate) enum DataCommand {
    /// Tokenize text into packed files. `pretrain` reads them with --set data.text=FOLDER and does not tokenize again
    Pack(DataPackArgs),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Filter {
    /// Source code
    Code,
    /// Everything else
    Prose,
}

#[derive(Args)]
pub(crate) struct DataPackArgs {
    #[command(flatten)]
    pub(crate) text: TextArgs,
    /// Folder with tokenizer.json, or the file itself
    #[arg(long)]
    pub(crate) tokenizer: PathBuf,
    /// Folder for the packed files
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// Leave out copies, near copies and generated text, with the rules for code or for prose
    #[arg(long, value_enum)]
    pub(crate) filter: Option<Filter>,
    /// Share of the text to hold out for validation, from 0 to 1 (whole groups of files)
    #[arg(long, default_value_t = 0.03)]
    pub(crate) validation: f64,
}

#[derive(Args)]
pub(crate) struct PretrainArgs {
    /// A recipe: a built-in name (quickstart, small, needle, v2-lite-shape, deepseek-v3) or a TOML file
    pub(crate) recipe: String,
    /// Change a key of the recipe, as in --set schedule.total_tokens=20M
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Continue from the last checkpoint in the run's folder
    #[arg(long)]
    pub(crate) resume: bool,
    /// Start from the weights of this Hugging Face checkpoint
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    pub(crate) init: Option<PathBuf>,
    /// Print plain lines instead of the live view
    #[arg(long)]
    pub(crate) plain: bool,
}

#[derive(Args)]
pub(crate) struct ExtendArgs {
    /// Folder of a finished run
    pub(crate) run: PathBuf,
    /// Add an extension with sequences of this many tokens. Without this option, the extensions in the run's recipe are
    /// trained
    #[arg(long, value_name = "TOKENS", value_parser = at_least_one)]
    pub(crate) to: Option<usize>,
    /// Length of the new extension, in tokens ("2M") or steps ("1000 steps")
    #[arg(long, value_name = "AMOUNT", requires = "to")]
    pub(crate) tokens: Option<String>,
    /// Factor of YaRN [default: the factor of the previous extension, or as large as --to needs]
    #[arg(long, requires = "to")]
    pub(crate) factor: Option<f64>,
    /// Length in tokens that the factor multiplies [default: as in the previous extension, or the run's first sequence
    /// length]
    #[arg(long, value_name = "TOKENS", requires = "to")]
    pub(crate) original_len: Option<usize>,
    /// Constant learning rate, as a number or a share of the run's peak [default: the rate at the end of the run]
    #[arg(long, requires = "to")]
    pub(crate) lr: Option<String>,
    /// Sequences per step [default: as many as keep the tokens per step of the run]
    #[arg(long, requires = "to")]
    pub(crate) sequences: Option<u64>,
    /// Sequences per forward and backward pass; more of them need more memory
    #[arg(long, default_value_t = 1, requires = "to")]
    pub(crate) micro_batch: u64,
    /// Print plain lines instead of the live view
    #[arg(long)]
    pub(crate) plain: bool,
}

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

#[derive(Args)]
pub(crate) struct ExportArgs {
    /// A run's folder, one of its checkpoints, or a Hugging Face checkpoint
    pub(crate) model: PathBuf,
    /// Folder to write
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// Format of the weights
    #[arg(long, value_enum, default_value_t = Weights::Bf16)]
    pub(crate) dtype: Weights,
    #[command(flatten)]
    pub(crate) files: FilesArgs,
    /// Write the averaged weights (EMA) instead of the last ones
    #[arg(long)]
    pub(crate) ema: bool,
}

/// Format in which weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Weights {
    /// Single precision
    F32,
    /// bfloat16; router biases f32
    Bf16,
    /// Linear layers in E4M3 with a scale for each block of 128x128, as in the released weights; the rest as for bf16
    Fp8,
}

/// Format of the scales of FP8 weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ScaleFmt {
    /// Single precision, as in DeepSeek-V3
    F32,
    /// Powers of two, stored in single precision, as in DeepSeek-V3.1
    Ue8m0,
    /// Powers of two, stored in one byte
    Ue8m0Byte,
}

/// Options of every command that writes weights.
#[derive(Args, Clone, Copy)]
pub(crate) struct FilesArgs {
    /// Scales of FP8 weights. If you ask for powers of two, weights with other scales are quantised again [default: the
    /// scales of the checkpoint, or f32]
    #[arg(long, value_enum)]
    pub(crate) scale_fmt: Option<ScaleFmt>,
    /// Largest size of a file, as in 5GB or 300MB (a larger tensor gets a file of its own)
    #[arg(long, default_value = "5GB", value_parser = bytes)]
    pub(crate) shard_size: usize,
}

#[derive(Args)]
pub(crate) struct ImportArgs {
    /// Folder with config.json and safetensors, sharded or not, or the name of a repository (ORG/NAME)
    pub(crate) checkpoint: PathBuf,
    /// Folder to write; without it, the checkpoint is only checked
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
    /// Format of the weights [default: each tensor as it is stored]
    #[arg(long, value_enum, requires = "out")]
    pub(crate) dtype: Option<Weights>,
    #[command(flatten)]
    pub(crate) files: FilesArgs,
    /// Also read every weight, and name those that are infinite or NaN
    #[arg(long)]
    pub(crate) deep: bool,
    /// Name every tensor that differs, one per line, instead of only the first ones
    #[arg(long)]
    pub(crate) all: bool,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "must be a whole number, 1 or more".into())
}

fn bytes(text: &str) -> Result<usize, String> {
    let units = [("kB", 1_000), ("MB", 1_000_000), ("GB", 1_000_000_000), ("TB", 1_000_000_000_000), ("B", 1)];
    let (number, unit) =
        units.iter().find_map(|(name, n)| Some((text.strip_suffix(name)?.trim_end(), *n))).unwrap_or((text, 1));
    let size = number.parse::<usize>().ok().and_then(|n| n.checked_mul(unit)).filter(|n| *n > 0);
    size.ok_or_else(|| "must be a whole number with a unit: B, kB, MB, GB or TB, as in 5GB".into())
}

fn share(text: &str) -> Result<f32, String> {
    text.parse().ok().filter(|p| (0.0..=1.0).contains(p)).ok_or_else(|| "must be a number from 0 to 1".into())
}

fn temperature(text: &str) -> Result<f32, String> {
    text.parse().ok().filter(|t: &f32| t.is_finite() && *t >= 0.0).ok_or_else(|| "must be a number, 0 or more".into())
}
