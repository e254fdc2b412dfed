//! What reading gives, and what it is told.

use super::left_out::LeftOut;

/// One text, and the group it may be held out with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Where it came from: a path, or `file:line`.
    pub id: String,
    /// What it belongs to: a package, a top-level folder, a file. Held-out data is whole groups.
    pub group: String,
    /// The text itself.
    pub text: String,
}

/// How files are read.
#[derive(Clone, Debug)]
pub struct SourceOptions {
    /// The field (column) of `.jsonl` and `.parquet` files that holds the text.
    pub text_field: String,
    /// The field that names a document's group; where it is absent a document is its own group.
    pub group_field: Option<String>,
}

impl Default for SourceOptions {
    fn default() -> Self {
        Self { text_field: "text".into(), group_field: None }
    }
}

/// Documents read, and what was passed over.
#[derive(Clone, Debug, Default)]
pub struct Texts {
    /// In the order of the paths given, then of names.
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
