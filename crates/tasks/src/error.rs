//! Everything that can go wrong with tasks. Each error says where, and what to do.

use std::path::Path;
use std::sync::Arc;

use hadal_base::IoError;
use hadal_data::DataError;

/// The crate's result.
pub type Result<T, E = TaskError> = std::result::Result<T, E>;

/// Where something stands in a task file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: Arc<Path>,
    /// The line, from 1.
    pub line: usize,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// An error of the tasks crate.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] IoError),
    /// Documents or a template cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A task file is not valid YAML, or goes beyond its bounds.
    #[error("{place}: {problem}")]
    Yaml {
        /// Where.
        place: Place,
        /// What is wrong.
        problem: String,
    },
    /// A key of a task file has a value that cannot be used.
    #[error("{place}: `{key}`: {problem}")]
    Key {
        /// Where.
        place: Place,
        /// The key.
        key: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A key cannot be applied to one of the documents.
    #[error("{place}: `{key}` of document {document}: {problem}")]
    Document {
        /// Where the key stands.
        place: Place,
        /// The key.
        key: String,
        /// The document's number, from 0.
        document: usize,
        /// What is wrong and what to do.
        problem: String,
    },
    /// There is no task of this name.
    #[error("there is no task `{name}`; it is neither a file nor one of: {known}")]
    Unknown {
        /// The name.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// Answers do not belong to the requests.
    #[error("task `{task}`: {problem}")]
    Answers {
        /// The task.
        task: String,
        /// What is wrong.
        problem: String,
    },
    /// The model cannot be asked.
    #[error("task `{task}`, document {document}: {problem}")]
    Asked {
        /// The task.
        task: String,
        /// The document's number, from 0.
        document: usize,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A prompt cannot be written as a chat.
    #[error("{0}")]
    Chat(String),
    /// Foreign programs cannot be run safely on this machine.
    #[error("{0}")]
    Sandbox(String),
    /// The user's own checker does not keep to its protocol.
    #[error("the checker `{command}` {problem}")]
    Checker {
        /// Its command.
        command: String,
        /// What is wrong.
        problem: String,
    },
}
