//! Functions that several commands need: opening a model with its tokenizer, continuing a prompt, formatting numbers.

use crate::cli::{FieldArgs, ModelArgs, SampleArgs};
use anyhow::{Context, Result, ensure};
use hadal_data::{SourceOptions, Texts, read_paths};
use hadal_infer::{Engine, EngineOptions, Generation, Loaded, generate};
use hadal_ops::Cx;
use hadal_weights::folder::model_folder;
use hadal_weights::{Checkpoint, PackedFile};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Reads text, and prints what was skipped and why.
pub(crate) fn read_text(paths: &[PathBuf], field: &FieldArgs) -> Result<Texts> {
    let options = SourceOptions { text_field: field.text_field.clone(), ..SourceOptions::default() };
    let texts = read_paths(paths, &options)?;
    if !texts.left_out.is_empty() {
        eprintln!("not read: {}", texts.left_out);
    }
    Ok(texts)
}

/// Opens the model that `args` names, with a context of at least this many tokens.
pub(crate) fn load(args: &ModelArgs, context: Option<usize>) -> Result<Loaded> {
    let (cx, folder) = (Cx::cpu(args.threads, args.dtype.dtype()), model_folder(&args.model)?);
    ensure!(
        !(args.has_formats() && PackedFile::is_in(&folder)),
        "the weights in {} are packed already: leave out --weights and --attention-weights",
        folder.display()
    );
    let loaded = Loaded::open(&folder, context, args.formats()?, cx)?;
    notify(loaded.notice.as_deref());
    Ok(loaded)
}

/// Opens a checkpoint.
pub(crate) fn open(folder: &Path) -> Result<Checkpoint> {
    let checkpoint = Checkpoint::open(folder)?;
    notify(checkpoint.notice());
    Ok(checkpoint)
}

/// Prints a note to standard error. Standard output may be a text or a table that another program reads.
fn notify(notice: Option<&str>) {
    if let Some(notice) = notice {
        eprintln!("note: {notice}");
    }
}

/// An engine with a cache for so many tokens, or for the model's whole context if that is shorter.
pub(crate) fn engine(loaded: &Loaded, tokens: usize) -> Engine {
    let cache_tokens = tokens.min(loaded.model.config.max_position_embeddings);
    Engine::new(&loaded.cx, &loaded.model, EngineOptions { cache_tokens, ..EngineOptions::default() })
}

/// Continues `prompt`. The text is written to standard output while it is generated, and `after` follows it. Then the
/// speed is written to standard error.
pub(crate) fn continue_prompt(
    loaded: &Loaded,
    engine: &mut Engine,
    prompt: &[u32],
    sample: &SampleArgs,
    after: &str,
) -> Result<()> {
    let (cx, stop) = (&loaded.cx, loaded.stop_tokens());
    let mut stream = loaded.tokenizer.stream();
    let mut shown = Ok(());
    let done: Generation =
        generate(cx, &loaded.model, engine, prompt, sample.params(), &stop, sample.max_new, &mut |token| {
            shown = show(&stream.push(token));
            shown.is_ok()
        })?;
    shown.and_then(|()| show(&(stream.finish() + after + "\n"))).context("cannot write to standard output")?;
    let (prefill, decode) = done.seconds;
    let rate = |tokens: usize, seconds: f64| tokens as f64 / seconds.max(1e-9);
    eprintln!(
        "prompt {} tokens, {:.0} tokens/s; new {} tokens, {:.1} tokens/s",
        prompt.len(),
        rate(prompt.len(), prefill),
        done.tokens.len(),
        rate(done.tokens.len(), decode)
    );
    Ok(())
}

/// Writes text to standard output and flushes it.
pub(crate) fn show(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// A number formatted for people, for example 1,234,567.
pub(crate) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let starts_group = |i: usize| i > 0 && (digits.len() - i).is_multiple_of(3);
    digits.chars().enumerate().flat_map(|(i, c)| starts_group(i).then_some(',').into_iter().chain([c])).collect()
}
