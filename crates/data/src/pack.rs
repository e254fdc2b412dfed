//! Writes documents to a folder of packed token files with a manifest, and reads them.
//!
//! `NAME.json` lists the files `NAME-00000.tok`, ... with their sizes and hashes. It is written last, so a folder with
//! a manifest is complete. Documents keep their order and are numbered across all files.

use std::path::Path;
use std::time::Instant;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::{DataError, Result};
use crate::hash::{hash_bytes, mix};
use crate::shard::{Shard, ShardHeader, ShardWriter};
use crate::source::Document;
use crate::tokenizer::{Throughput, Tokenizer};
use hadal_base::atomic::write_file;

/// Number of documents that are encoded at the same time.
const AT_ONCE: usize = 512;

#[derive(Serialize, Deserialize)]
struct Manifest {
    format: u32,
    vocab_size: u64,
    tokenizer: u64,
    shards: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    file: String,
    header: ShardHeader,
}

/// Encodes documents and writes them as `folder/name.json` and its files, each of about `shard_tokens` tokens.
pub fn pack(
    folder: &Path,
    name: &str,
    documents: &[Document],
    tokenizer: &Tokenizer,
    shard_tokens: u64,
) -> Result<Throughput> {
    std::fs::create_dir_all(folder).map_err(DataError::io("create", folder))?;
    let start = Instant::now();
    let (vocab_size, fingerprint) = (tokenizer.vocab_size(), tokenizer.fingerprint());
    let mut manifest =
        Manifest { format: 1, vocab_size: vocab_size as u64, tokenizer: fingerprint, shards: Vec::new() };
    let mut open: Option<(String, ShardWriter)> = None;
    for part in documents.chunks(AT_ONCE) {
        let encoded: Vec<Vec<u32>> = part.par_iter().with_max_len(8).map(|d| tokenizer.encode(&d.text)).collect();
        for (document, ids) in part.iter().zip(encoded) {
            if open.is_none() {
                let file = format!("{name}-{:05}.tok", manifest.shards.len());
                let writer = ShardWriter::create(&folder.join(&file), vocab_size, fingerprint)?;
                open = Some((file, writer));
            }
            let (_, writer) = open.as_mut().expect("just opened");
            writer.push(&ids, document.text.len(), &document.group, &document.id)?;
            if writer.tokens() >= shard_tokens {
                let (file, writer) = open.take().expect("just used");
                manifest.shards.push(Entry { file, header: writer.finish()? });
            }
        }
    }
    if let Some((file, writer)) = open {
        manifest.shards.push(Entry { file, header: writer.finish()? });
    }
    let json = serde_json::to_string_pretty(&manifest).expect("numbers and strings");
    write_file(&folder.join(format!("{name}.json")), json.as_bytes())?;
    Ok(Throughput {
        bytes: manifest.shards.iter().map(|s| s.header.text_bytes).sum(),
        tokens: manifest.shards.iter().map(|s| s.header.tokens).sum(),
        seconds: start.elapsed().as_secs_f64(),
    })
}

/// Packed documents, open for reading.
#[derive(Debug)]
pub struct Packed {
    shards: Vec<Shard>,
    /// Number of the first document of each file, and the total.
    starts: Vec<usize>,
    fingerprint: u64,
    tokenizer: u64,
}

impl Packed {
    /// Opens `folder/name.json`. The files must be those in the manifest and belong to `tokenizer`.
    pub fn open(folder: &Path, name: &str, tokenizer: &Tokenizer) -> Result<Self> {
        let path = folder.join(format!("{name}.json"));
        let json = std::fs::read(&path).map_err(DataError::io("read", &path))?;
        let manifest: Manifest = serde_json::from_slice(&json)
            .map_err(|e| DataError::shard(&path, format!("it is not a list of packed files ({e})")))?;
        let of_tokenizer = manifest.tokenizer == tokenizer.fingerprint();
        if !of_tokenizer || manifest.vocab_size != tokenizer.vocab_size() as u64 {
            return Err(DataError::shard(&path, "it was packed with another tokenizer"));
        }
        let (mut shards, mut starts, mut fingerprint) = (Vec::new(), vec![0usize], 0);
        for entry in &manifest.shards {
            let plain = Path::new(&entry.file).file_name().is_some_and(|f| f == entry.file.as_str());
            if !plain {
                return Err(DataError::shard(&path, format!("`{}` is not the name of a file beside it", entry.file)));
            }
            let file = folder.join(&entry.file);
            let shard = Shard::open(&file)?;
            if *shard.header() != entry.header || entry.header.tokenizer != manifest.tokenizer {
                return Err(DataError::shard(&file, "it is not the file that the list beside it describes"));
            }
            starts.push(starts[starts.len() - 1] + shard.documents());
            let header = serde_json::to_vec(shard.header()).expect("numbers");
            fingerprint = mix(fingerprint ^ hash_bytes(&header));
            shards.push(shard);
        }
        Ok(Self { shards, starts, fingerprint, tokenizer: manifest.tokenizer })
    }

    fn find(&self, document: usize) -> (&Shard, usize) {
        let shard = self.starts.partition_point(|start| *start <= document) - 1;
        (&self.shards[shard], document - self.starts[shard])
    }

    /// Documents in all files.
    pub fn documents(&self) -> usize {
        self.starts[self.starts.len() - 1]
    }

    /// Tokens in all files, without begin and end tokens.
    pub fn tokens(&self) -> u64 {
        self.shards.iter().map(|s| s.header().tokens).sum()
    }

    /// Bytes of text in all files.
    pub fn text_bytes(&self) -> u64 {
        self.shards.iter().map(|s| s.header().text_bytes).sum()
    }

    /// Bytes of text of one document.
    pub fn text_bytes_of(&self, document: usize) -> u64 {
        let (shard, document) = self.find(document);
        shard.text_bytes_of(document)
    }

    /// Reads a document's tokens into `ids` and replaces its contents.
    pub fn read(&self, document: usize, ids: &mut Vec<u32>) -> Result<()> {
        let (shard, document) = self.find(document);
        shard.read(document, ids)
    }

    /// Groups and ids of all documents.
    pub fn names(&self) -> Result<Vec<(String, String)>> {
        let each: Result<Vec<Vec<_>>> = self.shards.iter().map(Shard::names).collect();
        Ok(each?.concat())
    }

    /// Checks the tokens of all files against their hashes. This reads every file once.
    pub fn verify(&self) -> Result<()> {
        self.shards.par_iter().try_for_each(Shard::verify)
    }

    /// Fingerprint of the tokenizer that the text was packed with.
    pub fn tokenizer(&self) -> u64 {
        self.tokenizer
    }

    /// A hash of everything. It tells whether a saved position belongs to this data.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{documents, tokenizer};

    #[test]
    fn documents_come_back_through_several_files() {
        let dir = tempfile::tempdir().unwrap();
        let (documents, t) = (documents(), tokenizer());
        let rate = pack(dir.path(), "train", &documents, &t, 3000).unwrap();
        let packed = Packed::open(dir.path(), "train", &t).unwrap();
        assert!(packed.shards.len() > 2);
        assert_eq!((packed.documents(), packed.tokens()), (documents.len(), rate.tokens));
        assert_eq!(packed.text_bytes(), documents.iter().map(|d| d.text.len() as u64).sum::<u64>());
        packed.verify().unwrap();
        let names = packed.names().unwrap();
        let mut ids = Vec::new();
        for (i, document) in documents.iter().enumerate() {
            packed.read(i, &mut ids).unwrap();
            assert_eq!(t.decode(&ids), document.text);
            assert_eq!(packed.text_bytes_of(i), document.text.len() as u64);
            assert_eq!(names[i], (document.group.clone(), document.id.clone()));
        }
        pack(dir.path(), "other", &documents, &t, 3000).unwrap();
        assert_eq!(Packed::open(dir.path(), "other", &t).unwrap().fingerprint(), packed.fingerprint());
    }

    #[test]
    fn swapped_files_and_other_tokenizers_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (documents, t) = (documents(), tokenizer());
        pack(dir.path(), "a", &documents, &t, 1 << 30).unwrap();
        pack(dir.path(), "b", &documents[1..], &t, 1 << 30).unwrap();
        let options = crate::tokenizer::TrainOptions { vocab_size: 500, ..Default::default() };
        let other = Tokenizer::train(&documents, &options).unwrap().0;
        let error = Packed::open(dir.path(), "a", &other).unwrap_err().to_string();
        assert!(error.contains("another tokenizer"), "{error}");
        std::fs::copy(dir.path().join("b-00000.tok"), dir.path().join("a-00000.tok")).unwrap();
        let error = Packed::open(dir.path(), "a", &t).unwrap_err().to_string();
        assert!(error.contains("a-00000.tok") && error.contains("not the file"), "{error}");
        let manifest = std::fs::read_to_string(dir.path().join("b.json")).unwrap();
        std::fs::write(dir.path().join("c.json"), manifest.replace("b-00000", "../b-00000")).unwrap();
        assert!(Packed::open(dir.path(), "c", &t).unwrap_err().to_string().contains("not the name of a file"));
        std::fs::write(dir.path().join("d.json"), &manifest[..40]).unwrap();
        assert!(matches!(Packed::open(dir.path(), "d", &t), Err(DataError::Shard { .. })));
    }
}
