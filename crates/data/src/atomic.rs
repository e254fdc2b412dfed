//! Files that appear whole or not at all: written aside, synced, renamed.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::{DataError, Result};

/// The name a file has while it is being written.
pub(crate) fn aside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".partial");
    path.with_file_name(name)
}

/// Writes a file in one go; what was begun goes away again if that fails.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let partial = aside(path);
    let mut file = File::create(&partial).map_err(DataError::io("write", path))?;
    let written = file.write_all(bytes).map_err(DataError::io("write", path)).and_then(|()| finish(file, path));
    if written.is_err() {
        // Best effort: the error that counts is the one being returned.
        let _ = std::fs::remove_file(partial);
    }
    written
}

/// Syncs a file that was written aside and gives it its name.
pub(crate) fn finish(file: File, path: &Path) -> Result<()> {
    file.sync_all().map_err(DataError::io("write", path))?;
    drop(file);
    std::fs::rename(aside(path), path).map_err(DataError::io("write", path))?;
    // The name itself must survive a crash too; systems that cannot sync a folder are not asked to.
    if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty())
        && let Ok(folder) = File::open(folder)
    {
        let _ = folder.sync_all();
    }
    Ok(())
}
