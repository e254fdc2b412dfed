//! What an evaluation leaves: a table, and files in a folder.
//!
//! | file | content |
//! | --- | --- |
//! | `results.json` | all figures and settings, in the harness's form |
//! | `TASK.html` | a page with every prompt, answer and score |
//! | `samples_TASK.jsonl` | the same for programs, in the harness's form, if it is wanted |
//! | `answers-TASK-….jsonl` | the answers, to go on after a stop ([`super::evaluate`] writes them) |

use std::path::{Path, PathBuf};

use super::{Difference, Evaluation, Settings, compare, page, results, samples, table};
use crate::error::Result;
use crate::suite::Suite;
use crate::task::{Task, Total};

/// A finished evaluation.
pub struct Report<'a> {
    /// The model's name.
    pub model: &'a str,
    /// Stands for its weights.
    pub hash: u64,
    /// The tasks.
    pub suite: &'a Suite,
    /// How they were evaluated.
    pub settings: &'a Settings,
    /// The evaluations, in the order of the suite's tasks.
    pub evaluations: &'a [Evaluation],
    /// Another model to compare with.
    pub against: Option<Against<'a>>,
}

/// Another model on the same tasks.
#[derive(Clone, Copy)]
pub struct Against<'a> {
    /// Its name.
    pub model: &'a str,
    /// Its evaluations.
    pub evaluations: &'a [Evaluation],
}

/// The files that were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The figures.
    pub results: PathBuf,
    /// The pages, one for each task.
    pub pages: Vec<PathBuf>,
    /// The samples, if they were wanted.
    pub samples: Vec<PathBuf>,
}

impl Report<'_> {
    /// The figures for people.
    pub fn table(&self) -> String {
        table::table(self)
    }

    /// The figures in the harness's form.
    pub fn results(&self) -> serde_json::Value {
        results::results(self)
    }

    /// Writes everything into a folder.
    pub fn write(&self, folder: &Path, log_samples: bool) -> Result<Written> {
        let results = folder.join("results.json");
        let text = format!("{:#}\n", self.results());
        hadal_base::atomic::write_file(&results, text.as_bytes())?;
        let mut written = Written { results, pages: Vec::new(), samples: Vec::new() };
        for (task, evaluation) in self.parts() {
            let name = file_name(task.name());
            let path = folder.join(format!("{name}.html"));
            hadal_base::atomic::write_file(&path, page::page(self, task, evaluation)?.as_bytes())?;
            written.pages.push(path);
            if log_samples {
                let path = folder.join(format!("samples_{name}.jsonl"));
                hadal_base::atomic::write_file(&path, samples::samples(task, evaluation)?.as_bytes())?;
                written.samples.push(path);
            }
        }
        Ok(written)
    }

    /// Each task with its evaluation.
    pub(super) fn parts(&self) -> impl Iterator<Item = (&Task, &Evaluation)> {
        self.suite.tasks.iter().zip(self.evaluations)
    }

    /// The groups that have figures of their own.
    pub(super) fn groups(&self) -> Vec<(&str, Vec<Total>)> {
        let totals: Vec<(String, Vec<Total>)> =
            self.parts().map(|(task, e)| (task.name().to_owned(), e.outcome.totals.clone())).collect();
        self.suite.groups.iter().map(|group| (group.name.as_str(), group.totals(&totals))).collect()
    }

    /// The differences of a task from the other model.
    pub(super) fn differences(&self, evaluation: &Evaluation) -> Vec<Difference> {
        let other = self.against.and_then(|other| other.evaluations.iter().find(|e| e.task == evaluation.task));
        other.map_or_else(Vec::new, |other| compare(evaluation, other))
    }
}

/// A task's name as the name of a file.
pub(super) fn file_name(name: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || "-_".contains(c) { c } else { '_' };
    let name: String = name.chars().take(100).map(safe).collect();
    if name.is_empty() { "task".to_owned() } else { name }
}
