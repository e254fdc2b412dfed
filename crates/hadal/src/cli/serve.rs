//! Options of `hadal serve`.

use super::{ModelArgs, Speculate, at_least_one, bytes};
use clap::builder::RangedU64ValueParser;
use clap::{Args, ValueEnum, value_parser};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

/// Seconds of a year. No time limit is longer.
const YEAR: u64 = 31_536_000;

/// A number of requests or connections, at least `least` and at most a million.
fn places(least: u64) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(least..=1_000_000)
}

#[derive(Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Address to listen on. The default can be reached from this machine alone; 0.0.0.0 from everywhere
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub(crate) host: IpAddr,
    /// Port to listen on (0: a free one)
    #[arg(long, default_value_t = 8080)]
    pub(crate) port: u16,
    /// Name of the model for clients [default: the last part of MODEL]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Write conversations with the template in this file [default: the model's own chat template]
    #[arg(long, value_name = "FILE")]
    pub(crate) chat_template: Option<PathBuf>,
    /// Tokens of all requests together that fit into the cache
    #[arg(long, value_name = "TOKENS", default_value_t = 32_768, value_parser = at_least_one)]
    pub(crate) cache_tokens: usize,
    /// Tokens of prompts that one pass reads at most. More of them are faster, fewer delay others less
    #[arg(long, default_value_t = 512, value_parser = at_least_one)]
    pub(crate) rows: usize,
    /// Sequences that are worked on at a time
    #[arg(long, default_value_t = 64, value_parser = places(1))]
    pub(crate) sequences: usize,
    /// Sequences that may wait. Further ones are turned away (429)
    #[arg(long, default_value_t = 256, value_parser = places(0))]
    pub(crate) queue: usize,
    /// Let the model's MTP module draft tokens. This changes the speed and never the text
    #[arg(long, value_enum, default_value_t = Speculate::Auto)]
    pub(crate) speculation: Speculate,
    /// Largest body of a request
    #[arg(long, value_name = "SIZE", default_value = "8MB", value_parser = bytes)]
    pub(crate) max_body: usize,
    /// Longest time for an answer, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = value_parser!(u64).range(1..=YEAR))]
    pub(crate) timeout: u64,
    /// Longest time to finish what was accepted after SIGTERM, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = value_parser!(u64).range(..=YEAR))]
    pub(crate) drain: u64,
    /// Connections at a time
    #[arg(long, default_value_t = 1024, value_parser = places(1))]
    pub(crate) connections: usize,
    /// Let only clients in that send a key of this file. A line is KEY [name=NAME] [concurrent=N] [per_minute=N]
    #[arg(long, value_name = "FILE")]
    pub(crate) api_keys: Option<PathBuf>,
    /// Let pages of this origin call the server, as `https://example.org` (`*`: all). May be given several times
    #[arg(long, value_name = "ORIGIN")]
    pub(crate) cors: Vec<String>,
    /// Form of the log on standard error. There is a line for each request
    #[arg(long, value_enum, default_value_t = LogForm::Text)]
    pub(crate) log: LogForm,
    /// Write prompts to the log as well
    #[arg(long)]
    pub(crate) log_prompts: bool,
}

/// Form of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogForm {
    /// Lines for people
    Text,
    /// A JSON object in each line
    Json,
    /// No log
    Off,
}
