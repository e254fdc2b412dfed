//! What can go wrong with a checkpoint, by name.

use crate::audit::Audit;
use crate::config::ConfigError;
use hadal_base::IoError;
use std::path::PathBuf;

/// Why a checkpoint cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused; `source` says why (no space left, no permission, ...).
    #[error(transparent)]
    Io(#[from] IoError),
    /// `config.json` is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file is there but is not what it should be.
    #[error("{path}: {reason}", path = path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it and what to do.
        reason: String,
    },
    /// A path that was to hold a model.
    #[error("{path} {reason}", path = path.display())]
    NoModel {
        /// The path.
        path: PathBuf,
        /// What is there instead, and what to give.
        reason: String,
    },
    /// A repository that is not here and does not come.
    #[error("{repo} {reason}")]
    Hub {
        /// Its name.
        repo: String,
        /// Why, and what to do.
        reason: String,
    },
    /// A run's checkpoint that cannot be opened, though an older one can.
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
    /// The folder has no weights this program reads.
    #[error("no weights in {path}: {reason}", path = path.display())]
    NoWeights {
        /// Which folder.
        path: PathBuf,
        /// What was looked for and found.
        reason: String,
    },
    /// A tensor was asked for that the checkpoint lacks.
    #[error("the checkpoint {path} has no tensor `{name}`", path = path.display())]
    NoTensor {
        /// Which checkpoint.
        path: PathBuf,
        /// Which tensor.
        name: String,
    },
    /// A tensor has a format that cannot be read.
    #[error("tensor `{name}` is stored as {dtype}; readable are F32, F16, BF16 and F8_E4M3 with scales")]
    Unsupported {
        /// Which tensor.
        name: String,
        /// As the file calls it.
        dtype: String,
    },
    /// What a tensor holds cannot be used: values that are no numbers, FP8 without scales.
    #[error("tensor `{name}` {reason}")]
    Unusable {
        /// Which tensor, weights or scales.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor has another size than the model needs.
    #[error("tensor `{name}` has shape {found:?}; {expected}")]
    Size {
        /// Which tensor.
        name: String,
        /// Its shape in the file.
        found: Vec<usize>,
        /// What was asked for.
        expected: String,
    },
    /// Tensors do not match the model.
    #[error("{path} does not hold this model: {audit}", path = path.display())]
    Mismatch {
        /// Which checkpoint.
        path: PathBuf,
        /// Every difference.
        audit: Box<Audit>,
    },
    /// [`SaveOptions::stop`](super::SaveOptions::stop) was set.
    #[error("stopped on request")]
    Stopped,
    /// Two tensors to be written have one name.
    #[error("tensor `{0}` is to be written twice")]
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
