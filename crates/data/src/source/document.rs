//! The result of reading, and its options.

use super::left_out::LeftOut;

/// One text, and the group with which it may be held out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Where it came from: a path, or `file:line`.
    pub id: String,
    /// The package, top-level folder or file that it belongs to. Whole groups are held out.
    pub group: String,
    /// The text itself.
    pub text: String,
}

/// How files are read.
#[derive(Clone, Debug)]
pub struct SourceOptions {
    /// The field (column) of `.jsonl` and `.parquet` files that holds the text.
    pub text_field: String,
    /// The field with the name of a document's group. Without it, a document is a group of its own.
    pub group_field: Option<String>,
}

impl Default for SourceOptions {
    fn default() -> Self {
        Self { text_field: "text".into(), group_field: None }
    }
}

/// The documents that were read, and what was skipped.
#[derive(Clone, Debug, Default)]
pub struct Texts {
    /// In the order of the given paths, then of file names.
    pub documents: Vec<Document>,
    /// Files and lines that gave no document, with the reasons.
    pub left_out: LeftOut,
}

impl Texts {
    /// Bytes of all texts.
    pub fn bytes(&self) -> u64 {
        self.documents.iter().map(|d| d.text.len() as u64).sum()
    }

    pub(crate) fn append(&mut self, mut other: Self) {
        self.documents.append(&mut other.documents);
        self.left_out.append(other.left_out);
    }
}
