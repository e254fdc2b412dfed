//! Text documents from files and folders, in an order that depends only on names.
//!
//! A folder is walked recursively in the order of its names. Hidden entries and build outputs are skipped, and symbolic
//! links are not followed. The ending of a name decides what counts as text. A file that is named directly is read
//! whatever its ending is. `.jsonl` holds one document per line, as text or as question and answer. A `.json` file that
//! is named directly holds an array of documents. Files compressed with gzip, zstd or xz are unpacked. Text that is not
//! UTF-8 is skipped and never repaired, because a model would learn the replacement characters. Everything skipped is
//! counted with its reason ([`LeftOut`]).

mod bytes;
mod document;
mod json;
mod left_out;
mod lines;
#[cfg_attr(not(feature = "parquet"), path = "no_parquet.rs")]
mod parquet;
mod records;

use std::io::Read;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use walkdir::{DirEntry, WalkDir};

use crate::error::{DataError, Result};
pub(crate) use bytes::open_text;
pub use document::{Document, SourceOptions, Texts};
use hadal_base::IoError;
pub use left_out::{LeftOut, Why};
pub(crate) use lines::each_line;
pub use records::read_records;

/// Endings of plain text and source code.
const TEXT_ENDINGS: &[&str] = &[
    "adoc", "bash", "c", "cc", "clj", "cmake", "cpp", "cs", "css", "cu", "cuh", "cxx", "dart", "el", "erl", "ex",
    "exs", "f90", "go", "h", "hh", "hpp", "hs", "html", "hxx", "java", "jl", "js", "jsx", "kt", "lean", "lisp", "lua",
    "m", "md", "ml", "mli", "nim", "php", "pl", "pm", "proto", "ps1", "py", "pyi", "r", "rb", "rs", "rst", "scala",
    "scm", "sh", "sql", "sv", "swift", "tex", "toml", "ts", "tsx", "txt", "v", "vhd", "vim", "wgsl", "yaml", "yml",
    "zig",
];

/// Whether a folder holds no source of its own: fetched packages, caches and build outputs. Caches and build outputs
/// carry a standard tag file. A folder called `target` may well be source.
fn passed_over(entry: &DirEntry) -> bool {
    let name = entry.file_name().to_string_lossy();
    let no_source = || matches!(&*name, "node_modules" | "__pycache__") || entry.path().join("CACHEDIR.TAG").is_file();
    name.starts_with('.') || (entry.file_type().is_dir() && no_source())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    JsonLines,
    Json,
    Parquet,
}

/// The kind of a file by its name. The ending for a compression comes after the one for the kind.
fn kind_of(path: &Path) -> Option<Kind> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    let name = ["gz", "zst", "xz"].iter().find_map(|e| name.strip_suffix(e)?.strip_suffix('.')).unwrap_or(&name);
    match name.rsplit_once('.')?.1 {
        "jsonl" | "ndjson" => Some(Kind::JsonLines),
        "json" => Some(Kind::Json),
        "parquet" => Some(Kind::Parquet),
        ending => TEXT_ENDINGS.binary_search(&ending).is_ok().then_some(Kind::Plain),
    }
}

/// Reads every document under `paths`. It is an error if a path cannot be read or nothing is found.
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
            texts.append(read_file(path, kind, &name, &name, options, true)?);
        }
    }
    if texts.documents.is_empty() {
        let path = paths.first().map_or_else(PathBuf::new, |p| p.as_ref().to_path_buf());
        return Err(DataError::NoText {
            path,
            problem: format!(
                "no text found ({}); give .txt, .md, source code or .jsonl files, or folders of them",
                if texts.left_out.is_empty() { "no files".into() } else { texts.left_out.to_string() }
            ),
        });
    }
    Ok(texts)
}

/// Reads the text files of one folder for which `wanted` is true. Every id and group begins with `root`.
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
            // In folders, `.json` files are usually settings and not text.
            Some(Kind::Json) | None => texts.left_out.add(Why::OtherKind, || entry.path().display().to_string()),
            Some(kind) => files.push((entry.into_path(), kind)),
        }
    }
    let read: Vec<Result<Texts>> = files
        .par_iter()
        .map(|(path, kind)| {
            let relative = path.strip_prefix(folder).unwrap_or(path);
            let first = relative.components().next().map(|c| c.as_os_str().to_string_lossy().into_owned());
            let group = format!("{root}/{}", first.unwrap_or_default());
            // Ids use the same separator on every system, so choices keyed by them are the same.
            let parts: Vec<_> = relative.components().map(|c| c.as_os_str().to_string_lossy()).collect();
            let id = format!("{root}/{}", parts.join("/"));
            match read_file(path, *kind, &id, &group, options, false) {
                // A folder may also contain records that are not text.
                Err(DataError::NoField { field, has, .. }) => {
                    let mut texts = Texts::default();
                    texts.left_out.add(Why::NoField, || format!("{id} has no `{field}`, but {has}"));
                    Ok(texts)
                }
                read => read,
            }
        })
        .collect();
    for one in read {
        texts.append(one?);
    }
    Ok(texts)
}

/// Reads one file. If it was `named` directly and cannot be text, that is an error.
fn read_file(path: &Path, kind: Kind, id: &str, group: &str, options: &SourceOptions, named: bool) -> Result<Texts> {
    if kind == Kind::Parquet {
        return parquet::read(path, id, options);
    }
    let mut texts = Texts::default();
    let mut reader = match bytes::open(path)? {
        bytes::Opened::Text(reader) => reader,
        bytes::Opened::Refused(_, problem) if named => {
            return Err(DataError::NoText { path: path.to_path_buf(), problem: problem.into() });
        }
        bytes::Opened::Refused(why, _) => {
            texts.left_out.add(why, || id.into());
            return Ok(texts);
        }
    };
    if kind == Kind::JsonLines {
        return json::read_lines(&mut reader, path, id, options);
    }
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).map_err(DataError::io("read", path))?;
    match String::from_utf8(bytes).map(without_bom) {
        Ok(text) if kind == Kind::Json => return json::read_array(&text, path, id, options),
        Ok(text) if text.is_empty() => texts.left_out.add(Why::Empty, || id.into()),
        Ok(text) => texts.documents.push(Document { id: id.into(), group: group.into(), text }),
        Err(_) => texts.left_out.add(Why::NotUtf8, || id.into()),
    }
    Ok(texts)
}

fn without_bom(text: String) -> String {
    match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests;
