//! A run's folder from its recipe on: text read and packed, the plan, training, what is left behind at its end.

use crate::checkpoint::{self, CheckpointError};
use crate::corpus::{Corpus, TextSource};
use crate::objective::Make;
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

/// The lock file that the program was built with: the packages whose sources are the default text.
pub const LOCK: &str = include_str!("../../../Cargo.lock");

/// Seconds of training that fix the length of a run whose recipe leaves it to the machine.
const MEASURE_SECONDS: f64 = 8.0;

/// Hears what is being done, a line at a time.
pub type Say<'a> = &'a dyn Fn(&str);

/// Why a run could not begin, go on or end.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The folder is another run's.
    #[error("{} already holds a run: continue it with --resume, choose another folder, or remove it", .0.display())]
    Taken(PathBuf),
    /// There is no run in the folder.
    #[error("nothing to resume in {}: start without --resume", .0.display())]
    NothingToResume(PathBuf),
    /// A run goes on by its plan, and this command asks for something else.
    #[error(
        "the run in {} has other settings, and a resumed run keeps its settings (the run's / this command's): {}; \
         leave these out, or start a new run with another run.out",
        folder.display(),
        settings.join("; ")
    )]
    OtherSettings {
        /// The run.
        folder: PathBuf,
        /// Keys with both values.
        settings: Vec<String>,
    },
    /// A run without a checkpoint, of which an extension was to begin.
    #[error("{} has no checkpoint from which extension {number} could start", folder.display())]
    NoCheckpoint {
        /// The run.
        folder: PathBuf,
        /// Number of the extension, from 1.
        number: usize,
    },
    /// The operating system refused.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The recipe.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// The plan in the folder.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Text, tokenizer, packed tokens.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Training.
    #[error(transparent)]
    Run(#[from] RunError),
    /// Looking for checkpoints.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Writing the finished model.
    #[error(transparent)]
    Weights(#[from] hadal_weights::Error),
    /// Plots.
    #[error(transparent)]
    Plot(#[from] PlotError),
}

type Result<T, E = SessionError> = std::result::Result<T, E>;

/// A run's folder with its plan and data.
pub struct Session {
    /// Where it lies.
    pub folder: PathBuf,
    /// What it is to do.
    pub plan: Plan,
    /// Its text.
    pub corpus: Arc<Corpus>,
    /// Whether it had begun before.
    pub resumed: bool,
    /// Checkpoint of the run that this one begins after.
    pub after: Option<PathBuf>,
    /// Tokens a second from which the length of the run was made, if it was just measured.
    pub rate: Option<f64>,
}

/// A new run whose text is read and packed.
pub struct Prepared {
    /// What was written.
    pub recipe: Recipe,
    /// Its text.
    pub corpus: Corpus,
    /// Its plan but for the length.
    draft: Plan,
    folder: PathBuf,
}

impl Prepared {
    /// Reads the text of a recipe into its folder, which must not hold a run.
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

    /// Fixes the run's plan; `rate` is this machine's, for a recipe that leaves its length to it.
    pub fn begin(self, rate: Option<f64>) -> Result<Session> {
        let plan = Plan::new(&self.recipe, rate)?;
        plan.save(&self.folder)?;
        Ok(Session { folder: self.folder, plan, corpus: Arc::new(self.corpus), resumed: false, after: None, rate })
    }
}

impl Session {
    /// Prepares a new run. `minutes_left` is asked, once the data is there, how long training may take, if the recipe
    /// leaves that to the machine.
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

    /// Opens a stopped run with the recipe of the command that resumes it. The run goes on by its plan. What the command
    /// overrides in the recipe must agree with the plan; what else the recipe says otherwise is told and not used. Threads
    /// are the recipe's, since they change no result.
    pub fn resume_with(recipe: &Recipe, say: Say<'_>) -> Result<Self> {
        let mut session = Self::resume(Path::new(&recipe.run.out))?;
        let written = session.plan.contradicted_by(&recipe.without_overrides()?)?;
        let (told, refused): (Vec<_>, Vec<_>) =
            session.plan.contradicted_by(recipe)?.into_iter().partition(|setting| written.contains(setting));
        if !refused.is_empty() {
            return Err(SessionError::OtherSettings { folder: session.folder, settings: refused });
        }
        if !told.is_empty() {
            let told = told.join("; ");
            say(&format!(
                "the run keeps its own settings where this recipe differs (the run's / the recipe's): {told}"
            ));
        }
        if recipe.source.has("run.threads") {
            session.plan.run.threads = recipe.run.threads;
        }
        Ok(session)
    }

    /// Trains to the end of the plan and leaves plots and, when finished, the model behind.
    pub fn train(&self, trainer: Trainer, make: Make, plain: bool, say: Say<'_>) -> Result<(Trainer, Outcome)> {
        let objective = make(&self.plan, &self.corpus)?;
        let mut run = Run::new(&self.plan, &self.corpus, &self.folder, trainer, objective, self.resumed)?;
        if let Some(checkpoint) = &self.after {
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
            self.export(&trainer)?;
        }
        Ok((trainer, outcome))
    }

    /// Loss curve, expert load and balance of the run so far.
    pub fn plots(&self) -> Result<()> {
        let steps = metrics::read(&self.folder)?;
        let name = &self.plan.name;
        plot::training(&self.folder.join("training.svg"), name, &steps)?;
        // A model may be dense in all its layers.
        if steps.iter().any(|m| !m.layers.is_empty()) {
            plot::expert_load(&self.folder.join("expert_load.svg"), name, &steps)?;
            plot::max_vio(&self.folder.join("max_vio.svg"), name, &[plot::PlottedRun { name, seeds: &[steps] }])?;
        }
        Ok(())
    }

    /// The finished model as a Hugging Face checkpoint in `model/`.
    fn export(&self, trainer: &Trainer) -> Result<()> {
        let target = self.folder.join("model");
        let staged = StagedDir::new(&target)?;
        checkpoint::write_weights(trainer, staged.path(), WeightFormat::Bf16)?;
        checkpoint::copy_into(&self.corpus.tokenizer_files, staged.path())?;
        staged.commit_replacing()?;
        Ok(())
    }
}

/// Takes paths given on the command line instead of the recipe's text.
pub fn use_text(recipe: &mut Recipe, paths: &[PathBuf]) {
    if !paths.is_empty() {
        recipe.data.text = Text::Many(paths.iter().map(|p| p.display().to_string()).collect());
    }
}
