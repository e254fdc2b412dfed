//! Reading a checkpoint: `config.json` and safetensors, in one file or in shards named by an index.
//!
//! Nothing in the files is trusted: headers are checked before a tensor is looked at, file names in the index must be
//! plain names, every refusal names file or tensor, and memory grows only with the headers' own size. Tensors are read in
//! pieces where they lie, and FP8 ones are de-quantised on the way.

use super::atomic::Context;
pub use super::decode::Element;
use super::decode::{Scales, decode, find_no_number, no_number};
use super::error::Error;
use super::fp8::{ScaleFormat, scale_name, scale_shape, scales_from_bytes, wrong_scale};
use super::header::{Dtype, SaveDtype, Slot};
use super::layout::{WeightFormat, is_router_bias};
use super::quantization::Quantization;
use super::shard::Shard;
use crate::config::{ConfigError, ModelConfig};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Elements read from a file at a time.
const AT_ONCE: usize = 1 << 18;

/// An open checkpoint. Tensors are read from the files when asked for, from any thread.
pub struct Checkpoint {
    dir: PathBuf,
    config: ModelConfig,
    quantization: Option<Quantization>,
    shards: Vec<Shard>,
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

    /// Opens a folder's weights under a configuration from elsewhere. How they are quantised is theirs to say, though.
    pub fn open_with(dir: impl AsRef<Path>, config: ModelConfig) -> Result<Self, Error> {
        let dir = dir.as_ref();
        let (quantization, tensors) = (quantization_of(dir)?, BTreeMap::new());
        let mut found =
            Self { dir: dir.into(), config, quantization, shards: Vec::new(), tensors, unindexed: Vec::new() };
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
        let (shard, slots) = Shard::open(&path)?;
        self.shards.push(shard);
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

    /// What `config.json` says of quantised weights, if anything.
    pub fn quantization(&self) -> Option<&Quantization> {
        self.quantization.as_ref()
    }

    /// The smallest of our formats that holds every tensor as it is stored: FP8 if there are such tensors, else BF16 if
    /// that is all there is beside router biases, else f32.
    pub fn format(&self) -> WeightFormat {
        let stored = |dtype: Dtype| self.tensors.values().any(|(_, slot)| slot.dtype == dtype);
        if stored(Dtype::F8E4M3) {
            let ue8m0 = self.quantization.as_ref().is_some_and(|q| q.ue8m0);
            return WeightFormat::Fp8(match () {
                () if stored(Dtype::F8E8M0) => ScaleFormat::Ue8m0Byte,
                () if ue8m0 => ScaleFormat::Ue8m0,
                () => ScaleFormat::F32,
            });
        }
        let half = |(name, (_, slot)): (&String, &(usize, Slot))| is_router_bias(name) || slot.dtype == Dtype::Bf16;
        if self.tensors.iter().all(half) { WeightFormat::Bf16 } else { WeightFormat::F32 }
    }

    /// What a tensor is stored as, if it can be read.
    pub(super) fn stored(&self, name: &str) -> Option<SaveDtype> {
        Some(match self.info(name)?.dtype {
            Dtype::F32 => SaveDtype::F32,
            Dtype::F16 => SaveDtype::F16,
            Dtype::Bf16 => SaveDtype::Bf16,
            Dtype::F8E8M0 => SaveDtype::F8E8M0,
            Dtype::F8E4M3 => SaveDtype::F8E4M3(match self.info(&scale_name(name))?.dtype {
                Dtype::F8E8M0 => ScaleFormat::Ue8m0Byte,
                _ => ScaleFormat::F32,
            }),
            Dtype::Other(_) => return None,
        })
    }

    fn slot(&self, name: &str) -> Result<(&Slot, &Shard), Error> {
        let missing = || Error::NoTensor { path: self.dir.clone(), name: name.into() };
        let (shard, slot) = self.tensors.get(name).ok_or_else(missing)?;
        Ok((slot, &self.shards[*shard]))
    }

    /// The scales of an FP8 tensor in rows of blocks, checked: there, of the right shape, positive and finite. Whether
    /// they are powers of two is not asked, whatever `scale_fmt` says: the weights that made the key known
    /// (DeepSeek-V3.1) do not keep to it.
    pub fn scales(&self, name: &str) -> Result<Vec<f32>, Error> {
        let (slot, _) = self.slot(name)?;
        let wrong = |reason: String| Error::Unusable { name: name.into(), reason };
        let Some(shape) = scale_shape(&slot.shape) else {
            return Err(wrong(format!("is stored as F8_E4M3 with shape {:?}; only matrices have scales", slot.shape)));
        };
        if self.quantization.is_none() {
            return Err(wrong("is stored as F8_E4M3, but config.json has no `quantization_config`".into()));
        }
        let scale = scale_name(name);
        let (found, shard) = self.slot(&scale)?;
        if found.shape != shape {
            let expected = format!("`{name}` of shape {:?} needs {shape:?}", slot.shape);
            return Err(Error::Size { name: scale, found: found.shape.clone(), expected });
        }
        let mut bytes = vec![0; found.bytes.len()];
        shard.read(found.bytes.start, &mut bytes)?;
        let scales: Vec<f32> = match &found.dtype {
            Dtype::F32 => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::F8E8M0 => scales_from_bytes(&bytes),
            other => {
                let reason = format!("is stored as {other}; scales are read from F32 and F8_E8M0");
                return Err(Error::Unusable { name: scale, reason });
            }
        };
        for (i, s) in scales.iter().enumerate() {
            if let Some(reason) = wrong_scale(*s) {
                let (row, col) = (i / shape[1], i % shape[1]);
                let reason = format!("is {s:?} at row {row}, column {col}: {reason}; get the checkpoint anew");
                return Err(Error::Unusable { name: scale, reason });
            }
        }
        Ok(scales)
    }

    /// Reads stored bytes from element `start` on, as they are; an element that is infinite or NaN is an error.
    pub(super) fn bytes(&self, name: &str, start: usize, out: &mut [u8]) -> Result<(), Error> {
        let (slot, shard) = self.slot(name)?;
        let size = slot.dtype.bytes().unwrap_or(1);
        shard.read(slot.bytes.start + start * size, out)?;
        find_no_number(&slot.dtype, out).map_err(|(i, value)| no_number(name, value, start + i, slot.cols()))
    }

    /// Reads all of a tensor and fails with the first element that is infinite or NaN.
    pub(super) fn check_values(
        &self,
        name: &str,
        room: &mut Vec<u8>,
        progress: &mut impl FnMut(usize),
    ) -> Result<(), Error> {
        let (slot, _) = self.slot(name)?;
        let size = slot.dtype.bytes().unwrap_or(1);
        for start in (0..slot.bytes.len()).step_by(AT_ONCE * size) {
            room.resize((AT_ONCE * size).min(slot.bytes.len() - start), 0);
            self.bytes(name, start / size, room)?;
            progress(room.len());
        }
        Ok(())
    }

    /// Reads a whole tensor into f32.
    pub fn read_f32(&self, name: &str, out: &mut [f32]) -> Result<(), Error> {
        self.read(name, out)
    }

    /// Reads a whole tensor. F32 and FP8 become bf16 by rounding to nearest, ties to even; all other conversions are
    /// exact (an FP8 weight is the f32 product of code and scale).
    pub fn read<T: Element>(&self, name: &str, out: &mut [T]) -> Result<(), Error> {
        let elements: usize = self.slot(name)?.0.shape.iter().product();
        if out.len() != elements {
            return Err(size_error(name, self.slot(name)?.0, format!("{} elements were asked for", out.len())));
        }
        self.read_from(name, 0, out)
    }

    /// Reads some rows of a tensor, all dimensions but the first being the columns.
    pub fn read_rows<T: Element>(&self, name: &str, rows: Range<usize>, out: &mut [T]) -> Result<(), Error> {
        let (slot, _) = self.slot(name)?;
        let (height, elements) = (slot.shape.first().copied().unwrap_or(1), slot.shape.iter().product::<usize>());
        let width = elements.checked_div(height).unwrap_or(0);
        if rows.start > rows.end || rows.end > height || out.len() != rows.len() * width {
            return Err(size_error(name, slot, format!("rows {rows:?} into {} elements were asked for", out.len())));
        }
        self.read_from(name, rows.start * width, out)
    }

    /// Reads elements from `start` on, in the order they are stored, a piece at a time.
    pub fn read_from<T: Element>(&self, name: &str, start: usize, out: &mut [T]) -> Result<(), Error> {
        let (slot, shard) = self.slot(name)?;
        let Some(size) = slot.dtype.bytes() else {
            return Err(Error::Unsupported { name: name.into(), dtype: slot.dtype.to_string() });
        };
        if start.checked_add(out.len()).is_none_or(|end| end > slot.bytes.len() / size) {
            return Err(size_error(name, slot, format!("{} elements from {start} on were asked for", out.len())));
        }
        let scales = match slot.dtype {
            Dtype::F8E4M3 => Some(Scales { cols: slot.cols(), values: self.scales(name)? }),
            _ => None,
        };
        let mut bytes = vec![0; size * out.len().min(AT_ONCE)];
        for (i, piece) in out.chunks_mut(AT_ONCE).enumerate() {
            let (at, bytes) = (start + i * AT_ONCE, &mut bytes[..size * piece.len()]);
            shard.read(slot.bytes.start + at * size, bytes)?;
            decode(name, &slot.dtype, bytes, at, scales.as_ref(), piece)?;
        }
        Ok(())
    }

    /// Whether two tensors have one shape and the same values; bit for bit if they are stored alike.
    pub(super) fn same(&self, a: &str, b: &str) -> Result<bool, Error> {
        if self.info(b).is_none() {
            return Ok(false);
        }
        let ((slot_a, shard_a), (slot_b, shard_b)) = (self.slot(a)?, self.slot(b)?);
        if slot_a.shape != slot_b.shape {
            return Ok(false);
        }
        if slot_a.dtype == slot_b.dtype && slot_a.dtype != Dtype::F8E4M3 {
            let size = slot_a.bytes.len();
            let (mut x, mut y) = (vec![0; AT_ONCE.min(size)], vec![0; AT_ONCE.min(size)]);
            for start in (0..size).step_by(AT_ONCE) {
                let n = AT_ONCE.min(size - start);
                shard_a.read(slot_a.bytes.start + start, &mut x[..n])?;
                shard_b.read(slot_b.bytes.start + start, &mut y[..n])?;
                if x[..n] != y[..n] {
                    return Ok(false);
                }
            }
            return Ok(true);
        }
        let elements: usize = slot_a.shape.iter().product();
        let (mut x, mut y) = (vec![0f32; AT_ONCE.min(elements)], vec![0f32; AT_ONCE.min(elements)]);
        for start in (0..elements).step_by(AT_ONCE) {
            let n = AT_ONCE.min(elements - start);
            self.read_from(a, start, &mut x[..n])?;
            self.read_from(b, start, &mut y[..n])?;
            if x[..n] != y[..n] {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The `quantization_config` of a folder's `config.json`, if there is one.
fn quantization_of(dir: &Path) -> Result<Option<Quantization>, Error> {
    let path = dir.join("config.json");
    let Ok(text) = std::fs::read(&path) else { return Ok(None) };
    let Ok(config) = serde_json::from_slice::<Value>(&text) else { return Ok(None) };
    let Some(quantization) = config.get("quantization_config").filter(|q| !q.is_null()) else { return Ok(None) };
    Ok(Some(Quantization::parse(quantization).map_err(|e| ConfigError::InFile { path, source: Box::new(e) })?))
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
