//! Why a run of fine-tuning could not start, continue or end.

use hadal_base::IoError;
use hadal_data::DataError;
use hadal_recipe::recipe::RecipeError;
use hadal_recipe::{PLAN_FILE, PlanError};
use hadal_train::checkpoint::CheckpointError;
use hadal_train::run::RunError;
use hadal_train::session::SessionError;
use std::path::PathBuf;

/// The crate's result.
pub type Result<T, E = SftError> = std::result::Result<T, E>;

/// An error of fine-tuning.
#[derive(Debug, thiserror::Error)]
pub enum SftError {
    /// The folder's run has another objective.
    #[error("the run in {} is not one of fine-tuning: its {PLAN_FILE} has the objective `{name}`", folder.display())]
    OtherObjective {
        /// The folder.
        folder: PathBuf,
        /// Its objective.
        name: String,
    },
    /// Nothing is left to train on.
    #[error("{0}")]
    Nothing(String),
    /// The operating system refused.
    #[error(transparent)]
    Io(#[from] IoError),
    /// An error in conversations, template, tokenizer or stored tokens.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The recipe has an error.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// The plan in the folder cannot be used.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The run's folder cannot be used.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// Training failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// Adapters could not be read or written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The weights to start from cannot be read.
    #[error(transparent)]
    Weights(#[from] hadal_weights::Error),
}
