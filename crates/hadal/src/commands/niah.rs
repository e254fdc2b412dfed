//! `hadal niah`: needle in a haystack, over lengths and depths, as a table and a picture.

use super::common::{Loaded, load_folder, model_folder};
use crate::cli::NiahArgs;
use anyhow::{Context, Result, bail};
use hadal_data::hash::{Purpose, Rng};
use hadal_data::needle::{Needles, Place, haystack};
use hadal_data::{Packed, SourceOptions, read_paths};
use hadal_infer::retrieve;
use hadal_model::Decoder;
use hadal_ops::Cx;
use hadal_train::plan::Plan;
use hadal_train::plot::{self, NeedleCell};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Folders above a model in which a run's held-out text is looked for: step, checkpoints, stage, run.
const ABOVE: usize = 4;

pub(crate) fn run(args: &NiahArgs) -> Result<()> {
    let wanted = args.lengths.iter().copied().max();
    let cx = Cx::cpu(args.model.threads, args.model.dtype.dtype());
    let loaded = load_folder(&model_folder(&args.model.model)?, wanted.filter(|_| args.beyond), cx)?;
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

/// Questions over lengths and depths.
pub(crate) struct Questions<'a> {
    pub(crate) lengths: &'a [usize],
    pub(crate) depths: usize,
    /// Questions for each length and depth.
    pub(crate) samples: usize,
    /// Other facts in the same text.
    pub(crate) distractors: usize,
    pub(crate) seed: u64,
}

impl Questions<'_> {
    /// Asks `loaded` about needles in `documents`; `answer` hears of each. `who` stands before the bar.
    pub(crate) fn ask(
        &self,
        loaded: &Loaded,
        documents: &[Vec<u32>],
        who: &str,
        answer: &mut dyn FnMut(serde_json::Value) -> Result<()>,
    ) -> Result<Vec<NeedleCell>> {
        let bar = ProgressBar::new((self.lengths.iter().sum::<usize>() * self.depths * self.samples) as u64);
        if let Ok(style) = ProgressStyle::with_template("{msg}{bar:40} {percent}% of the tokens, {eta} left") {
            bar.set_style(style);
        }
        bar.set_message(if who.is_empty() { String::new() } else { format!("{who}: ") });
        let needles = Needles::new(&loaded.tokenizer, loaded.tokenizer.special().bos.is_some())?;
        let (cx, decoder) = (&loaded.cx, Decoder::new(&loaded.cx, &loaded.model));
        let mut all = Vec::with_capacity(self.lengths.len() * self.depths);
        for &length in self.lengths {
            for d in 0..self.depths {
                // A single depth is the middle.
                let depth = if self.depths == 1 { 0.5 } else { d as f64 / (self.depths - 1) as f64 };
                let mut cell = NeedleCell { length, depth, found: 0, asked: 0 };
                for n in 0..self.samples {
                    let rng = Rng::new(self.seed, Purpose::NeedleTest, n as u64).substream((length * 1000 + d) as u64);
                    let text = haystack(documents, length, rng.substream(0));
                    let place = Place { length, depth, distractors: self.distractors };
                    let sample = needles.sample(&text, place, rng.substream(1))?;
                    let got = cx.threads().run(|| retrieve(cx, &decoder, &sample.ids, sample.answer.clone()));
                    cell.asked += 1;
                    cell.found += usize::from(got.found());
                    answer(serde_json::json!({
                        "length": length, "depth": depth, "sample": n, "needle_at": sample.needle,
                        "answer": loaded.tokenizer.decode(&sample.ids[sample.answer]),
                        "tokens_right": got.right, "tokens": got.tokens, "found": got.found(),
                    }))?;
                    bar.inc(length as u64);
                }
                all.push(cell);
            }
        }
        bar.finish_and_clear();
        Ok(all)
    }
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

/// All packed documents.
pub(crate) fn documents_of(packed: &Packed) -> Result<Vec<Vec<u32>>> {
    let read = |document| {
        let mut ids = Vec::new();
        packed.read(document, &mut ids)?;
        Ok(ids)
    };
    (0..packed.documents()).map(read).collect()
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
