//! `hadal complete`: fills the gap between a prefix and a suffix. The order is the one that the model was trained on
//! (report 4.1): `<|fim_begin|> prefix <|fim_hole|> suffix <|fim_end|>`, after the token that begins every text.

use super::common::{continue_prompt, engine, grammar, load, request, show};
use crate::cli::CompleteArgs;
use anyhow::{Context, Result, bail};
use hadal_infer::Request;
use std::io::{BufRead, stdin};
use std::path::Path;

/// Marks the gap in a file.
const GAP: &str = "<FILL>";

pub(crate) fn run(args: &CompleteArgs) -> Result<()> {
    let parts = match (&args.file, &args.prefix) {
        (Some(file), _) => Some(split_file(file)?),
        (None, Some(prefix)) => Some((prefix.clone(), args.suffix.clone())),
        (None, None) => None,
    };
    let grammar = grammar(&args.form)?;
    let loaded = load(&args.model, None)?;
    let mut engine = engine(&loaded, loaded.model.config.max_position_embeddings, &args.sample);
    let request = request(&loaded, &args.sample, &args.form, grammar)?;
    let mut fill = |prefix: &str, suffix: &str| {
        let ids = loaded.fim_prompt(prefix, suffix)?;
        loaded.check_prompt(&ids)?;
        if args.whole {
            show(prefix)?;
        }
        let request = Request { prompt: ids, ..request.clone() };
        continue_prompt(&loaded, &mut engine, &request, if args.whole { suffix } else { "" })
    };
    if let Some((prefix, suffix)) = parts {
        return fill(&prefix, &suffix);
    }
    // An unusable tokenizer is an error before the first question.
    loaded.fim_prompt("", "")?;
    eprintln!("End the prefix and the suffix with a line that contains only a dot. Ctrl-D leaves.");
    while let Some((prefix, suffix)) = ask()? {
        if let Err(error) = fill(&prefix, &suffix) {
            eprintln!("error: {error:#}");
        }
        show("\n").context("cannot write to standard output")?;
    }
    Ok(())
}

/// The text before and after the gap of a file.
fn split_file(path: &Path) -> Result<(String, String)> {
    let name = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
    match text.split(GAP).collect::<Vec<_>>()[..] {
        [prefix, suffix] => Ok((prefix.to_owned(), suffix.to_owned())),
        [_] => bail!("{name} has no gap: write {GAP} where text is missing"),
        ref parts => bail!("{name} has {} gaps ({GAP}): only one can be filled at a time", parts.len() - 1),
    }
}

/// Asks for a prefix and a suffix in the terminal. `None` at the end of the input.
fn ask() -> Result<Option<(String, String)>> {
    eprintln!("\nprefix:");
    let Some(prefix) = read_block()? else { return Ok(None) };
    eprintln!("suffix:");
    Ok(Some((prefix, read_block()?.unwrap_or_default())))
}

/// Lines up to one that contains only a dot, or up to the end of the input. `None` if the input is at its end.
fn read_block() -> Result<Option<String>> {
    let mut lines = Vec::new();
    for line in stdin().lock().lines() {
        let line = line.context("cannot read standard input")?;
        if line == "." {
            return Ok(Some(lines.join("\n")));
        }
        lines.push(line);
    }
    Ok((!lines.is_empty()).then(|| lines.join("\n")))
}
