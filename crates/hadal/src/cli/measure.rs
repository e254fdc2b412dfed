//! Options of the commands that measure models, machines and the report's claims.

use super::{FieldArgs, Format, ModelArgs, Speculate, at_least_one, share};
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

#[derive(Args)]
pub(crate) struct NiahArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Lengths of the texts in tokens, question and answer included
    #[arg(long, value_delimiter = ',', default_value = "512,1024,2048,4096", value_parser = at_least_one)]
    pub(crate) lengths: Vec<usize>,
    /// Number of depths of the needle, evenly spaced from the start to the end of the text
    #[arg(long, default_value_t = 11, value_parser = at_least_one)]
    pub(crate) depths: usize,
    /// Number of questions for each length and depth
    #[arg(long, default_value_t = 10, value_parser = at_least_one)]
    pub(crate) samples: usize,
    /// Number of other facts hidden in the same text
    #[arg(long, default_value_t = 0)]
    pub(crate) distractors: usize,
    /// Also ask at lengths beyond the model's context
    #[arg(long)]
    pub(crate) beyond: bool,
    /// Hide needles in these files and folders [default: the text that the model's run held out]
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
    /// Print JSON as the last line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct InspectArgs {
    /// A config.json, a checkpoint's folder, a repository (ORG/NAME), a recipe, or a built-in name (deepseek-v3,
    /// v2-lite-shape, small, quickstart)
    pub(crate) config: String,
    /// Change a key of the recipe (a built-in name then means the recipe)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Sequence length in tokens, for the FLOPs of attention [default: the length in the recipe, or 4096]
    #[arg(long, value_parser = at_least_one)]
    pub(crate) seq_len: Option<usize>,
    /// Also read all weights that `hadal quantize` packed, and compare their checksums
    #[arg(long)]
    pub(crate) deep: bool,
    /// Print JSON instead of tables
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct DumpArgs {
    /// Folder of the checkpoint
    pub(crate) model: PathBuf,
    /// JSON file with a list of token ids, or a list of such lists that all have the same length
    #[arg(long)]
    pub(crate) ids: PathBuf,
    /// File to write (safetensors)
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// Also write the gradient of every parameter
    #[arg(long)]
    pub(crate) grads: bool,
    /// Format of the computation
    #[arg(long, value_enum, default_value_t = Format::F32)]
    pub(crate) dtype: Format,
    /// Take the routers' choices (`router.*.topk_idx`) from this dump
    #[arg(long, value_name = "SAFETENSORS")]
    pub(crate) replay: Option<PathBuf>,
    /// Number of threads (0: one for each core)
    #[arg(long, default_value_t = 0)]
    pub(crate) threads: usize,
}

#[derive(Args, Clone)]
pub(crate) struct ExperimentArgs {
    /// fp8, fp8-blocks, balance, balance-scope, mtp, groups, yarn, or a .toml file like those in experiments/. `list`
    /// describes the built-in ones
    pub(crate) name: String,
    /// Time for everything, in minutes: reading, all runs and seeds, evaluation [default: the experiment's]
    #[arg(long, value_name = "MINUTES", conflicts_with = "tokens")]
    pub(crate) budget: Option<f64>,
    /// Tokens of each run's main part, as in 3M, instead of a time
    #[arg(long)]
    pub(crate) tokens: Option<String>,
    /// Number of seeds: each run is repeated with each of them [default: the experiment's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) seeds: Option<u64>,
    /// Text to train on [default: the kinds of text given with --domain, or the dependencies' sources]
    #[arg(long, num_args = 1.., value_name = "PATH")]
    pub(crate) text: Vec<PathBuf>,
    /// A kind of text on which to record the experts' loads, as in --domain maths=maths.jsonl; may be repeated. Part of
    /// each kind is held out for that. Without --text, the runs train on equal parts of the rest
    #[arg(long = "domain", value_name = "NAME=PATH", value_parser = named_path)]
    pub(crate) domains: Vec<(String, PathBuf)>,
    /// Folder of the runs. Finished runs in it are kept, stopped ones are continued [default: runs/experiment-NAME]
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
    /// Change a key of the recipe in all runs
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Print plain lines instead of the live view
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
    /// Measure the matrix products of a training step against the processor's peak
    Gemm(BenchGemmArgs),
    /// Measure whole training steps on random tokens
    Train(BenchTrainArgs),
    /// Measure how fast a model reads and generates, on random tokens
    Infer(BenchInferArgs),
    /// Measure the error of FP8 products with a tensor core's short accumulator, with and without promotion (report
    /// 3.5.2)
    Accumulator(BenchAccumulatorArgs),
}

#[derive(Args)]
pub(crate) struct BenchGemmArgs {
    /// Recipe whose products are measured
    #[arg(default_value = "small")]
    pub(crate) recipe: String,
    /// Format of the products; fp8 measures both formats in turn and gives the ratio of their times
    #[arg(long, value_enum, default_value_t = ProductFormat::Bf16)]
    pub(crate) precision: ProductFormat,
    /// Tokens per step
    #[arg(long, default_value_t = 2048, value_parser = at_least_one)]
    pub(crate) tokens: usize,
    /// Number of passes over all products; the median time of each product counts
    #[arg(long, default_value_t = 1, value_parser = at_least_one)]
    pub(crate) steps: usize,
    /// Number of threads (0: one for each core)
    #[arg(long, default_value_t = 0)]
    pub(crate) threads: usize,
    /// Print JSON as the last line
    #[arg(long)]
    pub(crate) json: bool,
}

/// Format of a step's products.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProductFormat {
    /// BF16
    Bf16,
    /// E4M3 with scales, as in FP8 training (the head in BF16)
    Fp8,
}

#[derive(Args)]
pub(crate) struct BenchTrainArgs {
    /// Recipe of the model to train
    #[arg(default_value = "small")]
    pub(crate) recipe: String,
    /// Change a key of the recipe
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Number of measured steps, after two that are not counted
    #[arg(long, default_value_t = 8, value_parser = at_least_one)]
    pub(crate) steps: usize,
    /// Sequences per step
    #[arg(long, default_value_t = 4, value_parser = at_least_one)]
    pub(crate) batch: usize,
    /// Tokens per sequence
    #[arg(long, default_value_t = 512, value_parser = at_least_one)]
    pub(crate) seq_len: usize,
    /// Number of threads (0: one for each core)
    #[arg(long, default_value_t = 0)]
    pub(crate) threads: usize,
    /// Also show where the time of a step goes
    #[arg(long)]
    pub(crate) profile: bool,
    /// Print JSON as the last line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct BenchInferArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Number of tokens that each sequence has before the measurement; several numbers give several lines
    #[arg(long, value_delimiter = ',', default_value = "0")]
    pub(crate) depth: Vec<usize>,
    /// Number of tokens to read
    #[arg(long, default_value_t = 512, value_parser = at_least_one)]
    pub(crate) prompt: usize,
    /// Number of tokens to generate
    #[arg(long, default_value_t = 64)]
    pub(crate) generate: usize,
    /// Number of sequences at the same time; several numbers give several lines
    #[arg(long, value_delimiter = ',', default_value = "1", value_parser = at_least_one)]
    pub(crate) batch: Vec<usize>,
    /// Rows per pass
    #[arg(long, default_value_t = 512, value_parser = at_least_one)]
    pub(crate) rows: usize,
    /// Let the model's MTP module draft tokens
    #[arg(long, value_enum, default_value_t = Speculate::Auto)]
    pub(crate) speculation: Speculate,
    /// Share of drafts to accept: each draft is replaced by the right token with this probability, and otherwise by a
    /// wrong one. A first run without drafts gives the right tokens
    #[arg(long, value_name = "P", value_parser = share)]
    pub(crate) acceptance: Option<f32>,
    /// Number of repetitions; the median is shown
    #[arg(long, default_value_t = 3, value_parser = at_least_one)]
    pub(crate) repeat: usize,
    /// Also show where the time goes
    #[arg(long, conflicts_with = "json")]
    pub(crate) profile: bool,
    /// Print one line of JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct BenchAccumulatorArgs {
    /// Lengths of the contraction (the number of products in each sum)
    #[arg(long, value_delimiter = ',', default_value = "128,512,1024,2048,4096,8192,16384", value_parser = at_least_one)]
    pub(crate) k: Vec<usize>,
    /// Number of rows and of columns of the result
    #[arg(long, default_value_t = 256, value_parser = at_least_one)]
    pub(crate) size: usize,
    /// Number of threads (0: one for each core)
    #[arg(long, default_value_t = 0)]
    pub(crate) threads: usize,
    /// Print JSON as the last line
    #[arg(long)]
    pub(crate) json: bool,
}

fn named_path(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => Ok((name.into(), path.into())),
        _ => Err("write a name and a path, as in maths=held-out/maths.txt".into()),
    }
}
