//! Why an experiment could not begin, continue or end.

use hadal_base::IoError;
use hadal_data::DataError;
use hadal_infer::{LoadError, RequestError};
use hadal_recipe::plan::PlanError;
use hadal_recipe::recipe::RecipeError;
use hadal_train::checkpoint::CheckpointError;
use hadal_train::run::RunError;
use hadal_train::session::SessionError;
use hadal_watch::plot::PlotError;
use std::path::PathBuf;

/// An error of an experiment, a needle evaluation or a report.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The request cannot be fulfilled. The message names the option or the run and says what to do.
    #[error("{0}")]
    Refused(String),
    /// A file of the lab cannot be read back.
    #[error("{path} is damaged: {error}; remove the file or its folder", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        error: serde_json::Error,
    },
    /// The text of one kind could not be split.
    #[error("--domain {name}={path}: {error}", path = path.display())]
    Kind {
        /// The name of the kind.
        name: String,
        /// The path of its text.
        path: PathBuf,
        /// The reason.
        error: DataError,
    },
    /// The operating system reported an error.
    #[error(transparent)]
    Io(#[from] IoError),
    /// An error in text, tokenizer or packed tokens.
    #[error(transparent)]
    Data(#[from] DataError),
    /// An error in the recipe.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// An error in the plan of a run.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// An error in a run's folder.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// Training failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A checkpoint of a run cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A finished model cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A prompt cannot be continued.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// An error in weights.
    #[error(transparent)]
    Weights(#[from] hadal_weights::Error),
    /// A plot could not be made.
    #[error(transparent)]
    Plot(#[from] PlotError),
    /// Numbers could not be written as JSON.
    #[error("the results cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A page could not be written. This does not happen with strings.
    #[error("the page cannot be written: {0}")]
    Page(#[from] std::fmt::Error),
}

/// The result type of the lab.
pub(crate) type Result<T, E = LabError> = std::result::Result<T, E>;

/// Returns [`LabError::Refused`] with a message.
macro_rules! refuse {
    ($($arg:tt)*) => { return Err($crate::error::LabError::Refused(format!($($arg)*))) };
}
pub(crate) use refuse;
