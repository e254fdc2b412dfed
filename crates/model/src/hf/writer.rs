//! Writing a checkpoint: shards, index and `config.json`, streamed and whole or not at all.
//!
//! Names, shapes and types are known before the data, so each header is written first and the data follows in pieces of
//! a few megabytes; a model is never in memory twice. Bytes are those of the format's own writer with PyTorch's metadata.

use super::atomic::{self, Context, IoError, StagedDir};
use super::error::Error;
use super::header;
pub use super::header::{SaveDtype, SaveTensor};
use crate::config::ModelConfig;
use hadal_ops::bf16;
use serde_json::json;
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Bytes of a shard's data unless one tensor alone is larger; transformers' long-standing limit.
pub const SHARD_BYTES: usize = 5_000_000_000;

/// Elements asked for at a time.
const PIECE: usize = 1 << 20;

/// Gives the elements of a tensor from `start` on, in f32. Called with ascending `start` for each tensor, and tensor
/// by tensor in the order of the files.
pub trait Fill: FnMut(&SaveTensor, usize, &mut [f32]) -> Result<(), Error> {}
impl<F: FnMut(&SaveTensor, usize, &mut [f32]) -> Result<(), Error>> Fill for F {}

/// How to save.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SaveOptions {
    /// See [`SHARD_BYTES`].
    pub shard_bytes: usize,
    /// Take the place of a folder of the same name instead of refusing.
    pub replace: bool,
}

impl Default for SaveOptions {
    fn default() -> Self {
        Self { shard_bytes: SHARD_BYTES, replace: false }
    }
}

/// Writes a checkpoint folder. On any error the name `dir` is left as it was. `beside` adds further files (tokenizer)
/// to the folder under construction, whose path it gets.
pub fn save(
    dir: &Path,
    config: &ModelConfig,
    tensors: &[SaveTensor],
    options: &SaveOptions,
    beside: impl FnOnce(&Path) -> Result<(), Error>,
    fill: impl Fill,
) -> Result<(), Error> {
    // Found out now rather than after hours of writing; `commit` refuses as well.
    if !options.replace && std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        let source = std::io::ErrorKind::AlreadyExists.into();
        return Err(IoError { action: "write to the non-empty folder", path: dir.into(), source }.into());
    }
    let staged = StagedDir::new(dir)?;
    write_into(staged.path(), config, tensors, options.shard_bytes, fill)?;
    beside(staged.path())?;
    let committed = if options.replace { staged.commit_replacing() } else { staged.commit() };
    Ok(committed?)
}

/// Writes `config.json` and weights into a folder that is there, in place: for folders that someone else makes appear.
pub fn write_into(
    dir: &Path,
    config: &ModelConfig,
    tensors: &[SaveTensor],
    shard_bytes: usize,
    mut fill: impl Fill,
) -> Result<(), Error> {
    let mut names = HashSet::with_capacity(tensors.len());
    if let Some(twice) = tensors.iter().find(|t| !names.insert(t.name.as_str())) {
        return Err(Error::Duplicate(twice.name.clone()));
    }
    let mut shards = split(tensors, shard_bytes);
    let count = shards.len();
    let file_name = |i: usize| match count {
        1 => "model.safetensors".to_string(),
        _ => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
    };
    for (i, shard) in shards.iter_mut().enumerate() {
        write_shard(&dir.join(file_name(i)), shard, &mut fill)?;
    }
    if count > 1 {
        let weight_map: BTreeMap<&str, String> = shards
            .iter()
            .enumerate()
            .flat_map(|(i, s)| s.iter().map(move |t| (t.name.as_str(), i)))
            .map(|(name, i)| (name, file_name(i)))
            .collect();
        let total_size: usize = tensors.iter().map(SaveTensor::bytes).sum();
        let index = json!({"metadata": {"total_size": total_size}, "weight_map": weight_map});
        atomic::write_file(&dir.join("model.safetensors.index.json"), format!("{index:#}\n").as_bytes())?;
    }
    // What is written is neither quantised nor in the format the weights came in.
    let half = tensors.iter().any(|t| t.dtype == SaveDtype::Bf16);
    let dtype = if half { "bfloat16" } else { "float32" };
    let config = ModelConfig { dtype: Some(dtype.into()), quantization_config: None, ..config.clone() };
    atomic::write_file(&dir.join("config.json"), config.to_json().as_bytes())?;
    Ok(())
}

/// Fills shard after shard in the given order; a shard is closed by the first tensor that would overflow it.
fn split(tensors: &[SaveTensor], shard_bytes: usize) -> Vec<Vec<&SaveTensor>> {
    let mut shards = vec![Vec::new()];
    let mut used = 0;
    for tensor in tensors {
        if used > 0 && used + tensor.bytes() > shard_bytes {
            shards.push(Vec::new());
            used = 0;
        }
        used += tensor.bytes();
        shards.last_mut().expect("there is always one").push(tensor);
    }
    shards
}

fn write_shard(path: &Path, tensors: &mut [&SaveTensor], fill: &mut impl Fill) -> Result<(), Error> {
    let header = header::render(tensors);
    let file = File::create_new(path).at("create", path)?;
    let mut out = BufWriter::new(file);
    let failed = |e| Error::from(IoError { action: "write", path: path.into(), source: e });
    out.write_all(&header).map_err(failed)?;
    let mut values = vec![0f32; tensors.iter().map(|t| t.elements().min(PIECE)).max().unwrap_or(0)];
    let mut bytes = Vec::with_capacity(values.len() * 4);
    for tensor in tensors {
        let elements = tensor.elements();
        for start in (0..elements).step_by(PIECE) {
            let piece = &mut values[..PIECE.min(elements - start)];
            fill(tensor, start, piece)?;
            bytes.resize(piece.len() * tensor.dtype.size(), 0);
            match tensor.dtype {
                SaveDtype::F32 => encode(piece, &mut bytes, f32::to_le_bytes),
                SaveDtype::Bf16 => encode(piece, &mut bytes, |v| bf16::from_f32(v).to_le_bytes()),
            }
            out.write_all(&bytes).map_err(failed)?;
        }
    }
    out.into_inner().map_err(|e| failed(e.into_error()))?.sync_all().at("sync", path)?;
    Ok(())
}

fn encode<const N: usize>(values: &[f32], bytes: &mut [u8], convert: impl Fn(f32) -> [u8; N]) {
    for (b, v) in bytes.as_chunks_mut::<N>().0.iter_mut().zip(values) {
        *b = convert(*v);
    }
}
