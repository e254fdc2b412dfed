//! Everything that can go wrong with a checkpoint.

use crate::audit::Audit;
use crate::config::ConfigError;
use hadal_base::IoError;
use std::path::PathBuf;

/// Why a checkpoint cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system reported an error, for example no space left or no permission.
    #[error(transparent)]
    Io(#[from] IoError),
    /// `config.json` is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file exists but does not have the expected contents.
    #[error("{path}: {reason}", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it and what to do.
        reason: String,
    },
    /// A path does not contain a model.
    #[error("{path} {reason}", path = path.display())]
    NoModel {
        /// The path.
        path: PathBuf,
        /// What is there instead, and which path to give.
        reason: String,
    },
    /// A repository is not on this machine and cannot be downloaded.
    #[error("{repo} {reason}")]
    Hub {
        /// Its name.
        repo: String,
        /// Why, and what to do.
        reason: String,
    },
    /// A run's checkpoint cannot be opened, but an older one can.
    #[error(
        "{error}; an older checkpoint of this run can be opened, {older}: name that one, or move {path} away",
        path = path.display(),
        older = older.display()
    )]
    Newer {
        /// What is wrong with it.
        error: Box<Error>,
        /// The checkpoint.
        path: PathBuf,
        /// The older one.
        older: PathBuf,
    },
    /// The folder has no weights that this program can read.
    #[error("no weights in {path}: {reason}", path = path.display())]
    NoWeights {
        /// The folder.
        path: PathBuf,
        /// What was searched for and found.
        reason: String,
    },
    /// The checkpoint does not have the requested tensor.
    #[error("the checkpoint {path} has no tensor `{name}`", path = path.display())]
    NoTensor {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A tensor has an unsupported format.
    #[error("tensor `{name}` is stored as {dtype}; readable are F32, F16, BF16 and F8_E4M3 with scales")]
    Unsupported {
        /// The tensor.
        name: String,
        /// The name of the format in the file.
        dtype: String,
    },
    /// A tensor has values that cannot be used: infinite or NaN, or FP8 without scales.
    #[error("tensor `{name}` {reason}")]
    Unusable {
        /// The tensor: weights or scales.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The size of a tensor differs from what the model needs.
    #[error("tensor `{name}` has shape {found:?}; {expected}")]
    Size {
        /// The tensor.
        name: String,
        /// Its shape in the file.
        found: Vec<usize>,
        /// The expected size.
        expected: String,
    },
    /// The tensors do not match the model.
    #[error("{path} does not hold this model: {audit}", path = path.display())]
    Mismatch {
        /// The checkpoint.
        path: PathBuf,
        /// Every difference.
        audit: Box<Audit>,
    },
    /// [`SaveOptions::stop`](super::SaveOptions::stop) was set during writing.
    #[error("stopped on request")]
    Stopped,
    /// Two tensors to be written have the same name.
    #[error("tensor `{0}` would be written twice")]
    Duplicate(String),
}

impl Audit {
    /// An error unless [`Audit::is_clean`].
    pub fn into_result(self) -> Result<(), Error> {
        if self.is_clean() {
            return Ok(());
        }
        Err(Error::Mismatch { path: self.path.clone(), audit: Box::new(self) })
    }
}
