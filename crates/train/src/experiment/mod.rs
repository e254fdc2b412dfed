//! An experiment: runs that differ in a few settings, and what the report claims about them.
//!
//! A description (`experiments/*.toml`) names a recipe, what all runs change of it and what each run changes, and verdicts
//! that are worked out from the metrics, and from what the models make of their context where that is asked for.
//! Smoothing and bounds stand in the description, fixed before any run.

mod verdict;

pub(crate) use verdict::relative;
pub use verdict::{Verdict, VerdictKind, end, smoothed};

use crate::metrics::StepMetrics;
use crate::plot::NeedleCell;
use serde::Deserialize;
use std::path::Path;

/// Name and text of every experiment that comes with the program.
pub const EXPERIMENTS: [(&str, &str); 7] = [
    ("fp8", include_str!("../../../../experiments/fp8.toml")),
    ("fp8-blocks", include_str!("../../../../experiments/fp8-blocks.toml")),
    ("balance", include_str!("../../../../experiments/balance.toml")),
    ("balance-scope", include_str!("../../../../experiments/balance-scope.toml")),
    ("mtp", include_str!("../../../../experiments/mtp.toml")),
    ("groups", include_str!("../../../../experiments/groups.toml")),
    ("yarn", include_str!("../../../../experiments/yarn.toml")),
];

/// What an experiment does.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// For people.
    pub title: String,
    /// Section of the report.
    pub section: String,
    /// Recipe of all runs.
    pub recipe: String,
    /// What all runs change of it, as `key=value`.
    #[serde(default)]
    pub set: Vec<String>,
    /// Steps of the moving mean that losses are compared after.
    pub smooth: usize,
    /// Minutes for all runs together, unless the user gives others; with a [`Context`], those that the recipe's parts take.
    pub minutes: f64,
    /// The runs; the first one is the base of the difference plot.
    pub run: Vec<Member>,
    /// What is to be found out.
    pub verdict: Vec<Verdict>,
    /// Asks every model, before and after the recipe's stages, what it finds in a long text.
    pub context: Option<Context>,
}

/// Questions about long texts.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// Tokens of the texts.
    pub lengths: Vec<usize>,
    /// Depths of the needle.
    pub depths: usize,
    /// Questions for each length and depth.
    pub samples: usize,
    /// Held-out tokens that the loss by place and the perplexity are measured on.
    pub tokens: u64,
    /// Window of the perplexity: the length before the extension.
    pub window: usize,
}

/// What a model makes of its context.
#[derive(Clone, Debug, PartialEq)]
pub struct InContext {
    /// By what it was trained on last: `512 tokens`, `4096 tokens`.
    pub model: String,
    /// Needles found.
    pub needles: Vec<NeedleCell>,
    /// Perplexity of held-out text in windows of [`Context::window`].
    pub perplexity: f64,
}

/// What verdicts are worked out from.
pub struct Findings<'a> {
    /// Names and metrics of the runs.
    pub runs: &'a [(String, Vec<StepMetrics>)],
    /// How differently the kinds of text are routed, by run, where kinds of text were given.
    pub specialisation: &'a [(String, f64)],
    /// Models before and after the stages.
    pub context: &'a [InContext],
}

impl Findings<'_> {
    fn steps(&self, name: &str) -> &[StepMetrics] {
        self.runs.iter().find(|r| r.0 == name).map_or(&[], |r| &r.1)
    }
}

/// One run of an experiment.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Its name in plots and reports, and of its folder.
    pub name: String,
    /// What it changes beside [`Experiment::set`].
    #[serde(default)]
    pub set: Vec<String>,
}

impl Member {
    /// Folder of the run inside the experiment's.
    pub fn folder(&self) -> String {
        let letters = self.name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' });
        let name: String = letters.collect();
        name.split('-').filter(|p| !p.is_empty()).collect::<Vec<_>>().join("-")
    }
}

impl Experiment {
    /// A built-in experiment, or one described in a file.
    pub fn load(name: &str) -> Result<Self, String> {
        let text = match EXPERIMENTS.iter().find(|e| e.0 == name) {
            Some((_, text)) => (*text).to_owned(),
            None if Path::new(name).extension().is_some_and(|e| e == "toml") => {
                std::fs::read_to_string(name).map_err(|e| format!("cannot read the experiment {name}: {e}"))?
            }
            None => {
                let known = EXPERIMENTS.map(|e| e.0).join(", ");
                return Err(format!("there is no experiment `{name}`: neither built in ({known}) nor a .toml file"));
            }
        };
        let found: Self = toml::from_str(&text).map_err(|e| format!("{name}: {e}"))?;
        found.check().map_err(|e| format!("{name}: {e}"))?;
        Ok(found)
    }

    fn check(&self) -> Result<(), String> {
        let least = if self.context.is_some() { 1 } else { 2 };
        if self.run.len() < least || self.smooth == 0 || !(self.minutes > 0.0 && self.minutes.is_finite()) {
            return Err(
                "an experiment has two runs or more (one with a `context`), `smooth` steps and `minutes` above 0"
                    .into(),
            );
        }
        if self
            .context
            .as_ref()
            .is_some_and(|c| c.lengths.is_empty() || c.depths * c.samples * c.window == 0 || c.tokens == 0)
        {
            return Err("`context` has lengths, and depths, samples, tokens and window above 0".into());
        }
        let folders: Vec<String> = self.run.iter().map(Member::folder).collect();
        if let Some(i) = (1..folders.len()).find(|i| folders[..*i].contains(&folders[*i]) || folders[*i].is_empty()) {
            return Err(format!("run `{}` needs a name of its own", self.run[i].name));
        }
        for verdict in &self.verdict {
            if let Some(name) = verdict.kind.runs().into_iter().find(|n| self.run.iter().all(|r| r.name != *n)) {
                return Err(format!("a verdict speaks of a run `{name}` that is not there"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
