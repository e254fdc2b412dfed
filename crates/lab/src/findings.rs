//! The results of an experiment's runs, in the form that verdicts use.

use crate::fidelity::Fidelity;
use hadal_watch::metrics::StepMetrics;
use hadal_watch::plot::NeedleCell;
use serde::{Deserialize, Serialize};

/// How a model uses its context.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InContext {
    /// Name of the model: the sequence length of its last training (`512 tokens`, `4096 tokens`) or a control's name.
    /// If several have the same length, the later ones also have the number of their extension.
    pub model: String,
    /// Needles found and asked for.
    pub needles: Vec<NeedleCell>,
    /// Perplexity of held-out text in windows of the experiment's length before the extension.
    pub perplexity: f64,
}

/// A run's metrics, seed by seed.
#[derive(Clone, Debug)]
pub struct Series {
    /// The run's name.
    pub name: String,
    /// Metrics by seed. All runs have the same order of seeds.
    pub seeds: Vec<Vec<StepMetrics>>,
}

/// The results that verdicts are computed from.
pub struct Findings<'a> {
    /// The runs.
    pub runs: &'a [Series],
    /// How differently the kinds of text are routed, by run and seed. Empty if no kinds of text were given.
    pub specialisation: &'a [(String, Vec<f64>)],
    /// Models before and after the extensions.
    pub context: &'a [InContext],
    /// The weights of one run in the precisions of the runs, by run and seed.
    pub fidelity: &'a [(String, Vec<Fidelity>)],
}

impl Findings<'_> {
    pub(crate) fn seeds(&self, name: &str) -> impl Iterator<Item = &[StepMetrics]> {
        self.runs.iter().filter(move |r| r.name == name).flat_map(|r| &r.seeds).map(Vec::as_slice)
    }

    pub(crate) fn fidelity(&self, name: &str) -> Option<&Vec<Fidelity>> {
        self.fidelity.iter().find(|f| f.0 == name).map(|f| &f.1)
    }

    pub(crate) fn model(&self, name: &str) -> Option<&InContext> {
        self.context.iter().find(|m| m.model == name)
    }

    /// Why the runs called `names` cannot be judged, if so: a step is missing, or a loss is NaN or infinite.
    pub(crate) fn problem(&self, names: &[&str]) -> Option<String> {
        let all = || names.iter().flat_map(|n| self.seeds(n).enumerate().map(move |(i, steps)| (*n, i + 1, steps)));
        let last = |steps: &[StepMetrics]| steps.last().map_or(0, |m| m.tokens);
        let longest = all().map(|a| last(a.2)).max().unwrap_or(0);
        // Runs with other batch sizes may end within one step of each other.
        let step = |steps: &[StepMetrics]| last(steps) - last(&steps[..steps.len().saturating_sub(1)]);
        let largest = all().map(|a| step(a.2)).max().unwrap_or(0).max(1);
        all().find_map(|(name, seed, steps)| {
            let who = if self.seeds(name).count() > 1 { format!("{name}, seed {seed}") } else { name.to_owned() };
            if let Some((i, _)) = steps.iter().enumerate().find(|(i, m)| m.step != *i as u64 + 1) {
                return Some(format!("the metrics of {who} lack step {}", i + 1));
            }
            if let Some(m) = steps.iter().find(|m| !m.loss.is_finite()) {
                return Some(format!("the loss of {who} is NaN or infinite at step {}", m.step));
            }
            let short = longest - last(steps) >= largest;
            short.then(|| format!("the metrics of {who} end at {} of {longest} tokens", last(steps)))
        })
    }
}
