//! Turns a recipe's text into the data that the loader reads: documents, filter, held-out packages, tokenizer, packed
//! tokens.
//!
//! Everything is stored in the run's folder (`tokenizer/`, `data/`). So a resume reads the same tokens even if the
//! original text has changed.

use hadal_data::cargo_sources::{self, CargoSources};
use hadal_data::filter::{FilterOptions, filter};
use hadal_data::tokenizer::{FILES, TrainOptions};
use hadal_data::{DataError, Document, EvalOptions, EvalSet, Packed, SourceOptions, Texts, Tokenizer, pack};
use hadal_data::{read_paths, split};
use hadal_recipe::recipe::{Data, Filter};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Tokens per packed file.
const SHARD_TOKENS: u64 = 1 << 28;
/// Largest amount of text that a tokenizer learns from, in bytes.
const TOKENIZER_BYTES: u64 = 64 << 20;

/// Packed text with its tokenizer.
pub struct Corpus {
    /// The tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// Its files, which are copied beside the weights.
    pub tokenizer_files: Vec<PathBuf>,
    /// Text to train on.
    pub train: Arc<Packed>,
    /// Held-out text.
    pub validation: Packed,
}

/// Where the text comes from.
pub enum TextSource<'a> {
    /// The sources of the packages in a lock file (given as text), from Cargo's registry.
    CargoLock(&'a str),
    /// Files and folders. A folder with packed data (`train.json`) is used directly.
    Paths(&'a [String]),
}

impl Corpus {
    /// Reads, filters and splits the text, trains or loads the tokenizer, and packs. It reports its progress to `say`.
    pub fn prepare(
        source: &TextSource<'_>,
        data: &Data,
        vocab_size: usize,
        seed: u64,
        folder: &Path,
        say: &mut dyn FnMut(&str),
    ) -> Result<Self, DataError> {
        if let TextSource::Paths([path]) = source
            && Path::new(path).join("train.json").is_file()
        {
            say(&format!("{path} holds packed tokens"));
            return Self::open_in(Path::new(path), Path::new(path));
        }
        let texts = read(source, &data.text_field, say)?;
        let (count, megabytes) = (texts.documents.len(), texts.bytes() as f64 / 1e6);
        say(&format!("{count} documents, {megabytes:.1} MB"));
        if !texts.left_out.is_empty() {
            say(&format!("not read: {}", texts.left_out));
        }
        let code = matches!(source, TextSource::CargoLock(_));
        let documents = match data.filter {
            Filter::None => texts.documents,
            Filter::Code => filtered(texts.documents, &FilterOptions::default(), say)?,
            Filter::Auto if code => filtered(texts.documents, &FilterOptions::default(), say)?,
            Filter::Auto | Filter::Prose => filtered(texts.documents, &FilterOptions::prose(), say)?,
        };
        let split = split::hold_out(documents, data.validation_share, seed)?;
        say(&match split.held_out.join(", ") {
            none if none.is_empty() => "nothing is held out, so there will be no validation".into(),
            held => format!("held out for validation: {held} ({:.2} MB)", megabytes_of(&split.validation)),
        });
        let (beside, packed) = (folder.join("tokenizer"), folder.join("data"));
        pack_split(&split.train, &split.validation, data, vocab_size, seed, [&beside, &packed], say)?;
        Self::open(folder)
    }

    /// Opens what an earlier [`Corpus::prepare`] stored in a run's folder.
    pub fn open(folder: &Path) -> Result<Self, DataError> {
        Self::open_in(&folder.join("tokenizer"), &folder.join("data"))
    }

    /// The corpus of a run: packed in its folder, or used directly from the path in its plan's `text`.
    pub fn of_run(folder: &Path, text: Option<&[String]>) -> Result<Self, DataError> {
        match text {
            Some([packed]) if !folder.join("data").is_dir() => Self::open_in(Path::new(packed), Path::new(packed)),
            _ => Self::open(folder),
        }
    }

    fn open_in(tokenizer_folder: &Path, packed: &Path) -> Result<Self, DataError> {
        let tokenizer = Tokenizer::load(tokenizer_folder)?;
        let files = FILES.into_iter().chain(["tokenizer_config.json"]).map(|f| tokenizer_folder.join(f));
        Ok(Self {
            train: Arc::new(Packed::open(packed, "train", &tokenizer)?),
            validation: Packed::open(packed, "validation", &tokenizer)?,
            tokenizer_files: files.filter(|f| f.is_file()).collect(),
            tokenizer: Arc::new(tokenizer),
        })
    }

    /// Windows over all held-out documents, or over about `tokens` tokens spread evenly over them.
    pub fn validation(&self, seq_len: usize, tokens: Option<u64>) -> Result<EvalSet, DataError> {
        let options = EvalOptions { seq_len, overlap: 0, bos: true };
        let all = self.validation.documents();
        let every = tokens.map_or(1, |t| (self.validation.tokens() / t.max(1)).clamp(1, all.max(1) as u64) as usize);
        if every == 1 {
            return EvalSet::of_packed(&self.validation, &self.tokenizer, options);
        }
        let mut texts = Vec::new();
        let mut ids = Vec::new();
        for i in (0..all).step_by(every) {
            self.validation.read(i, &mut ids)?;
            texts.push(self.tokenizer.decode(&ids));
        }
        EvalSet::of_texts(&texts, &self.tokenizer, options)
    }

    /// Held-out documents as text, with their names: (package, file, text).
    pub fn validation_texts(&self) -> Result<Vec<(String, String, String)>, DataError> {
        let mut ids = Vec::new();
        let names = self.validation.names()?;
        names
            .into_iter()
            .enumerate()
            .map(|(i, (group, name))| {
                self.validation.read(i, &mut ids)?;
                Ok((group, name, self.tokenizer.decode(&ids)))
            })
            .collect()
    }
}

/// Trains or loads the tokenizer and packs both sides of a split. The tokenizer is written to the first folder, tokens
/// to the second, which may be the same.
pub fn pack_split(
    train: &[Document],
    validation: &[Document],
    data: &Data,
    vocab_size: usize,
    seed: u64,
    [tokenizer_folder, packed]: [&Path; 2],
    say: &mut dyn FnMut(&str),
) -> Result<(), DataError> {
    let tokenizer = tokenizer(data, vocab_size, seed, train, say)?;
    tokenizer.save(tokenizer_folder)?;
    let rate = pack::pack(packed, "train", train, &tokenizer, SHARD_TOKENS)?;
    pack::pack(packed, "validation", validation, &tokenizer, SHARD_TOKENS)?;
    say(&format!(
        "packed {:.1} M tokens, {:.2} bytes per token, {:.0} MB/s",
        rate.tokens as f64 / 1e6,
        rate.bytes as f64 / rate.tokens.max(1) as f64,
        rate.mb_per_second()
    ));
    Ok(())
}

/// The documents that the filter keeps. The filter's report is printed. It is an error if almost nothing is kept.
fn filtered(
    documents: Vec<Document>,
    options: &FilterOptions,
    say: &mut dyn FnMut(&str),
) -> Result<Vec<Document>, DataError> {
    let (documents, report) = filter(documents, options);
    report.check()?;
    say(&report.to_string());
    Ok(documents)
}

fn megabytes_of(documents: &[Document]) -> f64 {
    documents.iter().map(|d| d.text.len()).sum::<usize>() as f64 / 1e6
}

fn read(source: &TextSource<'_>, text_field: &str, say: &mut dyn FnMut(&str)) -> Result<Texts, DataError> {
    match source {
        TextSource::Paths(paths) => {
            read_paths(paths, &SourceOptions { text_field: text_field.into(), ..SourceOptions::default() })
        }
        TextSource::CargoLock(lock) => {
            let home = cargo_sources::cargo_home()?;
            let CargoSources { texts, found, missing } = cargo_sources::read(lock, &home)?;
            let absent = match missing.len() {
                0 => String::new(),
                n => format!(" ({n} more are not on this machine; they are for other systems)"),
            };
            say(&format!("reading the Rust sources of {} packages from Cargo's registry{absent}", found.len()));
            Ok(texts)
        }
    }
}

fn tokenizer(
    data: &Data,
    vocab_size: usize,
    seed: u64,
    documents: &[Document],
    say: &mut dyn FnMut(&str),
) -> Result<Tokenizer, DataError> {
    if data.tokenizer != "train" {
        return Tokenizer::load(Path::new(&data.tokenizer));
    }
    let options = TrainOptions { vocab_size, max_bytes: TOKENIZER_BYTES, seed, ..TrainOptions::default() };
    let (tokenizer, report) = Tokenizer::train(documents, &options)?;
    say(&format!(
        "tokenizer: {} tokens from {:.1} MB in {:.1} s ({:.1} MB/s)",
        tokenizer.vocab_size(),
        report.bytes as f64 / 1e6,
        report.count_seconds + report.merge_seconds,
        report.mb_per_second()
    ));
    Ok(tokenizer)
}
