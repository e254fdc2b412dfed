//! Options of `hadal chat`.

use super::{ModelArgs, SampleArgs, at_least_one};
use clap::{Args, ValueEnum};
use std::path::PathBuf;

#[derive(Args)]
pub(crate) struct ChatArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Say this, print the answer and leave. Given several times, these are the turns of one conversation
    #[arg(long, value_name = "TEXT")]
    pub(crate) prompt: Vec<String>,
    /// Text that the conversation begins with, for the model's role and rules
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// Go on with the conversation in this file: JSON as `/save` writes it, or a list of messages
    #[arg(long, value_name = "FILE")]
    pub(crate) load: Option<PathBuf>,
    /// Let the model call the tools in this file: a JSON list in the form of OpenAI's API. Their results are asked for
    #[arg(long, value_name = "FILE")]
    pub(crate) tools: Option<PathBuf>,
    /// Write conversations with the template in this file [default: the model's own chat template]
    #[arg(long, value_name = "FILE")]
    pub(crate) chat_template: Option<PathBuf>,
    /// Ask for an answer with thoughts or without [default: as the model's template does]
    #[arg(long, value_enum)]
    pub(crate) think: Option<Switch>,
    /// Tokens that fit into the cache, and so into the conversation
    #[arg(long, value_name = "TOKENS", default_value_t = 32_768, value_parser = at_least_one)]
    pub(crate) cache_tokens: usize,
    #[command(flatten)]
    pub(crate) sample: SampleArgs,
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    /// With thoughts
    On,
    /// Without thoughts
    Off,
}
