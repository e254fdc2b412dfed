//! Checkpoints: a Hugging Face checkpoint of the weights, and beside it everything needed to continue bit for bit.
//!
//! ```text
//! checkpoints/step-00001234/
//!   config.json, model*.safetensors, tokenizer.json …   loads anywhere
//!   state/tensors.safetensors                           f32 masters, biases, moments, EMA
//!   state/progress.json                                 step, tokens, data cursor, watch state
//! ```
//! A checkpoint is written under a temporary name, synced, and renamed, so it is there whole or not at all. The next
//! save removes anything that an interrupted save left behind.

use crate::adapters::Adapters;
use crate::state::{self, EMA, MOMENTS, STATE_FILE, State, WEIGHT};
use crate::step::Trainer;
use hadal_base::atomic;
use hadal_base::atomic::StagedDir;
use hadal_base::{IoContext, IoError};
use hadal_model::save_parameters;
use hadal_ops::Tensor;
use hadal_weights::folder::{STEP, checkpoints, older};
use hadal_weights::list::Parameter;
use hadal_weights::{SaveOptions, WeightFormat};
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use std::fs;
use std::path::{Path, PathBuf};

/// Why a checkpoint could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The operating system refused.
    #[error(transparent)]
    Io(#[from] IoError),
    /// A file does not have the expected contents.
    #[error("{path}: {what}", path = path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        what: String,
    },
    /// The weights cannot be read or written.
    #[error(transparent)]
    Weights(#[from] hadal_weights::Error),
    /// A run cannot continue from a checkpoint, but an older one can be used.
    #[error(
        "{error}; an older checkpoint of this run is intact, {older}: move {path} away to continue from it",
        path = path.display(),
        older = older.display()
    )]
    Newer {
        /// What is wrong with it.
        error: Box<CheckpointError>,
        /// The checkpoint.
        path: PathBuf,
        /// The older one.
        older: PathBuf,
    },
}

fn bad(path: &Path, what: impl Into<String>) -> CheckpointError {
    CheckpointError::Format { path: path.to_owned(), what: what.into() }
}

const PROGRESS: &str = "state/progress.json";

/// Every tensor of a trainer's state: masters (including biases), moments, averages.
fn state(trainer: &Trainer) -> Vec<(&'static str, &Parameter, &Tensor)> {
    let mut all = Vec::new();
    for p in trainer.model.params() {
        all.push((WEIGHT, &p.spec, trainer.masters.of(p)));
        if let Some((m, v)) = &trainer.optimizer.moments[p.index] {
            all.extend([(MOMENTS[0], &p.spec, m), (MOMENTS[1], &p.spec, v)]);
        }
        if let Some(ema) = trainer.ema.as_ref().and_then(|e| e.values[p.index].as_ref()) {
            all.push((EMA, &p.spec, ema));
        }
    }
    all
}

/// Writes a trainer's f32 master weights as a Hugging Face checkpoint into an existing folder. Adapters are merged.
pub fn write_weights(trainer: &Trainer, into: &Path, format: WeightFormat) -> Result<(), hadal_weights::Error> {
    let params = trainer.model.params();
    let config = &trainer.model.config;
    let adapters = Adapters::of(trainer);
    save_parameters(into, config, format, &SaveOptions::default(), |index, part, start, out| {
        let master = trainer.masters.of(params[index]).f32();
        out.copy_from_slice(&master[part.start + start..][..out.len()]);
        adapters.add(part, start, out);
        Ok(())
    })
}

/// Saves `trainer` and `progress` as `folder/step-…`, with copies of `extra` files (the tokenizer) beside the weights.
/// Then it removes all checkpoints except the newest `keep_last` (0 keeps all).
pub fn save(
    trainer: &Trainer,
    objective: &[(&str, &Tensor)],
    step: u64,
    progress: &impl Serialize,
    extra: &[PathBuf],
    folder: &Path,
    keep_last: usize,
) -> Result<PathBuf, CheckpointError> {
    fs::create_dir_all(folder).at("create", folder)?;
    atomic::remove_leftovers(folder)?;
    let path = folder.join(format!("{STEP}{step:08}"));
    let staged = StagedDir::new(&path)?;
    write(trainer, objective, progress, extra, staged.path())?;
    staged.commit_replacing()?;
    if keep_last > 0 {
        let all = checkpoints(folder)?;
        for old in &all[..all.len().saturating_sub(keep_last)] {
            // It is renamed before it is removed, so a half-removed checkpoint is never mistaken for a whole one.
            let aside = StagedDir::new(old)?;
            let gone = aside.path().join("removed");
            fs::rename(old, &gone).at("move aside", old)?;
        }
    }
    Ok(path)
}

/// Copies files into an existing folder.
pub fn copy_into(files: &[PathBuf], folder: &Path) -> Result<(), IoError> {
    for file in files {
        let to = folder.join(file.file_name().unwrap_or_default());
        fs::copy(file, &to).at("write", &to)?;
    }
    Ok(())
}

fn write(
    trainer: &Trainer,
    objective: &[(&str, &Tensor)],
    progress: &impl Serialize,
    extra: &[PathBuf],
    into: &Path,
) -> Result<(), CheckpointError> {
    write_weights(trainer, into, WeightFormat::Bf16)?;
    copy_into(extra, into)?;
    let dir = into.join("state");
    fs::create_dir_all(&dir).at("create", &dir)?;
    state::write(&into.join(STATE_FILE), state(trainer).into_iter(), objective)?;
    let path = into.join(PROGRESS);
    let text = serde_json::to_string_pretty(progress).map_err(|e| bad(&path, e.to_string()))?;
    Ok(fs::write(&path, text).at("write", &path)?)
}

/// The progress record of a checkpoint.
fn progress<P: DeserializeOwned>(path: &Path) -> Result<P, CheckpointError> {
    let file = path.join(PROGRESS);
    let text = fs::read_to_string(&file).at("read", &file)?;
    serde_json::from_str(&text).map_err(|e| bad(&file, format!("not a progress record: {e}")))
}

/// The error from opening a checkpoint. It names an older checkpoint of the run that can be opened, if there is one.
fn beside_older(path: &Path, error: CheckpointError) -> CheckpointError {
    let is_whole = |older: &Path| progress::<IgnoredAny>(older).is_ok() && State::open(older).is_ok();
    match older(path, is_whole) {
        Some(older) => CheckpointError::Newer { error: Box::new(error), path: path.into(), older },
        None => error,
    }
}

/// Opens the state of a checkpoint. If this fails, the error names an older checkpoint that can be opened.
pub fn open_state(path: &Path) -> Result<State, CheckpointError> {
    State::open(path).map_err(|error| beside_older(path, error))
}

/// Loads a checkpoint's state into `trainer`, which must have the same model and settings. Returns the progress record.
pub fn load<P: DeserializeOwned>(trainer: &mut Trainer, path: &Path) -> Result<P, CheckpointError> {
    let progress = progress(path).map_err(|error| beside_older(path, error))?;
    let stored = open_state(path)?;
    stored.check_all_known(state(trainer).into_iter().map(|(what, parameter, _)| (what, parameter)))?;
    let Trainer { model, masters, optimizer, ema, cx, .. } = trainer;
    let mut result = Ok(());
    masters.write(cx, model, |parameter, master| {
        if result.is_ok() {
            result = stored.fill(WEIGHT, &parameter, master);
        }
    });
    result?;
    for p in model.params() {
        if let Some((m, v)) = &mut optimizer.moments[p.index] {
            stored.fill(MOMENTS[0], &p.spec, m)?;
            stored.fill(MOMENTS[1], &p.spec, v)?;
        }
        if let Some(ema) = ema.as_mut().and_then(|e| e.values[p.index].as_mut()) {
            stored.fill(EMA, &p.spec, ema)?;
        }
    }
    Ok(progress)
}

/// Fills the tensors of an objective's state from a checkpoint.
pub fn load_objective(path: &Path, tensors: Vec<(&str, &mut Tensor)>) -> Result<(), CheckpointError> {
    if tensors.is_empty() {
        return Ok(());
    }
    let stored = State::open(path)?;
    tensors.into_iter().try_for_each(|(name, tensor)| stored.fill_own(name, tensor))
}
