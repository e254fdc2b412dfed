//! Training a byte-level BPE vocabulary on a sample of the documents.
//!
//! [`pretoken`](super::pretoken) cuts pieces, which are counted in parallel. Then [`merges`] finds what to merge. The
//! result is that of the `tokenizers` library.

use std::time::Instant;

use ahash::AHashMap;
use rayon::prelude::*;
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, SplitDelimiterBehavior};

use super::bpe::byte_chars;
use super::pretoken::{self, CJK, NUMBERS, WORDS};
use super::{SPECIAL_TOKENS, Tokenizer, merges};
use crate::error::{DataError, Result};
use crate::hash::{Purpose, Rng, hash_bytes};
use crate::pieces;
use crate::source::Document;

/// How a tokenizer is trained.
#[derive(Clone, Debug)]
pub struct TrainOptions {
    /// Total number of tokens, special tokens included. Sensible values are 4,096 to 131,072.
    pub vocab_size: usize,
    /// Largest number of bytes of text to count. From more text, a sample is chosen by a hash of the documents' names.
    /// Long documents are sampled in pieces.
    pub max_bytes: u64,
    /// Smallest number of occurrences of a pair that is merged.
    pub min_frequency: u64,
    /// Chooses the sample.
    pub seed: u64,
}

impl Default for TrainOptions {
    fn default() -> Self {
        Self { vocab_size: 8192, max_bytes: 64 << 20, min_frequency: 2, seed: 1 }
    }
}

/// The cost of the training.
#[derive(Clone, Copy, Debug)]
pub struct TrainReport {
    /// Bytes that were counted.
    pub bytes: u64,
    /// Number of distinct pieces.
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

/// Size of the largest sample: positions are numbered in 32 bits.
const MOST_BYTES: u64 = 2 << 30;
/// In a sample, documents larger than one part in this many are sampled in pieces.
const SAMPLE_PIECES: u64 = 64;

impl Tokenizer {
    /// Trains a tokenizer. It has fewer tokens than asked for if the text has no more pairs to merge.
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
                problem: format!("{} is more than the trainer can count; the limit is {MOST_BYTES}", options.max_bytes),
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
        let specials: Vec<AddedToken> = SPECIAL_TOKENS.iter().map(|t| AddedToken::from(*t, true)).collect();
        let model = model(&counts, options);
        let json = model.and_then(|model| assemble(model, &specials));
        let json = json.map_err(|e| DataError::tokenizer(None, format!("training failed: {e}")))?;
        let report = TrainReport {
            bytes: sample.iter().map(|text| text.len() as u64).sum(),
            pieces: counts.len(),
            count_seconds,
            merge_seconds: start.elapsed().as_secs_f64(),
        };
        Ok((Self::from_json(json, Some(our_config()), None)?, report))
    }
}

/// The vocabulary and its merges: special tokens, then bytes in the order of the characters that stand for them, then
/// merged tokens.
fn model(counts: &AHashMap<&str, u64>, options: &TrainOptions) -> tokenizers::Result<BPE> {
    let chars = byte_chars();
    let mut bytes: Vec<u8> = (0..=255).collect();
    bytes.sort_by_key(|b| chars[usize::from(*b)]);
    let specials = SPECIAL_TOKENS.iter().map(|t| t.as_bytes().to_vec());
    let tokens: Vec<Vec<u8>> = specials.chain(bytes.iter().map(|b| vec![*b])).collect();
    let mut byte_ids = [0; 256];
    for (byte, id) in bytes.iter().zip(SPECIAL_TOKENS.len() as u32..) {
        byte_ids[usize::from(*byte)] = id;
    }
    let counts = counts.iter().map(|(piece, count)| (*piece, *count));
    let found = merges::find(counts, tokens, &byte_ids, options.vocab_size, options.min_frequency);
    let names: Vec<String> =
        found.tokens.iter().map(|token| token.iter().map(|b| chars[usize::from(*b)]).collect()).collect();
    let pairs = found.pairs.iter().map(|(a, b)| (names[*a as usize].clone(), names[*b as usize].clone())).collect();
    let vocab: AHashMap<String, u32> = names.into_iter().zip(0..).collect();
    BPE::builder().vocab_and_merges(vocab, pairs).build()
}

/// The text to count. If all of it is not too much, that is all of it. Otherwise documents are taken in the order of a
/// keyed hash of their names until the limit is reached. Pieces of a long document are chosen one by one, so that it
/// neither fills the sample nor is missing as a whole.
fn sample<'d>(documents: &'d [Document], options: &TrainOptions) -> Vec<&'d str> {
    let rng = Rng::new(options.seed, Purpose::Subset, 2);
    let all: u64 = documents.iter().map(|d| d.text.len() as u64).sum();
    let longest = if all > options.max_bytes { (options.max_bytes / SAMPLE_PIECES).max(1) } else { all };
    let mut order = Vec::new();
    for document in documents.iter().filter(|d| !d.text.is_empty()) {
        let name = hash_bytes(document.id.as_bytes());
        if document.text.len() as u64 <= longest {
            order.push((rng.bits(name), &document.id, 0, document.text.as_str()));
        } else {
            let rng = rng.substream(name);
            let pieces = pieces::cut(&document.text, longest.div_ceil(2) as usize).enumerate();
            order.extend(pieces.map(|(i, piece)| (rng.bits(i as u64), &document.id, i, piece)));
        }
    }
    order.sort_unstable();
    let mut sum = 0;
    order.retain(|(.., text)| {
        let fits = sum + text.len() as u64 <= options.max_bytes;
        sum += if fits { text.len() as u64 } else { 0 };
        fits
    });
    order.into_iter().map(|(.., text)| text).collect()
}

fn count_pieces<'d>(texts: &[&'d str]) -> AHashMap<&'d str, u64> {
    // A few large parts: joining the counts of many small ones would take longer than counting.
    let part = texts.len().div_ceil(rayon::current_num_threads() * 4).max(1);
    texts
        .par_chunks(part)
        .map(|texts| {
            let mut counts = AHashMap::new();
            for text in texts {
                pretoken::split(text, |piece| *counts.entry(piece).or_default() += 1);
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
    // The generic class of transformers adds what the template says: the first token, as the released class does.
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
