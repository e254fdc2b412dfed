//! `hadal eval`: bits per byte and perplexity of a model on text.

use super::common::{grouped, load, read_text};
use crate::cli::EvalArgs;
use anyhow::{Result, ensure};
use hadal_data::{EvalOptions, EvalSet};
use hadal_recipe::plan::Plan;
use hadal_train::evaluate::{evaluate_by_position, write_by_place};
use indicatif::{ProgressBar, ProgressStyle};
use std::time::Instant;

/// Window for a model whose training length is unknown, if its context is not shorter.
const WINDOW: usize = 2048;

pub(crate) fn run(args: &EvalArgs) -> Result<()> {
    let texts = read_text(&args.text.text, &args.text.field)?;
    let loaded = load(&args.model, None)?;
    let longest = loaded.model.config.max_position_embeddings;
    let trained_on = || Plan::of_model(&args.model.model).map_or(WINDOW, |plan| plan.data.seq_len);
    let window = args.window.unwrap_or_else(|| trained_on().min(longest));
    ensure!(window <= longest, "--window {window} is longer than the model's context of {longest}");
    let texts: Vec<&str> = texts.documents.iter().map(|d| d.text.as_str()).collect();
    let options = EvalOptions { seq_len: window, overlap: 0, bos: true };
    let set = match args.tokens {
        0 => EvalSet::of_texts(&texts, &loaded.tokenizer, options)?,
        limit => EvalSet::of_first_tokens(&texts, limit, &loaded.tokenizer, options)?,
    };
    ensure!(set.text_bytes > 0, "the text is empty: there is nothing to evaluate");
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} windows, {eta} left")?;
    let bar = ProgressBar::new(set.windows.len() as u64).with_style(style);
    let start = Instant::now();
    let (found, places) = evaluate_by_position(&loaded.cx, &loaded.model, &set, &mut |done, _| {
        bar.set_position(done as u64);
        true
    });
    bar.finish_and_clear();
    let rate = set.scored as f64 / start.elapsed().as_secs_f64();
    ensure!(found.loss.is_finite(), "the model's loss on this text is {}: are its weights broken?", found.loss);
    if let Some(folder) = &args.by_position {
        write_by_place(folder, &args.model.model.display().to_string(), &places)?;
    }
    let (bits, loss, perplexity) = (found.bits_per_byte, found.loss, found.loss.exp());
    let (documents, bytes, tokens) = (set.documents().len(), set.text_bytes, set.scored);
    if args.json {
        let line = serde_json::json!({
            "bits_per_byte": bits, "perplexity": perplexity, "loss": loss, "tokens": tokens, "bytes": bytes,
            "documents": documents, "window": window, "tokens_per_second": rate,
        });
        say!("{line}");
    } else {
        let (bytes, tokens) = (grouped(bytes), grouped(tokens));
        say!("{bits:.4} bits per byte, perplexity {perplexity:.3}, loss {loss:.4}");
        say!("documents {documents}, bytes {bytes}, tokens {tokens}, window {window}; {rate:.0} tokens/s");
    }
    Ok(())
}
