//! What `pretrain` and `quickstart` share: a run's folder, its corpus, plan and results.

use anyhow::{Context, Result, bail};
use hadal_model::{Model, hf::atomic::StagedDir};
use hadal_ops::DType;
use hadal_train::corpus::{Corpus, Source};
use hadal_train::live::Mode;
use hadal_train::plan::{PLAN_FILE, Plan};
use hadal_train::recipe::{Recipe, Text};
use hadal_train::run::{self, Outcome, Run};
use hadal_train::step::Trainer;
use hadal_train::{metrics, plot};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// This program's own lock file: the packages whose sources are the default text.
pub(crate) const LOCK: &str = include_str!("../../../../Cargo.lock");

/// Seconds of training that fix the length of a run whose recipe leaves it to the machine.
const MEASURE_SECONDS: f64 = 8.0;

/// A run's folder with its plan and data.
pub(crate) struct Session {
    pub(crate) folder: PathBuf,
    pub(crate) plan: Plan,
    pub(crate) corpus: Arc<Corpus>,
    pub(crate) resumed: bool,
    /// Checkpoint of the run that this one begins after.
    pub(crate) after: Option<PathBuf>,
}

/// A new run whose text is read and packed.
pub(crate) struct Prepared {
    pub(crate) recipe: Recipe,
    pub(crate) corpus: Corpus,
    /// Its plan but for the length.
    draft: Plan,
    folder: PathBuf,
}

impl Prepared {
    /// Reads the text of a recipe into its folder, which must not hold a run.
    pub(crate) fn new(recipe: Recipe) -> Result<Self> {
        let folder = PathBuf::from(&recipe.run.out);
        if folder.join(PLAN_FILE).exists() {
            bail!(
                "{} holds a run already: go on with it (--resume), choose another folder, or remove it",
                folder.display()
            );
        }
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let draft = Plan::draft(&recipe)?;
        let paths = draft.text.clone();
        let source = paths.as_deref().map_or(Source::CargoLock(LOCK), Source::Paths);
        let vocab = if draft.data.vocab_size > 0 { draft.data.vocab_size } else { draft.model.vocab_size };
        let seed = draft.run.seed;
        let corpus = Corpus::prepare(&source, &draft.data, vocab, seed, &folder, &mut |line| say!("{line}"))?;
        Ok(Self { recipe, corpus, draft, folder })
    }

    /// Fixes the run's plan; `rate` is this machine's, for a recipe that leaves its length to it.
    pub(crate) fn begin(self, rate: Option<f64>) -> Result<Session> {
        let plan = Plan::new(&self.recipe, rate)?;
        plan.save(&self.folder)?;
        Ok(Session { folder: self.folder, plan, corpus: Arc::new(self.corpus), resumed: false, after: None })
    }
}

impl Session {
    /// Prepares a new run. `minutes_left` is asked, once the data is there, how long training may take, if the recipe
    /// leaves that to the machine.
    pub(crate) fn begin(recipe: Recipe, minutes_left: impl FnOnce() -> Option<f64>) -> Result<Self> {
        let mut prepared = Prepared::new(recipe)?;
        let mut rate = None;
        if Plan::needs_measurement(&prepared.recipe) {
            let found = run::measure(&prepared.draft, &prepared.corpus, MEASURE_SECONDS)?;
            say!("this machine trains {found:.0} tokens a second");
            if let Some(minutes) = minutes_left() {
                prepared.recipe.schedule.minutes = minutes;
            }
            rate = Some(found);
        }
        prepared.begin(rate)
    }

    /// Opens a stopped run.
    pub(crate) fn resume(folder: &Path) -> Result<Self> {
        if !folder.join(PLAN_FILE).exists() {
            bail!("nothing to resume in {}: start without --resume", folder.display());
        }
        let plan = Plan::load(folder)?;
        let corpus = Corpus::of_run(folder, plan.text.as_deref())?;
        Ok(Self { folder: folder.to_owned(), plan, corpus: Arc::new(corpus), resumed: true, after: None })
    }

    /// Trains to the end of the plan and leaves plots and, when finished, the model behind.
    pub(crate) fn train(&self, trainer: Trainer, plain: bool) -> Result<(Trainer, Outcome)> {
        let mut run = Run::new(&self.plan, &self.corpus, &self.folder, trainer, self.resumed)?;
        if let Some(checkpoint) = &self.after {
            run = run.after(checkpoint)?;
        }
        let at = run.progress().tokens;
        if at > 0 {
            say!("going on after step {} ({:.2} M tokens)", run.progress().step, at as f64 / 1e6);
        }
        let (trainer, outcome) = run.run(if plain { Mode::Plain } else { Mode::Auto })?;
        self.plots()?;
        if outcome.finished {
            self.export(&trainer.model)?;
        }
        Ok((trainer, outcome))
    }

    /// Loss curve, expert load and balance of the run so far.
    pub(crate) fn plots(&self) -> Result<()> {
        let steps = metrics::read(&self.folder.join(metrics::METRICS_FILE))?;
        let name = &self.plan.name;
        plot::training(&self.folder.join("training.svg"), name, &steps)?;
        // A model may be dense in all its layers.
        if steps.iter().any(|m| !m.layers.is_empty()) {
            plot::expert_load(&self.folder.join("expert_load.svg"), name, &steps)?;
            plot::max_vio(&self.folder.join("max_vio.svg"), name, &[plot::Run { name, seeds: &[steps] }])?;
        }
        Ok(())
    }

    /// The finished model as a Hugging Face checkpoint in `model/`.
    fn export(&self, model: &Model) -> Result<()> {
        let target = self.folder.join("model");
        let staged = StagedDir::new(&target)?;
        model.write_into(staged.path(), DType::Bf16, |_| None)?;
        for file in &self.corpus.tokenizer_files {
            let to = staged.path().join(file.file_name().unwrap_or_default());
            std::fs::copy(file, &to).with_context(|| format!("cannot write {}", to.display()))?;
        }
        staged.commit_replacing()?;
        Ok(())
    }
}

/// Takes paths given on the command line instead of the recipe's text.
pub(crate) fn use_text(recipe: &mut Recipe, paths: &[PathBuf]) {
    if !paths.is_empty() {
        recipe.data.text = Text::Many(paths.iter().map(|p| p.display().to_string()).collect());
    }
}
