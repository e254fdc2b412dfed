//! `hadal niah`: needle in a haystack, over lengths and depths, as a table and a picture.

use super::common::{load, read_text};
use crate::cli::NiahArgs;
use anyhow::{Context, Result, bail};
use hadal_infer::Loaded;
use hadal_lab::niah::{Questions, ask_into, held_out, table};
use hadal_watch::plot::NeedleCell;

pub(crate) fn run(args: &NiahArgs) -> Result<()> {
    let NiahArgs { lengths, depths, samples, distractors, seed, .. } = args;
    let wanted = lengths.iter().copied().max();
    let loaded = load(&args.model, wanted.filter(|_| args.beyond))?;
    let longest = loaded.model.config.max_position_embeddings;
    if let Some(length) = wanted.filter(|l| *l > longest) {
        bail!(
            "--lengths: {length} tokens are more than the model's context of {longest}; \
             extend the context first (`hadal extend`), ask for shorter texts, or ask anyway with --beyond"
        );
    }
    let documents = documents(args, &loaded)?;
    let out = args.out.clone().unwrap_or_else(|| args.model.model.join("niah"));
    let questions = Questions { lengths, depths: *depths, samples: *samples, distractors: *distractors, seed: *seed };
    let all = ask_into(&out, &args.model.model.display().to_string(), &questions, &loaded, &documents)?;
    say!("{}", table(&all, lengths, *depths));
    say!("picture: {}   every answer: {}", out.join("niah.svg").display(), out.join("niah.jsonl").display());
    if args.json {
        let found = NeedleCell::share_of(&all);
        say!("{}", serde_json::json!({"found": found, "distractors": distractors, "cells": all}));
    }
    Ok(())
}

/// The texts to hide needles in: the given ones, or the held-out text of the run that made the model.
fn documents(args: &NiahArgs, loaded: &Loaded) -> Result<Vec<Vec<u32>>> {
    if args.text.is_empty() {
        return held_out(&args.model.model, &loaded.tokenizer)?.with_context(|| {
            let shown = args.model.model.display();
            format!(
                "{shown} is not in a run's folder with held-out text: name text to hide needles in with --text PATH"
            )
        });
    }
    let texts = read_text(&args.text, &args.field)?;
    let texts: Vec<&str> = texts.documents.iter().map(|d| d.text.as_str()).collect();
    Ok(loaded.tokenizer.encode_all(&texts).0)
}
