//! Task files with the files that they include.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::yaml::{Entry, Node, Yaml, parse};
use crate::error::{Result, TaskError};
use hadal_base::IoContext;

/// The largest task file, in bytes.
const MAX_BYTES: u64 = 4 << 20;
/// The most files that one task is made of.
const MAX_FILES: usize = 100;

/// Reads a task file and the files that it includes. Keys of the file itself win over included ones, and later includes
/// win over earlier ones. A list of included keys is replaced, not joined. `task_list` is not taken from an include.
pub fn load(path: &Path) -> Result<Node> {
    let mut open = Vec::new();
    let mut files = 0;
    load_one(path, &mut open, &mut files)
}

fn load_one(path: &Path, open: &mut Vec<PathBuf>, files: &mut usize) -> Result<Node> {
    let read = |path: &Path| {
        let full = path.canonicalize()?;
        hadal_base::read_small(&full, MAX_BYTES).map(|bytes| (full, bytes))
    };
    let (full, bytes) = read(path).at("read", path)?;
    let file: Arc<Path> = Arc::from(path);
    let text = String::from_utf8(bytes).map_err(|e| {
        let before = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = before.split(|b| *b == b'\n').count();
        let place = crate::error::Place { file: Arc::clone(&file), line };
        TaskError::Yaml { place, problem: "this line is not UTF-8; save the file as UTF-8".to_owned() }
    })?;
    let mut node = parse(text.trim_start_matches('\u{feff}'), &file)?;
    *files += 1;
    let Yaml::Map(entries) = &mut node.yaml else { return Ok(node) };
    let Some(at) = entries.iter().position(|entry| entry.key == "include") else { return Ok(node) };
    let include = entries.remove(at);
    let problem = |problem: String| {
        let place = include.place.clone();
        TaskError::Key { place, key: "include".to_owned(), problem }
    };
    if open.contains(&full) {
        return Err(problem(format!("{} includes itself; remove one of the includes", path.display())));
    }
    open.push(full);
    let mut merged: Vec<Entry> = Vec::new();
    for name in names(&include.value).ok_or_else(|| problem("give the name of a file or a list of them".to_owned()))? {
        if *files >= MAX_FILES {
            return Err(problem(format!("more than {MAX_FILES} files are included")));
        }
        let target = path.parent().unwrap_or(Path::new("")).join(name);
        let included = load_one(&target, open, files).map_err(|error| match error {
            TaskError::Io(io) if io.path == target => problem(format!("{io}")),
            other => other,
        })?;
        let Yaml::Map(included) = included.yaml else { continue };
        override_with(&mut merged, included.into_iter().filter(|entry| entry.key != "task_list"));
    }
    open.pop();
    override_with(&mut merged, std::mem::take(entries));
    *entries = merged;
    Ok(node)
}

fn names(node: &Node) -> Option<Vec<&str>> {
    match &node.yaml {
        Yaml::Text(name) => Some(vec![name]),
        Yaml::List(items) => items
            .iter()
            .map(|item| match &item.yaml {
                Yaml::Text(name) => Some(name.as_str()),
                _ => None,
            })
            .collect(),
        _ => None,
    }
}

/// Replaces entries of the same key and adds the others.
pub(crate) fn override_with(entries: &mut Vec<Entry>, others: impl IntoIterator<Item = Entry>) {
    for other in others {
        match entries.iter_mut().find(|entry| entry.key == other.key) {
            Some(entry) => *entry = other,
            None => entries.push(other),
        }
    }
}
