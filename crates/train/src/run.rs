//! A run from its first step, or its last checkpoint, to its end: data, steps, spike watch, validation, checkpoints,
//! logs.
//!
//! Everything that a step depends on is in the plan, the checkpoint and the data cursor. So a run that was killed at
//! any moment continues to the same bits as an unbroken one. Times and rates are only information and are not part of
//! the state.

use crate::checkpoint::{self, CheckpointError};
use crate::corpus::Corpus;
use crate::objective::{Make, Objective};
use crate::optim::OptimConfig;
use crate::pace::Pace;
use crate::spike::{Response, SpikeWatch};
use crate::step::{StepBatch, StepSettings, Trainer};
use hadal_base::IoError;
use hadal_data::DataError;
use hadal_model::{BalanceGroups, Fresh, Model, Values, count};
use hadal_ops::{DType, gemm};
use hadal_recipe::plan::Plan;
use hadal_recipe::recipe::{BalanceMethod, SpikeAction, Storage};
use hadal_recipe::schedule::StepPlan;
use hadal_watch::live::{Live, Mode};
use hadal_watch::metrics::{LayerLoad, MetricsLog, StepMetrics, Validation};
use hadal_watch::tensorboard::EventFile;
use hadal_weights::{Checkpoint, folder};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Interval in steps at which the loads of all experts are logged. They take up most of a line.
const LOADS_EVERY: u64 = 10;

/// Seconds for measuring the processor's peak: at the start of the run, and at each validation.
const PEAK_SECONDS: [f64; 2] = [0.2, 0.02];

/// Why a run stopped before its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Text or packed tokens could not be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Saving or resuming failed.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Metrics could not be written, or checkpoints not listed.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The initial weights could not be read.
    #[error(transparent)]
    Weights(#[from] hadal_weights::Error),
    /// The loss diverged, and the recipe allows no further recovery.
    #[error("the run stopped: {0}")]
    Diverged(String),
    /// Plan and data do not match.
    #[error("{0}")]
    Mismatch(String),
}

/// What a checkpoint stores besides tensors.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Number of steps.
    pub step: u64,
    /// Tokens seen.
    pub tokens: u64,
    /// Number of optimiser updates. A skipped step makes none.
    pub updates: u64,
    /// State of the objective. In older checkpoints it is the position in the data.
    #[serde(default, alias = "cursor")]
    pub objective: Value,
    /// State of the spike watch.
    pub watch: SpikeWatch,
    /// Tokens that each expert received during the run, for each MoE layer.
    pub loads: Vec<Vec<u64>>,
    /// Seconds of training, over all resumes.
    pub elapsed: f64,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Whether it reached the plan's last token. It is false if the user stopped it.
    pub finished: bool,
    /// The last checkpoint.
    pub checkpoint: PathBuf,
    /// The progress at the end.
    pub progress: Progress,
}

/// A new trainer for a plan, with initial weights from the seed or from a checkpoint.
pub fn trainer(plan: &Plan, init: Option<&Path>) -> Result<Trainer, RunError> {
    match init {
        Some(path) => trainer_of(plan, &whole(plan, path)?),
        None => trainer_of(plan, &Fresh { seed: plan.run.seed, std: plan.model.initializer_range }),
    }
}

/// The checkpoint at `path`, which must have all weights of a plan's model.
pub fn whole(plan: &Plan, path: &Path) -> Result<Checkpoint, RunError> {
    let checkpoint = Checkpoint::open_with(path, plan.model.clone())?;
    checkpoint.audit()?.into_result()?;
    Ok(checkpoint)
}

/// A new trainer for a plan, with these initial weights.
pub fn trainer_of(plan: &Plan, values: &dyn Values) -> Result<Trainer, RunError> {
    let cx = plan.formats().cx(plan.run.threads);
    let o = &plan.optimizer;
    let optim = OptimConfig {
        beta1: o.beta1,
        beta2: o.beta2,
        eps: o.eps,
        weight_decay: o.weight_decay,
        moments: if o.moments == Storage::F32 { DType::F32 } else { DType::Bf16 },
    };
    let (trained, seed, ema) = (&plan.trained, plan.run.seed, plan.ema_decay as f32);
    Ok(Trainer::of_parts(cx, &plan.model, plan.precision, values, optim, ema, trained, seed)?)
}

/// Tokens per second of training steps with the settings of `plan`, measured for about `seconds` on a separate trainer.
pub fn measure(plan: &Plan, corpus: &Corpus, make: Make, seconds: f64) -> Result<f64, RunError> {
    let mut trainer = trainer(plan, None)?;
    let mut objective = make(plan, corpus)?;
    let none = || RunError::Mismatch("the plan has no steps".into());
    let (settings, _) = settings(plan, 0).ok_or_else(none)?;
    let step = plan.schedule.step(0).ok_or_else(none)?;
    let step = StepPlan { sequences: plan.schedule.batch.to, ..step };
    let (mut batch, mut rates) = (StepBatch::default(), Vec::new());
    let start = Instant::now();
    // The first steps run on cold memory and do not count.
    while rates.len() < 4 || start.elapsed().as_secs_f64() < seconds {
        objective.next_batch(&mut trainer, &step, &mut batch)?;
        let begin = Instant::now();
        trainer.gradients(&batch, &settings);
        let norm = trainer.grad_norm();
        trainer.update(&settings, norm);
        rates.push(batch.inputs() as f64 / begin.elapsed().as_secs_f64());
    }
    let mut counted = rates.split_off(2);
    counted.sort_by(f64::total_cmp);
    Ok(counted[counted.len() / 2])
}

/// The settings for the step after `tokens` from the schedules and the plan. `None` when the run is over.
pub fn settings(plan: &Plan, tokens: u64) -> Option<(StepSettings, StepPlan)> {
    let step = plan.schedule.step(tokens)?;
    let groups = match plan.balance.method {
        BalanceMethod::BatchAux => BalanceGroups::Batch,
        _ => BalanceGroups::Sequences,
    };
    let settings = StepSettings {
        lr: step.lr,
        clip: f64::from(plan.optimizer.clip),
        gamma: step.gamma,
        mtp_lambda: step.mtp_weight,
        balance: (plan.balance.alpha > 0.0).then_some((groups, plan.balance.alpha)),
        micro_batch: plan.schedule.batch.micro_batch as usize,
    };
    Some((settings, step))
}

/// A run in progress.
pub struct Run<'a> {
    plan: &'a Plan,
    folder: &'a Path,
    trainer: Trainer,
    objective: Box<dyn Objective>,
    progress: Progress,
    flops: f64,
    peak: f64,
    last_checkpoint: Option<PathBuf>,
    pace: Option<Pace>,
}

impl<'a> Run<'a> {
    /// Starts a run in `folder`. With `resume` it continues from the last checkpoint, or from the start if there is
    /// none.
    pub fn new(
        plan: &'a Plan,
        folder: &'a Path,
        mut trainer: Trainer,
        mut objective: Box<dyn Objective>,
        resume: bool,
    ) -> Result<Self, RunError> {
        let experts = plan.model.n_routed_experts;
        let loads = trainer.model.moe_blocks().map(|_| vec![0; experts]).collect();
        let mut progress = Progress { loads, ..Progress::default() };
        let checkpoints = folder.join("checkpoints");
        let last_checkpoint = folder::checkpoints(&checkpoints)?.pop().filter(|_| resume);
        if let Some(path) = &last_checkpoint {
            progress = restore(&mut trainer, objective.as_mut(), path)?;
            objective.resume(progress.objective.clone())?;
        }
        let flops = count::flops(&plan.model, plan.data.seq_len).training;
        let peak = gemm::peak_gflops(&trainer.cx, PEAK_SECONDS[0]) * 1e9;
        Ok(Self { plan, folder, trainer, objective, progress, flops, peak, last_checkpoint, pace: None })
    }

    /// Starts from this checkpoint, where another run ended, with its weights, moments and position in the data. If
    /// this run has checkpoints of its own, it continues from those instead.
    pub fn after(mut self, checkpoint: &Path) -> Result<Self, RunError> {
        if self.last_checkpoint.is_none() {
            self.progress.objective = restore(&mut self.trainer, self.objective.as_mut(), checkpoint)?.objective;
            self.objective.resume(self.progress.objective.clone())?;
        }
        Ok(self)
    }

    /// Reports if training becomes slower than `rate` tokens per second. The length of the run was computed from this
    /// rate.
    pub fn expecting(mut self, rate: f64) -> Self {
        self.pace = Some(Pace::new(rate));
        self
    }

    /// The progress so far.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Runs to the end of the plan, or until the user stops it. Returns the trainer with the last weights.
    pub fn run(mut self, mode: Mode) -> Result<(Trainer, Outcome), RunError> {
        let outcome = self.steps(mode)?;
        Ok((self.trainer, outcome))
    }

    fn steps(&mut self, mode: Mode) -> Result<Outcome, RunError> {
        let mut live = Live::start(&self.plan.name, self.plan.schedule.total_tokens, mode);
        let mut log = MetricsLog::open(self.folder, self.progress.step)?;
        let mut events = EventFile::create(&self.folder.join("tensorboard"), self.progress.step)?;
        if self.plan.spike.action == SpikeAction::Rollback && self.last_checkpoint.is_none() {
            self.save()?; // a rollback needs a checkpoint
        }
        let mut batch = StepBatch::default();
        let mut finished = true;
        while let Some((settings, planned)) = settings(self.plan, self.progress.tokens) {
            if live.stop_requested() {
                live.message("stopping: saving a checkpoint");
                finished = false;
                break;
            }
            let (start, waited) = (Instant::now(), self.objective.waited());
            self.objective.next_batch(&mut self.trainer, &planned, &mut batch)?;
            self.trainer.gradients(&batch, &settings);
            let norm = self.trainer.grad_norm();
            let losses = self.trainer.losses();
            let step = self.progress.step + 1;
            let verdict = self.progress.watch.judge(&self.plan.spike, step, losses.main, norm);
            let spike = match verdict {
                Response::Normal | Response::Continue(_) => {
                    self.trainer.update(&settings, norm);
                    if let Response::Continue(what) = verdict { Some(what) } else { None }
                }
                Response::Skip(what) => Some(format!("{what}; step skipped")),
                Response::Rollback(what) => {
                    live.message(&format!("{what}; going back to the last checkpoint"));
                    self.roll_back()?;
                    log = MetricsLog::open(self.folder, self.progress.step)?;
                    events = EventFile::create(&self.folder.join("tensorboard"), self.progress.step)?;
                    continue;
                }
                Response::Stop(what) => return Err(RunError::Diverged(what)),
            };
            if let Some(what) = &spike {
                live.message(what);
            }
            let before = self.progress.tokens;
            let tokens = batch.inputs() as u64;
            let seconds = start.elapsed().as_secs_f64();
            self.progress.step = step;
            self.progress.tokens += tokens;
            self.progress.objective = self.objective.state();
            self.progress.elapsed += seconds;
            let layers = self.layers();
            let due = |every: hadal_recipe::schedule::Every| every.is_due(step, before, before + tokens);
            if due(self.plan.eval_every) {
                // Other programs may have used the processor during earlier measurements. The peak is the best one so
                // far.
                self.peak = self.peak.max(gemm::peak_gflops(&self.trainer.cx, PEAK_SECONDS[1]) * 1e9);
            }
            let last = before + tokens >= self.plan.schedule.total_tokens;
            let validation = (due(self.plan.eval_every) || last).then(|| self.validate(&live)).flatten();
            let rate = tokens as f64 / seconds;
            let metrics = StepMetrics {
                step,
                tokens: self.progress.tokens,
                elapsed: self.progress.elapsed,
                loss: losses.main,
                mtp_loss: losses.mtp,
                balance_loss: losses.balance,
                lr: settings.lr,
                grad_norm: norm,
                batch: batch.rows.len() as u64,
                gamma: settings.gamma,
                mtp_weight: settings.mtp_lambda,
                tokens_per_second: rate,
                mfu: rate * self.flops / self.peak,
                loader_wait: self.objective.waited() - waited,
                memory: resident_bytes(),
                figures: self.objective.figures().into_iter().collect(),
                spike,
                validation,
                layers,
            };
            log.append(&metrics)?;
            events.append(&metrics)?;
            live.step(&metrics);
            let left = self.plan.schedule.total_tokens.saturating_sub(self.progress.tokens);
            if let Some(slower) = self.pace.as_mut().and_then(|pace| pace.step(tokens, seconds, left)) {
                live.message(&slower);
            }
            if due(self.plan.checkpoint_every) && !last {
                match self.save() {
                    Ok(path) => live.message(&format!("saved {}", path.display())),
                    // A failed checkpoint does not end the run: earlier checkpoints are intact, and the next save may
                    // succeed.
                    Err(error) => live.message(&format!("WARNING: no checkpoint saved: {error}")),
                }
            }
        }
        let checkpoint = self.save()?;
        live.finish();
        Ok(Outcome { finished, checkpoint, progress: self.progress.clone() })
    }

    /// Loss on held-out data. `None` if nothing is held out or the user stopped it.
    fn validate(&mut self, live: &Live) -> Option<Validation> {
        let Trainer { cx, model, masters, ema, .. } = &mut self.trainer;
        let objective = &self.objective;
        let look = |model: &Model| objective.validate(cx, model, &|| !live.stop_requested());
        let mut v = look(model)?;
        if let Some(ema) = ema {
            let averaged = ema.with(cx, model, masters, look);
            v.ema_loss = averaged.map(|v| v.loss).filter(|loss| loss.is_finite());
        }
        v.loss.is_finite().then_some(v)
    }

    /// Adds the step's loads to the run's loads and describes both.
    fn layers(&mut self) -> Vec<LayerLoad> {
        let model = &self.plan.model;
        let depths = model.num_hidden_layers + model.num_nextn_predict_layers;
        let layers = (0..depths).filter(|l| model.is_moe_layer(*l));
        let whole = self.progress.step.is_multiple_of(LOADS_EVERY) || self.progress.step == 1;
        let stats = self.trainer.stats.loads.iter().zip(&mut self.progress.loads);
        layers
            .zip(stats)
            .map(|(layer, (step, run))| {
                let step: Vec<u32> = step.i32().iter().map(|n| *n as u32).collect();
                run.iter_mut().zip(&step).for_each(|(sum, n)| *sum += u64::from(*n));
                let mut load = LayerLoad::new(layer, &step, run);
                if !whole {
                    load.load.clear();
                }
                load
            })
            .collect()
    }

    fn save(&mut self) -> Result<PathBuf, CheckpointError> {
        self.progress.updates = self.trainer.optimizer.updates;
        let folder = self.folder.join("checkpoints");
        let (progress, files) = (&self.progress, self.objective.files());
        let own = self.objective.tensors();
        let path = checkpoint::save(&self.trainer, &own, progress.step, progress, files, &folder, self.plan.keep_last)?;
        self.last_checkpoint = Some(path.clone());
        Ok(path)
    }

    /// Goes back to the last checkpoint, but not to its position in the data. The data read since then is skipped.
    fn roll_back(&mut self) -> Result<(), RunError> {
        let Some(path) = self.last_checkpoint.clone() else {
            return Err(RunError::Diverged("there is no checkpoint to go back to".into()));
        };
        let before = std::mem::take(&mut self.progress.watch);
        let elapsed = self.progress.elapsed;
        // The objective keeps its position.
        self.progress = checkpoint::load(&mut self.trainer, &path)?;
        self.trainer.optimizer.updates = self.progress.updates;
        self.progress.watch.after_rollback(&before);
        self.progress.objective = self.objective.state();
        self.progress.elapsed = elapsed;
        // This is saved, so that the data stays skipped even if the run is killed now.
        self.save()?;
        Ok(())
    }
}

/// Loads a checkpoint's state into a trainer and into the tensors of an objective.
fn restore(trainer: &mut Trainer, objective: &mut dyn Objective, path: &Path) -> Result<Progress, CheckpointError> {
    let progress: Progress = checkpoint::load(trainer, path)?;
    trainer.optimizer.updates = progress.updates;
    checkpoint::load_objective(path, objective.tensors_mut())?;
    Ok(progress)
}

/// Resident memory of this process in bytes. 0 if the system does not report it.
pub fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split_whitespace().nth(1).and_then(|v| v.parse().ok()).unwrap_or(0);
    pages * 4096
}
