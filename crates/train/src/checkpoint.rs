//! Checkpoints: a Hugging Face checkpoint of the weights, and beside it everything needed to go on bit for bit.
//!
//! ```text
//! checkpoints/step-00001234/
//!   config.json, model*.safetensors, tokenizer.json …   loads anywhere
//!   state/tensors.safetensors                           f32 masters, biases, moments, EMA
//!   state/progress.json                                 step, tokens, data cursor, watch state
//! ```
//! A checkpoint is written under a temporary name, synced, and renamed: it is there whole or not at all. Whatever an
//! interrupted save left behind is removed by the next one.

use crate::step::Trainer;
use hadal_base::atomic;
use hadal_base::atomic::StagedDir;
use hadal_base::{IoContext, IoError};
use hadal_model::Param;
use hadal_ops::{DType, Tensor};
use hadal_weights::folder::{STEP, checkpoints};
use safetensors::tensor::{Dtype, TensorView, View};
use serde::{Serialize, de::DeserializeOwned};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Why a checkpoint could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The operating system refused.
    #[error(transparent)]
    Io(#[from] IoError),
    /// A file is not what it should be.
    #[error("{path}: {what}", path = path.display())]
    Format {
        /// Which file.
        path: PathBuf,
        /// What is wrong and what to do.
        what: String,
    },
    /// The weights part.
    #[error(transparent)]
    Weights(#[from] hadal_weights::Error),
}

fn bad(path: &Path, what: impl Into<String>) -> CheckpointError {
    CheckpointError::Format { path: path.to_owned(), what: what.into() }
}

const TENSORS: &str = "state/tensors.safetensors";
const PROGRESS: &str = "state/progress.json";

/// A tensor as the safetensors writer wants it.
struct Stored<'a>(&'a Tensor);

impl View for Stored<'_> {
    fn dtype(&self) -> Dtype {
        match self.0.dtype() {
            DType::F32 => Dtype::F32,
            DType::Bf16 => Dtype::BF16,
            DType::I32 => Dtype::I32,
            DType::U8 => Dtype::U8,
        }
    }
    fn shape(&self) -> &[usize] {
        self.0.shape()
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(match self.0.dtype() {
            DType::F32 => bytemuck::cast_slice(self.0.f32()),
            DType::Bf16 => bytemuck::cast_slice(self.0.bf16()),
            DType::I32 => bytemuck::cast_slice(self.0.i32()),
            DType::U8 => self.0.u8(),
        })
    }
    fn data_len(&self) -> usize {
        self.0.bytes()
    }
}

/// Name of a parameter's tensors in the state file.
fn key(what: &str, p: &Param) -> String {
    format!("{what}/{}", p.parts[0].name)
}

/// Every tensor of a trainer's state by name: masters (biases too), moments, averages.
fn state(trainer: &Trainer) -> Vec<(String, &Tensor)> {
    let mut all = Vec::new();
    for p in trainer.model.params() {
        all.push((key("weight", p), &p.value));
        if let Some((m, v)) = &trainer.optimizer.moments[p.slot] {
            all.push((key("m", p), m));
            all.push((key("v", p), v));
        }
        if let Some(ema) = trainer.ema.as_ref().and_then(|e| e.values[p.slot].as_ref()) {
            all.push((key("ema", p), ema));
        }
    }
    all
}

/// Saves `trainer` and `progress` as `folder/step-…`, with copies of `extra` files (the tokenizer) beside the weights,
/// and removes all but the `keep_last` newest (0: keeps all).
pub fn save(
    trainer: &Trainer,
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
    write(trainer, progress, extra, staged.path())?;
    staged.commit_replacing()?;
    if keep_last > 0 {
        let all = checkpoints(folder)?;
        for old in &all[..all.len().saturating_sub(keep_last)] {
            // Renamed first, so that no half of it is ever taken for a whole one.
            let aside = StagedDir::new(old)?;
            let gone = aside.path().join("removed");
            fs::rename(old, &gone).at("move aside", old)?;
        }
    }
    Ok(path)
}

fn write(trainer: &Trainer, progress: &impl Serialize, extra: &[PathBuf], into: &Path) -> Result<(), CheckpointError> {
    trainer.model.write_into(into, DType::Bf16, |_| None)?;
    for file in extra {
        let to = into.join(file.file_name().unwrap_or_default());
        fs::copy(file, &to).at("write", &to)?;
    }
    let dir = into.join("state");
    fs::create_dir_all(&dir).at("create", &dir)?;
    let path = into.join(TENSORS);
    let tensors = state(trainer).into_iter().map(|(n, t)| (n, Stored(t)));
    safetensors::serialize_to_file(tensors, None, &path).map_err(|e| match e {
        safetensors::SafeTensorError::IoError(error) => IoError { action: "write", path: path.clone(), error }.into(),
        other => bad(&path, other.to_string()),
    })?;
    let path = into.join(PROGRESS);
    let text = serde_json::to_string_pretty(progress).map_err(|e| bad(&path, e.to_string()))?;
    Ok(fs::write(&path, text).at("write", &path)?)
}

/// Puts a checkpoint's state into `trainer` (of the same model and settings) and returns its progress record.
pub fn load<P: DeserializeOwned>(trainer: &mut Trainer, path: &Path) -> Result<P, CheckpointError> {
    let file = path.join(PROGRESS);
    let text = fs::read_to_string(&file).at("read", &file)?;
    let progress = serde_json::from_str(&text).map_err(|e| bad(&file, format!("not a progress record: {e}")))?;
    let file = path.join(TENSORS);
    let map = hadal_ops::mmap::map_file(&file).at("open", &file)?;
    let stored = safetensors::SafeTensors::deserialize(&map).map_err(|e| bad(&file, e.to_string()))?;
    let mut left: HashMap<String, TensorView<'_>> = stored.tensors().into_iter().collect();
    let Trainer { model, optimizer, ema, cx, .. } = trainer;
    let mut result = Ok(());
    let mut fill = |name: String, into: &mut Tensor| {
        let source = left.remove(&name);
        if result.is_ok() {
            result = copy_in(&file, &name, source.as_ref(), into);
        }
    };
    model.visit_mut(&mut |p| {
        fill(key("weight", p), &mut p.value);
        if let Some((m, v)) = &mut optimizer.moments[p.slot] {
            fill(key("m", p), m);
            fill(key("v", p), v);
        }
        if let Some(ema) = ema.as_mut().and_then(|e| e.values[p.slot].as_mut()) {
            fill(key("ema", p), ema);
        }
        p.repack(cx);
    });
    result?;
    if let Some(name) = left.keys().min() {
        return Err(bad(&file, format!("has a tensor `{name}` that this run's settings do not have")));
    }
    Ok(progress)
}

fn copy_in(file: &Path, name: &str, source: Option<&TensorView<'_>>, into: &mut Tensor) -> Result<(), CheckpointError> {
    let Some(source) = source else {
        return Err(bad(file, format!("lacks the tensor `{name}`: it was written with other settings")));
    };
    let dtype = Stored(into).dtype();
    if source.dtype() != dtype || source.shape() != into.shape() {
        let (have, want) = (source.shape(), into.shape());
        let what = format!("`{name}` is {:?} {have:?}, this run needs {dtype:?} {want:?}", source.dtype());
        return Err(bad(file, what));
    }
    match into.dtype() {
        DType::F32 => bytemuck::cast_slice_mut(into.f32_mut()).copy_from_slice(source.data()),
        DType::Bf16 => bytemuck::cast_slice_mut(into.bf16_mut()).copy_from_slice(source.data()),
        DType::I32 => bytemuck::cast_slice_mut(into.i32_mut()).copy_from_slice(source.data()),
        DType::U8 => into.u8_mut().copy_from_slice(source.data()),
    }
    Ok(())
}
