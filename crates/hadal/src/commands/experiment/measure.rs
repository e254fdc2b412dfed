//! What an experiment asks of its finished models: routing, accepted drafts, needles and loss by place.

use crate::commands::common::{Loaded, load_folder};
use crate::commands::eval::{Stretch, by_place};
use crate::commands::niah::{Questions, documents_of};
use crate::commands::stages::stage_folder;
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
use serde::{Deserialize, Serialize};
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
    /// Loss by place in windows of the longest text.
    pub(super) by_place: Vec<Place>,
}

/// A stretch of the window.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) struct Place {
    /// Its middle.
    pub(super) at: f64,
    /// Mean, in nats a token.
    pub(super) loss: f64,
    pub(super) tokens: u64,
}

/// Asks the model of the finished run in `run`, and those after its stages, what they make of long texts.
pub(super) fn in_context(run: &Path, context: &Context) -> Result<Vec<Stage>> {
    let plan = Plan::load(run)?;
    let name = |plan: &Plan| format!("{} tokens", plan.data.seq_len);
    let stages = plan.stages.iter().enumerate().map(|(i, s)| (name(s), stage_folder(run, i + 1)));
    let folders = [(name(&plan), run.to_owned())].into_iter().chain(stages);
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
    for (model, folder) in folders {
        let loaded = load_folder(&folder.join("model"), Some(longest), Cx::cpu(0, DType::Bf16))?;
        let cx = &loaded.cx;
        let (perplexity, places) = cx.threads().run(|| {
            let loss = evaluate(cx, &loaded.model, &short, &mut |_, _| true).loss;
            (loss.exp(), evaluate_by_position(cx, &loaded.model, &long, &mut |_, _| true).1)
        });
        let Context { lengths, depths, samples, .. } = context;
        let questions = Questions { lengths, depths: *depths, samples: *samples, distractors: 0, seed: 1 };
        let needles = questions.ask(&loaded, &documents, &model, &mut |_| Ok(()))?;
        let place = |p: &Stretch| Place { at: p.middle(), loss: p.loss, tokens: p.targets };
        let by_place = by_place(&places).iter().map(place).collect();
        all.push(Stage { found: InContext { model, needles, perplexity }, by_place });
    }
    Ok(all)
}

/// The same models of several seeds as one: questions counted together, losses as means.
pub(super) fn pooled(seeds: Vec<Vec<Stage>>) -> Vec<Stage> {
    let n = seeds.len() as f64;
    let both = |mut all: Vec<Stage>, one: Vec<Stage>| {
        all.iter_mut().zip(&one).for_each(|(sum, one)| sum.add(one));
        all
    };
    let mut all = seeds.into_iter().reduce(both).unwrap_or_default();
    // Perplexities were multiplied.
    all.iter_mut().for_each(|s| s.found.perplexity = s.found.perplexity.powf(1.0 / n));
    all
}

impl Stage {
    fn add(&mut self, one: &Self) {
        for (cell, more) in self.found.needles.iter_mut().zip(&one.found.needles) {
            cell.found += more.found;
            cell.asked += more.asked;
        }
        self.found.perplexity *= one.found.perplexity;
        for (place, more) in self.by_place.iter_mut().zip(&one.by_place) {
            let tokens = place.tokens + more.tokens;
            place.loss = (place.loss * place.tokens as f64 + more.loss * more.tokens as f64) / tokens as f64;
            place.tokens = tokens;
        }
    }
}
