//! Weights as a model runs them, in a file that is mapped into memory: nothing is converted or copied at the start, and
//! several processes share the pages.
//!
//! The folder is one of a checkpoint, with [`PACKED`] in place of the weights. That is a safetensors file. Each of its
//! tensors is an array of a parameter, byte for byte as products read it: `NAME.FORM.ARRAY`, where NAME is the
//! parameter's first tensor in a checkpoint. All are of type U8. Their lengths are multiples of 64, so each begins at a
//! multiple of 64. The layout does not depend on the processor. The metadata has
//!
//! | key | value |
//! | --- | --- |
//! | `hadal_packed` | the number of the layout of the arrays, [`LAYOUT`] |
//! | `compute` | the compute format for which panels were packed, `bf16` or `f32` |
//! | `checksums` | a checksum of every array in the order of the file, 16 digits each |
//!
//! The file is not trusted. When it is opened, its header is checked whole, and every array must have its exact length.
//! Any bytes are valid elements. Damage inside of arrays is found by [`PackedFile::verify`].

use crate::config::ModelConfig;
use crate::error::Error;
use crate::file::TensorFile;
use crate::header::{self, Dtype};
use hadal_base::{IoContext, checksum};
use hadal_ops::{DType, LAYOUT, Mapping, Tensor};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The name of the file.
pub(crate) const PACKED: &str = "packed.safetensors";
/// Arrays begin at multiples of this many bytes.
const ALIGN: usize = 64;
/// Bytes that are written at a time.
const PIECE: usize = 8 << 20;
/// The number of the layout in the metadata.
const NUMBER: &str = "hadal_packed";
/// The compute format in the metadata.
const COMPUTE: &str = "compute";
/// The checksums in the metadata.
const SUMS: &str = "checksums";
/// What to do about a file that cannot be used.
const AGAIN: &str = "run `hadal quantize` again with the checkpoint";

/// An open file of packed weights, with its configuration.
pub struct PackedFile {
    file: TensorFile,
    map: Arc<Mapping>,
    config: ModelConfig,
    compute: DType,
    /// Names and checksums in the order of the file.
    arrays: Vec<(String, u64)>,
}

impl PackedFile {
    /// Whether a folder holds packed weights.
    pub fn is_in(dir: &Path) -> bool {
        dir.join(PACKED).is_file()
    }

    /// Opens the file in a folder. Nothing but its header and `config.json` is read.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let config = ModelConfig::from_file(dir.join("config.json"))?;
        let file = TensorFile::open(&dir.join(PACKED))?;
        let malformed = |reason: String| Error::Malformed { path: file.path().into(), reason };
        let metadata = |key: &str| file.metadata().get(key).map(String::as_str);
        match metadata(NUMBER) {
            Some(number) if number == LAYOUT.to_string() => {}
            Some(number) => {
                let number = hadal_base::short(number);
                let reason =
                    format!("has layout {number}, but this version of the program reads layout {LAYOUT}: {AGAIN}");
                return Err(malformed(reason));
            }
            None => return Err(malformed(format!("was not written by `hadal quantize`: {AGAIN}"))),
        }
        let compute = [DType::Bf16, DType::F32].into_iter().find(|dtype| metadata(COMPUTE) == Some(dtype.name()));
        let damaged = |what: &str| malformed(format!("has a damaged header ({what}): {AGAIN}"));
        let compute = compute.ok_or_else(|| damaged(COMPUTE))?;
        let mut slots: Vec<_> = file.slots().collect();
        slots.sort_unstable_by_key(|(name, slot)| (slot.bytes.start, slot.bytes.end, *name));
        let aligned = |slot: &header::Slot| {
            let bytes = &slot.bytes;
            slot.dtype == Dtype::Other("U8".into())
                && bytes.start.is_multiple_of(ALIGN)
                && bytes.len().is_multiple_of(ALIGN)
        };
        if let Some((name, _)) = slots.iter().find(|(_, slot)| !aligned(slot)) {
            return Err(damaged(name));
        }
        let sums = metadata(SUMS).unwrap_or_default().as_bytes();
        let sum = |text: &[u8]| u64::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok();
        let (sums, rest) = sums.as_chunks::<16>();
        let sums: Option<Vec<u64>> = sums.iter().map(|text| sum(text)).collect();
        let sums = sums.filter(|sums| rest.is_empty() && sums.len() == slots.len()).ok_or_else(|| damaged(SUMS))?;
        let arrays = slots.iter().map(|(name, _)| (*name).to_owned()).zip(sums).collect();
        let map = file.map()?;
        // The header was read before. So the file may have changed since.
        let end = slots.last().map_or(0, |(_, slot)| slot.bytes.end);
        if map.bytes().len() < end {
            return Err(malformed("changed while it was being opened: try again when nothing writes it".into()));
        }
        Ok(Self { file, map, config, compute, arrays })
    }

    /// The configuration from `config.json`.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }
    /// Changes the longest context.
    pub fn set_context(&mut self, tokens: usize) {
        self.config.max_position_embeddings = tokens;
    }
    /// The compute format for which the panels were packed.
    pub fn compute(&self) -> DType {
        self.compute
    }
    /// The file in memory.
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.map
    }
    /// Names and sizes in bytes of all arrays, in the order of the file.
    pub fn arrays(&self) -> impl Iterator<Item = (&str, usize)> {
        self.arrays.iter().map(|(name, _)| (name.as_str(), self.bytes(name).len()))
    }
    /// Whether there is an array of this name.
    pub fn has(&self, name: &str) -> bool {
        self.file.slot(name).is_some()
    }
    fn bytes(&self, name: &str) -> &[u8] {
        self.file.slot(name).map_or(&[], |slot| &self.map.bytes()[slot.bytes.clone()])
    }

    /// What the file holds.
    pub fn summary(&self) -> PackedSummary {
        let mut bytes = BTreeMap::new();
        for (name, size) in self.arrays() {
            // NAME.FORM.ARRAY
            let form = name.rsplit('.').nth(1).unwrap_or_default();
            *bytes.entry(form.to_owned()).or_insert(0) += size as u64;
        }
        PackedSummary { layout: LAYOUT, compute: self.compute.name(), bytes }
    }

    /// An error about this file that says what to do.
    pub fn unusable(&self, reason: &str) -> Error {
        Error::Malformed { path: self.file.path().into(), reason: format!("{reason}: {AGAIN}") }
    }

    /// An array, in place.
    pub fn tensor(&self, name: &str, shape: &[usize], dtype: DType) -> Result<Tensor, Error> {
        let Some(slot) = self.file.slot(name) else {
            return Err(self.unusable(&format!("has no `{name}`, which the model in config.json needs")));
        };
        let needed = shape.iter().try_fold(dtype.size(), |n, d| n.checked_mul(*d));
        if needed.map(|n| n.next_multiple_of(ALIGN)) != Some(slot.bytes.len()) {
            let found = slot.bytes.len();
            let reason =
                format!("has `{name}` with {found} bytes, but the model in config.json needs {shape:?} in {dtype:?}");
            return Err(self.unusable(&reason));
        }
        Ok(Tensor::mapped(&self.map, slot.bytes.start, shape, dtype))
    }

    /// Reads everything and compares the checksums. `progress` receives the bytes of each array.
    pub fn verify(&self, mut progress: impl FnMut(usize)) -> Result<(), Error> {
        for (name, sum) in &self.arrays {
            let bytes = self.bytes(name);
            if checksum(bytes) != *sum {
                return Err(self.unusable(&format!("is damaged: the checksum of `{name}` is not what was written")));
            }
            progress(bytes.len());
        }
        Ok(())
    }
}

/// What a file of packed weights holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PackedSummary {
    /// The number of the layout.
    pub layout: u32,
    /// The compute format for which panels were packed.
    pub compute: &'static str,
    /// Bytes of the weights in each form.
    pub bytes: BTreeMap<String, u64>,
}

impl fmt::Display for PackedSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mb = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
        let forms: Vec<String> = self.bytes.iter().map(|(form, bytes)| format!("{form} {}", mb(*bytes))).collect();
        let (total, Self { layout, compute, .. }) = (mb(self.bytes.values().sum()), self);
        write!(f, "packed weights for --dtype {compute}, layout {layout}: {total} ({})", forms.join(", "))
    }
}

/// Writes a file of packed weights, array by array.
pub struct PackedWriter<'a> {
    path: PathBuf,
    file: File,
    compute: DType,
    /// Names and lengths in the file.
    arrays: Vec<(String, usize)>,
    sums: Vec<u64>,
    stop: Option<&'a AtomicBool>,
}

impl<'a> PackedWriter<'a> {
    /// Starts the file in an existing folder and writes `config.json`. The names and sizes in bytes of all arrays must
    /// be known. Writing ends with [`Error::Stopped`] when `stop` is set.
    pub fn new(
        dir: &Path,
        config: &ModelConfig,
        compute: DType,
        arrays: impl Iterator<Item = (String, usize)>,
        stop: Option<&'a AtomicBool>,
    ) -> Result<Self, Error> {
        // What is written has no quantised tensors in the sense of this key.
        let config = ModelConfig { quantization_config: None, ..config.clone() };
        hadal_base::atomic::write_file(&dir.join("config.json"), config.to_json().as_bytes())?;
        let path = dir.join(PACKED);
        let file = File::create_new(&path).at("create", &path)?;
        let arrays = arrays.map(|(name, bytes)| (name, bytes.next_multiple_of(ALIGN))).collect();
        let mut writer = Self { path, file, compute, arrays, sums: Vec::new(), stop };
        writer.put(&writer.header())?;
        Ok(writer)
    }

    /// The header. Checksums that are not known yet are zero, so its length does not change.
    fn header(&self) -> Vec<u8> {
        let sum = |i: usize| format!("{:016x}", self.sums.get(i).copied().unwrap_or(0));
        let sums: String = (0..self.arrays.len()).map(sum).collect();
        let number = LAYOUT.to_string();
        let metadata = [(NUMBER, number.as_str()), (COMPUTE, self.compute.name()), (SUMS, &sums)];
        let shapes: Vec<[usize; 1]> = self.arrays.iter().map(|(_, bytes)| [*bytes]).collect();
        let tensors =
            self.arrays.iter().zip(&shapes).map(|((name, bytes), shape)| (name.as_str(), "U8", &shape[..], *bytes));
        header::assemble(&metadata, tensors, ALIGN)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        for piece in bytes.chunks(PIECE) {
            if self.stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
                return Err(Error::Stopped);
            }
            self.file.write_all(piece).at("write", &self.path)?;
        }
        Ok(())
    }

    /// Writes the next array.
    ///
    /// # Panics
    /// If it is not the next one, or has another length.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let (expected, length) = self.arrays[self.sums.len()].clone();
        assert_eq!((expected.as_str(), length), (name, bytes.len().next_multiple_of(ALIGN)), "packed: the next array");
        let mut last = bytes[bytes.len() / ALIGN * ALIGN..].to_vec();
        last.resize(last.len().next_multiple_of(ALIGN), 0);
        let whole = &bytes[..bytes.len() / ALIGN * ALIGN];
        self.put(whole)?;
        self.put(&last)?;
        // The checksum is of the array with its padding, as it lies in the file.
        self.sums.push(if last.is_empty() { checksum(whole) } else { checksum(&[whole, &last].concat()) });
        Ok(())
    }

    /// Writes the checksums. Returns the bytes of the file.
    ///
    /// # Panics
    /// If an array is missing.
    pub fn finish(mut self) -> Result<u64, Error> {
        assert_eq!(self.sums.len(), self.arrays.len(), "packed: arrays are missing");
        self.file.seek(SeekFrom::Start(0)).at("write", &self.path)?;
        self.put(&self.header())?;
        Ok(self.file.metadata().at("inspect", &self.path)?.len())
    }
}

#[cfg(test)]
mod tests;
