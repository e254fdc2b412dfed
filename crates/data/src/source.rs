//! Text documents from files and folders, in an order that depends on names only.
//!
//! A folder is walked recursively in the order of its names; hidden entries and build outputs are passed over and
//! symbolic links are not followed. What counts as text is decided by the ending; a file named directly is read as
//! text whatever its ending. `.jsonl` (also `.jsonl.zst`) holds one document a line, as text or as question and answer.
//! Text that is not UTF-8 is left out and counted, never repaired: a replacement character would be learnt.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::{Map, Value};
use walkdir::{DirEntry, WalkDir};

use crate::error::{DataError, Result};
use hadal_base::IoError;

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
    /// Files or lines left out because they are not UTF-8.
    pub not_utf8: usize,
    /// Files in folders whose ending is not one of text.
    pub other_files: usize,
}

impl Texts {
    /// Bytes of all texts.
    pub fn bytes(&self) -> u64 {
        self.documents.iter().map(|d| d.text.len() as u64).sum()
    }

    fn append(&mut self, mut other: Self) {
        self.documents.append(&mut other.documents);
        self.not_utf8 += other.not_utf8;
        self.other_files += other.other_files;
    }
}

/// Endings of plain text and source code.
const TEXT_ENDINGS: &[&str] = &[
    "adoc", "bash", "c", "cc", "clj", "cmake", "cpp", "cs", "css", "cu", "cuh", "cxx", "dart", "el", "erl", "ex",
    "exs", "f90", "go", "h", "hh", "hpp", "hs", "html", "hxx", "java", "jl", "js", "jsx", "kt", "lean", "lisp", "lua",
    "m", "md", "ml", "mli", "nim", "php", "pl", "pm", "proto", "ps1", "py", "pyi", "r", "rb", "rs", "rst", "scala",
    "scm", "sh", "sql", "sv", "swift", "tex", "toml", "ts", "tsx", "txt", "v", "vhd", "vim", "wgsl", "yaml", "yml",
    "zig",
];

/// Whether a folder holds no source of its own: fetched packages, and caches and build outputs, which carry the
/// standard tag (a folder called `target` may well be source).
fn passed_over(entry: &DirEntry) -> bool {
    let name = entry.file_name().to_string_lossy();
    let no_source = || matches!(&*name, "node_modules" | "__pycache__") || entry.path().join("CACHEDIR.TAG").is_file();
    name.starts_with('.') || (entry.file_type().is_dir() && no_source())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    JsonLines,
    Parquet,
}

fn kind_of(path: &Path) -> Option<Kind> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    let (stem, ending) = name.rsplit_once('.')?;
    let json_lines = ending == "jsonl" || (ending == "zst" && stem.rsplit_once('.').is_some_and(|(_, e)| e == "jsonl"));
    if json_lines {
        return Some(Kind::JsonLines);
    }
    if ending == "parquet" {
        return Some(Kind::Parquet);
    }
    TEXT_ENDINGS.binary_search(&ending).is_ok().then_some(Kind::Plain)
}

/// Reads every document under `paths`. An error where a path cannot be read or nothing at all is found.
pub fn read_paths<P: AsRef<Path>>(paths: &[P], options: &SourceOptions) -> Result<Texts> {
    let mut texts = Texts::default();
    for path in paths {
        let path = path.as_ref();
        let meta = std::fs::metadata(path).map_err(DataError::io("read", path))?;
        if meta.is_dir() {
            let root = path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
            texts.append(read_folder(path, &root, |_| true, options)?);
        } else {
            let name = path.to_string_lossy().into_owned();
            let kind = kind_of(path).unwrap_or(Kind::Plain);
            texts.append(read_file(path, kind, &name, &name, options)?);
        }
    }
    if texts.documents.is_empty() {
        let path = paths.first().map_or_else(PathBuf::new, |p| p.as_ref().to_path_buf());
        return Err(DataError::NoText {
            path,
            problem: format!(
                "no text found ({} files of other kinds, {} that are not UTF-8); give .txt, .md, source code or .jsonl \
                 files, or folders of them",
                texts.other_files, texts.not_utf8
            ),
        });
    }
    Ok(texts)
}

/// Reads the text files of one folder for which `wanted` holds; `root` begins every id and group.
pub(crate) fn read_folder(
    folder: &Path,
    root: &str,
    wanted: impl Fn(&Path) -> bool,
    options: &SourceOptions,
) -> Result<Texts> {
    let walk = WalkDir::new(folder).sort_by_file_name().into_iter().filter_entry(|e| e.depth() == 0 || !passed_over(e));
    let mut texts = Texts::default();
    let mut files = Vec::new();
    for entry in walk {
        let entry = entry.map_err(|e| {
            let path = e.path().unwrap_or(folder).to_path_buf();
            DataError::Io(IoError { action: "read", path, error: e.into() })
        })?;
        if !entry.file_type().is_file() || !wanted(entry.path()) {
            continue;
        }
        match kind_of(entry.path()) {
            Some(kind) => files.push((entry.into_path(), kind)),
            None => texts.other_files += 1,
        }
    }
    let read: Vec<Result<Texts>> = files
        .par_iter()
        .map(|(path, kind)| {
            let relative = path.strip_prefix(folder).unwrap_or(path);
            let first = relative.components().next().map(|c| c.as_os_str().to_string_lossy().into_owned());
            let group = format!("{root}/{}", first.unwrap_or_default());
            // Ids use one separator on every system, so that choices keyed by them are the same.
            let parts: Vec<_> = relative.components().map(|c| c.as_os_str().to_string_lossy()).collect();
            read_file(path, *kind, &format!("{root}/{}", parts.join("/")), &group, options)
        })
        .collect();
    for one in read {
        texts.append(one?);
    }
    Ok(texts)
}

fn read_file(path: &Path, kind: Kind, id: &str, group: &str, options: &SourceOptions) -> Result<Texts> {
    match kind {
        Kind::Plain => read_plain(path, id, group),
        Kind::JsonLines => read_json_lines(path, id, options),
        Kind::Parquet => read_parquet(path, id, options),
    }
}

fn read_plain(path: &Path, id: &str, group: &str) -> Result<Texts> {
    let bytes = std::fs::read(path).map_err(DataError::io("read", path))?;
    let mut texts = Texts::default();
    match String::from_utf8(bytes) {
        Ok(text) => texts.documents.push(Document { id: id.into(), group: group.into(), text: without_bom(text) }),
        Err(_) => texts.not_utf8 = 1,
    }
    Ok(texts)
}

fn without_bom(text: String) -> String {
    match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    }
}

fn read_json_lines(path: &Path, id: &str, options: &SourceOptions) -> Result<Texts> {
    let file = File::open(path).map_err(DataError::io("read", path))?;
    let mut reader: Box<dyn BufRead> = if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("zst")) {
        let decoder = zstd::stream::read::Decoder::new(file).map_err(DataError::io("read", path))?;
        Box::new(BufReader::new(decoder))
    } else {
        Box::new(BufReader::with_capacity(1 << 20, file))
    };
    let mut texts = Texts::default();
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if reader.read_until(b'\n', &mut line).map_err(DataError::io("read", path))? == 0 {
            break;
        }
        let Ok(text) = std::str::from_utf8(&line) else {
            texts.not_utf8 += 1;
            continue;
        };
        if text.trim().is_empty() {
            continue;
        }
        let document = json_document(text.trim_start_matches('\u{feff}'), id, number, options)
            .map_err(|problem| DataError::JsonLine { path: path.to_path_buf(), line: number, problem })?;
        texts.documents.push(document);
    }
    Ok(texts)
}

fn json_document(line: &str, id: &str, number: usize, options: &SourceOptions) -> Result<Document, String> {
    let value: Value = serde_json::from_str(line).map_err(|e| format!("not JSON ({e})"))?;
    let Value::Object(mut fields) = value else {
        return Err("not a JSON object".into());
    };
    let field = &options.text_field;
    let text = match fields.remove(field) {
        Some(Value::String(text)) => text,
        Some(_) => return Err(format!("the field `{field}` is not a string")),
        None => question_and_answer(&fields).filter(|_| field == "text").ok_or_else(|| {
            let names: Vec<&str> = fields.keys().map(String::as_str).collect();
            format!("no field `{field}` (it has: {})", names.join(", "))
        })?,
    };
    let id = format!("{id}:{number}");
    let group = match options.group_field.as_ref().and_then(|key| fields.get(key)) {
        Some(Value::String(group)) => group.clone(),
        Some(other) => other.to_string(),
        None => id.clone(),
    };
    Ok(Document { id, group, text })
}

/// Exercises are written as a question and its answer, each on lines of its own here.
fn question_and_answer(fields: &Map<String, Value>) -> Option<String> {
    let string = |key| fields.get(key).and_then(Value::as_str);
    Some(format!("{}\n{}", string("question")?, string("answer")?))
}

#[cfg(feature = "parquet")]
fn read_parquet(path: &Path, id: &str, options: &SourceOptions) -> Result<Texts> {
    crate::parquet::read(path, id, options)
}

#[cfg(not(feature = "parquet"))]
fn read_parquet(path: &Path, _id: &str, _options: &SourceOptions) -> Result<Texts> {
    Err(DataError::NoText {
        path: path.to_path_buf(),
        problem: "this build does not read .parquet files; build with `--features parquet`".into(),
    })
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
