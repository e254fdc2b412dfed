//! Training a byte-level BPE vocabulary on a sample of the documents.
//!
//! Pieces are cut and counted in parallel by [`pretoken`](super::pretoken); the `tokenizers` library then finds the
//! merges from the counts. Its own way to the counts, through the generic expressions and offset-keeping strings,
//! takes most of the time of its training.

use std::time::Instant;

use ahash::AHashMap;
use compact_str::CompactString;
use rayon::prelude::*;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, SplitDelimiterBehavior};

use super::bpe::byte_chars;
use super::pretoken::{self, CJK, NUMBERS, WORDS};
use super::{SPECIAL_TOKENS, Tokenizer};
use crate::error::{DataError, Result};
use crate::hash::{Purpose, Rng, hash_bytes};
use crate::source::Document;

/// How a tokenizer is trained.
#[derive(Clone, Debug)]
pub struct TrainOptions {
    /// Tokens in all, special ones included: 4,096 to 131,072 are sensible.
    pub vocab_size: usize,
    /// Most bytes of text to count; documents beyond are sampled by a hash of their names.
    pub max_bytes: u64,
    /// Fewest occurrences of a pair that is merged.
    pub min_frequency: u64,
    /// Chooses the sample.
    pub seed: u64,
}

impl Default for TrainOptions {
    fn default() -> Self {
        Self { vocab_size: 8192, max_bytes: 64 << 20, min_frequency: 2, seed: 1 }
    }
}

/// What the training took.
#[derive(Clone, Copy, Debug)]
pub struct TrainReport {
    /// Bytes counted.
    pub bytes: u64,
    /// Distinct pieces among them.
    pub pieces: usize,
    /// Seconds to cut and count.
    pub count_seconds: f64,
    /// Seconds to find the merges.
    pub merge_seconds: f64,
}

impl TrainReport {
    /// Throughput of the whole training.
    pub fn mb_per_second(&self) -> f64 {
        self.bytes as f64 / 1e6 / (self.count_seconds + self.merge_seconds)
    }
}

/// The largest sample: the library counts pairs in 32 bits.
const MOST_BYTES: u64 = 2 << 30;

impl Tokenizer {
    /// Trains a tokenizer. It has fewer tokens than asked for where the text has no more pairs to merge.
    pub fn train(documents: &[Document], options: &TrainOptions) -> Result<(Self, TrainReport)> {
        let fewest = SPECIAL_TOKENS.len() + 256;
        if !(fewest..=1 << 20).contains(&options.vocab_size) {
            return Err(DataError::Option {
                key: "vocab_size",
                problem: format!(
                    "{} is not between {fewest} and {}; 4096 to 131072 are sensible",
                    options.vocab_size,
                    1 << 20
                ),
            });
        }
        if options.max_bytes > MOST_BYTES {
            return Err(DataError::Option {
                key: "tokenizer bytes",
                problem: format!("{} is more than the trainer can count; {MOST_BYTES} at most", options.max_bytes),
            });
        }
        let sample = sample(documents, options);
        if sample.is_empty() {
            return Err(DataError::TooLittle("there is no text to train a tokenizer on; give more files".into()));
        }
        let start = Instant::now();
        let counts = count_pieces(&sample);
        let count_seconds = start.elapsed().as_secs_f64();
        let start = Instant::now();
        let chars = byte_chars();
        let words: AHashMap<CompactString, u64> = counts
            .iter()
            .map(|(piece, count)| (piece.bytes().map(|b| chars[usize::from(b)]).collect(), *count))
            .collect();
        let specials: Vec<AddedToken> = SPECIAL_TOKENS.iter().map(|t| AddedToken::from(*t, true)).collect();
        let trainer = BpeTrainer::builder()
            .show_progress(false)
            .vocab_size(options.vocab_size)
            .min_frequency(options.min_frequency)
            .special_tokens(specials.clone())
            .initial_alphabet(chars.into_iter().collect())
            .build();
        let failed = |e: tokenizers::Error| DataError::tokenizer(None, format!("training failed: {e}"));
        let mut model = BPE::default();
        trainer.do_train(&words, &mut model).map_err(failed)?;
        let json = assemble(model, &specials).map_err(failed)?;
        let report = TrainReport {
            bytes: sample.iter().map(|d| d.text.len() as u64).sum(),
            pieces: counts.len(),
            count_seconds,
            merge_seconds: start.elapsed().as_secs_f64(),
        };
        Ok((Self::from_json(json, Some(our_config()), None)?, report))
    }
}

/// The documents to count, in the order of a keyed hash of their names.
fn sample<'d>(documents: &'d [Document], options: &TrainOptions) -> Vec<&'d Document> {
    let rng = Rng::new(options.seed, Purpose::Subset, 2);
    let mut order: Vec<&Document> = documents.iter().filter(|d| !d.text.is_empty()).collect();
    order.sort_by_cached_key(|d| (rng.bits(hash_bytes(d.id.as_bytes())), &d.id));
    let mut sum = 0;
    order.retain(|d| {
        let fits = sum + d.text.len() as u64 <= options.max_bytes;
        sum += if fits { d.text.len() as u64 } else { 0 };
        fits
    });
    order
}

fn count_pieces<'d>(documents: &[&'d Document]) -> AHashMap<&'d str, u64> {
    // Few large parts: joining the counts of many small ones would cost more than counting.
    let part = documents.len().div_ceil(rayon::current_num_threads() * 4).max(1);
    documents
        .par_chunks(part)
        .map(|documents| {
            let mut counts = AHashMap::new();
            for document in documents {
                pretoken::split(&document.text, |piece| *counts.entry(piece).or_default() += 1);
            }
            counts
        })
        .reduce(AHashMap::new, |a, b| {
            let (mut large, small) = if a.len() >= b.len() { (a, b) } else { (b, a) };
            for (piece, count) in small {
                *large.entry(piece).or_default() += count;
            }
            large
        })
}

/// The whole `tokenizer.json` around the trained model, in the layout of the released tokenizer.
fn assemble(model: BPE, specials: &[AddedToken]) -> tokenizers::Result<String> {
    let pass = |pattern: &str| {
        let pattern = SplitPattern::Regex(pattern.to_owned());
        Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map(PreTokenizerWrapper::Split)
    };
    let byte_level = ByteLevel::new(false, true, false);
    let passes = vec![pass(NUMBERS)?, pass(CJK)?, pass(WORDS)?, PreTokenizerWrapper::ByteLevel(byte_level)];
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(Sequence::new(passes)));
    tokenizer.with_decoder(Some(byte_level));
    let bos = SPECIAL_TOKENS[0];
    // transformers' generic class adds what the template says: the first token, as the released class does.
    let template = TemplateProcessing::builder()
        .try_single(format!("{bos} $A"))
        .and_then(|t| t.try_pair(format!("{bos} $A {bos}:1 $B:1")))
        .map_err(|e| tokenizers::Error::from(e.clone()))?
        .special_tokens(vec![(bos, 0u32)])
        .build()?;
    tokenizer.with_post_processor(Some(template));
    tokenizer.add_special_tokens(specials.to_vec())?;
    tokenizer.to_string(true)
}

fn our_config() -> String {
    let config = serde_json::json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL_TOKENS[0],
        "eos_token": SPECIAL_TOKENS[1],
        "pad_token": SPECIAL_TOKENS[2],
        "unk_token": null,
        "add_bos_token": true,
        "add_eos_token": false,
        "clean_up_tokenization_spaces": false,
        "model_max_length": 1_000_000_000u64,
    });
    serde_json::to_string_pretty(&config).expect("a literal")
}
