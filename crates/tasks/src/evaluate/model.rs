//! A model that is evaluated, and a number that stands for its weights.

use std::io::Read;
use std::path::Path;

use hadal_infer::Loaded;
use hadal_weights::precision::RunFormats;

use crate::error::Result;
use hadal_base::IoContext;

/// Bytes that are read at a time.
const PIECE: usize = 8 << 20;
/// Endings of the files that make a model.
const ENDINGS: [&str; 5] = ["safetensors", "json", "model", "jinja", "tiktoken"];

/// A model that is evaluated.
pub struct Model<'a> {
    /// The model with its tokenizer.
    pub loaded: &'a Loaded,
    /// Its name for people.
    pub name: String,
    hash: u64,
}

impl<'a> Model<'a> {
    /// A model that was loaded from `folder` with these formats of weights. All files of the folder that make a model are
    /// read once, so that answers of other weights are never taken for those of this model.
    pub fn new(loaded: &'a Loaded, name: &str, folder: &Path, formats: RunFormats) -> Result<Self> {
        let run = format!("{formats:?} {:?} {:?}", loaded.cx.compute(), loaded.cx.isa());
        let hash = hadal_base::mix(hash_of(folder)? ^ hadal_base::checksum(run.as_bytes()));
        Ok(Self { loaded, name: name.to_owned(), hash })
    }

    /// Stands for the weights, the tokenizer and how they are computed with.
    pub fn hash(&self) -> u64 {
        self.hash
    }
}

/// Stands for the names and the contents of a model's files.
fn hash_of(folder: &Path) -> Result<u64> {
    let entries = std::fs::read_dir(folder).at("read", folder)?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.at("read", folder)?.path();
        let known = path.extension().is_some_and(|ending| ENDINGS.iter().any(|known| ending == *known));
        if known && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    let mut hash = 0;
    let mut piece = vec![0; PIECE];
    for path in files {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        hash = hadal_base::mix(hash ^ hadal_base::checksum(name));
        let mut file = hadal_base::open_regular(&path).at("read", &path)?;
        loop {
            let read = fill(&mut file, &mut piece).at("read", &path)?;
            hash = hadal_base::mix(hash ^ hadal_base::checksum(&piece[..read]));
            if read < piece.len() {
                break;
            }
        }
    }
    Ok(hash)
}

/// Reads until the piece is full or the file ends. Returns the number of bytes.
fn fill(file: &mut impl Read, piece: &mut [u8]) -> std::io::Result<usize> {
    let mut full = 0;
    while full < piece.len() {
        match file.read(&mut piece[full..])? {
            0 => break,
            read => full += read,
        }
    }
    Ok(full)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_contents_and_their_order_count() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
        let hash = || hash_of(folder.path()).unwrap();
        write("config.json", b"{}");
        write("model.safetensors", &vec![7; PIECE]);
        let first = hash();
        let mut weights = vec![7; PIECE];
        weights[PIECE - 1] = 8;
        write("model.safetensors", &weights);
        let changed = hash();
        write("model.safetensors", &vec![7; PIECE + 1]);
        let longer = hash();
        write("tokenizer.json", b"{}");
        let more = hash();
        std::fs::rename(folder.path().join("tokenizer.json"), folder.path().join("tokenizer_config.json")).unwrap();
        let renamed = hash();
        let all = [first, changed, longer, more, renamed];
        assert!((0..5).all(|i| !all[..i].contains(&all[i])), "{all:?}");
        // What does not make the model does not count: pictures, results, answers.
        write("answers.jsonl", b"x");
        std::fs::create_dir(folder.path().join("eval")).unwrap();
        assert_eq!(hash(), renamed);
    }
}
