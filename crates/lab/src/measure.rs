//! Measures an experiment's finished models: routing, accepted drafts, needles and loss by place. The results are
//! stored beside the run, so a repeated command measures nothing twice.

use crate::error::Result;
use crate::experiment::Context;
use crate::findings::InContext;
use crate::niah::{Questions, documents_of};
use crate::routing::{LayerRouting, routing};
use crate::work::Work;
use hadal_base::atomic;
use hadal_base::mix;
use hadal_data::hash::hash_bytes;
use hadal_data::{EvalOptions, EvalSet, SourceOptions, read_paths};
use hadal_infer::Loaded;
use hadal_infer::{Acceptance, Engine, EngineOptions, acceptance_along, generate_with_drafts};
use hadal_ops::{Cx, DType};
use hadal_recipe::plan::Plan;
use hadal_train::corpus::Corpus;
use hadal_train::evaluate::{Stretch, by_place, evaluate, evaluate_by_position};
use hadal_train::extend::extension_folder;
use hadal_weights::precision::RunFormats;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Number of held-out tokens of each kind of text on which routing is measured.
pub(crate) const ROUTED: u64 = 32_768;
/// Tokens per prompt, and per greedy continuation whose drafts are counted.
const PROMPT: usize = 96;
const NEW: usize = 64;
/// Number of prompts.
const PROMPTS: usize = 16;
/// Incremented when a different quantity is measured, or in a different way.
pub(crate) const VERSION: u64 = 2;

/// Measurements of a finished run's model on held-out text.
#[derive(Serialize, Deserialize)]
pub(crate) struct Measured {
    /// Width of the model.
    pub(crate) width: usize,
    /// Routing on the held-out text.
    pub(crate) routing: Vec<LayerRouting>,
    /// Routing by kind of text, on the same number of tokens for each kind.
    pub(crate) domains: Vec<(String, Vec<LayerRouting>)>,
    /// Accepted drafts of the first MTP module, if there is one, for the model's own greedy text ...
    pub(crate) own: Acceptance,
    /// ... and along held-out text.
    pub(crate) along: Acceptance,
}

/// The contents of `path` if they belong to the same `of`. Otherwise the result of `find`, which is then stored.
pub(crate) fn kept<T: Serialize + DeserializeOwned>(
    path: &Path,
    of: &Value,
    find: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let read = || {
        let mut kept: Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        (kept["of"] == *of).then(|| serde_json::from_value(kept["found"].take()).ok())?
    };
    if let Some(found) = read() {
        return Ok(found);
    }
    let found = find()?;
    let text = serde_json::to_string(&json!({"of": of, "found": found}))? + "\n";
    atomic::write_file(path, text.as_bytes())?;
    Ok(found)
}

/// A kind of text: its name, its texts, and their hash.
pub(crate) struct Kind {
    name: String,
    texts: Vec<String>,
    hash: u64,
}

/// Measures the finished run in `folder`.
pub(crate) fn measure(folder: &Path, kinds: &[Kind]) -> Result<Measured> {
    let plan = Plan::load(folder)?;
    let corpus = Corpus::of_run(folder, plan.text.as_deref())?;
    let texts: Vec<(&str, u64)> = kinds.iter().map(|kind| (kind.name.as_str(), kind.hash)).collect();
    let of = json!({"version": VERSION, "plan": plan, "text": corpus.validation.fingerprint(), "kinds": texts});
    kept(&folder.join("measured.json"), &of, || {
        let loaded = Loaded::open(&folder.join("model"), None, RunFormats::COMPUTE, Cx::cpu(0, DType::Bf16))?;
        let (cx, model) = (&loaded.cx, &loaded.model);
        let options = EvalOptions { seq_len: plan.data.seq_len, overlap: 0, bos: true };
        let sets = kinds.iter().map(|k| Ok(spread(EvalSet::of_texts(&k.texts, &loaded.tokenizer, options)?)));
        let sets: Vec<EvalSet> = sets.collect::<Result<_>>()?;
        let most = sets.iter().map(|s| s.scored).min().unwrap_or(0).min(ROUTED);
        let route = |set: &EvalSet, most| routing(cx, model, set, most);
        let (own, along) = drafts(&loaded, &corpus, plan.data.seq_len)?;
        Ok(Measured {
            width: model.config.hidden_size,
            routing: route(&corpus.validation(plan.data.seq_len, Some(ROUTED))?, u64::MAX),
            domains: kinds.iter().zip(&sets).map(|(kind, set)| (kind.name.clone(), route(set, most))).collect(),
            own,
            along,
        })
    })
}

/// The kinds of text: the held-out parts of the kinds that the runs trained on, or the given files. `folder` is that of
/// any run.
pub(crate) fn kinds(work: &Work<'_>, folder: &Path) -> Result<Vec<Kind>> {
    let held_out = if work.trains_on_kinds() {
        Corpus::of_run(folder, Plan::load(folder)?.text.as_deref())?.validation_texts()?
    } else {
        Vec::new()
    };
    let of_kind = |(name, path): &(String, PathBuf)| {
        let texts: Vec<String> = if work.trains_on_kinds() {
            held_out.iter().filter(|d| d.0 == *name).map(|d| d.2.clone()).collect()
        } else {
            let texts = read_paths(std::slice::from_ref(path), &SourceOptions::default())?;
            texts.documents.into_iter().map(|d| d.text).collect()
        };
        let hash = texts.iter().fold(0, |hash, text| mix(hash ^ hash_bytes(text.as_bytes())));
        Ok(Kind { name: name.clone(), texts, hash })
    };
    work.args.domains.iter().map(of_kind).collect()
}

/// Orders the windows so that the documents are mixed and the first windows cover all of them.
fn spread(mut set: EvalSet) -> EvalSet {
    let mut windows: Vec<_> = set.windows.drain(..).enumerate().collect();
    windows.sort_by_key(|(i, _)| mix(*i as u64));
    set.windows = windows.into_iter().map(|(_, window)| window).collect();
    set
}

/// Counts the first MTP module's correct drafts: of greedy continuations of held-out text, and along that text.
fn drafts(loaded: &Loaded, corpus: &Corpus, most: usize) -> Result<(Acceptance, Acceptance)> {
    let (cx, model) = (&loaded.cx, &loaded.model);
    let (mut own, mut along) = (Acceptance::default(), Acceptance::default());
    if model.mtp.is_empty() {
        return Ok((own, along));
    }
    let mut engine = Engine::new(cx, model, EngineOptions::default());
    let documents = corpus.validation.documents();
    let mut ids = Vec::new();
    for document in (0..documents).step_by(documents.div_ceil(PROMPTS).max(1)) {
        corpus.validation.read(document, &mut ids)?;
        let text: Vec<u32> = loaded.tokenizer.special().bos.into_iter().chain(ids.iter().copied()).take(most).collect();
        let prompt = &text[..PROMPT.min(text.len())];
        own += generate_with_drafts(cx, model, &mut engine, prompt, &[], NEW)?.1;
        along += acceptance_along(cx, model, &text);
    }
    Ok((own, along))
}

/// A model before or after an extension.
#[derive(Serialize, Deserialize)]
pub(crate) struct Part {
    pub(crate) found: InContext,
    /// Loss by place, in windows of the length of the longest text.
    pub(crate) by_place: Vec<Place>,
}

/// A stretch of places in the window.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Place {
    /// Its middle.
    pub(crate) at: f64,
    /// Mean loss, in nats per token.
    pub(crate) loss: f64,
    pub(crate) tokens: u64,
}

/// Measures on long texts: for the first run, its model and those after its extensions; for a control, which has a
/// name, only the last model. `run` is the folder of the finished run.
pub(crate) fn in_context(run: &Path, context: &Context, control: Option<&str>) -> Result<Vec<Part>> {
    let main = Plan::load(run)?;
    let corpus = Corpus::of_run(run, main.text.as_deref())?;
    let extensions = (1..=main.extensions.len()).map(|number| extension_folder(run, number));
    let mut folders: Vec<PathBuf> = [run.to_owned()].into_iter().chain(extensions).collect();
    if control.is_some() {
        folders.drain(..folders.len() - 1);
    }
    let mut names: Vec<String> = Vec::new();
    let one = |folder: PathBuf| {
        let plan = Plan::load(&folder)?;
        let of =
            json!({"version": VERSION, "plan": plan, "text": corpus.validation.fingerprint(), "questions": context});
        let mut model = control.map_or_else(|| format!("{} tokens", plan.data.seq_len), str::to_owned);
        if names.contains(&model) {
            model = format!("{model}, extension {}", names.len());
        }
        names.push(model.clone());
        kept(&folder.join("in_context.json"), &of, || ask(model, &folder, &corpus, context))
    };
    folders.into_iter().map(one).collect()
}

/// Measures the model in `folder`.
fn ask(model: String, folder: &Path, corpus: &Corpus, context: &Context) -> Result<Part> {
    let Context { lengths, depths, samples, tokens, window } = context;
    let longest = lengths.iter().copied().max().unwrap_or(0).max(*window);
    let short = corpus.validation(*window, Some(*tokens))?;
    let options = EvalOptions { seq_len: longest, overlap: 0, bos: true };
    let long = EvalSet::of_packed(&corpus.validation, &corpus.tokenizer, options)?;
    let long = long.longest((*tokens as usize).div_ceil(longest));
    let loaded = Loaded::open(&folder.join("model"), Some(longest), RunFormats::COMPUTE, Cx::cpu(0, DType::Bf16))?;
    let cx = &loaded.cx;
    let (perplexity, places) = {
        let loss = evaluate(cx, &loaded.model, &short, &mut |_, _| true).loss;
        (loss.exp(), evaluate_by_position(cx, &loaded.model, &long, &mut |_, _| true).1)
    };
    let questions = Questions { lengths, depths: *depths, samples: *samples, distractors: 0, seed: 1 };
    let needles = questions.ask(&loaded, &documents_of(&corpus.validation)?, &model, &mut |_| Ok(()))?;
    let place = |p: &Stretch| Place { at: p.middle(), loss: p.loss, tokens: p.targets };
    let by_place = by_place(&places).iter().map(place).collect();
    Ok(Part { found: InContext { model, needles, perplexity }, by_place })
}

/// Combines the same models of several seeds: questions are counted together, losses are averaged.
pub(crate) fn pooled(seeds: Vec<Vec<Part>>) -> Vec<Part> {
    let n = seeds.len() as f64;
    let both = |mut all: Vec<Part>, one: Vec<Part>| {
        all.iter_mut().zip(&one).for_each(|(sum, one)| sum.add(one));
        all
    };
    let mut all = seeds.into_iter().reduce(both).unwrap_or_default();
    // The perplexities were multiplied, for the geometric mean.
    all.iter_mut().for_each(|s| s.found.perplexity = s.found.perplexity.powf(1.0 / n));
    all
}

impl Part {
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
