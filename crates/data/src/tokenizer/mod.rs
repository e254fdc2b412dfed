//! The tokenizer: byte-level BPE in the format of Hugging Face's `tokenizer.json`, ours or others', or of a
//! `tiktoken.model` (`tiktoken.rs`).
//!
//! The pre-tokenizer keeps punctuation and line breaks in one token ([`pretoken`]; report, section 4.1). Our own faster
//! code encodes files with this layout, the released DeepSeek-V3 tokenizer among them (`recognise.rs`). The
//! `tokenizers` library encodes all others. Text is data: the names of special tokens in it are encoded like any other
//! characters (`added.rs` says which tokens are special). Only [`Tokenizer::encode_with_special`] recognises them, for
//! prompts that the caller wrote. Other added words are encoded as single tokens everywhere.

mod added;
mod bpe;
mod check;
mod decode;
mod merges;
pub mod pretoken;
mod recognise;
mod tiktoken;
mod train;

use std::ops::Range;
use std::path::Path;
use std::time::Instant;

use ahash::AHashMap;
use rayon::prelude::*;
use serde_json::{Map, Value};
use tokenizers::AddedToken;

use crate::error::{DataError, Result};
use crate::hash::hash_bytes;
use added::{Names, Part};
use bpe::{FastBpe, byte_chars};
pub use decode::Utf8Stream;
use hadal_base::atomic::write_file;
use hadal_base::foreign;
use tiktoken::Ranks;
pub use train::{TrainOptions, TrainReport};

/// The files that a tokenizer can be read from. The first one that exists is used.
pub const FILES: [&str; 2] = ["tokenizer.json", "tiktoken.model"];

/// The special tokens of our own tokenizers. Their ids are their indices.
pub const SPECIAL_TOKENS: [&str; 6] =
    ["<|bos_token|>", "<|eos_token|>", "<|pad_token|>", "<|fim_begin|>", "<|fim_hole|>", "<|fim_end|>"];

/// The roles of [`SPECIAL_TOKENS`], and their names in other tokenizers.
const ROLES: [(&str, &[&str]); 6] = [
    ("bos_token", &["<|bos_token|>", "<\u{ff5c}begin\u{2581}of\u{2581}sentence\u{ff5c}>", "<|begin_of_text|>", "<s>"]),
    (
        "eos_token",
        &[
            "<|eos_token|>",
            "<\u{ff5c}end\u{2581}of\u{2581}sentence\u{ff5c}>",
            "<|endoftext|>",
            "<|end_of_text|>",
            "</s>",
        ],
    ),
    ("pad_token", &["<|pad_token|>", "<\u{ff5c}\u{2581}pad\u{2581}\u{ff5c}>", "<pad>"]),
    ("fim_begin", &["<|fim_begin|>", "<\u{ff5c}fim\u{2581}begin\u{ff5c}>", "<|fim_prefix|>", "<fim_prefix>"]),
    ("fim_hole", &["<|fim_hole|>", "<\u{ff5c}fim\u{2581}hole\u{ff5c}>", "<|fim_suffix|>", "<fim_suffix>"]),
    ("fim_end", &["<|fim_end|>", "<\u{ff5c}fim\u{2581}end\u{ff5c}>", "<|fim_middle|>", "<fim_middle>"]),
];

/// Ids of the special tokens by role. A foreign tokenizer may lack some of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpecialIds {
    /// Marks the beginning of a document.
    pub bos: Option<u32>,
    /// Marks the end of a document.
    pub eos: Option<u32>,
    /// Pads a row.
    pub pad: Option<u32>,
    /// Precedes the prefix in fill-in-middle.
    pub fim_begin: Option<u32>,
    /// Stands in place of the middle.
    pub fim_hole: Option<u32>,
    /// Precedes the middle.
    pub fim_end: Option<u32>,
}

/// Text to ids and back.
pub struct Tokenizer {
    /// The file's text, and its name.
    json: String,
    name: &'static str,
    config: Option<String>,
    /// None for a `tiktoken.model`, which our own code encodes for.
    library: Option<tokenizers::Tokenizer>,
    fast: Option<FastBpe>,
    /// The bytes of all tokens joined together, and the start of each.
    blob: Vec<u8>,
    starts: Vec<u32>,
    special: Vec<bool>,
    /// Names of the special tokens, for prompts.
    names: Option<Names>,
    /// Ids by name, where the library does not know them.
    by_name: AHashMap<String, u32>,
    ids: SpecialIds,
    byte_level: bool,
}

/// The size of a text and the time to encode it.
#[derive(Clone, Copy, Debug)]
pub struct Throughput {
    /// Bytes of text.
    pub bytes: u64,
    /// Number of tokens.
    pub tokens: u64,
    /// Time in seconds.
    pub seconds: f64,
}

impl Throughput {
    /// Megabytes per second.
    pub fn mb_per_second(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.seconds.max(1e-9)
    }
}

impl Tokenizer {
    /// Loads a `tokenizer.json` or a `tiktoken.model`, or the one in a folder. If a folder has both, `tokenizer.json` is
    /// used. A `tokenizer_config.json` beside it is read as well.
    pub fn load(path: &Path) -> Result<Self> {
        let file = if path.is_dir() {
            let names = FILES.map(|name| path.join(name));
            names.iter().find(|file| file.exists()).unwrap_or(&names[0]).clone()
        } else {
            path.to_path_buf()
        };
        let text = read_text(&file)?;
        let config_file = file.with_file_name("tokenizer_config.json");
        let config = if config_file.exists() { Some(read_text(&config_file)?) } else { None };
        if file.extension().is_some_and(|e| e == "model") {
            return Self::from_tiktoken(text, config, &file);
        }
        Self::from_json(text, config, Some(&file))
    }

    fn from_tiktoken(text: String, config: Option<String>, path: &Path) -> Result<Self> {
        let bad = |problem: String| DataError::tokenizer(Some(path), problem);
        let ranks = Ranks::read(&text, config.as_deref()).map_err(bad)?;
        let roles = roles(config.as_deref(), Some(path))?;
        let mut by_id: Vec<(u32, &[u8])> = ranks.tokens.iter().map(|(token, id)| (*id, token.as_slice())).collect();
        by_id.extend(ranks.special.iter().map(|(name, id)| (*id, name.as_bytes())));
        by_id.sort_unstable();
        let (mut blob, mut starts) = (Vec::new(), vec![0u32]);
        for (id, bytes) in by_id {
            // Ids that nothing has stand for no text.
            starts.resize(id as usize + 1, blob.len() as u32);
            blob.extend_from_slice(bytes);
            starts.push(blob.len() as u32);
        }
        let mut special = vec![false; starts.len() - 1];
        ranks.special.iter().for_each(|(_, id)| special[*id as usize] = true);
        let names = Names::new(ranks.special.iter().map(|(name, id)| (name, Some(*id))));
        let as_text = ranks.tokens.iter().filter_map(|(token, id)| Some((String::from_utf8(token.clone()).ok()?, *id)));
        let by_name: AHashMap<String, u32> = as_text.chain(ranks.special.iter().cloned()).collect();
        let ids = special_ids(|name| by_name.get(name).copied(), &roles);
        let fast = Some(FastBpe::of_ranks(&ranks));
        let name = FILES[1];
        Ok(Self {
            json: text,
            name,
            config,
            library: None,
            fast,
            blob,
            starts,
            special,
            names,
            by_name,
            ids,
            byte_level: true,
        })
    }

    fn from_json(json: String, config: Option<String>, path: Option<&Path>) -> Result<Self> {
        let bad = |e: &dyn std::fmt::Display| {
            DataError::tokenizer(path, format!("not a usable tokenizer.json ({e}); copy the file again"))
        };
        let mut value: Value = serde_json::from_str(&json).map_err(|e| bad(&e))?;
        check::merges(&value).map_err(|e| bad(&e))?;
        let special_names = added::mark_special(&mut value);
        let mut library: tokenizers::Tokenizer = serde_json::from_value(value.clone()).map_err(|e| bad(&e))?;
        library.set_encode_special_tokens(true);
        // A file may ask for truncation or padding of every input. Training data must have neither.
        library.with_truncation(None).map_err(|e| bad(&e))?;
        library.with_padding(None);
        let byte_level = value["decoder"]["type"] == "ByteLevel"
            || value["decoder"]["decoders"].as_array().is_some_and(|d| d.iter().any(|d| d["type"] == "ByteLevel"));
        let size = library.get_vocab(true).values().max().map_or(0, |id| *id as usize + 1);
        if size == 0 {
            return Err(bad(&"its vocabulary is empty"));
        }
        if size > 1 << 24 {
            return Err(bad(&format_args!("its largest id is {}", size - 1)));
        }
        let (blob, starts) = token_table(&library, size, byte_level);
        // If a name occurs twice, or in the model's vocabulary as well, the library decides the id.
        let mut added: Vec<(u32, AddedToken)> = library.get_added_tokens_decoder().into_iter().collect();
        added.sort_by_key(|(id, _)| *id);
        added.iter_mut().for_each(|(_, token)| token.special = special_names.contains(&token.content));
        let fast = FastBpe::new(&value, added.iter().map(|(id, token)| (*id, token)));
        let mut special = vec![false; size];
        for (id, _) in added.iter().filter(|(_, token)| token.special) {
            special[*id as usize] = true;
        }
        let names = Names::new(added.iter().filter(|(_, t)| t.special).map(|(id, t)| (&t.content, Some(*id))));
        let ids = special_ids(|name| library.token_to_id(name), &roles(config.as_deref(), path)?);
        let (name, library, by_name) = (FILES[0], Some(library), AHashMap::new());
        Ok(Self { json, name, config, library, fast, blob, starts, special, names, by_name, ids, byte_level })
    }

    /// Writes the file it was read from and `tokenizer_config.json` into a folder. `transformers` loads a `tokenizer.json`.
    pub fn save(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(DataError::io("create", folder))?;
        write_file(&folder.join(self.name), self.json.as_bytes())?;
        if let Some(config) = &self.config {
            write_file(&folder.join("tokenizer_config.json"), config.as_bytes())?;
        }
        Ok(())
    }

    /// The ids of a text. No tokens are added, and names of special tokens in the text are ordinary characters.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 3);
        self.encode_into(text, &mut ids);
        ids
    }

    /// Appends the ids of a text to `out`.
    pub fn encode_into(&self, text: &str, out: &mut Vec<u32>) {
        if let Some(fast) = &self.fast {
            fast.encode(text, out);
            return;
        }
        if let Some(Ok(encoding)) = self.library.as_ref().map(|library| library.encode_fast(text, false)) {
            out.extend_from_slice(encoding.get_ids());
            return;
        }
        // A regular expression gave up on this text. It can handle shorter stretches. A single character that cannot be
        // encoded has no token.
        if let Some(middle) = middle_of(text) {
            self.encode_into(&text[..middle], out);
            self.encode_into(&text[middle..], out);
        }
    }

    /// The ids of a prompt that may contain special tokens by name. Use it only for text that the caller wrote.
    pub fn encode_with_special(&self, text: &str) -> Vec<u32> {
        let Some(names) = &self.names else { return self.encode(text) };
        let mut ids = Vec::new();
        names.split(text, |part| match part {
            Part::Text(text) => self.encode_into(text, &mut ids),
            Part::Token(id) => ids.push(id),
        });
        ids
    }

    /// The ids of [`Self::encode_with_special`], each with its bytes in the text. Together they cover the text. Tokens
    /// that share a character may share its bytes.
    pub fn encode_with_places(&self, text: &str) -> Vec<(u32, Range<usize>)> {
        let (mut at, mut all) = (0, Vec::new());
        let mut each = |part: Part<'_>| match part {
            Part::Text(text) => {
                self.places_into(text, at, &mut all);
                at += text.len();
            }
            Part::Token(id) => {
                let start = at;
                at += self.token_bytes(id).len();
                all.push((id, start..at));
            }
        };
        match &self.names {
            None => each(Part::Text(text)),
            Some(names) => names.split(text, each),
        }
        all
    }

    /// Appends the ids of a text that begins at byte `at`, with their bytes.
    fn places_into(&self, text: &str, at: usize, all: &mut Vec<(u32, Range<usize>)>) {
        let first = all.len();
        match &self.library {
            Some(library) if self.fast.is_none() => {
                if let Ok(encoding) = library.encode(text, false) {
                    let mut end = 0;
                    for (id, (start, stop)) in encoding.get_ids().iter().zip(encoding.get_offsets()) {
                        // White space that the library leaves out belongs to the token after it.
                        let start = (*start).min(end);
                        end = end.max(*stop);
                        all.push((*id, at + start..at + end));
                    }
                } else if let Some(middle) = middle_of(text) {
                    // As in `encode_into`.
                    self.places_into(&text[..middle], at, all);
                    self.places_into(&text[middle..], at + middle, all);
                }
            }
            _ => {
                let mut end = at;
                for id in self.encode(text) {
                    let start = end;
                    end += self.token_bytes(id).len();
                    all.push((id, start..end));
                }
            }
        }
        // Nothing after the last token may be taken for its successor's.
        if let Some((_, bytes)) = all[first..].last_mut() {
            bytes.end = at + text.len();
        }
    }

    /// The special tokens that a prompt names: where, and which.
    pub fn special_in(&self, text: &str) -> Vec<(Range<usize>, u32)> {
        let (mut at, mut all) = (0, Vec::new());
        if let Some(names) = &self.names {
            names.split(text, |part| {
                let start = at;
                match part {
                    Part::Text(text) => at += text.len(),
                    Part::Token(id) => {
                        at += self.token_bytes(id).len();
                        all.push((start..at, id));
                    }
                }
            });
        }
        all
    }

    /// The ids of many texts, in parallel, and how fast that was.
    pub fn encode_all<S: AsRef<str> + Sync>(&self, texts: &[S]) -> (Vec<Vec<u32>>, Throughput) {
        let start = Instant::now();
        let ids: Vec<Vec<u32>> = texts.par_iter().with_max_len(8).map(|t| self.encode(t.as_ref())).collect();
        let bytes = texts.iter().map(|t| t.as_ref().len() as u64).sum();
        let tokens = ids.iter().map(|i| i.len() as u64).sum();
        (ids, Throughput { bytes, tokens, seconds: start.elapsed().as_secs_f64() })
    }

    /// The text of ids. Special tokens give no text, incomplete characters become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        if let Some(library) = self.library.as_ref().filter(|_| !self.byte_level) {
            return library.decode(ids, true).unwrap_or_default();
        }
        let bytes = ids.iter().filter(|id| !self.is_special(**id)).flat_map(|id| self.token_bytes(*id)).copied();
        String::from_utf8_lossy(&bytes.collect::<Vec<u8>>()).into_owned()
    }

    /// The text of ids with special tokens by name, for people.
    pub fn decode_with_special(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| self.token_bytes(*id)).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        self.starts.len() - 1
    }

    /// The bytes of text that a token stands for. For special tokens this is the name. For ids that do not exist it is
    /// empty.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        let id = id as usize;
        if id + 1 < self.starts.len() {
            &self.blob[self.starts[id] as usize..self.starts[id + 1] as usize]
        } else {
            &[]
        }
    }

    /// Whether a token is a special one.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.get(id as usize).copied().unwrap_or(false)
    }

    /// The special tokens by role.
    pub fn special(&self) -> SpecialIds {
        self.ids
    }

    /// The id of a token by its name in the file.
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.library.as_ref().map_or_else(|| self.by_name.get(token).copied(), |library| library.token_to_id(token))
    }

    /// The token that ends a document. Packing and generation need it.
    pub fn eos(&self) -> Result<u32> {
        self.ids.eos.ok_or_else(|| {
            DataError::tokenizer(None, "it has no end-of-text token; name one as `eos_token` in tokenizer_config.json")
        })
    }

    /// Whether decoding the ids of a text always gives back its exact bytes.
    pub fn is_lossless(&self) -> bool {
        self.fast.is_some()
    }

    /// A hash of the tokenizer's file. It tells whether packed data belongs to it.
    pub fn fingerprint(&self) -> u64 {
        hash_bytes(self.json.as_bytes())
    }
}

/// A place near the middle of a text with more than one character.
fn middle_of(text: &str) -> Option<usize> {
    let middle = match text.floor_char_boundary(text.len() / 2) {
        0 => text.ceil_char_boundary(1),
        middle => middle,
    };
    (middle < text.len()).then_some(middle)
}

/// The bytes of every token in one table.
fn token_table(library: &tokenizers::Tokenizer, size: usize, byte_level: bool) -> (Vec<u8>, Vec<u32>) {
    let byte_of: AHashMap<char, u8> = byte_chars().into_iter().zip(0u8..=255).collect();
    let added = library.get_added_tokens_decoder();
    let (mut blob, mut starts) = (Vec::new(), vec![0u32]);
    for id in 0..size as u32 {
        if let Some(token) = added.get(&id) {
            blob.extend_from_slice(token.content.as_bytes());
        } else if let Some(token) = library.id_to_token(id) {
            let mapped: Option<Vec<u8>> = token.chars().map(|c| byte_of.get(&c).copied()).collect();
            let byte = token.strip_prefix("<0x").and_then(|t| u8::from_str_radix(t.strip_suffix('>')?, 16).ok());
            match (byte_level, mapped, byte) {
                (true, Some(bytes), _) => blob.extend_from_slice(&bytes),
                (false, _, Some(byte)) => blob.push(byte),
                _ => blob.extend_from_slice(token.replace('\u{2581}', " ").as_bytes()),
            }
        }
        starts.push(blob.len() as u32);
    }
    (blob, starts)
}

/// The text of a JSON file.
fn read_text(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(DataError::io("read", path))?;
    if let Some(what) = foreign(&bytes) {
        return Err(DataError::tokenizer(Some(path), format!("it is {what}")));
    }
    String::from_utf8(bytes).map_err(|_| DataError::tokenizer(Some(path), "it is not UTF-8; copy the file again"))
}

/// The names that `tokenizer_config.json` gives for [`ROLES`]: a string, an object with the string as `content`, or
/// null.
fn roles(config: Option<&str>, path: Option<&Path>) -> Result<[Option<String>; ROLES.len()]> {
    let bad =
        |what: String| DataError::tokenizer(path, format!("its tokenizer_config.json {what}; copy the file again"));
    let value = match config {
        Some(text) => serde_json::from_str(text).map_err(|e| bad(format!("is not JSON ({e})")))?,
        None => Value::Object(Map::new()),
    };
    let Value::Object(map) = value else { return Err(bad("is not a JSON object".into())) };
    let mut named = [const { None }; ROLES.len()];
    for ((role, _), name) in ROLES.iter().zip(&mut named) {
        *name = match map.get(*role) {
            None | Some(Value::Null) => None,
            Some(Value::String(name)) => Some(name.clone()),
            Some(other) => match &other["content"] {
                Value::String(name) => Some(name.clone()),
                _ => return Err(bad(format!("has a `{role}` that is neither text nor an object with its `content`"))),
            },
        };
    }
    Ok(named)
}

/// Ids by role: the one named in the configuration, otherwise the first known name that exists.
fn special_ids(id_of: impl Fn(&str) -> Option<u32>, named: &[Option<String>; ROLES.len()]) -> SpecialIds {
    let find = |at: usize| {
        let known = ROLES[at].1.iter().copied();
        named[at].as_deref().into_iter().chain(known).find_map(&id_of)
    };
    let [bos, eos, pad, fim_begin, fim_hole, fim_end] = std::array::from_fn(find);
    SpecialIds { bos, eos, pad, fim_begin, fim_hole, fim_end }
}

#[cfg(test)]
mod optional_tests;
#[cfg(test)]
mod tests;
