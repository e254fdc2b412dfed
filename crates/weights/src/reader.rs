//! Reads a checkpoint: `config.json` and safetensors, in one file or in shards named by an index.
//!
//! The files are not trusted. Headers are checked before a tensor is read. File names in the index must be plain names.
//! Every error names the file or the tensor. Memory grows only with the size of the headers. Tensors are read in pieces
//! from where they lie, and FP8 tensors are dequantised while they are read.

use crate::config::{ConfigError, MAX_CONFIG, ModelConfig};
pub use crate::decode::Element;
use crate::decode::{Scales, decode, find_no_number, no_number};
use crate::error::Error;
use crate::folder;
use crate::fp8::{SCALE_TYPES, ScaleFormat, scale_name, scale_shape, scaled_by, scales_from_bytes, wrong_scale};
use crate::header::{Dtype, SaveDtype, Slot};
use crate::index::Index;
use crate::list::{WeightFormat, is_router_bias};
use crate::mtp::Mtp;
use crate::packed::PACKED;
use crate::quantization::Quantization;
use crate::shard::Shards;
use hadal_base::IoContext;
use hadal_base::{read_small, short};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Number of elements that are read at a time.
const AT_ONCE: usize = 1 << 18;

/// An open checkpoint. Tensors are read from the files when they are needed, from any thread.
pub struct Checkpoint {
    dir: PathBuf,
    config: ModelConfig,
    quantization: Option<Quantization>,
    shards: Shards,
    tensors: BTreeMap<String, (usize, Slot)>,
    unindexed: Vec<String>,
    repeated: Vec<String>,
    notice: Option<String>,
}

/// What is known about a tensor without reading it.
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

impl Checkpoint {
    /// Opens a folder with `config.json` and weights. If no MTP module is stored, the modules are removed from the
    /// configuration: many programs copy the whole configuration but only the main model. [`Checkpoint::notice`] says
    /// so.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, Error> {
        let dir = dir.as_ref();
        Self::open_alone(dir).map_err(|error| folder::beside_older(dir, error))
    }

    /// Like [`Checkpoint::open`], without looking for other checkpoints beside the folder.
    pub(crate) fn open_alone(dir: &Path) -> Result<Self, Error> {
        let mut found = Self::open_with(dir, ModelConfig::from_file(dir.join("config.json"))?)?;
        let Mtp { wanted, stored, .. } = found.mtp();
        if wanted > 0 && stored.is_empty() {
            found.config.num_nextn_predict_layers = 0;
            found.notice = Some(format!(
                "{}: `num_nextn_predict_layers` is {wanted}, but no MTP module is stored: this is a model without MTP",
                dir.join("config.json").display()
            ));
        }
        Ok(found)
    }

    /// Opens a folder's weights with a configuration from elsewhere. But the folder's own configuration decides how
    /// they are quantised.
    pub fn open_with(dir: impl AsRef<Path>, config: ModelConfig) -> Result<Self, Error> {
        let dir = dir.as_ref();
        let mut found = Self {
            dir: dir.into(),
            config,
            quantization: quantization_of(dir)?,
            shards: Shards::default(),
            tensors: BTreeMap::new(),
            unindexed: Vec::new(),
            repeated: Vec::new(),
            notice: None,
        };
        if dir.join(SINGLE).exists() {
            let slots = found.shards.add(&dir.join(SINGLE))?;
            found.tensors.extend(slots.into_iter().map(|(name, slot)| (name, (0, slot))));
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
        let Index(files) = Index::read(&path).at("read", &path)?.map_err(malformed)?;
        let mut beside = Vec::new();
        for (shard, (file, mut tensors)) in files.into_iter().enumerate() {
            let shown = short(&file);
            if !self.dir.join(&file).exists() {
                let reason =
                    format!("names the file `{shown}`, which does not exist; is the copy of the checkpoint complete?");
                return Err(malformed(reason));
            }
            let mut slots: HashMap<String, Slot> = self.shards.add(&self.dir.join(&file))?.into_iter().collect();
            tensors.sort_unstable();
            for (i, tensor) in tensors.iter().enumerate() {
                if i > 0 && tensors[i - 1] == *tensor {
                    self.repeated.push(tensor.clone());
                    continue;
                }
                let Some(slot) = slots.remove(tensor) else {
                    let reason = format!("says that tensor `{}` is in `{shown}`, but it is not", short(tensor));
                    return Err(malformed(reason));
                };
                if self.tensors.insert(tensor.clone(), (shard, slot)).is_some() {
                    self.repeated.push(tensor.clone());
                }
            }
            beside.extend(slots.into_keys());
        }
        let (repeated, unindexed): (Vec<_>, Vec<_>) = beside.into_iter().partition(|n| self.tensors.contains_key(n));
        self.repeated.extend(repeated);
        self.unindexed = unindexed;
        self.repeated.sort();
        self.unindexed.sort();
        Ok(())
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
    /// The configuration from `config.json`.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }
    /// A message for the user of this checkpoint, if there is one.
    pub fn notice(&self) -> Option<&str> {
        self.notice.as_deref()
    }
    /// The MTP modules that the configuration wants, and those that are stored at least in part.
    pub(crate) fn mtp(&self) -> Mtp {
        Mtp::new(&self.config, self.names().chain(self.unindexed.iter().map(String::as_str)))
    }
    /// All tensors, by name.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }
    /// Tensors in a shard that the index does not have.
    pub(crate) fn unindexed(&self) -> &[String] {
        &self.unindexed
    }
    /// Tensors in two shards, or twice in the index.
    pub(crate) fn repeated(&self) -> &[String] {
        &self.repeated
    }
    /// Total bytes of all tensors.
    pub fn size(&self) -> u64 {
        self.tensors.values().map(|(_, slot)| slot.bytes.len() as u64).sum()
    }
    /// Type and shape of a tensor, if it exists.
    pub fn info(&self, name: &str) -> Option<Info<'_>> {
        let (_, slot) = self.tensors.get(name)?;
        Some(Info { dtype: &slot.dtype, shape: &slot.shape })
    }

    /// What `config.json` says about quantised weights, if anything.
    pub fn quantization(&self) -> Option<&Quantization> {
        self.quantization.as_ref()
    }

    /// The smallest of our formats that can hold every tensor as it is stored. It is FP8 if there are FP8 tensors, BF16
    /// if everything except router biases is BF16, and f32 otherwise.
    pub fn format(&self) -> WeightFormat {
        let stored = |dtype: Dtype| self.tensors.values().any(|(_, slot)| slot.dtype == dtype);
        if stored(Dtype::F8E4M3) {
            let ue8m0 = self.quantization.as_ref().is_some_and(|q| q.ue8m0);
            return WeightFormat::Fp8(match () {
                () if stored(Dtype::F8E8M0) => ScaleFormat::Ue8m0Byte,
                () if ue8m0 => ScaleFormat::Ue8m0,
                () if self.scales_are(&Dtype::Bf16) => ScaleFormat::Bf16,
                () => ScaleFormat::F32,
            });
        }
        let half = |(name, (_, slot)): (&String, &(usize, Slot))| is_router_bias(name) || slot.dtype == Dtype::Bf16;
        if self.tensors.iter().all(half) { WeightFormat::Bf16 } else { WeightFormat::F32 }
    }

    /// Whether all scales are stored as this type.
    fn scales_are(&self, dtype: &Dtype) -> bool {
        let scales = |(name, _): &(&String, &(usize, Slot))| scaled_by(name).is_some();
        self.tensors.iter().filter(scales).all(|(_, (_, slot))| slot.dtype == *dtype)
    }

    /// The stored type of a tensor, if it can be read.
    pub(crate) fn stored(&self, name: &str) -> Option<SaveDtype> {
        Some(match self.info(name)?.dtype {
            Dtype::F32 => SaveDtype::F32,
            Dtype::F16 => SaveDtype::F16,
            Dtype::Bf16 => SaveDtype::Bf16,
            Dtype::F8E8M0 => SaveDtype::F8E8M0,
            Dtype::F8E4M3 => SaveDtype::F8E4M3(match self.info(&scale_name(name))?.dtype {
                Dtype::F8E8M0 => ScaleFormat::Ue8m0Byte,
                Dtype::Bf16 => ScaleFormat::Bf16,
                _ => ScaleFormat::F32,
            }),
            Dtype::Other(_) => return None,
        })
    }

    /// The position of a tensor in its file, and the number of the file.
    fn slot(&self, name: &str) -> Result<(&Slot, usize), Error> {
        let missing = || Error::NoTensor { path: self.dir.clone(), name: name.into() };
        let (shard, slot) = self.tensors.get(name).ok_or_else(missing)?;
        Ok((slot, *shard))
    }

    /// The scales of an FP8 tensor in rows of blocks. They are checked: they must exist, have the right shape, and be
    /// positive and finite. They need not be powers of two, whatever `scale_fmt` says. DeepSeek-V3.1, which made the
    /// key known, does not follow it.
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
        self.shards.read(shard, found.bytes.start, &mut bytes)?;
        let Some(scales) = scales_from_bytes(&found.dtype, &bytes) else {
            let reason = format!("is stored as {}; {SCALE_TYPES}", found.dtype);
            return Err(Error::Unusable { name: scale, reason });
        };
        for (i, s) in scales.iter().enumerate() {
            if let Some(reason) = wrong_scale(*s) {
                let (row, col) = (i / shape[1], i % shape[1]);
                let reason = format!("is {s:?} at row {row}, column {col}: {reason}; get the checkpoint again");
                return Err(Error::Unusable { name: scale, reason });
            }
        }
        Ok(scales)
    }

    /// Reads stored bytes unchanged, starting at element `start`. An element that is infinite or NaN is an error.
    pub fn stored_bytes(&self, name: &str, start: usize, out: &mut [u8]) -> Result<(), Error> {
        let (slot, shard) = self.slot(name)?;
        let size = slot.dtype.bytes().unwrap_or(1);
        self.shards.read(shard, slot.bytes.start + start * size, out)?;
        find_no_number(&slot.dtype, out).map_err(|(i, value)| no_number(name, value, start + i, slot.cols()))
    }

    /// Reads a whole tensor. The error is the first element that is infinite or NaN.
    pub(crate) fn check_values(
        &self,
        name: &str,
        room: &mut Vec<u8>,
        progress: &mut impl FnMut(usize),
    ) -> Result<(), Error> {
        let (slot, _) = self.slot(name)?;
        let size = slot.dtype.bytes().unwrap_or(1);
        for start in (0..slot.bytes.len()).step_by(AT_ONCE * size) {
            room.resize((AT_ONCE * size).min(slot.bytes.len() - start), 0);
            self.stored_bytes(name, start / size, room)?;
            progress(room.len());
        }
        Ok(())
    }

    /// Reads a whole tensor into f32.
    pub fn read_f32(&self, name: &str, out: &mut [f32]) -> Result<(), Error> {
        self.read(name, out)
    }

    /// Reads a whole tensor. F32 and FP8 become bf16 by rounding to nearest with ties to even. All other conversions
    /// are exact. An FP8 weight is the f32 product of code and scale.
    pub fn read<T: Element>(&self, name: &str, out: &mut [T]) -> Result<(), Error> {
        let elements: usize = self.slot(name)?.0.shape.iter().product();
        if out.len() != elements {
            return Err(size_error(name, self.slot(name)?.0, format!("{} elements were asked for", out.len())));
        }
        self.read_from(name, 0, out)
    }

    /// Reads elements in stored order, starting at `start`, one piece at a time.
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
            self.shards.read(shard, slot.bytes.start + at * size, bytes)?;
            decode(name, &slot.dtype, bytes, at, scales.as_ref(), piece)?;
        }
        Ok(())
    }

    /// Whether two tensors have the same shape and values. If they are stored in the same type, they are compared bit
    /// for bit.
    pub(crate) fn same(&self, a: &str, b: &str) -> Result<bool, Error> {
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
                self.shards.read(shard_a, slot_a.bytes.start + start, &mut x[..n])?;
                self.shards.read(shard_b, slot_b.bytes.start + start, &mut y[..n])?;
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
    let Ok(text) = read_small(&path, MAX_CONFIG) else { return Ok(None) };
    let Ok(config) = serde_json::from_slice::<Value>(&text) else { return Ok(None) };
    let Some(quantization) = config.get("quantization_config").filter(|q| !q.is_null()) else { return Ok(None) };
    Ok(Some(Quantization::parse(quantization).map_err(|e| ConfigError::InFile { path, error: Box::new(e) })?))
}

fn size_error(name: &str, slot: &Slot, expected: String) -> Error {
    Error::Size { name: name.into(), found: slot.shape.clone(), expected }
}

/// Why a folder has no weights, as far as its file names show.
fn what_else(dir: &Path) -> String {
    let names: Vec<String> = std::fs::read_dir(dir)
        .map(|entries| entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    let has = |end: &str| names.iter().any(|n| n.ends_with(end));
    let hint = match () {
        () if dir.join(PACKED).is_file() => {
            return format!(
                "its {PACKED} was packed by `hadal quantize`, to be run only; to convert it or to train, use the checkpoint that it was \
                 made from"
            );
        }
        () if has(".safetensors") => "; there are .safetensors files, but none with such a name",
        () if has(".bin") || has(".pt") || has(".pth") => "; convert PyTorch's files to safetensors first",
        () if has(".gguf") => "; GGUF files are not read",
        () => "",
    };
    format!("there is neither {SINGLE} nor {INDEX}{hint}")
}
