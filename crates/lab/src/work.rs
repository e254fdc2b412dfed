//! An experiment at work: its runs are trained, measured and reported, and what is there already is gone on with.

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

/// What is asked of an experiment: the options of `hadal experiment`.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Name of an experiment that comes with the program, or a description's file.
    pub name: String,
    /// Minutes for everything; none: the experiment's.
    pub budget: Option<f64>,
    /// Tokens of each run's main part, instead of minutes.
    pub tokens: Option<String>,
    /// How often each run is made; none: the experiment's.
    pub seeds: Option<u64>,
    /// Text to train on; empty: the kinds of text, or the recipe's.
    pub text: Vec<PathBuf>,
    /// Kinds of text to watch the experts on, by name.
    pub domains: Vec<(String, PathBuf)>,
    /// Folder of the runs; none: `runs/experiment-NAME`.
    pub out: Option<PathBuf>,
    /// Changes of the recipe in all runs, as `key=value`.
    pub set: Vec<String>,
    /// Plain lines instead of the live view.
    pub plain: bool,
}

/// Makes the runs of an experiment that are not there, measures them and writes the report, which it gives with the
/// experiment's folder. None when the user stopped it: the same call goes on.
pub fn run(args: &Options, say: Say<'_>) -> Result<Option<(String, PathBuf)>> {
    let mut experiment = Experiment::load(&args.name).map_err(LabError::Refused)?;
    experiment.seeds = args.seeds.unwrap_or(experiment.seeds);
    let stem = Path::new(&args.name).file_stem().unwrap_or_default().to_string_lossy();
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from(format!("runs/experiment-{stem}")));
    // Before hours of training rather than after.
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

/// What is not known about kinds of text that are given beside the text to train on.
pub(crate) const GIVEN: &str = "it was not checked that the training text (--text) contains none of the --domain texts";

/// An experiment and the folder it is made in.
pub(crate) struct Work<'a> {
    pub(crate) experiment: Experiment,
    pub(crate) args: &'a Options,
    /// Text to train on; none: the recipe's.
    pub(crate) text: Vec<PathBuf>,
    pub(crate) out: PathBuf,
    /// A budget counts from here.
    pub(crate) started: Instant,
    pub(crate) say: Say<'a>,
}

/// What the finished runs have shown.
pub(crate) struct Found {
    /// The runs' metrics.
    pub(crate) runs: Vec<Series>,
    /// What their models do beside their losses, by run and seed.
    pub(crate) measured: Vec<Vec<measure::Measured>>,
    /// The first run's model and those after its extensions, then what the other runs ended with.
    pub(crate) context: Vec<measure::Part>,
    /// One run's weights under every precision, by run and seed.
    pub(crate) fidelity: Vec<(String, Vec<Fidelity>)>,
}

impl Work<'_> {
    /// Whether the kinds of text are what is trained on, with a part of each held out.
    pub(crate) fn trains_on_kinds(&self) -> bool {
        self.args.text.is_empty() && !self.args.domains.is_empty()
    }

    /// Seeds of every run, from the recipe's on.
    pub(crate) fn seeds(&self) -> Result<Vec<u64>> {
        let first = self.recipe(&self.experiment.run[0], 0)?.run.seed;
        Ok((first..first + self.experiment.seeds).collect())
    }

    pub(crate) fn folder(&self, member: &Member, seed: u64) -> PathBuf {
        self.out.join(self.experiment.folder(member, seed))
    }

    /// The recipe of a run; `nth` counts the seeds from the recipe's on.
    pub(crate) fn recipe(&self, member: &Member, nth: u64) -> Result<Recipe> {
        let sets = self.experiment.set.iter().chain(&member.set).chain(&self.args.set);
        let sets: Vec<String> = sets.cloned().collect();
        let mut recipe = Recipe::load(&self.experiment.recipe, &sets)?;
        recipe.run.seed += nth;
        recipe.run.out = self.folder(member, recipe.run.seed).display().to_string();
        use_text(&mut recipe, &self.text);
        Ok(recipe)
    }

    /// Trains all runs, seed by seed, so that a stop leaves whole comparisons. False when the user stopped it.
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

    /// Reads what the finished runs have left and asks their models.
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
