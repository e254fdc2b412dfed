//! Why an experiment could not begin, go on or end.

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

/// What stopped an experiment, a questionnaire or a report.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// What was asked for cannot be done. The message names the option or the run and says what to do.
    #[error("{0}")]
    Refused(String),
    /// A file of the lab that it cannot read back.
    #[error("{path} is damaged: {error}; remove it or the folder", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where and how.
        error: serde_json::Error,
    },
    /// Text of a kind that could not be split.
    #[error("--domain {name}={path}: {error}", path = path.display())]
    Kind {
        /// Of the kind.
        name: String,
        /// Where its text is.
        path: PathBuf,
        /// Why.
        error: DataError,
    },
    /// The system refused.
    #[error(transparent)]
    Io(#[from] IoError),
    /// Text, tokenizer, packed tokens.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The recipe.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// The plan of a run.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A run's folder.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// Training.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A run's checkpoints.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A finished model.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A prompt that cannot be continued.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// Weights.
    #[error(transparent)]
    Weights(#[from] hadal_weights::Error),
    /// A plot.
    #[error(transparent)]
    Plot(#[from] PlotError),
    /// Numbers that cannot be written as JSON.
    #[error("the results cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A page that cannot be written. This does not happen with strings.
    #[error("the page cannot be written: {0}")]
    Page(#[from] std::fmt::Error),
}

/// A result of the lab.
pub(crate) type Result<T, E = LabError> = std::result::Result<T, E>;

/// Returns [`LabError::Refused`] with a message.
macro_rules! refuse {
    ($($arg:tt)*) => { return Err($crate::error::LabError::Refused(format!($($arg)*))) };
}
pub(crate) use refuse;
