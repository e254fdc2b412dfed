//! Baselines that a model must beat: token frequencies, `zstd -19` and `xz -9`, in bits per byte of the same documents.

use liblzma::stream::{Check, Filters, LzmaOptions, Stream};
use rayon::prelude::*;
use std::io::Read;

use crate::error::Result;
use crate::eval::EvalSet;
use crate::pack::Packed;
use crate::tokenizer::Tokenizer;

/// A model that knows only how often each token occurs.
#[derive(Clone, Debug)]
pub struct Unigram {
    nats: Vec<f64>,
}

impl Unigram {
    /// Fits the frequencies, including the end token of each document. One is added to every count.
    pub fn fit(train: &Packed, tokenizer: &Tokenizer) -> Result<Self> {
        let mut counts = vec![1u64; tokenizer.vocab_size()];
        let mut ids = Vec::new();
        for document in 0..train.documents() {
            train.read(document, &mut ids)?;
            for id in &ids {
                counts[*id as usize] += 1;
            }
        }
        counts[tokenizer.eos()? as usize] += train.documents() as u64;
        let total = counts.iter().sum::<u64>() as f64;
        Ok(Self { nats: counts.iter().map(|c| -(*c as f64 / total).ln()).collect() })
    }

    /// Bits per byte of an evaluation set. End tokens are included, as they are for a model.
    pub fn bits_per_byte(&self, set: &EvalSet) -> f64 {
        let nll: f64 = set.documents().iter().flat_map(|d| &d[1..]).map(|id| self.nats[*id as usize]).sum();
        set.bits_per_byte(nll)
    }
}

/// A compressor at its strongest usual setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compressor {
    /// `zstd -19`.
    Zstd19,
    /// `xz -9`.
    Xz9,
}

impl Compressor {
    /// Size in bytes of a single text after compression, in the tool's own file format (for zstd without its optional
    /// checksum).
    pub fn compressed_len(self, text: &[u8]) -> usize {
        match self {
            Self::Zstd19 => zstd::bulk::compress(text, 19).expect("memory to memory").len(),
            Self::Xz9 => {
                // A dictionary larger than the text has no effect except the time to clear it.
                let mut options = LzmaOptions::new_preset(9).expect("a preset of the library");
                options.dict_size((text.len().next_power_of_two() as u32).clamp(4096, 64 << 20));
                let mut filters = Filters::new();
                filters.lzma2(&options);
                let stream = Stream::new_stream_encoder(&filters, Check::Crc64).expect("settings of a preset");
                let mut out = Vec::new();
                liblzma::read::XzEncoder::new_stream(text, stream).read_to_end(&mut out).expect("memory to memory");
                out.len()
            }
        }
    }

    /// Bits per byte of documents that are compressed one by one.
    pub fn bits_per_byte<S: AsRef<str> + Sync>(self, texts: &[S]) -> f64 {
        let compressed: usize =
            texts.par_iter().with_max_len(1).map(|t| self.compressed_len(t.as_ref().as_bytes())).sum();
        let bytes: usize = texts.iter().map(|t| t.as_ref().len()).sum();
        compressed as f64 * 8.0 / bytes.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::EvalOptions;
    use crate::testing::{documents, tokenizer};

    #[test]
    fn unigram_is_the_entropy_of_its_own_text() {
        let dir = tempfile::tempdir().unwrap();
        let (documents, t) = (documents(), tokenizer());
        crate::pack::pack(dir.path(), "train", &documents, &t, 1 << 30).unwrap();
        let packed = Packed::open(dir.path(), "train", &t).unwrap();
        let unigram = Unigram::fit(&packed, &t).unwrap();
        let sum: f64 = unigram.nats.iter().map(|n| (-n).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-9);
        let set = EvalSet::of_packed(&packed, &t, EvalOptions { seq_len: 64, overlap: 0, bos: true }).unwrap();
        // The entropy of the counts, computed directly. The added ones make the code slightly longer.
        let mut counts = std::collections::HashMap::new();
        for id in set.documents().iter().flat_map(|d| &d[1..]) {
            *counts.entry(*id).or_insert(0u64) += 1;
        }
        let n = set.scored as f64;
        let bits: f64 = counts.values().map(|c| -(*c as f64) * (*c as f64 / n).log2()).sum();
        let (got, entropy) = (unigram.bits_per_byte(&set), bits / set.text_bytes as f64);
        assert!(got >= entropy && got < entropy * 1.02, "{got} {entropy}");
    }

    #[test]
    fn compressors_give_whole_files() {
        for document in documents() {
            let text = document.text.as_bytes();
            let (zstd, xz) = (Compressor::Zstd19.compressed_len(text), Compressor::Xz9.compressed_len(text));
            assert!(text.len() < 600 || (zstd < text.len() / 2 && xz < text.len() / 2), "{zstd} {xz}");
            // The smaller dictionary does not make the result longer than with the preset's own dictionary.
            let preset = Stream::new_easy_encoder(6, Check::Crc64).unwrap();
            let mut out = Vec::new();
            liblzma::read::XzEncoder::new_stream(text, preset).read_to_end(&mut out).unwrap();
            assert!(xz.abs_diff(out.len()) <= 8, "{xz} {}", out.len());
        }
        let texts = ["aaaaaaaaaaaaaaaaaaaaaaaa", "b"];
        let expect =
            texts.map(|t| Compressor::Xz9.compressed_len(t.as_bytes())).iter().sum::<usize>() as f64 * 8.0 / 25.0;
        assert_eq!(Compressor::Xz9.bits_per_byte(&texts), expect);
    }
}
