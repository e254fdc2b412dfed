//! Packed token files: the tokens of many documents in one file that is validated when opened and read in place.
//!
//! Layout, little-endian: a page of 4,096 bytes (magic `hadaltok`, version u32, length of the header u32, XXH3 of the
//! header u64, the header as JSON), the tokens as u16 or u32, an index of `documents + 1` pairs (first token u64, first
//! byte of text u64), and the documents' names as JSON. From the header follow the position and length of every
//! section, and it has their hashes. A file is written under a temporary name and renamed when it is complete.
//!
//! Where we depart from a memory map: documents are read with positioned reads into the caller's buffer. That costs one
//! copy from the page cache (gigabytes per second, while training needs kilobytes). It needs no `unsafe`. If a file is
//! truncated while it is in use, the result is an error instead of a signal.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::error::{DataError, Result};
use crate::hash::hash_bytes;
use hadal_base::atomic::StagedFile;
use hadal_base::read_exact_at;

const MAGIC: &[u8; 8] = b"hadaltok";
const VERSION: u32 = 1;
const PAGE: u64 = 4096;
/// Magic, version, length, hash.
const FIXED: usize = 24;

/// The header of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardHeader {
    /// Number of documents.
    pub documents: u64,
    /// Number of tokens in all documents, without begin and end tokens.
    pub tokens: u64,
    /// Bytes of text of all documents.
    pub text_bytes: u64,
    /// Bytes per token: 2 or 4.
    pub token_width: u64,
    /// Number of tokens in the vocabulary. Every id is below it.
    pub vocab_size: u64,
    /// Fingerprint of the tokenizer.
    pub tokenizer: u64,
    /// XXH3 of the tokens, of the index and of the names.
    pub hashes: [u64; 3],
    /// Length of the names in bytes.
    pub names_len: u64,
}

impl ShardHeader {
    fn index_at(&self) -> Option<u64> {
        PAGE.checked_add(self.tokens.checked_mul(self.token_width)?)
    }
    fn names_at(&self) -> Option<u64> {
        self.index_at()?.checked_add(self.documents.checked_add(1)?.checked_mul(16)?)
    }
    fn file_len(&self) -> Option<u64> {
        self.names_at()?.checked_add(self.names_len)
    }
}

/// Writes one file. If it is dropped before [`Self::finish`], no file remains.
pub struct ShardWriter {
    path: PathBuf,
    staged: StagedFile,
    header: ShardHeader,
    index: Vec<u8>,
    names: Vec<(String, String)>,
    hash: Xxh3,
    bytes: Vec<u8>,
}

impl ShardWriter {
    /// Starts a file for tokens of the given vocabulary.
    pub fn create(path: &Path, vocab_size: usize, tokenizer: u64) -> Result<Self> {
        let mut staged = StagedFile::new(path)?;
        staged.out().seek(SeekFrom::Start(PAGE)).map_err(DataError::io("write", path))?;
        let token_width = if vocab_size <= 1 << 16 { 2 } else { 4 };
        let header = ShardHeader {
            documents: 0,
            tokens: 0,
            text_bytes: 0,
            token_width,
            vocab_size: vocab_size as u64,
            tokenizer,
            hashes: [0; 3],
            names_len: 0,
        };
        Ok(Self {
            path: path.to_path_buf(),
            staged,
            header,
            index: Vec::new(),
            names: Vec::new(),
            hash: Xxh3::new(),
            bytes: Vec::new(),
        })
    }

    /// Adds a document.
    pub fn push(&mut self, ids: &[u32], text_bytes: usize, group: &str, id: &str) -> Result<()> {
        self.bytes.clear();
        if self.header.token_width == 2 {
            self.bytes.extend(ids.iter().flat_map(|id| (*id as u16).to_le_bytes()));
        } else {
            self.bytes.extend(ids.iter().flat_map(|id| id.to_le_bytes()));
        }
        self.hash.update(&self.bytes);
        self.mark();
        self.header.documents += 1;
        self.header.tokens += ids.len() as u64;
        self.header.text_bytes += text_bytes as u64;
        self.names.push((group.to_owned(), id.to_owned()));
        self.staged.out().write_all(&self.bytes).map_err(DataError::io("write", &self.path))
    }

    fn mark(&mut self) {
        self.index.extend(self.header.tokens.to_le_bytes());
        self.index.extend(self.header.text_bytes.to_le_bytes());
    }

    /// Tokens so far.
    pub fn tokens(&self) -> u64 {
        self.header.tokens
    }

    /// Writes index, names and header, and gives the file its name.
    pub fn finish(mut self) -> Result<ShardHeader> {
        self.mark();
        let names = serde_json::to_vec(&self.names).expect("strings");
        self.header.names_len = names.len() as u64;
        self.header.hashes = [self.hash.digest(), hash_bytes(&self.index), hash_bytes(&names)];
        let json = serde_json::to_vec(&self.header).expect("numbers");
        let mut page = Vec::with_capacity(PAGE as usize);
        page.extend(MAGIC);
        page.extend(VERSION.to_le_bytes());
        page.extend((json.len() as u32).to_le_bytes());
        page.extend(hash_bytes(&json).to_le_bytes());
        page.extend(&json);
        page.resize(PAGE as usize, 0);
        let out = self.staged.out();
        let written = (|| {
            out.write_all(&self.index)?;
            out.write_all(&names)?;
            out.seek(SeekFrom::Start(0))?;
            out.write_all(&page)
        })();
        written.map_err(DataError::io("write", &self.path))?;
        self.staged.commit()?;
        Ok(self.header)
    }
}

/// An open file.
#[derive(Debug)]
pub struct Shard {
    path: PathBuf,
    file: File,
    header: ShardHeader,
    /// First token and first byte of text of every document, followed by the totals.
    index: Vec<(u64, u64)>,
}

impl Shard {
    /// Opens a file and checks everything except the tokens themselves (see [`Self::verify`]).
    pub fn open(path: &Path) -> Result<Self> {
        let bad = |problem: String| DataError::shard(path, problem);
        let read = || DataError::io("read", path);
        let file = File::open(path).map_err(read())?;
        let len = file.metadata().map_err(read())?.len();
        if len < PAGE {
            return Err(bad(format!("it has {len} bytes, too few for a header")));
        }
        let mut page = vec![0; PAGE as usize];
        read_exact_at(&file, &mut page, 0).map_err(read())?;
        if &page[..8] != MAGIC {
            return Err(bad("it is not a packed token file".into()));
        }
        let word = |at: usize| u32::from_le_bytes(page[at..at + 4].try_into().expect("four bytes"));
        if word(8) != VERSION {
            return Err(bad(format!("its format is version {}, this program reads {VERSION}", word(8))));
        }
        let json = page.get(FIXED..FIXED.saturating_add(word(12) as usize));
        let json = json.ok_or_else(|| bad("its header is damaged".into()))?;
        if hash_bytes(json).to_le_bytes() != page[16..24] {
            return Err(bad("its header is damaged".into()));
        }
        let header: ShardHeader =
            serde_json::from_slice(json).map_err(|e| bad(format!("its header is damaged ({e})")))?;
        let sensible = matches!(header.token_width, 2 | 4) && header.vocab_size <= 1 << (8 * header.token_width);
        let wanted = header.file_len().filter(|_| sensible);
        if wanted != Some(len) {
            let wanted = wanted.map_or("an impossible number of".into(), |w| w.to_string());
            return Err(bad(format!("it has {len} bytes, but its header says {wanted}")));
        }
        let mut bytes = vec![0; (header.documents as usize + 1) * 16];
        read_exact_at(&file, &mut bytes, header.index_at().expect("checked above")).map_err(read())?;
        if hash_bytes(&bytes) != header.hashes[1] {
            return Err(bad("its index is damaged".into()));
        }
        let number = |b: &[u8]| u64::from_le_bytes(b.try_into().expect("eight bytes"));
        let index: Vec<(u64, u64)> = bytes.chunks_exact(16).map(|c| (number(&c[..8]), number(&c[8..]))).collect();
        let ascending = index.windows(2).all(|w| w[0].0 <= w[1].0 && w[0].1 <= w[1].1);
        if !ascending || index[0] != (0, 0) || index[index.len() - 1] != (header.tokens, header.text_bytes) {
            return Err(bad("its index contradicts its header".into()));
        }
        Ok(Self { path: path.to_path_buf(), file, header, index })
    }

    /// The header.
    pub fn header(&self) -> &ShardHeader {
        &self.header
    }

    /// Documents in the file.
    pub fn documents(&self) -> usize {
        self.index.len() - 1
    }

    /// Bytes of text of a document.
    pub fn text_bytes_of(&self, document: usize) -> u64 {
        self.index[document + 1].1 - self.index[document].1
    }

    /// Number of tokens of a document.
    pub fn tokens_of(&self, document: usize) -> usize {
        (self.index[document + 1].0 - self.index[document].0) as usize
    }

    /// Reads a document's tokens into `ids` and replaces its contents.
    pub fn read(&self, document: usize, ids: &mut Vec<u32>) -> Result<()> {
        let (from, to) = (self.index[document].0, self.index[document + 1].0);
        let width = self.header.token_width;
        let mut bytes = vec![0; ((to - from) * width) as usize];
        read_exact_at(&self.file, &mut bytes, PAGE + from * width).map_err(DataError::io("read", &self.path))?;
        ids.clear();
        if width == 2 {
            ids.extend(bytes.chunks_exact(2).map(|c| u32::from(u16::from_le_bytes([c[0], c[1]]))));
        } else {
            ids.extend(bytes.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])));
        }
        match ids.iter().find(|id| u64::from(**id) >= self.header.vocab_size) {
            Some(id) => Err(DataError::shard(
                &self.path,
                format!("document {document} has the token {id}, beyond the vocabulary of {}", self.header.vocab_size),
            )),
            None => Ok(()),
        }
    }

    /// Groups and ids of the documents.
    pub fn names(&self) -> Result<Vec<(String, String)>> {
        let bad = || DataError::shard(&self.path, "its names are damaged");
        let mut bytes = vec![0; self.header.names_len as usize];
        let at = self.header.names_at().expect("checked when opened");
        read_exact_at(&self.file, &mut bytes, at).map_err(DataError::io("read", &self.path))?;
        if hash_bytes(&bytes) != self.header.hashes[2] {
            return Err(bad());
        }
        let names: Vec<(String, String)> = serde_json::from_slice(&bytes).map_err(|_| bad())?;
        if names.len() == self.documents() { Ok(names) } else { Err(bad()) }
    }

    /// Reads all tokens and compares their hash with the header's.
    pub fn verify(&self) -> Result<()> {
        let read = || DataError::io("read", &self.path);
        let mut file = BufReader::with_capacity(1 << 20, File::open(&self.path).map_err(read())?);
        file.seek(SeekFrom::Start(PAGE)).map_err(read())?;
        let mut left = self.header.tokens * self.header.token_width;
        let (mut hash, mut buffer) = (Xxh3::new(), vec![0; 1 << 20]);
        while left > 0 {
            let part = buffer.len().min(left as usize);
            file.read_exact(&mut buffer[..part]).map_err(read())?;
            hash.update(&buffer[..part]);
            left -= part as u64;
        }
        if hash.digest() != self.header.hashes[0] {
            return Err(DataError::shard(&self.path, "its tokens are damaged"));
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "shard_tests.rs"]
mod tests;
