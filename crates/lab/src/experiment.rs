//! An experiment: runs that differ in a few settings, and the report's claims about them.
//!
//! A description (`experiments/*.toml`) names a recipe, the changes that all runs make, and the changes of each run. It
//! also lists verdicts. They are computed from the metrics, and if asked for, from measurements of long contexts.
//! Smoothing and bounds are in the description, so they are fixed before any run.

use crate::verdict::{Verdict, VerdictKind};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Name and text of every built-in experiment.
pub const EXPERIMENTS: [(&str, &str); 7] = [
    ("fp8", include_str!("../../../experiments/fp8.toml")),
    ("fp8-blocks", include_str!("../../../experiments/fp8-blocks.toml")),
    ("balance", include_str!("../../../experiments/balance.toml")),
    ("balance-scope", include_str!("../../../experiments/balance-scope.toml")),
    ("mtp", include_str!("../../../experiments/mtp.toml")),
    ("groups", include_str!("../../../experiments/groups.toml")),
    ("yarn", include_str!("../../../experiments/yarn.toml")),
];

/// The description of an experiment.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// Title for people.
    pub title: String,
    /// Section of the report.
    pub section: String,
    /// Recipe that all runs use.
    pub recipe: String,
    /// Changes that all runs make to the recipe, as `key=value`.
    #[serde(default)]
    pub set: Vec<String>,
    /// Number of steps in the moving mean of the losses before they are compared.
    pub smooth: usize,
    /// Minutes for all runs together, unless the user gives another time. With a [`Context`], the minutes that the
    /// recipe's parts need.
    pub minutes: f64,
    /// Number of seeds. Each run is repeated for each seed, to measure the effect of chance.
    #[serde(default = "one")]
    pub seeds: u64,
    /// The runs. The first one is the base of the difference plot, unless a `loss-within` verdict has another base.
    pub run: Vec<Member>,
    /// The claims to judge.
    pub verdict: Vec<Verdict>,
    /// The run whose finished weights are evaluated in the precision of every run, for losses and gradients.
    pub fidelity: Option<String>,
    /// Asks models about long texts: those of the first run before and after the recipe's extensions, and the final
    /// models of the other runs, which are its controls.
    pub context: Option<Context>,
}

fn one() -> u64 {
    1
}

/// Questions about long texts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// Lengths of the texts in tokens.
    pub lengths: Vec<usize>,
    /// Number of depths of the needle.
    pub depths: usize,
    /// Number of questions for each length and depth.
    pub samples: usize,
    /// Number of held-out tokens on which perplexity and the loss by place are measured.
    pub tokens: u64,
    /// Window of the perplexity: the length before the extension.
    pub window: usize,
}

/// One run of an experiment.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Its name in plots and reports. The folder's name is made from it.
    pub name: String,
    /// What it changes in addition to [`Experiment::set`].
    #[serde(default)]
    pub set: Vec<String>,
    /// Makes the run a control that differs from its base in nothing else: a weight of the last norm is changed by one
    /// rounding to bf16 before the first step. This is the number of the weight, from 1; 0 changes none.
    #[serde(default)]
    pub nudge: usize,
}

impl Member {
    /// Folder of the run inside the experiment's folder. With several seeds, each has a folder of its own below it
    /// ([`Experiment::folder`]).
    pub fn folder(&self) -> String {
        file_name(&self.name)
    }
}

/// The name of a run or a model as part of a file name: lowercase letters and digits, joined by `-`.
pub fn file_name(name: &str) -> String {
    let letters = name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' });
    let name: String = letters.collect();
    name.split('-').filter(|p| !p.is_empty()).collect::<Vec<_>>().join("-")
}

impl Experiment {
    /// Folder of a run with a given seed, inside the experiment's folder.
    pub fn folder(&self, member: &Member, seed: u64) -> PathBuf {
        let run = PathBuf::from(member.folder());
        if self.seeds > 1 { run.join(format!("seed-{seed}")) } else { run }
    }

    /// The run relative to which losses are drawn, and the bound on the difference. They come from the first
    /// `loss-within` verdict. Without one, it is the first run.
    pub fn base(&self) -> (&str, Option<f64>) {
        let of_verdict = self.verdict.iter().find_map(|v| match &v.kind {
            VerdictKind::LossWithin { base, below, .. } => Some((base.as_str(), Some(*below))),
            _ => None,
        });
        of_verdict.unwrap_or((&self.run[0].name, None))
    }

    /// A built-in experiment, or one described in a file.
    pub fn load(name: &str) -> Result<Self, String> {
        let text = match EXPERIMENTS.iter().find(|e| e.0 == name) {
            Some((_, text)) => (*text).to_owned(),
            None if Path::new(name).extension().is_some_and(|e| e == "toml") => {
                std::fs::read_to_string(name).map_err(|e| format!("cannot read the experiment {name}: {e}"))?
            }
            None => {
                let known = EXPERIMENTS.map(|e| e.0).join(", ");
                return Err(format!(
                    "there is no experiment `{name}`: it is neither built in ({known}) nor a .toml file"
                ));
            }
        };
        let found: Self = toml::from_str(&text).map_err(|e| format!("{name}: {e}"))?;
        found.check().map_err(|e| format!("{name}: {e}"))?;
        Ok(found)
    }

    fn check(&self) -> Result<(), String> {
        let least = if self.context.is_some() { 1 } else { 2 };
        if self.seeds == 0 {
            return Err("`seeds` must be at least 1".into());
        }
        if self.run.len() < least || self.smooth == 0 || !(self.minutes > 0.0 && self.minutes.is_finite()) {
            return Err(
                "an experiment needs at least two runs (one with a `context`), and `smooth` and `minutes` above 0"
                    .into(),
            );
        }
        if self
            .context
            .as_ref()
            .is_some_and(|c| c.lengths.is_empty() || c.depths * c.samples * c.window == 0 || c.tokens == 0)
        {
            return Err("`context` needs lengths, and depths, samples, tokens and window above 0".into());
        }
        let folders: Vec<String> = self.run.iter().map(Member::folder).collect();
        if let Some(i) = (1..folders.len()).find(|i| folders[..*i].contains(&folders[*i]) || folders[*i].is_empty()) {
            return Err(format!("run `{}` needs a name of its own", self.run[i].name));
        }
        if let Some(name) = self.fidelity.as_ref().filter(|name| self.run.iter().all(|r| r.name != **name)) {
            return Err(format!("`fidelity` names a run `{name}` that does not exist"));
        }
        for verdict in &self.verdict {
            if let Some(name) = verdict.kind.runs().into_iter().find(|n| self.run.iter().all(|r| r.name != *n)) {
                return Err(format!("a verdict names a run `{name}` that does not exist"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
