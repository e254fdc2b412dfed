//! The error of everything that reads or writes files.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// An error of the operating system: what was being done, to which path, and what to do about it if that is known.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}: {error}{advice}", path = path.display(), advice = advice_on(error))]
pub struct IoError {
    /// A verb: create, write, sync, ...
    pub action: &'static str,
    /// The file or folder.
    pub path: PathBuf,
    /// The error from the system.
    pub error: io::Error,
}

/// Adds the action and the path to an error of the system.
pub trait IoContext<T> {
    /// Adds `action` and `path` to the error.
    fn at(self, action: &'static str, path: &Path) -> Result<T, IoError>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, IoError> {
        self.map_err(|error| IoError { action, path: path.into(), error })
    }
}

/// Advice for errors of the system. Errors made in this crate already say what to do.
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
