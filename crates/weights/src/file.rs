//! One safetensors file, read in pieces at given positions.

use crate::error::Error;
use crate::header::{self, Dtype, Slot};
use hadal_base::{IoContext, open_regular, read_exact_at};
use hadal_ops::Mapping;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An open file of tensors. Its contents are not trusted: the whole header is checked when the file is opened.
pub struct TensorFile {
    path: PathBuf,
    file: File,
    metadata: BTreeMap<String, String>,
    slots: HashMap<String, Slot>,
}

impl TensorFile {
    /// Opens a file and reads its header.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = open_regular(path).at("open", path)?;
        let total = file.metadata().at("open", path)?.len() as usize;
        let malformed = |reason| Error::Malformed { path: path.into(), reason };
        let read = |at: usize, out: &mut [u8]| read_exact_at(&file, out, at as u64).at("read", path);
        let json = header::read_json(total, read)?.map_err(malformed)?;
        let (slots, metadata) = header::parse(&json, total).map_err(malformed)?;
        Ok(Self { path: path.into(), file, metadata: metadata.0, slots: slots.into_iter().collect() })
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// The metadata text in the header.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }
    /// The names of the tensors, in no particular order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.slots.keys().map(String::as_str)
    }
    /// Type and shape of a tensor, if the file has it.
    pub fn info(&self, name: &str) -> Option<(&Dtype, &[usize])> {
        self.slots.get(name).map(|slot| (&slot.dtype, slot.shape.as_slice()))
    }

    /// The whole file in memory.
    pub(crate) fn map(&self) -> Result<Arc<Mapping>, Error> {
        Ok(Mapping::of(&self.file).at("map", &self.path)?)
    }
    /// The place of a tensor, if the file has it.
    pub(crate) fn slot(&self, name: &str) -> Option<&Slot> {
        self.slots.get(name)
    }
    /// All tensors with their places, in no particular order.
    pub(crate) fn slots(&self) -> impl Iterator<Item = (&str, &Slot)> {
        self.slots.iter().map(|(name, slot)| (name.as_str(), slot))
    }

    /// Fills `out` with bytes of a tensor, starting at its byte `at`.
    pub fn read(&self, name: &str, at: usize, out: &mut [u8]) -> Result<(), Error> {
        let missing = || Error::NoTensor { path: self.path.clone(), name: name.into() };
        let slot = self.slots.get(name).ok_or_else(missing)?;
        assert!(
            at + out.len() <= slot.bytes.len(),
            "`{name}` has {} bytes, read to {}",
            slot.bytes.len(),
            at + out.len()
        );
        Ok(read_exact_at(&self.file, out, (slot.bytes.start + at) as u64).at("read", &self.path)?)
    }
}
