//! `hadal generate`: continues a prompt.

use super::common::{continue_prompt, engine, load, show};
use crate::cli::GenerateArgs;
use anyhow::{Context, Result};
use std::io::Read;

pub(crate) fn run(args: &GenerateArgs) -> Result<()> {
    let prompt = if args.prompt == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("cannot read the prompt from standard input")?;
        text
    } else {
        args.prompt.clone()
    };
    let loaded = load(&args.model, None)?;
    let ids = loaded.prompt(&prompt, args.literal);
    loaded.check_prompt(&ids)?;
    let mut engine = engine(&loaded, ids.len().saturating_add(args.sample.max_new), &args.sample);
    show(&prompt).context("cannot write to standard output")?;
    continue_prompt(&loaded, &mut engine, &ids, &args.sample, "")
}
