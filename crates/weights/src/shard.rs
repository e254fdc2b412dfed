//! Files of tensors that are read in pieces at given positions. They are not memory-mapped: memory does not grow with
//! the files, and a file that changes meanwhile causes an error instead of a signal. Only a few files are open at the
//! same time.

use crate::error::Error;
use crate::header::{self, Slot};
use hadal_base::{IoContext, open_regular, read_exact_at};
use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Largest number of open files.
const OPEN: usize = 16;

/// The safetensors files of a checkpoint, by number.
#[derive(Default)]
pub(crate) struct Shards {
    /// Path and length of each file.
    all: Vec<(PathBuf, u64)>,
    /// The most recently used files, with the latest at the end.
    open: Mutex<VecDeque<(usize, Arc<File>)>>,
}

impl Shards {
    /// Adds a file and reads its header.
    pub(crate) fn add(&mut self, path: &Path) -> Result<Vec<(String, Slot)>, Error> {
        let file = open_regular(path).at("read", path)?;
        let total = file.metadata().at("read", path)?.len();
        let malformed = |reason| Error::Malformed { path: path.into(), reason };
        let read = |at: usize, out: &mut [u8]| read_exact_at(&file, out, at as u64).at("read", path);
        let json = header::read_json(total as usize, read)?.map_err(malformed)?;
        let (slots, _) = header::parse(&json, total as usize).map_err(malformed)?;
        self.all.push((path.into(), total));
        Ok(slots)
    }

    /// Fills `out` with bytes of a file, starting at `at`.
    pub(crate) fn read(&self, shard: usize, at: usize, out: &mut [u8]) -> Result<(), Error> {
        let file = self.file(shard)?;
        Ok(read_exact_at(&file, out, at as u64).at("read", &self.all[shard].0)?)
    }

    fn file(&self, shard: usize) -> Result<Arc<File>, Error> {
        let mut files = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let found = files.iter().position(|(number, _)| *number == shard).and_then(|i| files.remove(i));
        let file = if let Some((_, file)) = found {
            file
        } else {
            let (path, total) = &self.all[shard];
            let file = open_regular(path).at("read", path)?;
            if file.metadata().at("read", path)?.len() != *total {
                let reason = "changed while it was being read: try again when nothing writes it".into();
                return Err(Error::Malformed { path: path.clone(), reason });
            }
            Arc::new(file)
        };
        if files.len() == OPEN {
            files.pop_front();
        }
        files.push_back((shard, file.clone()));
        Ok(file)
    }
}
