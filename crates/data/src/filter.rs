//! Removes text that a model should not spend tokens on: copies, near copies, generated and minified files, tables.
//!
//! Each document is first judged on its own, in parallel. Then it is compared with the documents kept before it, in
//! order. So the result depends only on the documents and their order. [`crate::minhash`] finds near copies. Code files
//! of more than one mebibyte are removed, because people do not write such files. Prose of that length is probably a
//! book, and is cut into pieces.

use ahash::{AHashMap as HashMap, AHashSet as HashSet};
use rayon::prelude::*;

use crate::error::{DataError, Result};
use crate::hash::hash_bytes;
use crate::minhash::{NearCopies, Sketch};
use crate::pieces::cut_document;
use crate::source::Document;

/// Why a document was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Too short to be useful.
    TooShort,
    /// Longer than what people write.
    TooLong,
    /// A line near the top says that a program wrote it.
    Generated,
    /// Lines longer than what people write.
    LongLines,
    /// Mostly numbers or symbols, so probably data.
    FewLetters,
    /// Most lines begin with the same words: a table of constants or bindings.
    Table,
    /// A compressor shrinks it to almost nothing: it repeats itself.
    Repetitive,
    /// The same text as an earlier document, apart from white space.
    Copy,
    /// Nearly the same text as an earlier document.
    NearCopy,
    /// Its group (package) has more text than a single group should have.
    Crowded,
}

/// Number of reasons.
const REASONS: usize = 10;

impl Reason {
    /// All reasons, in the order in which they are checked.
    pub const ALL: [Self; REASONS] = [
        Self::TooShort,
        Self::TooLong,
        Self::Generated,
        Self::LongLines,
        Self::FewLetters,
        Self::Table,
        Self::Repetitive,
        Self::Copy,
        Self::NearCopy,
        Self::Crowded,
    ];

    /// The words that follow a number of documents in a message.
    pub fn name(self) -> &'static str {
        match self {
            Self::TooShort => "too short",
            Self::TooLong => "too long",
            Self::Generated => "generated",
            Self::LongLines => "with long lines",
            Self::FewLetters => "with few letters",
            Self::Table => "tables",
            Self::Repetitive => "repetitive",
            Self::Copy => "copies",
            Self::NearCopy => "near copies",
            Self::Crowded => "of crowded packages",
        }
    }
}

/// Limits of what is kept.
#[derive(Clone, Debug)]
pub struct FilterOptions {
    /// Smallest size in bytes.
    pub min_bytes: usize,
    /// Largest size in bytes.
    pub max_bytes: usize,
    /// Largest mean length of a line, in bytes.
    pub max_mean_line: usize,
    /// Largest share of the bytes in lines of more than 500 bytes.
    pub max_long_line_share: f64,
    /// Smallest share of letters among the characters that are not white space.
    pub min_letter_share: f64,
    /// Largest share of the lines that begin with the same word, and the same for two words. This applies to files of
    /// 40 lines or more.
    pub max_same_start: [f64; 2],
    /// Largest factor by which `zstd -1` may compress a text of 4 KiB or more. For code written by people the factor is
    /// 3 to 7, for bindings and expanded macros 10 to 50.
    pub max_compression: f64,
    /// Largest share of all text that one group may have. It applies if there are at least four times its inverse as
    /// many groups. A larger group keeps a pseudo-random subset of its documents.
    pub max_group_share: f64,
    /// Jaccard similarity of five-word shingles from which on a document is a near copy. A value above 1 disables the
    /// search.
    pub near_copy: f64,
    /// Whether lines like "automatically generated" near the top count.
    pub generated_markers: bool,
    /// Whether documents of over `max_bytes` are cut into pieces instead of being left out.
    pub cut_long: bool,
}

impl Default for FilterOptions {
    fn default() -> Self {
        Self {
            min_bytes: 64,
            max_bytes: 1 << 20,
            max_mean_line: 160,
            max_long_line_share: 0.3,
            min_letter_share: 0.4,
            max_same_start: [0.65, 0.5],
            max_compression: 8.0,
            max_group_share: 0.03,
            near_copy: 0.8,
            generated_markers: true,
            cut_long: false,
        }
    }
}

impl FilterOptions {
    /// For prose: whole paragraphs may stand on one line, and a document may be a book, which is most of the text.
    pub fn prose() -> Self {
        Self {
            max_mean_line: usize::MAX,
            max_long_line_share: 1.0,
            max_group_share: 1.0,
            cut_long: true,
            ..Self::default()
        }
    }
}

/// How much was kept and how much was left out, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilterReport {
    /// Documents and bytes kept.
    pub kept: (usize, u64),
    /// Documents and bytes left out for each reason, in the order of [`Reason::ALL`].
    pub dropped: [(usize, u64); REASONS],
    /// Documents that were too long, and the pieces they were cut into; the pieces count as documents.
    pub cut: (usize, usize),
}

impl FilterReport {
    /// Documents and bytes left out for one reason.
    pub fn dropped_for(&self, reason: Reason) -> (usize, u64) {
        self.dropped[reason as usize]
    }

    /// Number of documents and bytes in the input.
    fn all(&self) -> (usize, u64) {
        self.dropped.iter().fold(self.kept, |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }

    /// An error if nothing was kept, or less than a tenth of the text. Copies do not count, because their text is kept
    /// once.
    pub fn check(&self) -> Result<()> {
        let copies: u64 = [Reason::Copy, Reason::NearCopy].iter().map(|r| self.dropped_for(*r).1).sum();
        if self.kept.0 > 0 && self.kept.1 >= (self.all().1 - copies) / 10 {
            return Ok(());
        }
        Err(DataError::Filtered(self.to_string()))
    }
}

impl std::fmt::Display for FilterReport {
    /// "kept 2 of 5 documents (1.0 MB of 3.1 MB); left out 2 too long (2.0 MB), 1 with few letters (0.1 MB)".
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all = self.all();
        write!(f, "kept {} of {} documents ({} of {})", self.kept.0, all.0, size(self.kept.1), size(all.1))?;
        let reasons = Reason::ALL.iter().zip(self.dropped).filter(|(_, (count, _))| *count > 0);
        for (i, (reason, (count, bytes))) in reasons.enumerate() {
            let before = if i == 0 { "; left out" } else { "," };
            write!(f, "{before} {count} {} ({})", reason.name(), size(bytes))?;
        }
        match self.cut {
            (0, _) => Ok(()),
            (1, pieces) => write!(f, "; 1 long document was cut into {pieces} pieces"),
            (n, pieces) => write!(f, "; {n} long documents were cut into {pieces} pieces"),
        }
    }
}

/// A size in bytes, formatted for people.
fn size(bytes: u64) -> String {
    if bytes < 100_000 { format!("{:.1} kB", bytes as f64 / 1e3) } else { format!("{:.1} MB", bytes as f64 / 1e6) }
}

/// What the parallel pass finds out about a document.
enum Finding {
    Out(Reason),
    Candidate { exact: u64, sketch: Option<Box<Sketch>> },
}

/// Keeps the documents that are worth learning from, in their order.
pub fn filter(documents: Vec<Document>, options: &FilterOptions) -> (Vec<Document>, FilterReport) {
    let mut report = FilterReport::default();
    let documents = if options.cut_long { cut_long(documents, options.max_bytes, &mut report) } else { documents };
    let search_near = options.near_copy <= 1.0;
    let verdicts: Vec<Finding> = documents
        .par_iter()
        .with_max_len(16)
        .map(|document| match quality(&document.text, options) {
            Some(reason) => Finding::Out(reason),
            None => Finding::Candidate {
                exact: normalised_hash(&document.text),
                sketch: if search_near { Sketch::of(&document.text).map(Box::new) } else { None },
            },
        })
        .collect();
    let mut kept = Vec::with_capacity(documents.len());
    let mut exact_seen: HashSet<u64> = HashSet::new();
    let mut near = NearCopies::new(options.near_copy);
    for (document, verdict) in documents.into_iter().zip(verdicts) {
        let reason = match verdict {
            Finding::Out(reason) => Some(reason),
            Finding::Candidate { exact, .. } if exact_seen.contains(&exact) => Some(Reason::Copy),
            Finding::Candidate { exact, sketch } => {
                let is_near = sketch.is_some_and(|s| !near.insert(*s));
                if !is_near {
                    exact_seen.insert(exact);
                }
                is_near.then_some(Reason::NearCopy)
            }
        };
        let bytes = document.text.len() as u64;
        let entry = match reason {
            Some(reason) => &mut report.dropped[reason as usize],
            None => &mut report.kept,
        };
        entry.0 += 1;
        entry.1 += bytes;
        if reason.is_none() {
            kept.push(document);
        }
    }
    let kept = thin_out(kept, options.max_group_share, &mut report);
    (kept, report)
}

/// Cuts documents of more than `most` bytes into pieces.
fn cut_long(documents: Vec<Document>, most: usize, report: &mut FilterReport) -> Vec<Document> {
    let mut out = Vec::with_capacity(documents.len());
    for document in documents {
        if document.text.len() <= most {
            out.push(document);
            continue;
        }
        let pieces = cut_document(document);
        report.cut = (report.cut.0 + 1, report.cut.1 + pieces.len());
        out.extend(pieces);
    }
    out
}

/// Removes documents from groups with more than `share` of all text.
fn thin_out(documents: Vec<Document>, share: f64, report: &mut FilterReport) -> Vec<Document> {
    let mut groups: HashMap<&str, u64> = HashMap::new();
    for document in &documents {
        *groups.entry(&document.group).or_default() += document.text.len() as u64;
    }
    if (groups.len() as f64) * share < 4.0 {
        return documents;
    }
    let most = (report.kept.1 as f64 * share) as u64;
    let mut crowded: Vec<usize> = (0..documents.len()).filter(|&i| groups[&*documents[i].group] > most).collect();
    crowded.sort_by_key(|&i| (hash_bytes(documents[i].id.as_bytes()), i));
    let mut out = vec![false; documents.len()];
    let mut sums: HashMap<&str, u64> = HashMap::new();
    for i in crowded {
        let (bytes, sum) = (documents[i].text.len() as u64, sums.entry(&documents[i].group).or_default());
        if *sum + bytes <= most {
            *sum += bytes;
        } else {
            out[i] = true;
            report.kept = (report.kept.0 - 1, report.kept.1 - bytes);
            let dropped = &mut report.dropped[Reason::Crowded as usize];
            *dropped = (dropped.0 + 1, dropped.1 + bytes);
        }
    }
    documents.into_iter().zip(out).filter_map(|(document, out)| (!out).then_some(document)).collect()
}

/// A hash of the text that ignores white space.
fn normalised_hash(text: &str) -> u64 {
    let packed: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    hash_bytes(&packed)
}

/// The reason to remove a text because of its own content, if there is one.
pub fn quality(text: &str, options: &FilterOptions) -> Option<Reason> {
    if text.trim().len() < options.min_bytes {
        return Some(Reason::TooShort);
    }
    if text.len() > options.max_bytes {
        return Some(Reason::TooLong);
    }
    if options.generated_markers && says_generated(text) {
        return Some(Reason::Generated);
    }
    let (mut lines, mut in_long) = (0usize, 0usize);
    for line in text.split('\n') {
        lines += 1;
        in_long += if line.len() > 500 { line.len() } else { 0 };
    }
    let mean = text.len() / lines;
    if mean > options.max_mean_line || in_long as f64 > options.max_long_line_share * text.len() as f64 {
        return Some(Reason::LongLines);
    }
    let (mut letters, mut visible) = (0usize, 0usize);
    for c in text.chars() {
        letters += usize::from(c.is_alphabetic());
        visible += usize::from(!c.is_whitespace());
    }
    if (letters as f64) < options.min_letter_share * visible as f64 {
        return Some(Reason::FewLetters);
    }
    let shares = same_start_shares(text);
    if (0..2).any(|i| shares[i] > options.max_same_start[i]) {
        return Some(Reason::Table);
    }
    let repetitive = text.len() >= 4096
        && zstd::bulk::compress(text.as_bytes(), 1)
            .is_ok_and(|small| small.len() as f64 * options.max_compression < text.len() as f64);
    repetitive.then_some(Reason::Repetitive)
}

/// The beginning of a line up to the end of its first word, and up to the end of its second.
fn first_words(line: &str) -> [&str; 2] {
    let mut ends = [line.len(); 2];
    let (mut words, mut inside) = (0, false);
    for (at, c) in line.char_indices() {
        let word = c.is_alphanumeric() || c == '_';
        if inside && !word {
            ends[words] = at;
            words += 1;
            if words == 2 {
                break;
            }
        }
        inside = word;
    }
    ends.map(|end| &line[..end])
}

/// The shares of the lines that begin with the most common word and the most common two words; 0 for short texts. Only
/// lines that begin with a word count. So comments and closing braces neither make a table nor hide one.
fn same_start_shares(text: &str) -> [f64; 2] {
    let mut starts: [HashMap<u64, usize>; 2] = Default::default();
    let mut lines = 0usize;
    for line in text.lines() {
        let line = line.trim_start();
        if line.starts_with(|c: char| c.is_alphanumeric() || c == '_') {
            lines += 1;
            for (starts, words) in starts.iter_mut().zip(first_words(line)) {
                *starts.entry(hash_bytes(words.as_bytes())).or_default() += 1;
            }
        }
    }
    let most = |s: &HashMap<u64, usize>| s.values().max().copied().unwrap_or(0) as f64 / lines.max(1) as f64;
    if lines < 40 { [0.0; 2] } else { [most(&starts[0]), most(&starts[1])] }
}

/// Words that generators write into the first lines of their output, for example bindgen's "automatically generated
/// by".
const MARKERS: [&str; 7] = [
    "automatically generated",
    "auto-generated",
    "auto generated",
    "autogenerated",
    "generated by ",
    "do not edit",
    "do not modify",
];

/// Whether a comment in the first 20 lines says that a program wrote the file. Documentation may mention generated
/// files without being generated, so there only the exact mark counts.
fn says_generated(text: &str) -> bool {
    text.lines().take(20).any(|line| {
        let line = line.trim_start();
        if !["//", "/*", "*", "#", "--", ";", "<!--", "%"].iter().any(|start| line.starts_with(start)) {
            return false;
        }
        // Only the beginning of a very long line is looked at.
        let lower = line.chars().take(300).collect::<String>().to_ascii_lowercase();
        let documentation = lower.starts_with("//!") || lower.starts_with("///");
        lower.contains("@generated") || (!documentation && MARKERS.iter().any(|m| lower.contains(m)))
    })
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
