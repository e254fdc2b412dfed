//! A file of tensors that is read in pieces at given places. Nothing is mapped: memory does not grow with the file, and a
//! file that someone cuts shorter meanwhile is an error, not a signal.

use super::atomic::Context;
use super::error::Error;
use super::header::{self, Slot};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// An open safetensors file.
pub(super) struct Shard {
    path: PathBuf,
    file: File,
}

impl Shard {
    /// Opens a file and reads its header.
    pub(super) fn open(path: &Path) -> Result<(Self, Vec<(String, Slot)>), Error> {
        let kind = std::fs::metadata(path).at("read", path)?;
        if !kind.is_file() {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "is no regular file");
            return Err(Err::<(), _>(source).at("read", path).unwrap_err().into());
        }
        let file = File::open(path).at("read", path)?;
        let total = file.metadata().at("read", path)?.len() as usize;
        let shard = Self { path: path.into(), file };
        let malformed = |reason| Error::Malformed { path: path.into(), reason };
        let json = header::read_json(total, |at, out| shard.read(at, out))?.map_err(malformed)?;
        let slots = header::parse(&json, total).map_err(malformed)?;
        Ok((shard, slots))
    }

    /// Fills `out` with the bytes from `at` on.
    pub(super) fn read(&self, at: usize, out: &mut [u8]) -> Result<(), Error> {
        Ok(read_exact_at(&self.file, out, at as u64).at("read", &self.path)?)
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, out: &mut [u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, at)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut out: &mut [u8], mut at: u64) -> io::Result<()> {
    while !out.is_empty() {
        let n = std::os::windows::fs::FileExt::seek_read(file, out, at)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        (out, at) = (&mut out[n..], at + n as u64);
    }
    Ok(())
}
