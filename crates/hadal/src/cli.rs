//! The commands and their options, as `--help` shows them.

mod chat;
mod eval;
mod measure;
mod run;
mod serve;

pub(crate) use chat::{ChatArgs, Switch};
pub(crate) use eval::{EvalArgs, TaskArgs, TaskCommand};
pub(crate) use measure::{
    BenchAccumulatorArgs, BenchArgs, BenchCommand, BenchGemmArgs, BenchInferArgs, BenchTrainArgs, DumpArgs,
    ExperimentArgs, InspectArgs, NiahArgs, ProductFormat,
};
pub(crate) use run::{
    CompleteArgs, FormArgs, Format, GenerateArgs, ModelArgs, QuantizeArgs, RunWeights, SampleArgs, Speculate,
};
pub(crate) use serve::{LogForm, ServeArgs};

use clap::{Args, Parser, Subcommand, ValueEnum};
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
    /// Fine-tune a model on conversations (supervised fine-tuning), or continue a stopped run
    Sft(SftArgs),
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
    /// Evaluate a model on tasks (benchmarks), or measure bits per byte and perplexity on text
    Eval(EvalArgs),
    /// List, show and check tasks
    Task(TaskArgs),
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
pub(crate) struct SftArgs {
    /// A recipe: a TOML file as recipes/sft.toml, which explains every key
    pub(crate) recipe: PathBuf,
    /// Change a key of the recipe, as in --set schedule.epochs=3
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Continue from the last checkpoint in the run's folder
    #[arg(long)]
    pub(crate) resume: bool,
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
    /// Merge the low-rank adapters in this folder (PEFT's files) into the weights
    #[arg(long, value_name = "DIR", conflicts_with = "ema")]
    pub(crate) adapter: Option<PathBuf>,
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
