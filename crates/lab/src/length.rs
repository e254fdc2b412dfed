//! Lengths of an experiment's runs: as requested, or as long as this machine can train in the available time.

use crate::budget::{Lengths, Part, factor};
use crate::checks::REMEDY;
use crate::error::{LabError, Result, refuse};
use crate::measure::ROUTED;
use crate::needles;
use crate::work::Work;
use hadal_base::{IoContext, atomic};
use hadal_recipe::plan::{PLAN_FILE, Plan};
use hadal_recipe::recipe::{Amount, Total};
use hadal_recipe::schedule::Every;
use hadal_train::corpus::Corpus;
use hadal_train::run;
use hadal_train::session::Prepared;
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// File in the experiment's folder that stores the lengths.
const FILE: &str = "length.json";
/// Largest time for measuring the rate of one part of a run, in seconds ...
const SECONDS: f64 = 3.0;
/// ... and largest share of the total time for all measurements.
const MEASURING: f64 = 0.05;
/// Share of the time that is kept for checkpoints, drafts, plots and a machine that slows down.
const RESERVE: f64 = 0.1;

/// The length that was requested.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Asked {
    Tokens(u64),
    Minutes { minutes: f64, seeds: u64 },
}

#[derive(Serialize, Deserialize)]
struct Stored {
    asked: Asked,
    lengths: Lengths,
}

impl Work<'_> {
    fn asked(&self) -> Result<Asked> {
        if let Some(tokens) = &self.args.tokens {
            let tokens = Amount::parse(tokens).map_err(|e| LabError::Refused(format!("--tokens: {e}")))?;
            return match tokens {
                Amount::Tokens(n) if n > 0 => Ok(Asked::Tokens(n)),
                _ => refuse!("--tokens: write a number of tokens above 0, as in 3M"),
            };
        }
        let minutes = self.args.budget.unwrap_or(self.experiment.minutes);
        if !(minutes > 0.0 && minutes.is_finite()) {
            refuse!("--budget {minutes}: give minutes above 0");
        }
        Ok(Asked::Minutes { minutes, seeds: self.experiment.seeds })
    }

    /// Lengths of the runs' parts. If they had to be measured, also the first run with its text already read.
    pub(crate) fn lengths(&self) -> Result<(Lengths, Option<Prepared>)> {
        let asked = self.asked()?;
        let path = self.out.join(FILE);
        let first = &self.experiment.run[0];
        let mut recipe = self.recipe(first, 0)?;
        let begun = self.folder(first, recipe.run.seed);
        let begun = begun.join(PLAN_FILE).exists().then_some(begun);
        if begun.is_some() && path.exists() {
            let text = std::fs::read(&path).at("read", &path)?;
            let stored: Stored =
                serde_json::from_slice(&text).map_err(|error| LabError::Damaged { path: path.clone(), error })?;
            if stored.asked != asked {
                let told = |a| match a {
                    Asked::Tokens(n) => format!("--tokens {n}"),
                    Asked::Minutes { minutes, seeds } => format!("{minutes} minutes for --seeds {seeds}"),
                };
                let (there, here) = (told(stored.asked), told(asked));
                refuse!("{} holds runs of the length that {there} gives, not {here}: {REMEDY}", self.out.display());
            }
            return Ok((stored.lengths, None));
        }
        let (lengths, prepared) = match (asked, begun) {
            (Asked::Tokens(n), _) => {
                recipe.schedule.total_tokens = Total::Tokens(n);
                (Lengths::of(&Plan::new(&recipe, None)?), None)
            }
            // Runs of older versions did not store their lengths.
            (Asked::Minutes { .. }, Some(folder)) => (Lengths::of(&Plan::load(&folder)?), None),
            (Asked::Minutes { minutes, .. }, None) => {
                let (lengths, prepared) = self.measured(minutes)?;
                (lengths, Some(prepared))
            }
        };
        std::fs::create_dir_all(&self.out).at("create", &self.out)?;
        let text = serde_json::to_string_pretty(&Stored { asked, lengths: lengths.clone() })? + "\n";
        atomic::write_file(&path, text.as_bytes())?;
        Ok((lengths, prepared))
    }

    /// The lengths that fit into `minutes`. The rate of every part of every run is measured, and reading is taken into
    /// account.
    fn measured(&self, minutes: f64) -> Result<(Lengths, Prepared)> {
        let before = Instant::now();
        let runs = &self.experiment.run;
        let first = Prepared::new(self.recipe(&runs[0], 0)?, self.say)?;
        let reading = before.elapsed().as_secs_f64();
        let plans = runs.iter().map(|run| Ok(Plan::draft(&self.recipe(run, 0)?)?));
        let plans: Vec<Plan> = plans.collect::<Result<_>>()?;
        let parts: usize = plans.iter().map(|p| 1 + p.extensions.len()).sum();
        let seconds = (MEASURING * 60.0 * minutes / parts as f64).min(SECONDS);
        let mut all = Vec::new();
        for (run, plan) in runs.iter().zip(&plans) {
            let mut parts = Vec::new();
            let (tokens, rows) = (first.corpus.tokenizer.vocab_size(), plan.model.vocab_size);
            if tokens > rows {
                refuse!(
                    "run `{}` has rows for {rows} tokens, but the tokenizer of `{}` has {tokens}: give --tokens",
                    run.name,
                    runs[0].name
                );
            }
            for part in [plan].into_iter().chain(&plan.extensions) {
                let rate = run::measure(part, &first.corpus, needles::make, seconds)?;
                (self.say)(&format!(
                    "{}: {rate:.0} tokens per second in sequences of {} tokens",
                    run.name, part.data.seq_len
                ));
                let (tokens, read) = (part.schedule.total_tokens, self.read(part, &first.corpus)?);
                parts.push(Part { tokens, rate, read });
            }
            all.push(parts);
        }
        let seeds = self.experiment.seeds;
        let others = (runs.len() as u64 * seeds - 1) as f64;
        let left = (60.0 * minutes - self.started.elapsed().as_secs_f64() - reading * others) * (1.0 - RESERVE);
        let Some(mut factor) = factor(&all, seeds, left) else {
            refuse!(
                "{minutes} minutes are too few for {} runs: reading and validation alone take longer; give more with --budget",
                runs.len() as u64 * seeds
            );
        };
        let plan = &plans[0];
        let most = match first.recipe.schedule.max_tokens {
            Some(Amount::Tokens(n)) => n as f64 / plan.schedule.total_tokens as f64,
            _ => f64::INFINITY,
        };
        // The lengths in a recipe with extensions belong together. They may be shortened, but are extended only if
        // asked for.
        let most = if self.experiment.context.is_some() && self.args.budget.is_none() { most.min(1.0) } else { most };
        factor = factor.min(most);
        let lengths = if factor == 1.0 { Lengths::of(plan) } else { Lengths::scaled(plan, factor) };
        (self.say)(&format!("{:.2} M tokens per run in {minutes} minutes", lengths.total_tokens as f64 / 1e6));
        Ok((lengths, first))
    }

    /// Number of tokens that a part of a run reads without training on them.
    fn read(&self, plan: &Plan, corpus: &Corpus) -> Result<u64> {
        let validations = 1 + match plan.eval_every {
            Every::Tokens(n) => plan.schedule.total_tokens / n.max(1),
            Every::Steps(n) => plan.schedule.total_steps() / n.max(1),
        };
        let models = if plan.ema_decay > 0.0 { 2 } else { 1 };
        let each = corpus.validation(plan.data.seq_len, Some(plan.eval_tokens))?.scored;
        let routed = ROUTED * (1 + self.args.domains.len() as u64);
        let questions = self
            .experiment
            .context
            .as_ref()
            .map_or(0, |c| (c.lengths.iter().sum::<usize>() * c.depths * c.samples) as u64 + 2 * c.tokens);
        Ok(validations * models * each + routed + questions)
    }
}
