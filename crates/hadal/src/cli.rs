//! The commands and their options, as `--help` shows them.

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// DeepSeek-V3, end to end, in Rust: text in, a trained Mixture-of-Experts language model out.
///
/// New here? `hadal quickstart` trains a small model with the whole architecture on the Rust sources already on this
/// machine, in about ten minutes on two cores, and completes code with it.
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
    /// Pre-train a model from a recipe, or go on with a stopped run
    Pretrain(PretrainArgs),
}

#[derive(Args)]
pub(crate) struct QuickstartArgs {
    /// Train on these files and folders instead of the dependencies' sources
    #[arg(long, num_args = 1.., value_name = "PATH")]
    pub(crate) text: Vec<PathBuf>,
    /// Folder of the run
    #[arg(long, default_value = "runs/quickstart")]
    pub(crate) out: PathBuf,
    /// Go on with the stopped run in --out
    #[arg(long)]
    pub(crate) resume: bool,
    /// Minutes for the whole quickstart
    #[arg(long, default_value_t = 9.5)]
    pub(crate) minutes: f64,
    /// Change a key of the recipe, as in --set optimizer.clip=0.5
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Threads (0: one for each core)
    #[arg(long, default_value_t = 0)]
    pub(crate) threads: usize,
    /// Plain lines instead of the live view
    #[arg(long)]
    pub(crate) plain: bool,
}

#[derive(Args)]
pub(crate) struct PretrainArgs {
    /// A recipe: a built-in name (quickstart, small, v2-lite-shape, deepseek-v3) or a TOML file
    pub(crate) recipe: String,
    /// Change a key of the recipe, as in --set schedule.total_tokens=20M
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Go on from the last checkpoint of the run's folder
    #[arg(long)]
    pub(crate) resume: bool,
    /// Start from the weights of this Hugging Face checkpoint
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    pub(crate) init: Option<PathBuf>,
    /// Plain lines instead of the live view
    #[arg(long)]
    pub(crate) plain: bool,
}
