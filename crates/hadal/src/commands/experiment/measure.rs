//! What an experiment asks of its finished models: routing, accepted drafts, needles and loss by place.

use crate::commands::common::{Loaded, load_folder};
use crate::commands::eval::by_place;
use crate::commands::niah::{Questions, documents_of};
use anyhow::Result;
use hadal_data::{EvalOptions, EvalSet, SourceOptions, read_paths};
use hadal_infer::{Acceptance, generate_with_drafts};
use hadal_model::Decoder;
use hadal_ops::{Cx, DType};
use hadal_train::corpus::Corpus;
use hadal_train::evaluate::{evaluate, evaluate_by_position};
use hadal_train::experiment::{Context, InContext};
use hadal_train::plan::Plan;
use hadal_train::routing::{LayerRouting, routing};
use std::path::{Path, PathBuf};

/// Held-out tokens that the gates are watched on, of each kind of text.
const ROUTED: u64 = 32_768;
/// Tokens of a prompt, and of its greedy continuation, whose drafts are counted.
const PROMPT: usize = 96;
const NEW: usize = 64;
/// Prompts.
const PROMPTS: usize = 16;

/// What a finished run's model does on held-out text.
pub(super) struct Measured {
    /// Width of the model.
    pub(super) width: usize,
    /// Routing on the held-out text.
    pub(super) routing: Vec<LayerRouting>,
    /// Routing by kind of text.
    pub(super) domains: Vec<(String, Vec<LayerRouting>)>,
    /// Drafts of the first MTP module, where there is one.
    pub(super) drafts: Acceptance,
}

/// Measures the finished run in `folder`; `domains` are kinds of text by name, with a path each.
pub(super) fn measure(folder: &Path, domains: &[(String, PathBuf)]) -> Result<Measured> {
    let plan = Plan::load(folder)?;
    let corpus = Corpus::of_run(folder, plan.text.as_deref())?;
    let loaded = load_folder(&folder.join("model"), None, Cx::cpu(0, DType::Bf16))?;
    let (cx, model) = (&loaded.cx, &loaded.model);
    let seq_len = plan.data.seq_len;
    let route = |set: &EvalSet| cx.threads().run(|| routing(cx, model, set));
    let routing = route(&corpus.validation(seq_len, Some(ROUTED))?);
    let mut by_domain = Vec::new();
    for (name, path) in domains {
        let texts = read_paths(std::slice::from_ref(path), &SourceOptions::default())?;
        let texts: Vec<&str> = texts.documents.iter().map(|d| d.text.as_str()).collect();
        let mut set = EvalSet::of_texts(&texts, &loaded.tokenizer, EvalOptions { seq_len, overlap: 0, bos: true })?;
        set.windows.truncate((ROUTED as usize).div_ceil(seq_len));
        by_domain.push((name.clone(), route(&set)));
    }
    Ok(Measured { width: model.config.hidden_size, routing, domains: by_domain, drafts: drafts(&loaded, &corpus)? })
}

/// Greedy continuations of held-out text, and how many of their tokens the first MTP module drafts right.
fn drafts(loaded: &Loaded, corpus: &Corpus) -> Result<Acceptance> {
    let (cx, model) = (&loaded.cx, &loaded.model);
    let mut all = Acceptance::default();
    if model.mtp.is_empty() {
        return Ok(all);
    }
    let decoder = Decoder::new(cx, model);
    let documents = corpus.validation.documents();
    let mut ids = Vec::new();
    for document in (0..documents).step_by(documents.div_ceil(PROMPTS).max(1)) {
        corpus.validation.read(document, &mut ids)?;
        let prompt: Vec<u32> =
            loaded.tokenizer.special().bos.into_iter().chain(ids.iter().copied()).take(PROMPT).collect();
        all += cx.threads().run(|| generate_with_drafts(cx, &decoder, &prompt, &[], NEW).1);
    }
    Ok(all)
}

/// A model before or after a stage.
pub(super) struct Stage {
    pub(super) found: InContext,
    /// Loss by place in windows of the longest text: (place, nats a token).
    pub(super) by_place: Vec<(f64, f64)>,
}

/// Asks the models in `folders` (name, folder of a run or stage) what they make of long texts.
pub(super) fn in_context(run: &Path, folders: &[(String, PathBuf)], context: &Context) -> Result<Vec<Stage>> {
    let plan = Plan::load(run)?;
    let corpus = Corpus::of_run(run, plan.text.as_deref())?;
    let longest = context.lengths.iter().copied().max().unwrap_or(0).max(context.window);
    let short = corpus.validation(context.window, Some(context.tokens))?;
    let long = EvalSet::of_packed(
        &corpus.validation,
        &corpus.tokenizer,
        EvalOptions { seq_len: longest, overlap: 0, bos: true },
    )?;
    let long = long.longest((context.tokens as usize).div_ceil(longest));
    let documents = documents_of(&corpus.validation)?;
    let mut all = Vec::new();
    for (name, folder) in folders {
        let loaded = load_folder(&folder.join("model"), Some(longest), Cx::cpu(0, DType::Bf16))?;
        let (cx, model) = (&loaded.cx, &loaded.model);
        let (perplexity, places) = cx.threads().run(|| {
            let loss = evaluate(cx, model, &short, &mut |_, _| true).loss;
            (loss.exp(), evaluate_by_position(cx, model, &long, &mut |_, _| true).1)
        });
        let Context { lengths, depths, samples, .. } = context;
        let questions = Questions { lengths, depths: *depths, samples: *samples, distractors: 0, seed: 1 };
        let needles = questions.ask(&loaded, &documents, name, &mut |_| Ok(()))?;
        let places = by_place(&places).iter().map(|p| (p.middle(), p.loss)).collect();
        all.push(Stage { found: InContext { model: name.clone(), needles, perplexity }, by_place: places });
    }
    Ok(all)
}
