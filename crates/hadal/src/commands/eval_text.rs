//! `hadal eval MODEL TEXT...`: bits per byte and perplexity of a model on text, and its distance from another model.

use super::common::{grouped, load, read_text};
use crate::cli::{EvalArgs, ModelArgs, RunWeights};
use anyhow::{Result, ensure};
use hadal_data::{EvalOptions, EvalSet};
use hadal_infer::Loaded;
use hadal_recipe::plan::Plan;
use hadal_train::divergence::{Divergence, divergence};
use hadal_train::evaluate::{evaluate_by_position, write_by_place};
use hadal_weights::PackedFile;
use indicatif::{ProgressBar, ProgressStyle};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Window for a model whose training length is unknown, if its context is not shorter.
const WINDOW: usize = 2048;

pub(super) fn run(args: &EvalArgs, paths: &[PathBuf]) -> Result<()> {
    let texts = read_text(paths, &args.text.field)?;
    let loaded = load(&args.model, None)?;
    let longest = loaded.model.config.max_position_embeddings;
    let trained_on = || Plan::of_model(&args.model.model).map_or(WINDOW, |plan| plan.data.seq_len);
    let window = args.text.window.unwrap_or_else(|| trained_on().min(longest));
    ensure!(window <= longest, "--window {window} is longer than the model's context of {longest}");
    let texts: Vec<&str> = texts.documents.iter().map(|d| d.text.as_str()).collect();
    let options = EvalOptions { seq_len: window, overlap: 0, bos: true };
    let set = match args.text.tokens {
        0 => EvalSet::of_texts(&texts, &loaded.tokenizer, options)?,
        limit => EvalSet::of_first_tokens(&texts, limit, &loaded.tokenizer, options)?,
    };
    ensure!(set.text_bytes > 0, "the text is empty: there is nothing to evaluate");
    // It is loaded first, so that its errors appear before a long evaluation.
    let reference = args.against.as_ref().map(|path| reference(args, &loaded, path)).transpose()?;
    let bar = bar(&set)?;
    let start = Instant::now();
    let (found, places) = evaluate_by_position(&loaded.cx, &loaded.model, &set, &mut |done, _| {
        bar.set_position(done as u64);
        true
    });
    bar.finish_and_clear();
    let rate = set.scored as f64 / start.elapsed().as_secs_f64();
    ensure!(found.loss.is_finite(), "the model's loss on this text is {}: are its weights broken?", found.loss);
    if let Some(folder) = &args.text.by_position {
        write_by_place(folder, &args.model.model.display().to_string(), &places)?;
    }
    let against = reference.map(|reference| compare(&loaded, &reference, &set)).transpose()?;
    let (bits, loss, perplexity) = (found.bits_per_byte, found.loss, found.loss.exp());
    let (documents, bytes, tokens) = (set.documents().len(), set.text_bytes, set.scored);
    if args.json {
        let mut line = serde_json::json!({
            "bits_per_byte": bits, "perplexity": perplexity, "loss": loss, "tokens": tokens, "bytes": bytes,
            "documents": documents, "window": window, "tokens_per_second": rate,
        });
        if let Some(found) = against {
            line["against"] = serde_json::to_value(found)?;
        }
        say!("{line}");
    } else {
        let (bytes, tokens) = (grouped(bytes), grouped(tokens));
        say!("{bits:.4} bits per byte, perplexity {perplexity:.3}, loss {loss:.4}");
        say!("documents {documents}, bytes {bytes}, tokens {tokens}, window {window}; {rate:.0} tokens/s");
        if let (Some(d), Some(path)) = (against, &args.against) {
            let (kl, largest, same) = (d.kl, d.largest_kl, 100.0 * d.same_top);
            say!("against {}, whose perplexity is {:.3}:", path.display(), d.reference_loss.exp());
            say!(
                "KL divergence {kl:.6} nats per token, at most {largest:.4}; the most likely token is the same {same:.2}% of the time"
            );
        }
    }
    Ok(())
}

/// The model at `path` in the format of the computation, with which `loaded` is compared.
fn reference(args: &EvalArgs, loaded: &Loaded, path: &Path) -> Result<Loaded> {
    let weights = (!PackedFile::is_in(path)).then_some(RunWeights::Full);
    let plain = ModelArgs { model: path.into(), weights, attention_weights: None, ..args.model };
    let reference = load(&plain, Some(loaded.model.config.max_position_embeddings))?;
    let [own, other] = [&loaded.model, &reference.model].map(|m| m.config.vocab_size);
    ensure!(
        own == other,
        "{} has a vocabulary of {other} tokens, and the model {own}: they cannot be compared",
        path.display()
    );
    Ok(reference)
}

/// Compares the model with a reference.
fn compare(loaded: &Loaded, reference: &Loaded, set: &EvalSet) -> Result<Divergence> {
    let bar = bar(set)?;
    let found = divergence(&loaded.cx, &reference.model, &loaded.model, set, &mut |done, _| {
        bar.set_position(done as u64);
        true
    });
    bar.finish_and_clear();
    Ok(found)
}

/// A progress bar over the windows.
fn bar(set: &EvalSet) -> Result<ProgressBar> {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} windows, {eta} left")?;
    Ok(ProgressBar::new(set.windows.len() as u64).with_style(style))
}
