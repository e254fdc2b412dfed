//! Carries out an experiment: trains its runs, measures them and writes the report. Existing runs are continued.

use crate::error::{LabError, Result, refuse};
use crate::experiment::{Experiment, Member};
use crate::fidelity::Fidelity;
use crate::findings::Series;
use crate::{checks, kinds, measure, needles, nudge, precisions, report};
use hadal_recipe::plan::{PLAN_FILE, Plan};
use hadal_recipe::recipe::Recipe;
use hadal_train::extend::{is_finished, run_extensions};
use hadal_train::run;
use hadal_train::session::{Prepared, Say, Session, use_text};
use hadal_watch::metrics;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The options of `hadal experiment`.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Name of a built-in experiment, or the file of a description.
    pub name: String,
    /// Minutes for everything. `None` means the experiment's own.
    pub budget: Option<f64>,
    /// Tokens of each run's main part, instead of minutes.
    pub tokens: Option<String>,
    /// Number of seeds. `None` means the experiment's own.
    pub seeds: Option<u64>,
    /// Text to train on. If it is empty, the kinds of text or the recipe's text are used.
    pub text: Vec<PathBuf>,
    /// Kinds of text on which routing is measured, with their names.
    pub domains: Vec<(String, PathBuf)>,
    /// Folder of the runs. `None` means `runs/experiment-NAME`.
    pub out: Option<PathBuf>,
    /// Changes to the recipe in all runs, as `key=value`.
    pub set: Vec<String>,
    /// Print plain lines instead of the live view.
    pub plain: bool,
}

/// Trains the missing runs of an experiment, measures all runs and writes the report. Returns the report and the
/// experiment's folder, or `None` if the user stopped it. The same call continues.
pub fn run(args: &Options, say: Say<'_>) -> Result<Option<(String, PathBuf)>> {
    let mut experiment = Experiment::load(&args.name).map_err(LabError::Refused)?;
    experiment.seeds = args.seeds.unwrap_or(experiment.seeds);
    let stem = Path::new(&args.name).file_stem().unwrap_or_default().to_string_lossy();
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from(format!("runs/experiment-{stem}")));
    // Checked before hours of training.
    if let Some((name, path)) = args.domains.iter().find(|(_, path)| !path.exists()) {
        refuse!("--domain {name}={}: there is no such file or folder", path.display());
    }
    let name_of = |i: usize| &args.domains[i].0;
    if let Some(i) = (1..args.domains.len()).find(|i| (0..*i).any(|k| name_of(k) == name_of(*i))) {
        refuse!("--domain {}: two kinds of text have this name", name_of(i));
    }
    checks::overrides(&experiment, &args.set)?;
    say(&format!("{} (report {})", experiment.title, experiment.section));
    let mut work = Work { experiment, args, text: args.text.clone(), out, started: Instant::now(), say };
    work.check_layout()?;
    if work.trains_on_kinds() {
        let draft = Plan::draft(&work.recipe(&work.experiment.run[0], 0)?)?;
        work.text = vec![kinds::prepare(&args.domains, &draft, &work.out, say)?];
    } else if !args.domains.is_empty() {
        say(&format!("note: {GIVEN}"));
    }
    if !work.train()? {
        return Ok(None);
    }
    let found = work.measure()?;
    let report = report::write(&work, &found)?;
    Ok(Some((report, work.out)))
}

/// What is unknown about kinds of text that are given in addition to the training text.
pub(crate) const GIVEN: &str = "it was not checked that the training text (--text) contains none of the --domain texts";

/// An experiment and its folder.
pub(crate) struct Work<'a> {
    pub(crate) experiment: Experiment,
    pub(crate) args: &'a Options,
    /// Text to train on. `None` means the recipe's.
    pub(crate) text: Vec<PathBuf>,
    pub(crate) out: PathBuf,
    /// Start of the time that a budget counts.
    pub(crate) started: Instant,
    pub(crate) say: Say<'a>,
}

/// The results of the finished runs.
pub(crate) struct Found {
    /// The runs' metrics.
    pub(crate) runs: Vec<Series>,
    /// Measurements of their models apart from losses, by run and seed.
    pub(crate) measured: Vec<Vec<measure::Measured>>,
    /// The first run's model and those after its extensions, then the final models of the other runs.
    pub(crate) context: Vec<measure::Part>,
    /// The weights of one run in every precision, by run and seed.
    pub(crate) fidelity: Vec<(String, Vec<Fidelity>)>,
}

impl Work<'_> {
    /// Whether the runs train on the kinds of text, with a part of each held out.
    pub(crate) fn trains_on_kinds(&self) -> bool {
        self.args.text.is_empty() && !self.args.domains.is_empty()
    }

    /// The seeds of every run, starting with the recipe's.
    pub(crate) fn seeds(&self) -> Result<Vec<u64>> {
        let first = self.recipe(&self.experiment.run[0], 0)?.run.seed;
        Ok((first..first + self.experiment.seeds).collect())
    }

    pub(crate) fn folder(&self, member: &Member, seed: u64) -> PathBuf {
        self.out.join(self.experiment.folder(member, seed))
    }

    /// The recipe of a run. `nth` counts the seeds, starting with the recipe's.
    pub(crate) fn recipe(&self, member: &Member, nth: u64) -> Result<Recipe> {
        let sets = self.experiment.set.iter().chain(&member.set).chain(&self.args.set);
        let sets: Vec<String> = sets.cloned().collect();
        let mut recipe = Recipe::load(&self.experiment.recipe, &sets)?;
        recipe.run.seed += nth;
        recipe.run.out = self.folder(member, recipe.run.seed).display().to_string();
        use_text(&mut recipe, &self.text);
        Ok(recipe)
    }

    /// Trains all runs, one seed after another, so that after a stop complete comparisons exist. False if the user
    /// stopped it.
    fn train(&self) -> Result<bool> {
        let (lengths, mut prepared) = self.lengths()?;
        let mut all = Vec::new();
        for nth in 0..self.experiment.seeds {
            for member in &self.experiment.run {
                let mut recipe = self.recipe(member, nth)?;
                lengths.apply(&mut recipe);
                let plan = Plan::new(&recipe, None)?;
                let folder = PathBuf::from(&recipe.run.out);
                nudge::check(member, &plan)?;
                if folder.join(PLAN_FILE).exists() {
                    checks::same_plan(&folder, &plan)?;
                    nudge::same(&folder, member)?;
                }
                let (steps, smooth) = (plan.schedule.total_steps(), self.experiment.smooth);
                if steps < 2 * smooth as u64 {
                    refuse!("{steps} steps are too few for a mean over {smooth}: give more tokens or minutes");
                }
                all.push((member, recipe, folder));
            }
        }
        for (member, recipe, folder) in all {
            let prepared = prepared.take();
            if !is_finished(&folder) {
                let seed = recipe.run.seed;
                let of = if self.experiment.seeds > 1 { format!(", seed {seed}") } else { String::new() };
                (self.say)(&format!("\n== {}{of}", member.name));
                let session = if folder.join(PLAN_FILE).exists() {
                    Session::resume(&folder)?
                } else {
                    let mut prepared = prepared.map_or_else(|| Prepared::new(recipe.clone(), self.say), Ok)?;
                    prepared.recipe = recipe;
                    nudge::record(&folder, member)?;
                    prepared.begin(None)?
                };
                if session.corpus.validation.documents() == 0 {
                    refuse!(
                        "an experiment measures on held-out text, and nothing is held out: set data.validation_share"
                    );
                }
                let mut trainer = run::trainer(&session.plan, None)?;
                nudge::apply(&mut trainer, member);
                if !session.train(trainer, needles::make, self.args.plain, self.say)?.1.finished {
                    return Ok(false);
                }
            }
            if self.experiment.context.is_some()
                && !run_extensions(&Session::resume(&folder)?, needles::make, self.args.plain, self.say)?
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads the results of the finished runs and measures their models.
    fn measure(&self) -> Result<Found> {
        (self.say)("\n== measuring the models on held-out text");
        let (mut runs, mut measured) = (Vec::new(), Vec::new());
        let seeds = self.seeds()?;
        let kinds = measure::kinds(self, &self.folder(&self.experiment.run[0], seeds[0]))?;
        for member in &self.experiment.run {
            let folders: Vec<PathBuf> = seeds.iter().map(|s| self.folder(member, *s)).collect();
            let steps = folders.iter().map(|f| Ok(metrics::read(f)?));
            runs.push(Series { name: member.name.clone(), seeds: steps.collect::<Result<_>>()? });
            let one = folders.iter().map(|f| measure::measure(f, &kinds));
            measured.push(one.collect::<Result<_>>()?);
        }
        let mut context = Vec::new();
        if let Some(questions) = &self.experiment.context {
            for (i, member) in self.experiment.run.iter().enumerate() {
                let control = (i > 0).then_some(member.name.as_str());
                let of_seed = seeds.iter().map(|s| measure::in_context(&self.folder(member, *s), questions, control));
                context.extend(measure::pooled(of_seed.collect::<Result<_>>()?));
            }
        }
        let weights = self.experiment.fidelity.as_ref();
        let fidelity = weights.map_or_else(|| Ok(Vec::new()), |weights| precisions::measure(self, weights))?;
        Ok(Found { runs, measured, context, fidelity })
    }
}
