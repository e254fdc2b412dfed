//! The work of an evaluation: which requests are open, and the engine that answers them.
//!
//! All requests are prepared before the first one is asked. So a prompt that cannot be asked is an error at once, and the
//! engine's cache has the size that is needed.

use std::collections::HashMap;

use hadal_infer::{Engine, EngineOptions, Event, RequestId};
use hadal_ops::latent::PAGE;

use super::answers::Store;
use super::ask::{Ask, Asker, Kind};
use super::{Model, Settings};
use crate::error::{Result, TaskError};
use crate::task::{Answer, Answered, Task};

/// The most tokens in the engine's cache, unless a single request needs more.
const CACHE: usize = 32_768;
/// Sequences that wait for the engine: enough of them that it never runs dry.
const WAITING: usize = 256;

/// The requests of a task, and the answers so far.
pub(super) struct Work<'a> {
    task: &'a Task,
    /// By document and request.
    answers: Vec<Vec<Option<Vec<Answer>>>>,
    pub(super) open: Vec<Ask>,
    pub(super) notes: Vec<String>,
}

impl<'a> Work<'a> {
    pub(super) fn prepare(task: &'a Task, model: &Model, settings: &Settings, store: &Store) -> Result<Self> {
        let documents = task.documents().len().min(settings.limit.unwrap_or(usize::MAX));
        let mut asker = Asker::new(model.loaded, settings.begin, settings.seed);
        let mut work = Self { task, answers: Vec::with_capacity(documents), open: Vec::new(), notes: Vec::new() };
        let mut cut = 0;
        for document in 0..documents {
            let mut answers = Vec::new();
            for (number, request) in task.requests(document)?.iter().enumerate() {
                let ask = asker
                    .ask(request, (document, number), task.config().repeats)
                    .map_err(|problem| work.wrong(document, problem))?;
                cut += usize::from(ask.cut);
                if ask.parts.is_empty() {
                    // A text without tokens.
                    answers.push(Some(vec![Answer::Rolling(0.0)]));
                    continue;
                }
                answers.push(store.find(document, number, ask.key).map(|kept| ask.kind.all(kept)));
                if answers.last().is_some_and(Option::is_none) {
                    work.open.push(ask);
                }
            }
            work.answers.push(answers);
        }
        if cut > 0 {
            let longest = model.loaded.model.config.max_position_embeddings;
            work.notes.push(format!(
                "{cut} of {} prompts were too long for the model's context of {longest} tokens and lost their beginning",
                work.all()
            ));
        }
        Ok(work)
    }

    fn wrong(&self, document: usize, problem: String) -> TaskError {
        TaskError::Asked { task: self.task.name().to_owned(), document, problem }
    }

    pub(super) fn all(&self) -> usize {
        self.answers.iter().map(Vec::len).sum()
    }

    /// Has the engine answer what is open. Calls `each` with the number of answers so far.
    pub(super) fn run(
        &mut self,
        model: &Model,
        settings: &Settings,
        store: &mut Store,
        each: &mut dyn FnMut(usize),
    ) -> Result<()> {
        let open = std::mem::take(&mut self.open);
        if open.is_empty() {
            return Ok(());
        }
        let (cx, network) = (&model.loaded.cx, &model.loaded.model);
        let mut engine = Engine::new(cx, network, engine_options(&open, settings, model));
        let mut flight = InFlight { asks: &open, parts: HashMap::new(), partial: HashMap::new() };
        let (mut next, mut done) = (0, 0);
        while next < open.len() || !engine.is_idle() {
            while next < open.len() && engine.load().waiting < WAITING {
                flight.submit(next, &mut engine, model).map_err(|e| self.wrong(open[next].document, e))?;
                next += 1;
            }
            let mut finished = Vec::new();
            engine.step(cx, network, &mut |event| finished.extend(flight.take(event)));
            for (at, answers) in finished {
                let ask = &open[at];
                check(&answers).map_err(|problem| self.wrong(ask.document, problem))?;
                store.add(ask.document, ask.request, ask.key, &answers)?;
                self.answers[ask.document][ask.request] = Some(answers);
                done += 1;
                each(done);
            }
        }
        Ok(())
    }

    pub(super) fn answered(self) -> Result<Vec<Answered>> {
        let missing = self.wrong(0, "a request has no answer".to_owned());
        let one = |(document, answers): (usize, Vec<Option<Vec<Answer>>>)| {
            answers.into_iter().collect::<Option<Vec<_>>>().map(|answers| Answered { document, answers })
        };
        self.answers.into_iter().enumerate().map(one).collect::<Option<Vec<_>>>().ok_or(missing)
    }
}

/// A log-probability that is not a number comes from broken weights.
fn check(answers: &[Answer]) -> Result<(), String> {
    let broken = |answer: &Answer| match answer {
        Answer::Text(_) => false,
        Answer::Likelihood { logprob, .. } | Answer::Rolling(logprob) => !logprob.is_finite(),
    };
    if answers.iter().any(broken) {
        return Err("the model's log-probability is not a finite number: are its weights broken?".to_owned());
    }
    Ok(())
}

/// A cache for as many sequences as run at the same time, up to a limit, and for the longest request in any case.
fn engine_options(open: &[Ask], settings: &Settings, model: &Model) -> EngineOptions {
    let longest = model.loaded.model.config.max_position_embeddings;
    let sizes = open.iter().flat_map(|ask| &ask.parts).map(|part| (part.prompt.len() + part.max_new).min(longest + 1));
    let most = sizes.max().unwrap_or(0).next_multiple_of(PAGE) + PAGE;
    let sequences = settings.sequences.max(1);
    EngineOptions { cache_tokens: most.max(CACHE.min(sequences * most)), sequences, ..EngineOptions::default() }
}

/// The requests that the engine has.
struct InFlight<'a> {
    asks: &'a [Ask],
    /// Which request of a task a request of the engine belongs to.
    parts: HashMap<RequestId, usize>,
    partial: HashMap<usize, Partial>,
}

/// What is known of an answer.
struct Partial {
    /// Continuations that are not finished.
    left: usize,
    texts: Vec<String>,
    logprob: f64,
    greedy: bool,
}

impl InFlight<'_> {
    fn submit(&mut self, at: usize, engine: &mut Engine, model: &Model) -> Result<(), String> {
        let ask = &self.asks[at];
        let left = ask.parts.iter().map(|part| part.samples.max(1)).sum();
        let texts = vec![String::new(); ask.parts.first().map_or(0, |part| part.samples.max(1))];
        for part in &ask.parts {
            let id = engine.submit(&model.loaded.model, part).map_err(|error| error.to_string())?;
            self.parts.insert(id, at);
        }
        self.partial.insert(at, Partial { left, texts, logprob: 0.0, greedy: true });
        Ok(())
    }

    /// Takes an event. Returns the number of a request of the task if it is answered, with the answers.
    fn take(&mut self, event: Event) -> Option<(usize, Vec<Answer>)> {
        let at = *self.parts.get(&event.id())?;
        let partial = self.partial.get_mut(&at)?;
        match event {
            Event::Text { sample, piece, .. } => partial.texts[sample] += &piece.text,
            Event::Scored { tokens, .. } => {
                for token in tokens {
                    partial.logprob += f64::from(token.logprob);
                    partial.greedy &= token.rank == 0;
                }
            }
            Event::Finished { .. } => partial.left -= 1,
            Event::Token { .. } => {}
        }
        if partial.left > 0 {
            return None;
        }
        let partial = self.partial.remove(&at)?;
        Some((at, partial.answers(self.asks[at].kind)))
    }
}

impl Kind {
    /// All answers of a request. Without sampling, each text is the one that was generated.
    fn all(self, given: &[Answer]) -> Vec<Answer> {
        let Self::Texts(repeats) = self else { return given.to_vec() };
        given.iter().cloned().cycle().take(repeats).collect()
    }
}

impl Partial {
    fn answers(self, kind: Kind) -> Vec<Answer> {
        let Self { texts, logprob, greedy, .. } = self;
        match kind {
            Kind::Texts(_) => kind.all(&texts.into_iter().map(Answer::Text).collect::<Vec<_>>()),
            Kind::Likelihood => vec![Answer::Likelihood { logprob, greedy }],
            Kind::Rolling => vec![Answer::Rolling(logprob)],
        }
    }
}
