//! Files of tensors that are read in pieces at given places. Nothing is mapped: memory does not grow with the files, and a
//! file that someone changes meanwhile is an error, not a signal. However many there are, few are open at a time.

use crate::error::Error;
use crate::header::{self, Slot};
use hadal_base::{IoContext, open_regular, read_exact_at};
use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Files that are open at a time.
const OPEN: usize = 16;

/// The safetensors files of a checkpoint, by number.
#[derive(Default)]
pub(crate) struct Shards {
    /// Path and length of each.
    all: Vec<(PathBuf, u64)>,
    /// Those that were used last, the latest at the end.
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

    /// Fills `out` with the bytes of a file from `at` on.
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
