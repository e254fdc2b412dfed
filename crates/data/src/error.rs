//! Everything that can go wrong with text, tokenizers and packed files. Each error says where, and what to do.

use hadal_base::IoError;
use std::path::{Path, PathBuf};

/// The crate's result.
pub type Result<T, E = DataError> = std::result::Result<T, E>;

/// A chat template that cannot be used, or that does not accept the messages.
#[derive(Debug, thiserror::Error)]
#[error("chat template ({origin}){}: {problem}", line.map(|l| format!(", line {l}")).unwrap_or_default())]
pub struct TemplateError {
    /// Where the template comes from.
    pub origin: String,
    /// Line number in the template, from 1.
    pub line: Option<usize>,
    /// What is wrong and what to do.
    pub problem: String,
    /// Whether the template refuses the messages, or leaves some of them out. Then the fault is the messages'.
    pub refused: bool,
}

/// A line of a file of conversations that cannot be learned from.
#[derive(Debug, thiserror::Error)]
#[error("{}:{line}: {}{problem}; correct or remove that line", path.display(),
    if key.is_empty() { String::new() } else { format!("`{key}`: ") })]
pub struct SampleError {
    /// The file.
    pub path: PathBuf,
    /// Line number, from 1.
    pub line: usize,
    /// Path of the key. Empty for the whole line.
    pub key: String,
    /// What is wrong.
    pub problem: String,
}

/// An error of the data crate. Each message names the file, line or key at fault and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] IoError),
    /// A line of a `.jsonl` file has the wrong form.
    #[error("{}:{line}: {problem}; correct or remove that line, or name the right field", path.display())]
    JsonLine {
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// A line of a file of conversations cannot be learned from.
    #[error(transparent)]
    Sample(Box<SampleError>),
    /// A path contains nothing that can be read as text.
    #[error("{}: {problem}", path.display())]
    NoText {
        /// The path given.
        path: PathBuf,
        /// What is wrong and what to give instead.
        problem: String,
    },
    /// A lock file cannot be understood.
    #[error("Cargo.lock: {0}; create it again with `cargo generate-lockfile`")]
    Lock(String),
    /// Cargo's registry has none of the packages of the lock file.
    #[error(
        "none of the {packages} packages in the lock file have their sources under {}; run `cargo fetch` in the \
         project's folder, or give text of your own with `--text PATH...`", registry.display()
    )]
    NoSources {
        /// The folder that was searched.
        registry: PathBuf,
        /// Packages of the lock file that come from a registry.
        packages: usize,
    },
    /// There is not enough text for a purpose.
    #[error("too little text: {0}")]
    TooLittle(String),
    /// A tokenizer file cannot be used, or a tokenizer cannot be trained as asked.
    #[error("tokenizer{}: {problem}", at(path.as_deref()))]
    Tokenizer {
        /// The file, if there is one.
        path: Option<PathBuf>,
        /// What is wrong.
        problem: String,
    },
    /// A chat template cannot be used, or does not accept the messages.
    #[error(transparent)]
    Template(Box<TemplateError>),
    /// A packed token file is damaged, or the file is of another kind.
    #[error("{}: {problem}; pack the text again (`hadal data pack`)", path.display())]
    Shard {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Stored sequences of a run are damaged.
    #[error("{}: {problem}; start the run again in another folder", path.display())]
    Sequences {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A saved position does not belong to this data.
    #[error(
        "the saved data position does not fit this data: {0}; resume with the data and settings that the run started with"
    )]
    Cursor(String),
    /// An option has a value that does not make sense.
    #[error("{key}: {problem}")]
    Option {
        /// The option's name.
        key: &'static str,
        /// What is wrong and which values are valid.
        problem: String,
    },
    /// The filter removed almost all of the text.
    #[error(
        "the filter {0}; turn the filter off with data.filter = \"none\" (`data pack`: leave out --filter), or give \
         other text"
    )]
    Filtered(String),
    /// A file of documents in which no document has the text field.
    #[error("{}: no document has a field `{field}` (the first has: {has}); name the field that holds the text with \
         data.text_field in a recipe or --text-field", path.display())]
    NoField {
        /// The file.
        path: PathBuf,
        /// The expected field.
        field: String,
        /// The fields of the first document.
        has: String,
    },
}

impl DataError {
    /// A chat template at fault.
    pub(crate) fn template(
        origin: impl Into<String>,
        line: Option<usize>,
        problem: impl Into<String>,
        refused: bool,
    ) -> Self {
        Self::Template(Box::new(TemplateError { origin: origin.into(), line, problem: problem.into(), refused }))
    }

    /// A line of a file of conversations at fault.
    pub fn sample(path: &Path, line: usize, key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Sample(Box::new(SampleError { path: path.to_path_buf(), line, key: key.into(), problem: problem.into() }))
    }

    /// An I/O error at `path`; use as `.map_err(DataError::io("read", path))`.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |error| Self::Io(IoError { action, path, error })
    }

    pub(crate) fn shard(path: &Path, problem: impl Into<String>) -> Self {
        Self::Shard { path: path.to_path_buf(), problem: problem.into() }
    }

    pub(crate) fn tokenizer(path: Option<&Path>, problem: impl Into<String>) -> Self {
        Self::Tokenizer { path: path.map(Path::to_path_buf), problem: problem.into() }
    }
}

fn at(path: Option<&Path>) -> String {
    path.map(|p| format!(" {}", p.display())).unwrap_or_default()
}
