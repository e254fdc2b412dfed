//! A run's folder from its recipe to its end: reading and packing text, the plan, training, plots and the finished
//! model.

use crate::checkpoint::{self, CheckpointError};
use crate::corpus::{Corpus, TextSource};
use crate::objective::{Make, Objective};
use crate::run::{self, Outcome, Run, RunError};
use crate::step::Trainer;
use hadal_base::atomic::StagedDir;
use hadal_base::{IoContext, IoError};
use hadal_data::DataError;
use hadal_recipe::plan::{PLAN_FILE, Plan, PlanError};
use hadal_recipe::recipe::{Recipe, RecipeError, Text};
use hadal_watch::live::Mode;
use hadal_watch::metrics;
use hadal_watch::plot::{self, PlotError};
use hadal_weights::WeightFormat;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The lock file that the program was built with. The sources of its packages are the default text.
pub const LOCK: &str = include_str!("../../../Cargo.lock");

/// Seconds of training that are measured to compute the length of a run, if the recipe leaves the length to the
/// machine.
const MEASURE_SECONDS: f64 = 8.0;

/// Receives progress messages, one line at a time.
pub type Say<'a> = &'a dyn Fn(&str);

/// Why a run could not start, continue or end.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The folder contains another run.
    #[error("{} already holds a run: continue it with --resume, choose another folder, or remove it", .0.display())]
    Taken(PathBuf),
    /// There is no run in the folder.
    #[error("nothing to resume in {}: start without --resume", .0.display())]
    NothingToResume(PathBuf),
    /// A run keeps its plan, and this command asks for different settings.
    #[error(
        "the run in {} has other settings, and a resumed run keeps its settings (the run's / this command's): {}; \
         leave these out, or start a new run with another run.out",
        folder.display(),
        settings.join("; ")
    )]
    OtherSettings {
        /// The run's folder.
        folder: PathBuf,
        /// Keys with both values.
        settings: Vec<String>,
    },
    /// An extension cannot start because the run has no checkpoint.
    #[error("{} has no checkpoint from which extension {number} could start", folder.display())]
    NoCheckpoint {
        /// The run's folder.
        folder: PathBuf,
        /// Number of the extension, from 1.
        number: usize,
    },
    /// The operating system refused.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The recipe has an error.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// The plan in the folder cannot be used.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// An error in text, tokenizer or packed tokens.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Training failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// Checkpoints could not be listed, or a folder not created.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The finished model could not be written.
    #[error(transparent)]
    Weights(#[from] hadal_weights::Error),
    /// A plot could not be made.
    #[error(transparent)]
    Plot(#[from] PlotError),
}

type Result<T, E = SessionError> = std::result::Result<T, E>;

/// A run's folder with its plan and data.
pub struct Session {
    /// The folder.
    pub folder: PathBuf,
    /// The plan.
    pub plan: Plan,
    /// Its text.
    pub corpus: Arc<Corpus>,
    /// Whether it existed before.
    pub resumed: bool,
    /// Checkpoint of the previous run, from which this one starts.
    pub after: Option<PathBuf>,
    /// Tokens per second that the length of the run was computed from, if the rate was just measured.
    pub rate: Option<f64>,
}

/// A new run whose text has been read and packed.
pub struct Prepared {
    /// The recipe as written.
    pub recipe: Recipe,
    /// Its text.
    pub corpus: Corpus,
    /// Its plan, whose length is not yet fixed.
    draft: Plan,
    folder: PathBuf,
}

impl Prepared {
    /// Reads the text of a recipe into its folder, which must not contain a run.
    pub fn new(recipe: Recipe, say: Say<'_>) -> Result<Self> {
        let folder = PathBuf::from(&recipe.run.out);
        if folder.join(PLAN_FILE).exists() {
            return Err(SessionError::Taken(folder));
        }
        std::fs::create_dir_all(&folder).at("create", &folder)?;
        let draft = Plan::draft(&recipe)?;
        let paths = draft.text.clone();
        let source = paths.as_deref().map_or(TextSource::CargoLock(LOCK), TextSource::Paths);
        let vocab = if draft.data.vocab_size > 0 { draft.data.vocab_size } else { draft.model.vocab_size };
        let seed = draft.run.seed;
        let corpus = Corpus::prepare(&source, &draft.data, vocab, seed, &folder, &mut |line| say(line))?;
        Ok(Self { recipe, corpus, draft, folder })
    }

    /// Fixes the run's plan. `rate` is the measured rate of this machine, for a recipe that leaves the length to it.
    pub fn begin(self, rate: Option<f64>) -> Result<Session> {
        let plan = Plan::new(&self.recipe, rate)?;
        plan.save(&self.folder)?;
        Ok(Session { folder: self.folder, plan, corpus: Arc::new(self.corpus), resumed: false, after: None, rate })
    }
}

impl Session {
    /// Prepares a new run. If the recipe leaves the length to the machine, `minutes_left` is called when the data is
    /// ready, and returns how long training may take.
    pub fn begin(recipe: Recipe, make: Make, minutes_left: impl FnOnce() -> Option<f64>, say: Say<'_>) -> Result<Self> {
        let mut prepared = Prepared::new(recipe, say)?;
        let mut rate = None;
        if Plan::needs_measurement(&prepared.recipe) {
            let found = run::measure(&prepared.draft, &prepared.corpus, make, MEASURE_SECONDS)?;
            say(&format!("this machine trains {found:.0} tokens per second"));
            if let Some(minutes) = minutes_left() {
                prepared.recipe.schedule.minutes = minutes;
            }
            rate = Some(found);
        }
        prepared.begin(rate)
    }

    /// Opens a stopped run.
    pub fn resume(folder: &Path) -> Result<Self> {
        if !folder.join(PLAN_FILE).exists() {
            return Err(SessionError::NothingToResume(folder.to_owned()));
        }
        let plan = Plan::load(folder)?;
        let corpus = Corpus::of_run(folder, plan.text.as_deref())?;
        Ok(Self { folder: folder.to_owned(), plan, corpus: Arc::new(corpus), resumed: true, after: None, rate: None })
    }

    /// Opens a stopped run with the recipe of the command that resumes it. The run keeps its plan. Overrides in the
    /// command must agree with the plan. Other differences in the recipe are reported and ignored. The number of
    /// threads comes from the recipe, because it does not affect the result.
    pub fn resume_with(recipe: &Recipe, say: Say<'_>) -> Result<Self> {
        let mut session = Self::resume(Path::new(&recipe.run.out))?;
        agree(&mut session.plan, &session.folder, recipe, Some(&recipe.without_overrides()?), say)?;
        Ok(session)
    }

    /// Trains to the end of the plan and draws the plots. If the run finishes, it also writes the model.
    pub fn train(&self, trainer: Trainer, make: Make, plain: bool, say: Say<'_>) -> Result<(Trainer, Outcome)> {
        let Self { folder, plan, resumed, after, rate, .. } = self;
        let training = Training { folder, plan, resumed: *resumed, after: after.as_deref(), rate: *rate };
        training.run(trainer, make(plan, &self.corpus)?, plain, say)
    }
}

/// Checks that the recipe of a command that resumes a run agrees with the run's plan. Overrides (what is in `recipe` and
/// not in `written`, the recipe without them) must agree. Other differences are reported and ignored. The number of
/// threads comes from the recipe. If a recipe makes no plan without its overrides, everything must agree.
pub fn agree(plan: &mut Plan, folder: &Path, recipe: &Recipe, written: Option<&Recipe>, say: Say<'_>) -> Result<()> {
    let written = written.and_then(|written| plan.contradicted_by(written).ok()).unwrap_or_default();
    let (told, refused): (Vec<_>, Vec<_>) =
        plan.contradicted_by(recipe)?.into_iter().partition(|setting| written.contains(setting));
    if !refused.is_empty() {
        return Err(SessionError::OtherSettings { folder: folder.to_owned(), settings: refused });
    }
    if !told.is_empty() {
        let told = told.join("; ");
        say(&format!("the run keeps its own settings where this recipe differs (the run's / the recipe's): {told}"));
    }
    if recipe.source.has("run.threads") {
        plan.run.threads = recipe.run.threads;
    }
    Ok(())
}

/// A run of any objective in its folder.
#[derive(Clone, Copy, Debug)]
pub struct Training<'a> {
    /// The folder.
    pub folder: &'a Path,
    /// The plan.
    pub plan: &'a Plan,
    /// Whether the run existed before.
    pub resumed: bool,
    /// Checkpoint of the previous run, from which this one starts.
    pub after: Option<&'a Path>,
    /// Tokens per second that the length of the run was computed from, if the rate was just measured.
    pub rate: Option<f64>,
}

impl Training<'_> {
    /// Trains to the end of the plan and draws the plots. If the run finishes, it also writes the model.
    pub fn run(
        &self,
        trainer: Trainer,
        objective: Box<dyn Objective>,
        plain: bool,
        say: Say<'_>,
    ) -> Result<(Trainer, Outcome)> {
        let files = objective.files().to_vec();
        let mut run = Run::new(self.plan, self.folder, trainer, objective, self.resumed)?;
        if let Some(checkpoint) = self.after {
            run = run.after(checkpoint)?;
        }
        if let Some(rate) = self.rate {
            run = run.expecting(rate);
        }
        let at = run.progress().tokens;
        if at > 0 {
            say(&format!("continuing after step {} ({:.2} M tokens)", run.progress().step, at as f64 / 1e6));
        }
        let (trainer, outcome) = run.run(if plain { Mode::Plain } else { Mode::Auto })?;
        self.plots()?;
        if outcome.finished {
            self.export(&trainer, &files)?;
        }
        Ok((trainer, outcome))
    }

    /// Draws loss curve, expert load and balance of the run so far.
    fn plots(&self) -> Result<()> {
        let steps = metrics::read(self.folder)?;
        let name = &self.plan.name;
        plot::training(&self.folder.join("training.svg"), name, &steps)?;
        // All layers of a model may be dense.
        if steps.iter().any(|m| !m.layers.is_empty()) {
            plot::expert_load(&self.folder.join("expert_load.svg"), name, &steps)?;
            plot::max_vio(&self.folder.join("max_vio.svg"), name, &[plot::PlottedRun { name, seeds: &[steps] }])?;
        }
        Ok(())
    }

    /// Writes the finished model as a Hugging Face checkpoint to `model/`.
    fn export(&self, trainer: &Trainer, files: &[PathBuf]) -> Result<()> {
        let target = self.folder.join("model");
        let staged = StagedDir::new(&target)?;
        checkpoint::write_weights(trainer, staged.path(), WeightFormat::Bf16)?;
        checkpoint::copy_into(files, staged.path())?;
        staged.commit_replacing()?;
        Ok(())
    }
}

/// Replaces the recipe's text by paths given on the command line.
pub fn use_text(recipe: &mut Recipe, paths: &[PathBuf]) {
    if !paths.is_empty() {
        recipe.data.text = Text::Many(paths.iter().map(|p| p.display().to_string()).collect());
    }
}
