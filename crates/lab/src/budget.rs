//! Computes the lengths of an experiment's runs so that all runs and the evaluation of their models fit into a given
//! time.

use hadal_recipe::plan::Plan;
use hadal_recipe::recipe::{Amount, Recipe, Total};
use serde::{Deserialize, Serialize};

/// Cost of a token that is only read, relative to a token that is trained on. The backward pass takes twice as long as
/// the forward pass.
const READ: f64 = 1.0 / 3.0;

/// A part of a run (its main part or an extension) with the length from its recipe.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Tokens to train on.
    pub tokens: u64,
    /// Tokens per second of its training steps on this machine.
    pub rate: f64,
    /// Tokens that are read for validation and for measuring the model. They do not depend on the length.
    pub read: u64,
}

/// The factor by which the lengths of all parts of all runs must be multiplied so that they take `seconds` in total.
/// Each run is repeated for `seeds` seeds. `None` if reading alone takes longer.
pub fn factor(runs: &[Vec<Part>], seeds: u64, seconds: f64) -> Option<f64> {
    let sum = |tokens: fn(&Part) -> f64| runs.iter().flatten().map(|p| tokens(p) / p.rate).sum::<f64>() * seeds as f64;
    let left = seconds - sum(|p| READ * p.read as f64);
    (left > 0.0).then(|| left / sum(|p| p.tokens as f64))
}

/// Number of tokens of every run: its main part and its extensions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lengths {
    /// Tokens of the main part.
    pub total_tokens: u64,
    /// Tokens of the extensions.
    #[serde(alias = "stages")]
    pub extensions: Vec<u64>,
}

impl Lengths {
    /// The lengths in a plan.
    pub fn of(plan: &Plan) -> Self {
        let extensions = plan.extensions.iter().map(|s| s.schedule.total_tokens).collect();
        Self { total_tokens: plan.schedule.total_tokens, extensions }
    }

    /// The lengths in a plan times `factor`, rounded to whole steps, at least one.
    pub fn scaled(plan: &Plan, factor: f64) -> Self {
        let scaled = |plan: &Plan| {
            let batch = &plan.schedule.batch;
            let step = batch.to * batch.seq_len;
            ((plan.schedule.total_tokens as f64 * factor).round() as u64 / step).max(1) * step
        };
        Self { total_tokens: scaled(plan), extensions: plan.extensions.iter().map(scaled).collect() }
    }

    /// Writes the lengths into a recipe with as many extensions.
    pub fn apply(&self, recipe: &mut Recipe) {
        recipe.schedule.total_tokens = Total::Tokens(self.total_tokens);
        for (extension, tokens) in recipe.extension.iter_mut().zip(&self.extensions) {
            extension.total_tokens = Amount::Tokens(*tokens);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::{EXPERIMENTS, Experiment};

    /// The recipes of all runs of an experiment.
    fn recipes(e: &Experiment) -> Vec<Recipe> {
        let sets = |run: &crate::experiment::Member| e.set.iter().chain(&run.set).cloned().collect::<Vec<_>>();
        e.run.iter().map(|run| Recipe::load(&e.recipe, &sets(run)).unwrap()).collect()
    }

    fn plan(recipe: &Recipe) -> Plan {
        Plan::new(recipe, Some(1000.0)).unwrap()
    }

    #[test]
    fn all_runs_get_equal_lengths_in_proportion_to_the_time() {
        for (name, _) in EXPERIMENTS {
            let e = Experiment::load(name).unwrap();
            let recipes = recipes(&e);
            // Every part of every run has its own rate, and something to read.
            let parts = |(i, r): (usize, &Recipe)| -> Vec<Part> {
                let plan = plan(r);
                let part = |(k, p): (usize, &Plan)| {
                    let tokens = p.schedule.total_tokens;
                    Part { tokens, rate: 1000.0 * (1 + i) as f64 / (1 + k) as f64, read: 100_000 }
                };
                std::iter::once(&plan).chain(&plan.extensions).enumerate().map(part).collect()
            };
            let runs: Vec<_> = recipes.iter().enumerate().map(parts).collect();
            let reading: f64 = runs.iter().flatten().map(|p| p.read as f64 / 3.0 / p.rate).sum::<f64>() * 3.0;
            assert_eq!(factor(&runs, 3, reading * 0.99), None, "{name}");
            let lengths = |hours: f64| {
                let factor = factor(&runs, 3, reading + hours * 3600.0).unwrap();
                let training: f64 = runs.iter().flatten().map(|p| factor * p.tokens as f64 / p.rate).sum::<f64>() * 3.0;
                assert!((training / (hours * 3600.0) - 1.0).abs() < 1e-9, "{name}: {training}");
                let lengths = Lengths::scaled(&plan(&recipes[0]), factor);
                for recipe in &recipes {
                    let mut recipe = recipe.clone();
                    lengths.apply(&mut recipe);
                    assert_eq!(Lengths::of(&plan(&recipe)), lengths, "{name}");
                }
                lengths
            };
            let (one, two) = (lengths(20.0), lengths(40.0));
            let all = |l: &Lengths| [vec![l.total_tokens], l.extensions.clone()].concat();
            let first = plan(&recipes[0]);
            let steps = std::iter::once(&first)
                .chain(&first.extensions)
                .map(|p| p.schedule.batch.to * p.schedule.batch.seq_len);
            for ((one, two), step) in all(&one).into_iter().zip(all(&two)).zip(steps) {
                assert!((2 * one).abs_diff(two) <= 2 * step && one > 20 * step, "{name}: {one} and {two}");
            }
        }
    }
}
