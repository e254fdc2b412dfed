//! Functions that several commands need: opening a model with its tokenizer, continuing a prompt, formatting numbers.

use crate::cli::{FieldArgs, FormArgs, ModelArgs, SampleArgs};
use anyhow::{Context, Result, ensure};
use hadal_data::{SourceOptions, Texts, read_paths};
use hadal_infer::{Acceptance, Engine, EngineOptions, Event, Grammar, Loaded, Request, Reuse, Stop, TextOptions, run};
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

/// The name of the model at `path` for people and clients: the last part of the path.
pub(crate) fn model_name(path: &Path) -> String {
    let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    whole.file_name().map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned())
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
pub(crate) fn engine(loaded: &Loaded, tokens: usize, sample: &SampleArgs) -> Engine {
    let cache_tokens = tokens.min(loaded.model.config.max_position_embeddings);
    let speculation = sample.speculation.speculation();
    Engine::new(&loaded.cx, &loaded.model, EngineOptions { cache_tokens, speculation, ..EngineOptions::default() })
}

/// How many drafts were accepted, to follow other figures. Empty without drafts.
pub(crate) fn accepted(drafts: Acceptance) -> String {
    let Acceptance { accepted, drafts: all } = drafts;
    drafts.rate().map_or(String::new(), |rate| format!("; {accepted} of {all} drafts accepted ({:.0}%)", 100.0 * rate))
}

/// The grammar that the options name.
pub(crate) fn grammar(form: &FormArgs) -> Result<Option<Grammar>> {
    Ok(match form {
        FormArgs { json_schema: Some(path), .. } => Some(Grammar::JsonSchema(read_file(path)?)),
        FormArgs { regex: Some(regex), .. } => Some(Grammar::Regex(regex.clone())),
        FormArgs { grammar: Some(path), .. } => Some(Grammar::Lark(read_file(path)?)),
        _ => None,
    })
}

/// What the options ask of a continuation. The prompt is missing.
pub(crate) fn request(
    loaded: &Loaded,
    sample: &SampleArgs,
    form: &FormArgs,
    grammar: Option<Grammar>,
) -> Result<Request> {
    let constraint = grammar.map(|grammar| loaded.constraint(&grammar)).transpose()?;
    Ok(Request {
        params: sample.params(),
        max_new: sample.max_new(),
        stop: loaded.stop_tokens(),
        text: Some(TextOptions { stop: form.stop.clone(), ..loaded.text() }),
        constraint,
        reuse: Reuse::Given,
        ..Request::default()
    })
}

/// Continues a prompt. The text is written to standard output while it is generated, and `after` follows it. Then the
/// speed is written to standard error.
pub(crate) fn continue_prompt(loaded: &Loaded, engine: &mut Engine, request: &Request, after: &str) -> Result<()> {
    let mut shown = Ok(());
    let done = run(&loaded.cx, &loaded.model, engine, request, &mut |event| {
        if let Event::Text { piece, .. } = event {
            shown = show(&piece.text);
        }
        shown.is_ok()
    })?;
    shown.and_then(|()| show(&format!("{after}\n"))).context("cannot write to standard output")?;
    let note = match done.stop {
        Stop::Stuck => Some("the text is incomplete: no token can follow it by its grammar"),
        Stop::Length if request.constraint.is_some() => Some("the text may be incomplete: raise --max-new"),
        _ => None,
    };
    notify(note);
    let (prefill, decode) = done.seconds;
    let prompt = request.prompt.len();
    eprintln!(
        "prompt {prompt} tokens, {:.0} tokens/s; new {} tokens, {:.1} tokens/s{}",
        rate(prompt, prefill),
        done.tokens.len(),
        rate(done.tokens.len(), decode),
        accepted(done.drafts)
    );
    Ok(())
}

/// Tokens per second, also if there was no time.
pub(crate) fn rate(tokens: usize, seconds: f64) -> f64 {
    tokens as f64 / seconds.max(1e-9)
}

/// Reads a file that an option or a command names.
pub(crate) fn read_file(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
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
