//! `hadal experiment`: the runs of a comparison, its plots, and what became of the report's claim.

mod figures;
mod measure;
mod report;

use super::session::{Session, use_text};
use super::stages::{is_finished, run_stages};
use crate::cli::ExperimentArgs;
use anyhow::{Result, anyhow, bail};
use hadal_train::experiment::{EXPERIMENTS, Experiment, Member, Series};
use hadal_train::metrics;
use hadal_train::plan::{PLAN_FILE, Plan};
use hadal_train::recipe::{Amount, Recipe, Total};
use hadal_train::run;
use std::path::{Path, PathBuf};

pub(crate) fn run(args: &ExperimentArgs) -> Result<()> {
    if args.name == "list" {
        for (name, _) in EXPERIMENTS {
            let e = Experiment::load(name).map_err(|e| anyhow!(e))?;
            say!("{name:<14} {} (report {}; {:.0} minutes)", e.title, e.section, e.minutes);
        }
        return Ok(());
    }
    let mut experiment = Experiment::load(&args.name).map_err(|e| anyhow!(e))?;
    experiment.seeds = args.seeds.unwrap_or(experiment.seeds);
    let stem = Path::new(&args.name).file_stem().unwrap_or_default().to_string_lossy();
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from(format!("runs/experiment-{stem}")));
    // Before hours of training rather than after.
    if let Some((name, path)) = args.domains.iter().find(|(_, path)| !path.exists()) {
        bail!("--domain {name}={}: there is no such file or folder", path.display());
    }
    say!("{} (report {})", experiment.title, experiment.section);
    let work = Work { experiment, args, out };
    if !work.train()? {
        say!("stopped; the same command goes on");
        return Ok(());
    }
    let found = work.measure()?;
    let report = report::write(&work, &found)?;
    say!("\n{report}\nplots and raw numbers: {}", work.out.display());
    Ok(())
}

/// An experiment and the folder it is made in.
struct Work<'a> {
    experiment: Experiment,
    args: &'a ExperimentArgs,
    out: PathBuf,
}

/// What the finished runs have shown.
struct Found {
    /// The runs' metrics.
    runs: Vec<Series>,
    /// What their models do beside their losses, by run and seed.
    measured: Vec<Vec<measure::Measured>>,
    /// The first run's model and those after its stages.
    context: Vec<measure::Stage>,
}

impl Work<'_> {
    /// Seeds of every run, from the recipe's on.
    fn seeds(&self) -> Result<Vec<u64>> {
        let first = self.recipe(&self.experiment.run[0], 0)?.run.seed;
        Ok((first..first + self.experiment.seeds).collect())
    }

    fn folder(&self, member: &Member, seed: u64) -> PathBuf {
        self.out.join(self.experiment.folder(member, seed))
    }

    /// The recipe of a run; `nth` counts the seeds from the recipe's on.
    fn recipe(&self, member: &Member, nth: u64) -> Result<Recipe> {
        let sets = self.experiment.set.iter().chain(&member.set).chain(&self.args.set);
        let sets: Vec<String> = sets.cloned().collect();
        let mut recipe = Recipe::load(&self.experiment.recipe, &sets)?;
        recipe.run.seed += nth;
        recipe.run.out = self.folder(member, recipe.run.seed).display().to_string();
        use_text(&mut recipe, &self.args.text);
        Ok(recipe)
    }

    /// Trains all runs, seed by seed, so that a stop leaves whole comparisons. False when the user stopped it.
    fn train(&self) -> Result<bool> {
        let mut total = None;
        for (nth, seed) in self.seeds()?.into_iter().enumerate() {
            for member in &self.experiment.run {
                let folder = self.folder(member, seed);
                if !is_finished(&folder) {
                    let of = if self.experiment.seeds > 1 { format!(", seed {seed}") } else { String::new() };
                    say!("\n== {}{of}", member.name);
                    if !self.train_one(member, nth as u64, total, &folder)? {
                        return Ok(false);
                    }
                }
                // Whatever the first run was given, the others get.
                total = Some(Plan::load(&folder)?.schedule.total_tokens);
                if self.experiment.context.is_some() && !run_stages(&Session::resume(&folder)?, self.args.plain)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Trains one run to its end, or goes on with it. False when the user stopped it.
    fn train_one(&self, member: &Member, nth: u64, total: Option<u64>, folder: &Path) -> Result<bool> {
        let (experiment, args) = (&self.experiment, self.args);
        let session = if folder.join(PLAN_FILE).exists() {
            Session::resume(folder)?
        } else {
            let mut recipe = self.recipe(member, nth)?;
            if let Some(tokens) = &args.tokens {
                let tokens = Amount::parse(tokens).map_err(|e| anyhow!("--tokens: {e}"))?;
                let Some(tokens) = tokens.tokens_of(0).filter(|n| *n > 0) else {
                    bail!("--tokens: write a number of tokens above 0, as in 3M");
                };
                recipe.schedule.total_tokens = Total::Tokens(tokens);
            } else if let Some(total) = total {
                recipe.schedule.total_tokens = Total::Tokens(total);
            } else if experiment.context.is_none() || args.budget.is_some() {
                // A recipe with stages has a length that they follow from.
                recipe.schedule.total_tokens = Total::Measured;
            }
            let minutes = args.budget.unwrap_or(experiment.minutes);
            if !(minutes > 0.0 && minutes.is_finite()) {
                bail!("--budget {minutes}: give minutes above 0");
            }
            // A tenth for validation, checkpoints and reading.
            let each = 0.9 * minutes / (experiment.run.len() as u64 * experiment.seeds) as f64;
            Session::begin(recipe, || Some(each))?
        };
        let steps = session.plan.schedule.total_steps();
        if steps < 2 * experiment.smooth as u64 {
            let folder = folder.display();
            bail!(
                "{steps} steps are too few for a mean over {}: remove {folder}, give more minutes",
                experiment.smooth
            );
        }
        let trainer = run::trainer(&session.plan, None)?;
        Ok(session.train(trainer, args.plain)?.1.finished)
    }

    /// Reads what the finished runs have left and asks their models.
    fn measure(&self) -> Result<Found> {
        say!("\n== measuring the models on held-out text");
        let (mut runs, mut measured) = (Vec::new(), Vec::new());
        let seeds = self.seeds()?;
        for member in &self.experiment.run {
            let folders: Vec<PathBuf> = seeds.iter().map(|s| self.folder(member, *s)).collect();
            let steps = folders.iter().map(|f| Ok(metrics::read(&f.join(metrics::METRICS_FILE))?));
            runs.push(Series { name: member.name.clone(), seeds: steps.collect::<Result<_>>()? });
            let one = folders.iter().map(|f| measure::measure(f, &self.args.domains));
            measured.push(one.collect::<Result<_>>()?);
        }
        let mut context = Vec::new();
        if let Some(questions) = &self.experiment.context {
            let of_seed =
                seeds.iter().map(|s| measure::in_context(&self.folder(&self.experiment.run[0], *s), questions));
            context = measure::pooled(of_seed.collect::<Result<_>>()?);
        }
        Ok(Found { runs, measured, context })
    }
}
