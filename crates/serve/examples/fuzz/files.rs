//! The files of a folder, changed at random.

use super::changes::{change, change_bytes};
use super::numbers::Numbers;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Bytes of a file's header that are changed more often than what follows.
const HEADER: usize = 4096;

/// Files of a folder by name.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

pub(crate) fn read(folder: &Path) -> Files {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry"));
    let named = |entry: std::fs::DirEntry| entry.file_name().into_string().expect("a name in UTF-8");
    entries.map(|e| (e.path(), named(e))).map(|(path, name)| (name, std::fs::read(path).expect("a file"))).collect()
}

pub(crate) fn write(folder: &Path, files: &Files) {
    std::fs::remove_dir_all(folder).expect("the folder can be removed");
    std::fs::create_dir(folder).expect("a folder");
    for (name, bytes) in files {
        std::fs::write(folder.join(name), bytes).expect("a file");
    }
}

/// The files with one or two of them changed.
pub(crate) fn changed(files: &Files, numbers: &mut Numbers) -> Files {
    let mut files = files.clone();
    for _ in 0..=numbers.below(2) {
        let names: Vec<String> = files.keys().cloned().collect();
        let name = names[numbers.below(names.len())].clone();
        let kind = Path::new(&name).extension().and_then(std::ffi::OsStr::to_str).unwrap_or_default();
        let bytes = files.get_mut(&name).expect("a file");
        match numbers.below(24) {
            0 => {
                files.remove(&name);
            }
            1 => bytes.truncate(numbers.below(bytes.len() + 1)),
            2 | 3 if !bytes.is_empty() => change_bytes(bytes, numbers),
            _ if kind == "json" => change_json(bytes, numbers),
            _ if kind == "safetensors" && numbers.below(3) > 0 => change_header(bytes, numbers),
            _ if !bytes.is_empty() => {
                // A few bytes near the start, where sizes and names are.
                let mut start: Vec<u8> = bytes.drain(..bytes.len().min(HEADER)).collect();
                change_bytes(&mut start, numbers);
                bytes.splice(..0, start);
            }
            _ => {}
        }
    }
    files
}

fn change_json(bytes: &mut Vec<u8>, numbers: &mut Numbers) {
    if let Ok(mut value) = serde_json::from_slice::<Value>(bytes) {
        let other = value.clone();
        change(&mut value, &other, numbers);
        *bytes = value.to_string().into();
    }
}

/// Changes the header of a file of tensors and its length to match.
fn change_header(bytes: &mut Vec<u8>, numbers: &mut Numbers) {
    let Some(length) = bytes.get(..8).map(|b| u64::from_le_bytes(b.try_into().expect("eight bytes"))) else { return };
    let end = usize::try_from(length).ok().and_then(|length| length.checked_add(8)).filter(|end| *end <= bytes.len());
    let Some(end) = end else { return };
    let mut header = bytes[8..end].to_vec();
    change_json(&mut header, numbers);
    let all = [&(header.len() as u64).to_le_bytes()[..], &header, &bytes[end..]].concat();
    *bytes = all;
}
