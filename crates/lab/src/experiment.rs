//! An experiment: runs that differ in a few settings, and what the report claims about them.
//!
//! A description (`experiments/*.toml`) names a recipe, what all runs change of it and what each run changes, and verdicts
//! that are worked out from the metrics, and from what the models make of their context where that is asked for.
//! Smoothing and bounds stand in the description, fixed before any run.

use crate::verdict::{Verdict, VerdictKind};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Name and text of every experiment that comes with the program.
pub const EXPERIMENTS: [(&str, &str); 7] = [
    ("fp8", include_str!("../../../experiments/fp8.toml")),
    ("fp8-blocks", include_str!("../../../experiments/fp8-blocks.toml")),
    ("balance", include_str!("../../../experiments/balance.toml")),
    ("balance-scope", include_str!("../../../experiments/balance-scope.toml")),
    ("mtp", include_str!("../../../experiments/mtp.toml")),
    ("groups", include_str!("../../../experiments/groups.toml")),
    ("yarn", include_str!("../../../experiments/yarn.toml")),
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
    /// How often each run is made, with another seed each time: what chance does.
    #[serde(default = "one")]
    pub seeds: u64,
    /// The runs; the first one is the base of the difference plot, unless a `loss-within` verdict has another.
    pub run: Vec<Member>,
    /// What is to be found out.
    pub verdict: Vec<Verdict>,
    /// The run whose finished weights are put under the precision of every run, for their losses and gradients.
    pub fidelity: Option<String>,
    /// Asks the first run's models, before and after the recipe's extensions, what they find in a long text, and those that the
    /// other runs, its controls, end with.
    pub context: Option<Context>,
}

fn one() -> u64 {
    1
}

/// Questions about long texts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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

/// One run of an experiment.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Its name in plots and reports, and of its folder.
    pub name: String,
    /// What it changes beside [`Experiment::set`].
    #[serde(default)]
    pub set: Vec<String>,
    /// Number (from 1; 0: none) of the weight of the last norm that is moved by one rounding to bf16 before the first step:
    /// a control, which differs from its base in nothing else.
    #[serde(default)]
    pub nudge: usize,
}

impl Member {
    /// Folder of the run inside the experiment's; of several seeds each has its own below it ([`Experiment::folder`]).
    pub fn folder(&self) -> String {
        file_name(&self.name)
    }
}

/// A name of a run or a model as part of a file's name: letters and digits in small, joined by `-`.
pub fn file_name(name: &str) -> String {
    let letters = name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' });
    let name: String = letters.collect();
    name.split('-').filter(|p| !p.is_empty()).collect::<Vec<_>>().join("-")
}

impl Experiment {
    /// Folder of a run with a seed inside the experiment's.
    pub fn folder(&self, member: &Member, seed: u64) -> PathBuf {
        let run = PathBuf::from(member.folder());
        if self.seeds > 1 { run.join(format!("seed-{seed}")) } else { run }
    }

    /// The run that losses are drawn relative to, and the bound on the difference: those of the first `loss-within`
    /// verdict, otherwise the first run.
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
