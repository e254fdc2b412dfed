//! `hadal eval`: bits per byte and perplexity of a model on text.

use super::common::{grouped, load};
use crate::cli::EvalArgs;
use anyhow::{Context, Result, ensure};
use hadal_data::{EvalOptions, EvalSet, SourceOptions, read_paths};
use hadal_infer::Loaded;
use hadal_recipe::plan::{PLAN_FILE, Plan};
use hadal_train::evaluate::{AtPosition, Stretch, by_place, evaluate_by_position};
use hadal_watch::plot;
use indicatif::{ProgressBar, ProgressStyle};
use std::path::Path;
use std::time::Instant;

/// Window of a model about whose training nothing is known, where its context allows.
const WINDOW: usize = 2048;

pub(crate) fn run(args: &EvalArgs) -> Result<()> {
    let texts = read_paths(&args.text, &SourceOptions::default())?;
    let loaded = load(&args.model, None)?;
    let longest = loaded.model.config.max_position_embeddings;
    let window = args.window.unwrap_or_else(|| trained_on(&args.model.model).unwrap_or(WINDOW).min(longest));
    ensure!(window <= longest, "--window {window} is longer than the model's context of {longest}");
    let texts: Vec<&str> = texts.documents.iter().map(|d| d.text.as_str()).collect();
    let set = windows(&loaded, &texts, window, args.tokens)?;
    ensure!(set.text_bytes > 0, "the text is empty: there is nothing to evaluate");
    let bar = ProgressBar::new(set.windows.len() as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} windows, {eta} left") {
        bar.set_style(style);
    }
    let start = Instant::now();
    let (found, places) = loaded.cx.threads().run(|| {
        evaluate_by_position(&loaded.cx, &loaded.model, &set, &mut |done, _| {
            bar.set_position(done as u64);
            true
        })
    });
    bar.finish_and_clear();
    let rate = set.scored as f64 / start.elapsed().as_secs_f64();
    ensure!(found.loss.is_finite(), "the model's loss on this text is {}: are its weights broken?", found.loss);
    let perplexity = found.loss.exp();
    if let Some(folder) = &args.by_position {
        by_position(folder, &args.model.model.display().to_string(), &places)?;
    }
    if args.json {
        let line = serde_json::json!({
            "bits_per_byte": found.bits_per_byte, "perplexity": perplexity, "loss": found.loss,
            "tokens": set.scored, "bytes": set.text_bytes, "documents": set.documents().len(), "window": window,
            "tokens_per_second": rate,
        });
        say!("{line}");
    } else {
        say!(
            "{:.4} bits per byte, perplexity {perplexity:.3}, loss {:.4} (documents {}, bytes {}, tokens {}, window {window}; \
             {rate:.0} tokens/s)",
            found.bits_per_byte,
            found.loss,
            set.documents().len(),
            grouped(set.text_bytes),
            grouped(set.scored),
        );
    }
    Ok(())
}

/// Writes the loss by place in the window.
fn by_position(folder: &Path, title: &str, places: &[AtPosition]) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let stretches = by_place(places);
    let line = |s: &Stretch| {
        serde_json::json!({
            "from": s.from, "to": s.to, "loss": s.loss, "perplexity": s.loss.exp(), "tokens": s.targets,
        })
        .to_string()
    };
    let lines: Vec<String> = stretches.iter().map(line).collect();
    let points = stretches.iter().map(|s| (s.middle(), s.loss)).collect();
    let path = folder.join("by_position.jsonl");
    std::fs::write(&path, lines.join("\n") + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    plot::by_position(&folder.join("by_position.svg"), title, &[("", points)])?;
    Ok(())
}

/// Windows over `texts`, or over about their first `limit` tokens (0: all); the text on the limit is cut.
fn windows(loaded: &Loaded, texts: &[&str], seq_len: usize, limit: usize) -> Result<EvalSet> {
    let tokenizer = &loaded.tokenizer;
    let options = EvalOptions { seq_len, overlap: 0, bos: true };
    if limit == 0 {
        return Ok(EvalSet::of_texts(texts, tokenizer, options)?);
    }
    let (mut documents, mut left) = (Vec::new(), limit);
    for text in texts {
        let mut ids = tokenizer.encode(text);
        let mut bytes = text.len() as u64;
        if ids.len() > left {
            ids.truncate(left);
            bytes = ids.iter().map(|id| tokenizer.token_bytes(*id).len() as u64).sum();
        }
        left -= ids.len();
        documents.push((ids, bytes));
        if left == 0 {
            break;
        }
    }
    Ok(EvalSet::of_ids(documents, tokenizer, options)?)
}

/// Tokens of a training sequence, where the model lies in a run's folder.
fn trained_on(model: &Path) -> Option<usize> {
    let path = model.canonicalize().ok()?;
    let run = path.ancestors().take(3).find(|p| p.join(PLAN_FILE).is_file())?;
    Some(Plan::load(run).ok()?.data.seq_len)
}
