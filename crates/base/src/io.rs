//! The error of everything that reads or writes files.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// An error of the system, with what was being done to which path, and what to do about it where that is known.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}: {error}{advice}", path = path.display(), advice = advice_on(error))]
pub struct IoError {
    /// A verb: create, write, sync, ...
    pub action: &'static str,
    /// The file or folder.
    pub path: PathBuf,
    /// What the system said.
    pub error: io::Error,
}

/// Puts action and path beside an error of the system.
pub trait IoContext<T> {
    /// As the trait says.
    fn at(self, action: &'static str, path: &Path) -> Result<T, IoError>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, IoError> {
        self.map_err(|error| IoError { action, path: path.into(), error })
    }
}

/// Only errors of the system get advice: one made here says what to do itself.
fn advice_on(error: &io::Error) -> &'static str {
    if error.raw_os_error().is_none() {
        return "";
    }
    match error.kind() {
        ErrorKind::NotFound => "; check the path",
        ErrorKind::PermissionDenied => "; check who may read and write there",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "; free some disk space and run it again",
        _ => "",
    }
}
