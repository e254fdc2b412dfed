//! `hadal generate`: continues a prompt.

use super::common::{continue_prompt, engine, grammar, load, request, show};
use crate::cli::GenerateArgs;
use anyhow::{Context, Result};
use hadal_infer::Request;
use std::io::Read;

pub(crate) fn run(args: &GenerateArgs) -> Result<()> {
    let prompt = if args.prompt == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("cannot read the prompt from standard input")?;
        text
    } else {
        args.prompt.clone()
    };
    // Files that cannot be read are an error before the model is loaded.
    let grammar = grammar(&args.form)?;
    let loaded = load(&args.model, None)?;
    let ids = loaded.prompt(&prompt, args.literal);
    loaded.check_prompt(&ids)?;
    let request = Request { prompt: ids, ..request(&loaded, &args.sample, &args.form, grammar)? };
    let mut engine = engine(&loaded, request.prompt.len().saturating_add(args.sample.max_new()), &args.sample);
    show(&prompt).context("cannot write to standard output")?;
    continue_prompt(&loaded, &mut engine, &request, "")
}
