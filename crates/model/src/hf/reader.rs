//! Reading a checkpoint: `config.json` and safetensors, in one file or in shards named by an index, mapped into memory.
//!
//! Nothing in the files is trusted: headers are checked before a tensor is looked at, file names in the index must be
//! plain names, every refusal names file or tensor, and memory grows only with the headers' own size.

use super::atomic::Context;
use super::error::Error;
use super::header::{self, Dtype, Slot};
use crate::config::ModelConfig;
use hadal_ops::{bf16, mmap};
use half::f16;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// An open checkpoint. Tensors are read from the mapped files when asked for, from any thread.
pub struct Checkpoint {
    dir: PathBuf,
    config: ModelConfig,
    shards: Vec<mmap::Mapped>,
    tensors: BTreeMap<String, (usize, Slot)>,
    unindexed: Vec<String>,
}

/// What is known of a tensor without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info<'a> {
    /// Format of the elements.
    pub dtype: &'a Dtype,
    /// Extents, outermost first.
    pub shape: &'a [usize],
}

impl Info<'_> {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Opens a folder with `config.json` and weights.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, Error> {
        let dir = dir.as_ref();
        let config = ModelConfig::from_file(dir.join("config.json"))?;
        Self::open_with(dir, config)
    }

    /// Opens a folder's weights under a configuration from elsewhere.
    pub fn open_with(dir: impl AsRef<Path>, config: ModelConfig) -> Result<Self, Error> {
        let dir = dir.as_ref();
        let mut found =
            Self { dir: dir.into(), config, shards: Vec::new(), tensors: BTreeMap::new(), unindexed: Vec::new() };
        if dir.join(SINGLE).exists() {
            for (name, slot) in found.add_shard(SINGLE)? {
                found.tensors.insert(name, (0, slot));
            }
        } else if dir.join(INDEX).exists() {
            found.open_shards()?;
        } else {
            return Err(Error::NoWeights { path: dir.into(), reason: what_else(dir) });
        }
        Ok(found)
    }

    fn open_shards(&mut self) -> Result<(), Error> {
        let path = self.dir.join(INDEX);
        let malformed = |reason: String| Error::Malformed { path: path.clone(), reason };
        let text = std::fs::read(&path).at("read", &path)?;
        let Index { weight_map } =
            serde_json::from_slice(&text).map_err(|e| malformed(format!("is no index of safetensors: {e}")))?;
        let mut by_file: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (tensor, file) in &weight_map {
            let plain = Path::new(file).file_name().is_some_and(|n| n == file.as_str());
            if !plain {
                return Err(malformed(format!("tensor `{tensor}`: `{file}` is no name of a file in the same folder")));
            }
            by_file.entry(file).or_default().push(tensor);
        }
        for (shard, (file, tensors)) in by_file.into_iter().enumerate() {
            if !self.dir.join(file).exists() {
                let reason = format!("names the file `{file}`, which is not there; was the checkpoint copied whole?");
                return Err(malformed(reason));
            }
            let mut slots: HashMap<String, Slot> = self.add_shard(file)?.into_iter().collect();
            for tensor in tensors {
                let Some(slot) = slots.remove(tensor) else {
                    return Err(malformed(format!("says that tensor `{tensor}` is in `{file}`, where it is not")));
                };
                self.tensors.insert(tensor.into(), (shard, slot));
            }
            self.unindexed.extend(slots.into_keys().filter(|name| !weight_map.contains_key(name)));
        }
        self.unindexed.sort();
        Ok(())
    }

    fn add_shard(&mut self, file: &str) -> Result<Vec<(String, Slot)>, Error> {
        let path = self.dir.join(file);
        let map = mmap::map_file(&path).at("read", &path)?;
        let slots = header::parse(&map).map_err(|reason| Error::Malformed { path, reason })?;
        self.shards.push(map);
        Ok(slots)
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
    /// What `config.json` says.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }
    /// All tensors, by name.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }
    /// Tensors that lie in a shard but not in the index.
    pub fn unindexed(&self) -> &[String] {
        &self.unindexed
    }
    /// Format and shape of a tensor, if it is there.
    pub fn info(&self, name: &str) -> Option<Info<'_>> {
        let (_, slot) = self.tensors.get(name)?;
        Some(Info { dtype: &slot.dtype, shape: &slot.shape })
    }

    fn slot(&self, name: &str) -> Result<(&Slot, &[u8]), Error> {
        let missing = || Error::NoTensor { path: self.dir.clone(), name: name.into() };
        let (shard, slot) = self.tensors.get(name).ok_or_else(missing)?;
        Ok((slot, &self.shards[*shard][slot.bytes.clone()]))
    }

    /// Reads a whole tensor into f32.
    pub fn read_f32(&self, name: &str, out: &mut [f32]) -> Result<(), Error> {
        self.read(name, out)
    }

    /// Reads a whole tensor. F32 becomes bf16 by rounding to nearest, ties to even; all other conversions are exact.
    pub fn read<T: Element>(&self, name: &str, out: &mut [T]) -> Result<(), Error> {
        let (slot, bytes) = self.slot(name)?;
        let elements: usize = slot.shape.iter().product();
        if out.len() != elements {
            return Err(size_error(name, slot, format!("{} elements were asked for", out.len())));
        }
        decode(name, slot, bytes, out)
    }

    /// Reads some rows of a tensor, all dimensions but the first being the columns.
    pub fn read_rows<T: Element>(&self, name: &str, rows: Range<usize>, out: &mut [T]) -> Result<(), Error> {
        let (slot, bytes) = self.slot(name)?;
        let (height, elements) = (slot.shape.first().copied().unwrap_or(1), slot.shape.iter().product::<usize>());
        let width = elements.checked_div(height).unwrap_or(0);
        if rows.start > rows.end || rows.end > height || out.len() != rows.len() * width {
            return Err(size_error(name, slot, format!("rows {rows:?} into {} elements were asked for", out.len())));
        }
        let row_bytes = bytes.len().checked_div(height).unwrap_or(0);
        decode(name, slot, &bytes[rows.start * row_bytes..rows.end * row_bytes], out)
    }

    /// Whether two tensors have one shape and the same values.
    pub(super) fn same(&self, a: &str, b: &str) -> Result<bool, Error> {
        if self.info(b).is_none() {
            return Ok(false);
        }
        let ((slot_a, bytes_a), (slot_b, bytes_b)) = (self.slot(a)?, self.slot(b)?);
        if slot_a.shape != slot_b.shape {
            return Ok(false);
        }
        if slot_a.dtype == slot_b.dtype {
            return Ok(bytes_a == bytes_b);
        }
        const AT_ONCE: usize = 1 << 16;
        let elements: usize = slot_a.shape.iter().product();
        let (mut x, mut y) = (vec![0f32; AT_ONCE.min(elements)], vec![0f32; AT_ONCE.min(elements)]);
        for start in (0..elements).step_by(AT_ONCE) {
            let n = AT_ONCE.min(elements - start);
            for (name, slot, bytes, out) in [(a, slot_a, bytes_a, &mut x), (b, slot_b, bytes_b, &mut y)] {
                let size = bytes.len() / elements;
                decode(name, slot, &bytes[start * size..(start + n) * size], &mut out[..n])?;
            }
            if x[..n] != y[..n] {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn size_error(name: &str, slot: &Slot, expected: String) -> Error {
    Error::Size { name: name.into(), found: slot.shape.clone(), expected }
}

/// Why a folder has no weights, as far as one can see from outside.
fn what_else(dir: &Path) -> String {
    let names: Vec<String> = std::fs::read_dir(dir)
        .map(|entries| entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    let has = |end: &str| names.iter().any(|n| n.ends_with(end));
    let hint = match () {
        () if has(".safetensors") => "; there are .safetensors files, but none of these names",
        () if has(".bin") || has(".pt") || has(".pth") => "; convert PyTorch's files to safetensors first",
        () if has(".gguf") => "; GGUF files are not read",
        () => "",
    };
    format!("there is neither {SINGLE} nor {INDEX}{hint}")
}

/// Element types that tensors are read into.
pub trait Element: Copy {
    /// From single precision.
    fn from_f32(value: f32) -> Self;
    /// From bfloat16, exact.
    fn from_bf16(value: bf16) -> Self;
}

impl Element for f32 {
    fn from_f32(value: f32) -> Self {
        value
    }
    fn from_bf16(value: bf16) -> Self {
        value.to_f32()
    }
}

impl Element for bf16 {
    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }
    fn from_bf16(value: bf16) -> Self {
        value
    }
}

fn decode<T: Element>(name: &str, slot: &Slot, bytes: &[u8], out: &mut [T]) -> Result<(), Error> {
    match &slot.dtype {
        Dtype::F32 => fill(bytes, out, |b| T::from_f32(f32::from_le_bytes(b))),
        Dtype::Bf16 => fill(bytes, out, |b| T::from_bf16(bf16::from_le_bytes(b))),
        Dtype::F16 => fill(bytes, out, |b| T::from_f32(f16::from_le_bytes(b).to_f32())),
        other => return Err(Error::Unsupported { name: name.into(), dtype: other.to_string() }),
    }
    Ok(())
}

fn fill<const N: usize, T>(bytes: &[u8], out: &mut [T], convert: impl Fn([u8; N]) -> T) {
    let (elements, _) = bytes.as_chunks::<N>();
    for (value, b) in out.iter_mut().zip(elements) {
        *value = convert(*b);
    }
}
