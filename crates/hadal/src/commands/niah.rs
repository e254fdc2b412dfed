//! `hadal niah`: needle in a haystack, over lengths and depths, as a table and a picture.

use super::common::load;
use crate::cli::NiahArgs;
use anyhow::{Context, Result, bail};
use hadal_data::{Packed, SourceOptions, read_paths};
use hadal_infer::Loaded;
use hadal_lab::niah::{Questions, documents_of};
use hadal_recipe::plan::Plan;
use hadal_watch::plot;
use hadal_watch::plot::NeedleCell;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Folders above a model in which a run's held-out text is looked for: step, checkpoints, stage, run.
const ABOVE: usize = 4;

pub(crate) fn run(args: &NiahArgs) -> Result<()> {
    let wanted = args.lengths.iter().copied().max();
    let loaded = load(&args.model, wanted.filter(|_| args.beyond))?;
    let longest = loaded.model.config.max_position_embeddings;
    if let Some(length) = wanted.filter(|l| *l > longest) {
        bail!(
            "--lengths: {length} tokens are more than the model's context of {longest}; \
             extend it first (`hadal extend`), ask for less, or see what happens with --beyond"
        );
    }
    let documents = documents(args, &loaded)?;
    let out = args.out.clone().unwrap_or_else(|| args.model.model.join("niah"));
    std::fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
    let lines_path = out.join("niah.jsonl");
    let write_error = || format!("cannot write {}", lines_path.display());
    let mut lines = std::io::BufWriter::new(std::fs::File::create(&lines_path).with_context(write_error)?);

    let NiahArgs { lengths, depths, samples, distractors, seed, .. } = args;
    let questions = Questions { lengths, depths: *depths, samples: *samples, distractors: *distractors, seed: *seed };
    let all =
        questions.ask(&loaded, &documents, "", &mut |line| writeln!(lines, "{line}").with_context(write_error))?;
    lines.flush().with_context(write_error)?;
    let picture = out.join("niah.svg");
    plot::needles(&picture, &args.model.model.display().to_string(), &all)?;
    show(args, &all);
    say!("picture: {}   every answer: {}", picture.display(), lines_path.display());
    if args.json {
        say!(
            "{}",
            serde_json::json!({"found": NeedleCell::share_of(&all), "distractors": args.distractors, "cells": all})
        );
    }
    Ok(())
}

/// A table with a row a depth and a column a length.
fn show(args: &NiahArgs, all: &[NeedleCell]) {
    let line = |columns: Vec<String>| columns.concat();
    say!("depth {}", line(args.lengths.iter().map(|l| format!("{l:>8}")).collect()));
    for d in 0..args.depths {
        let row: Vec<&NeedleCell> = all.iter().skip(d).step_by(args.depths).collect();
        let values = row.iter().map(|c| format!("{:>7.0}%", 100.0 * c.share()));
        say!("{:>4.0}% {}", 100.0 * row.first().map_or(0.0, |c| c.depth), line(values.collect()));
    }
    let totals = all.chunks(args.depths).map(|c| format!("{:>7.1}%", 100.0 * NeedleCell::share_of(c)));
    say!("all   {}", line(totals.collect()));
}

/// The texts to hide needles in: those given, or what the run that made the model held out.
fn documents(args: &NiahArgs, loaded: &Loaded) -> Result<Vec<Vec<u32>>> {
    if !args.text.is_empty() {
        let texts = read_paths(&args.text, &SourceOptions::default())?;
        let texts: Vec<&str> = texts.documents.iter().map(|d| d.text.as_str()).collect();
        return Ok(loaded.tokenizer.encode_all(&texts).0);
    }
    let model = args.model.model.canonicalize().ok();
    let folder = model.as_deref().and_then(|p| p.ancestors().take(ABOVE).find_map(held_out)).with_context(|| {
        let shown = args.model.model.display();
        format!("{shown} lies in no run's folder with held-out text: give text to hide needles in with --text PATH...")
    })?;
    documents_of(&Packed::open(&folder, "validation", &loaded.tokenizer)?)
}

/// Where the run in `folder`, if there is one, has its packed text: with it, or where its plan says.
fn held_out(folder: &Path) -> Option<PathBuf> {
    let packed = |folder: PathBuf| folder.join("validation.json").is_file().then_some(folder);
    let elsewhere = || match Plan::load(folder).ok()?.text.as_deref()? {
        [path] => packed(PathBuf::from(path)),
        _ => None,
    };
    packed(folder.join("data")).or_else(elsewhere)
}
