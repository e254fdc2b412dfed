//! Evaluation: asks a model all questions of a task, and says what its answers are worth.
//!
//! 1. `ask.rs` turns what the task asks into requests of the engine. `answers.rs` knows which of them were answered before.
//! 2. `work.rs` gives the others to the engine, which runs many of them at once, and keeps each answer when it comes.
//! 3. `score.rs` makes figures of the scores, with intervals.
//! 4. A [`Report`] writes them: `results.rs` and `samples.rs` in the harness's form, `page.rs` as a page, `table.rs` for
//!    the terminal. `compare.rs` compares two models.

mod answers;
mod ask;
mod compare;
mod model;
mod page;
mod report;
mod results;
mod samples;
mod score;
mod table;
#[cfg(test)]
mod tests;
mod work;

use std::path::Path;

use crate::error::Result;
use crate::suite::Suite;
use crate::task::{Answered, Outcome, Task};
use answers::{Store, hex};
pub use compare::{Difference, compare};
pub use model::Model;
pub use report::{Against, Report, Written};
pub use score::Figure;
use work::Work;

/// How a task is evaluated.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The number of questions, from the first one on. Without it, all of them.
    pub limit: Option<usize>,
    /// Whether prompts begin with the token that begins texts.
    pub begin: bool,
    /// The seed of sampling.
    pub seed: u64,
    /// The number of sequences that the engine runs at the same time.
    pub sequences: usize,
}

/// How far an evaluation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Requests that are answered.
    pub done: usize,
    /// All requests.
    pub all: usize,
}

/// A model's answers to a task, and what they are worth.
pub struct Evaluation {
    /// The task.
    pub task: String,
    /// The answers, by document.
    pub answered: Vec<Answered>,
    /// Their scores.
    pub outcome: Outcome,
    /// The figures: totals, and for several answers to each question avg@k, pass@k and maj@k.
    pub figures: Vec<Figure>,
    /// What a reader of the figures should know.
    pub notes: Vec<String>,
    /// Answers that came from an earlier evaluation.
    pub reused: usize,
    /// Answers that the model gave now.
    pub asked: usize,
}

/// Evaluates a task. Answers are kept in `folder`. A later call with the same model, task and settings uses them, even if this
/// one was killed.
pub fn evaluate(
    task: &Task,
    model: &Model,
    settings: &Settings,
    folder: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<Evaluation> {
    let mut store = Store::open(&folder.join(answer_file(task, model, settings)))?;
    let mut work = Work::prepare(task, model, settings, &store)?;
    let (all, open) = (work.all(), work.open.len());
    work.run(model, settings, &mut store, &mut |done| progress(Progress { done: all - open + done, all }))?;
    let mut notes = work.notes.clone();
    if store.damaged() > 0 {
        notes.push(format!("{} damaged lines of kept answers were left out, and asked again", store.damaged()));
    }
    let answered = work.answered()?;
    let outcome = task.score(&answered)?;
    let figures = score::figures(task, &answered, &outcome)?;
    let task = task.name().to_owned();
    Ok(Evaluation { task, answered, outcome, figures, notes, reused: all - open, asked: open })
}

/// Evaluates all tasks of a suite. Calls `progress` with the name of the task.
pub fn evaluate_all(
    suite: &Suite,
    model: &Model,
    settings: &Settings,
    folder: &Path,
    progress: &mut dyn FnMut(&str, Progress),
) -> Result<Vec<Evaluation>> {
    let one = |task: &Task| evaluate(task, model, settings, folder, &mut |at| progress(task.name(), at));
    suite.tasks.iter().map(one).collect()
}

/// The name of the file with the answers.
fn answer_file(task: &Task, model: &Model, settings: &Settings) -> String {
    let written = format!("{:?} {} {}", task.config().generation, settings.begin, settings.seed);
    let parts = [model.hash(), task.hash(), hadal_base::checksum(written.as_bytes())];
    let key = parts.into_iter().fold(0, |key, part| hadal_base::mix(key ^ part));
    format!("answers-{}-{}.jsonl", report::file_name(task.name()), hex(key))
}
