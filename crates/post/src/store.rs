//! Sequences in a run's folder: their tokens in one packed file, and which of them are trained in a second one.
//!
//! The second file has the stretches of trained tokens of each sequence, as pairs of first and end. Both are files of
//! `hadal_data::shard`, so they are checked when they are opened, and read in place.

use hadal_data::chat::Learned;
use hadal_data::shard::{Shard, ShardWriter};
use hadal_data::{DataError, Tokenizer};
use std::path::{Path, PathBuf};

use crate::error::Result;

/// The vocabulary of stretches: any number of 32 bits.
const NUMBERS: usize = 1 << 32;

fn paths(folder: &Path, name: &str) -> [PathBuf; 2] {
    [folder.join(format!("{name}.tok")), folder.join(format!("{name}.trained.tok"))]
}

/// Writes sequences.
pub struct StoreWriter {
    tokens: ShardWriter,
    trained: ShardWriter,
}

impl StoreWriter {
    /// Starts the two files `NAME` in an existing folder.
    pub fn create(folder: &Path, name: &str, tokenizer: &Tokenizer) -> Result<Self> {
        let [tokens, trained] = paths(folder, name);
        let of = tokenizer.fingerprint();
        let tokens = ShardWriter::create(&tokens, tokenizer.vocab_size(), of)?;
        Ok(Self { tokens, trained: ShardWriter::create(&trained, NUMBERS, of)? })
    }

    /// Adds a sequence of a data set. `bytes` is the length of its trained text, `id` says where it comes from.
    pub fn push(&mut self, learned: &Learned, bytes: usize, set: usize, id: &str) -> Result<()> {
        let numbers: Vec<u32> = learned.trained.iter().flat_map(|of| [of.start as u32, of.end as u32]).collect();
        self.tokens.push(&learned.ids, bytes, &set.to_string(), id)?;
        Ok(self.trained.push(&numbers, 0, "", "")?)
    }

    /// Completes the files.
    pub fn finish(self) -> Result<()> {
        self.trained.finish()?;
        self.tokens.finish()?;
        Ok(())
    }
}

/// Stored sequences, open for reading.
#[derive(Debug)]
pub struct Store {
    tokens: Shard,
    trained: Shard,
    paths: [PathBuf; 2],
}

impl Store {
    /// Opens the files `NAME` in a folder.
    pub fn open(folder: &Path, name: &str, tokenizer: &Tokenizer) -> Result<Self, DataError> {
        let paths = paths(folder, name);
        let [tokens, trained] = [Shard::open(&paths[0])?, Shard::open(&paths[1])?];
        for (shard, path) in [&tokens, &trained].into_iter().zip(&paths) {
            if shard.header().tokenizer != tokenizer.fingerprint() {
                return Err(problem(path, "it belongs to another tokenizer"));
            }
            if shard.documents() != tokens.documents() {
                return Err(problem(path, "it has another number of sequences than the file beside it"));
            }
        }
        Ok(Self { tokens, trained, paths })
    }

    /// Number of sequences.
    pub fn len(&self) -> usize {
        self.tokens.documents()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of inputs of a sequence: its tokens minus one.
    pub fn inputs(&self, sequence: usize) -> usize {
        self.tokens.tokens_of(sequence).saturating_sub(1)
    }

    /// Bytes of the trained text of a sequence.
    pub fn bytes(&self, sequence: usize) -> u64 {
        self.tokens.text_bytes_of(sequence)
    }

    /// A hash of all sequences. It tells whether a saved position belongs to them.
    pub fn fingerprint(&self) -> u64 {
        let [a, b] = [&self.tokens, &self.trained].map(|shard| shard.header().hashes[0]);
        a ^ b.rotate_left(1)
    }

    /// The number of the data set of each sequence.
    pub fn sets(&self) -> Result<Vec<usize>, DataError> {
        let number = |(set, _): (String, String)| {
            set.parse().map_err(|_| problem(&self.paths[0], &format!("a data set has the name {set:?}, not a number")))
        };
        self.tokens.names()?.into_iter().map(number).collect()
    }

    /// Reads a sequence.
    pub fn read(&self, sequence: usize) -> Result<Learned, DataError> {
        let (mut learned, mut numbers) = (Learned::default(), Vec::new());
        self.tokens.read(sequence, &mut learned.ids)?;
        self.trained.read(sequence, &mut numbers)?;
        let rises = numbers.is_sorted() && numbers.last().is_none_or(|end| *end as usize <= learned.ids.len());
        if learned.ids.is_empty() || numbers.len() % 2 == 1 || !rises {
            let what = format!("the stretches of sequence {sequence} do not fit its tokens");
            return Err(problem(&self.paths[1], &what));
        }
        learned.trained = numbers.chunks_exact(2).map(|of| of[0] as usize..of[1] as usize).collect();
        Ok(learned)
    }
}

fn problem(path: &Path, problem: &str) -> DataError {
    DataError::Sequences { path: path.into(), problem: problem.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_that_do_not_fit_are_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = Tokenizer::load(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/sft"))).unwrap();
        let write = |name: &str, numbers: &[u32], set: &str| {
            let [tokens, trained] = paths(folder.path(), name);
            let of = tokenizer.fingerprint();
            let mut writer = ShardWriter::create(&tokens, tokenizer.vocab_size(), of).unwrap();
            writer.push(&[1, 2, 3], 3, set, "a").unwrap();
            writer.finish().unwrap();
            let mut writer = ShardWriter::create(&trained, NUMBERS, of).unwrap();
            writer.push(numbers, 0, "", "").unwrap();
            writer.finish().unwrap();
            Store::open(folder.path(), name, &tokenizer).unwrap()
        };
        let good = write("good", &[0, 1, 2, 3], "2");
        assert_eq!(good.read(0).unwrap().trained, [0..1, 2..3]);
        assert_eq!(good.sets().unwrap(), [2]);
        for (number, bad) in [&[1][..], &[2, 1], &[1, 4], &[0, 2, 1, 3], &[0, u32::MAX]].into_iter().enumerate() {
            let error = write(&format!("bad{number}"), bad, "0").read(0).unwrap_err();
            assert!(matches!(&error, DataError::Sequences { .. }), "{bad:?}: {error}");
        }
        let error = write("name", &[0, 1], "x").sets().unwrap_err().to_string();
        assert!(error.contains("name.tok") && error.contains("\"x\""), "{error}");
    }
}
