//! What reading skipped, and why, so that a caller can report it.

use std::collections::BTreeMap;
use std::fmt;

/// Why a file or a line gave no document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// A file in a folder whose ending is not that of a text file.
    OtherKind,
    /// A file without any text.
    Empty,
    /// A line (or row, or item) whose text is missing, null or empty.
    NoText,
    /// A file or a line that is not UTF-8.
    NotUtf8,
    /// A file that begins with the mark of UTF-16 or UTF-32.
    Utf16,
    /// A file of documents in a folder in which no document has the text field.
    NoField,
    /// An archive, or a file in an unsupported compression format.
    Archive,
}

impl Why {
    /// The words for `n` such files or lines.
    fn words(self, n: usize) -> &'static str {
        match (self, n) {
            (Self::OtherKind, 1) => "file of another kind",
            (Self::OtherKind, _) => "files of other kinds",
            (Self::Empty, 1) => "empty file",
            (Self::Empty, _) => "empty files",
            (Self::NoText, 1) => "line without text",
            (Self::NoText, _) => "lines without text",
            (Self::NotUtf8, 1) => "file or line that is not UTF-8",
            (Self::NotUtf8, _) => "files or lines that are not UTF-8",
            (Self::Utf16, 1) => "file in UTF-16 or UTF-32",
            (Self::Utf16, _) => "files in UTF-16 or UTF-32",
            (Self::NoField, 1) => "file of documents without the text field",
            (Self::NoField, _) => "files of documents without the text field",
            (Self::Archive, 1) => "archive",
            (Self::Archive, _) => "archives",
        }
    }
}

/// Numbers of skipped files and lines for each reason, with the first place of each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    reasons: BTreeMap<Why, (usize, String)>,
}

impl LeftOut {
    /// How many were skipped for one reason.
    pub fn count(&self, why: Why) -> usize {
        self.reasons.get(&why).map_or(0, |(count, _)| *count)
    }

    /// Whether nothing was skipped.
    pub fn is_empty(&self) -> bool {
        self.reasons.is_empty()
    }

    /// Counts one more. `place` is kept if it is the first for its reason.
    pub(crate) fn add(&mut self, why: Why, place: impl FnOnce() -> String) {
        self.reasons.entry(why).or_insert_with(|| (0, place())).0 += 1;
    }

    /// Adds the counts of a later reading.
    pub(crate) fn append(&mut self, other: Self) {
        for (why, (count, first)) in other.reasons {
            self.reasons.entry(why).or_insert((0, first)).0 += count;
        }
    }
}

impl fmt::Display for LeftOut {
    /// "2 lines without text (the first: a.jsonl:7), 1 empty file (b.txt)".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (why, (count, first))) in self.reasons.iter().enumerate() {
            let (comma, which) = (if i > 0 { ", " } else { "" }, if *count > 1 { "the first: " } else { "" });
            write!(f, "{comma}{count} {} ({which}{first})", why.words(*count))?;
        }
        Ok(())
    }
}
