//! Options of the commands that measure: models, machines, the report's claims.

use super::{FieldArgs, Format, ModelArgs, TextArgs, at_least_one};
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

#[derive(Args)]
pub(crate) struct EvalArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) text: TextArgs,
    /// Tokens of one window [default: what the model was trained on]
    #[arg(long, value_parser = at_least_one)]
    pub(crate) window: Option<usize>,
    /// Most tokens of text to evaluate (0: all)
    #[arg(long, default_value_t = 0)]
    pub(crate) tokens: usize,
    /// Also write the loss by place in the window to this folder, as a picture and as JSON lines
    #[arg(long, value_name = "DIR")]
    pub(crate) by_position: Option<PathBuf>,
    /// Last line is JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct NiahArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Tokens of the texts, question and answer included
    #[arg(long, value_delimiter = ',', default_value = "512,1024,2048,4096", value_parser = at_least_one)]
    pub(crate) lengths: Vec<usize>,
    /// Depths of the needle, evenly from the start to the end of the text
    #[arg(long, default_value_t = 11, value_parser = at_least_one)]
    pub(crate) depths: usize,
    /// Questions for each length and depth
    #[arg(long, default_value_t = 10, value_parser = at_least_one)]
    pub(crate) samples: usize,
    /// Other facts hidden in the same text
    #[arg(long, default_value_t = 0)]
    pub(crate) distractors: usize,
    /// Ask beyond the model's context, too
    #[arg(long)]
    pub(crate) beyond: bool,
    /// Hide needles in these files and folders [default: the held-out text of the run that made the model]
    #[arg(long, num_args = 1.., value_name = "PATH")]
    pub(crate) text: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) field: FieldArgs,
    /// The same seed asks the same questions
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Folder for the picture and the answers [default: niah/ in the model's folder]
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
    /// Last line is JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct InspectArgs {
    /// A config.json, a checkpoint's folder, a repository (ORG/NAME), a recipe, or a built-in name (deepseek-v3, v2-lite-shape, small, quickstart)
    pub(crate) config: String,
    /// Change a key of the recipe (a built-in name then means the recipe)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Sequence length for attention's share of the FLOPs [default: the recipe's, or 4096]
    #[arg(long, value_parser = at_least_one)]
    pub(crate) seq_len: Option<usize>,
    /// JSON instead of tables
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct DumpArgs {
    /// Folder of the checkpoint
    pub(crate) model: PathBuf,
    /// JSON: a list of token ids, or a list of such lists of one length
    #[arg(long)]
    pub(crate) ids: PathBuf,
    /// File to write (safetensors)
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// Also the gradient of every parameter
    #[arg(long)]
    pub(crate) grads: bool,
    /// Format of the computation
    #[arg(long, value_enum, default_value_t = Format::F32)]
    pub(crate) dtype: Format,
    /// Take the routers' choices (`router.*.topk_idx`) from this dump
    #[arg(long, value_name = "SAFETENSORS")]
    pub(crate) replay: Option<PathBuf>,
    /// Threads (0: one for each core)
    #[arg(long, default_value_t = 0)]
    pub(crate) threads: usize,
}

#[derive(Args, Clone)]
pub(crate) struct ExperimentArgs {
    /// fp8, fp8-blocks, balance, balance-scope, mtp, groups, yarn, or a .toml file like those in experiments/; `list` shows them
    pub(crate) name: String,
    /// Minutes for everything: reading, all runs and seeds, looking at them [default: the experiment's]
    #[arg(long, value_name = "MINUTES", conflicts_with = "tokens")]
    pub(crate) budget: Option<f64>,
    /// Tokens of each run's main part, instead of minutes (as 3M)
    #[arg(long)]
    pub(crate) tokens: Option<String>,
    /// How often each run is made, with another seed each time [default: the experiment's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) seeds: Option<u64>,
    /// Text to train on [default: the kinds of text given with --domain, or the dependencies' sources]
    #[arg(long, num_args = 1.., value_name = "PATH")]
    pub(crate) text: Vec<PathBuf>,
    /// A kind of text to watch the experts on, as in --domain maths=maths.jsonl; repeat it for others. Without --text the runs
    /// train on all kinds in equal parts, less what is held out of each to watch on
    #[arg(long = "domain", value_name = "NAME=PATH", value_parser = named_path)]
    pub(crate) domains: Vec<(String, PathBuf)>,
    /// Folder of the runs; runs that are there are gone on with, finished ones are kept [default: runs/experiment-NAME]
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
    /// Change a key of the recipe in all runs
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Plain lines instead of the live view
    #[arg(long)]
    pub(crate) plain: bool,
}

#[derive(Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    pub(crate) command: BenchCommand,
}

#[derive(Subcommand)]
pub(crate) enum BenchCommand {
    /// The matrix products of a training step, against the processor's own peak
    Gemm(BenchGemmArgs),
    /// Whole training steps on random tokens
    Train(BenchTrainArgs),
    /// What a tensor core's short accumulator loses in FP8 products, with and without promotion (report 3.5.2)
    Accumulator(BenchAccumulatorArgs),
}

#[derive(Args)]
pub(crate) struct BenchGemmArgs {
    /// Recipe whose products are measured
    #[arg(default_value = "small")]
    pub(crate) recipe: String,
    /// Format of the products; fp8 measures both in turn and gives their ratio
    #[arg(long, value_enum, default_value_t = ProductFormat::Bf16)]
    pub(crate) precision: ProductFormat,
    /// Tokens of the step
    #[arg(long, default_value_t = 2048, value_parser = at_least_one)]
    pub(crate) tokens: usize,
    /// Passes over all products; the middle one of each counts
    #[arg(long, default_value_t = 1, value_parser = at_least_one)]
    pub(crate) steps: usize,
    /// Threads (0: one for each core)
    #[arg(long, default_value_t = 0)]
    pub(crate) threads: usize,
    /// Last line is JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Format of a step's products.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProductFormat {
    /// BF16
    Bf16,
    /// E4M3 with scales, as FP8 training makes them (the head in BF16)
    Fp8,
}

#[derive(Args)]
pub(crate) struct BenchTrainArgs {
    /// Recipe
    #[arg(default_value = "small")]
    pub(crate) recipe: String,
    /// Change a key of the recipe
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Measured steps, after two that are not counted
    #[arg(long, default_value_t = 8, value_parser = at_least_one)]
    pub(crate) steps: usize,
    /// Sequences a step
    #[arg(long, default_value_t = 4, value_parser = at_least_one)]
    pub(crate) batch: usize,
    /// Tokens a sequence
    #[arg(long, default_value_t = 512, value_parser = at_least_one)]
    pub(crate) seq_len: usize,
    /// Threads (0: one for each core)
    #[arg(long, default_value_t = 0)]
    pub(crate) threads: usize,
    /// Where the time of a step goes
    #[arg(long)]
    pub(crate) profile: bool,
    /// Last line is JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct BenchAccumulatorArgs {
    /// Lengths of the contraction
    #[arg(long, value_delimiter = ',', default_value = "128,512,1024,2048,4096,8192,16384", value_parser = at_least_one)]
    pub(crate) k: Vec<usize>,
    /// Rows and columns of the result
    #[arg(long, default_value_t = 256, value_parser = at_least_one)]
    pub(crate) size: usize,
    /// Threads (0: one for each core)
    #[arg(long, default_value_t = 0)]
    pub(crate) threads: usize,
    /// Last line is JSON
    #[arg(long)]
    pub(crate) json: bool,
}

fn named_path(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => Ok((name.into(), path.into())),
        _ => Err("write a name and a path, as in maths=held-out/maths.txt".into()),
    }
}
