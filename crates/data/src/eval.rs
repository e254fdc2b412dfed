//! Windows over held-out documents, for bits per byte.
//!
//! Every document is scored from its start to its end token: `[bos] tokens [eos]`. Documents without a begin token
//! start after an end token, as in the training stream. Several windows cover a document that is longer than one. With
//! `overlap`, each later window begins that many tokens before the tokens that it scores. Every token is scored once.
//!
//! `bits per byte = sum of -log2 p(target) / bytes of text`. The end token is scored but has no bytes. So the figure is
//! the length of a code from which the documents can be recovered, and it is comparable to a compressor's.

use crate::error::{DataError, Result};
use crate::pack::Packed;
use crate::tokenizer::Tokenizer;

/// How windows are placed.
#[derive(Clone, Copy, Debug)]
pub struct EvalOptions {
    /// Inputs per window.
    pub seq_len: usize,
    /// Tokens of context before the tokens that a later window scores.
    pub overlap: usize,
    /// Whether documents begin with the begin token. It must be as in training.
    pub bos: bool,
}

/// One window: a stretch of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvalWindow {
    /// Number of the document.
    pub document: usize,
    /// Index of the first input in `EvalSet`'s tokens of that document.
    start: usize,
    /// Number of inputs, at most `seq_len`.
    len: usize,
    /// The first input whose target is scored.
    first_scored: usize,
}

impl EvalWindow {
    /// Number of inputs, at least one.
    pub fn inputs(&self) -> usize {
        self.len
    }

    /// The first input whose target is scored.
    pub fn first_scored(&self) -> usize {
        self.first_scored
    }
}

/// All windows of a set of documents.
#[derive(Clone, Debug)]
pub struct EvalSet {
    /// The windows, in the order of the documents.
    pub windows: Vec<EvalWindow>,
    /// Bytes of text of all documents.
    pub text_bytes: u64,
    /// Number of targets that are scored.
    pub scored: u64,
    documents: Vec<Vec<i32>>,
    seq_len: usize,
}

impl EvalSet {
    /// Windows over all packed documents.
    pub fn of_packed(packed: &Packed, tokenizer: &Tokenizer, options: EvalOptions) -> Result<Self> {
        let mut documents = Vec::with_capacity(packed.documents());
        for document in 0..packed.documents() {
            let mut ids = Vec::new();
            packed.read(document, &mut ids)?;
            documents.push((ids, packed.text_bytes_of(document)));
        }
        Self::of_ids(documents, tokenizer, options)
    }

    /// Windows over texts.
    pub fn of_texts<S: AsRef<str> + Sync>(texts: &[S], tokenizer: &Tokenizer, options: EvalOptions) -> Result<Self> {
        let bytes = texts.iter().map(|t| t.as_ref().len() as u64);
        Self::of_ids(tokenizer.encode_all(texts).0.into_iter().zip(bytes), tokenizer, options)
    }

    /// Windows over about the first `limit` tokens of texts. The text that contains the limit is cut there.
    pub fn of_first_tokens(texts: &[&str], limit: usize, tokenizer: &Tokenizer, options: EvalOptions) -> Result<Self> {
        let (mut documents, mut left) = (Vec::new(), limit);
        for text in texts {
            if left == 0 {
                break;
            }
            let mut ids = tokenizer.encode(text);
            let mut bytes = text.len() as u64;
            if ids.len() > left {
                ids.truncate(left);
                bytes = ids.iter().map(|id| tokenizer.token_bytes(*id).len() as u64).sum();
            }
            left -= ids.len();
            documents.push((ids, bytes));
        }
        Self::of_ids(documents, tokenizer, options)
    }

    /// Windows over documents given as ids, with the number of bytes of their text.
    pub fn of_ids(
        ids: impl IntoIterator<Item = (Vec<u32>, u64)>,
        tokenizer: &Tokenizer,
        options: EvalOptions,
    ) -> Result<Self> {
        let EvalOptions { seq_len, overlap, bos } = options;
        if seq_len == 0 || overlap >= seq_len {
            return Err(DataError::Option {
                key: "evaluation window",
                problem: format!("an overlap of {overlap} must be below the window's length of {seq_len}"),
            });
        }
        let eos = tokenizer.eos()?;
        let special = tokenizer.special();
        let first = special.bos.filter(|_| bos).unwrap_or(eos) as i32;
        let mut set = Self { windows: Vec::new(), text_bytes: 0, scored: 0, documents: Vec::new(), seq_len };
        for (document, (ids, bytes)) in ids.into_iter().enumerate() {
            let mut tokens = Vec::with_capacity(ids.len() + 2);
            tokens.push(first);
            tokens.extend(ids.iter().map(|id| *id as i32));
            tokens.push(eos as i32);
            let inputs = tokens.len() - 1;
            let mut scored = 0;
            while scored < inputs {
                let start = scored.saturating_sub(if scored == 0 { 0 } else { overlap });
                let len = (inputs - start).min(seq_len);
                set.windows.push(EvalWindow { document, start, len, first_scored: scored - start });
                scored = start + len;
            }
            set.scored += inputs as u64;
            set.text_bytes += bytes;
            set.documents.push(tokens);
        }
        Ok(set)
    }

    /// The `n` windows with the most inputs, for measures that need long documents. Bits per byte are meaningless for
    /// them.
    pub fn longest(mut self, n: usize) -> Self {
        self.windows.sort_by_key(|w| std::cmp::Reverse(w.len));
        self.windows.truncate(n);
        self.scored = self.windows.iter().map(|w| (w.len - w.first_scored) as u64).sum();
        self
    }

    /// The tokens of a window: its inputs, and the target of the last one.
    pub fn tokens(&self, window: &EvalWindow) -> &[i32] {
        &self.documents[window.document][window.start..=window.start + window.len]
    }

    /// Largest number of inputs of a window.
    pub fn seq_len(&self) -> usize {
        self.seq_len
    }

    /// The ids of the documents, with begin and end tokens.
    pub fn documents(&self) -> &[Vec<i32>] {
        &self.documents
    }

    /// Bits per byte from the sum of the scored targets' negative log-likelihoods in nats.
    pub fn bits_per_byte(&self, total_nll: f64) -> f64 {
        total_nll / std::f64::consts::LN_2 / self.text_bytes.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tokenizer;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_target_is_scored_once_after_its_own_past(
            texts in prop::collection::vec("[a-z ;\n]{0,60}", 0..6), seq_len in 1usize..20, overlap in 0usize..19, bos: bool
        ) {
            let t = tokenizer();
            let options = EvalOptions { seq_len, overlap: overlap.min(seq_len - 1), bos };
            let set = EvalSet::of_texts(&texts, &t, options).unwrap();
            let mut got: Vec<Vec<u32>> = vec![Vec::new(); texts.len()];
            for window in &set.windows {
                prop_assert!((1..=seq_len).contains(&window.inputs()));
                let tokens = set.tokens(window);
                prop_assert_eq!(tokens.len(), window.inputs() + 1);
                for i in window.first_scored()..window.inputs() {
                    // The token before it is the document's previous token.
                    let place = got[window.document].len();
                    prop_assert_eq!(tokens[i], set.documents()[window.document][place]);
                    prop_assert!(window.start == 0 || i >= options.overlap);
                    got[window.document].push(tokens[i + 1] as u32);
                }
            }
            for (ids, text) in got.iter().zip(&texts) {
                let mut expect = t.encode(text);
                expect.push(t.eos().unwrap());
                prop_assert_eq!(ids, &expect);
            }
            prop_assert_eq!(set.scored as usize, got.iter().map(Vec::len).sum::<usize>());
            prop_assert_eq!(set.text_bytes as usize, texts.iter().map(String::len).sum::<usize>());
        }
    }

    #[test]
    fn bits_per_byte_of_a_uniform_model() {
        let t = tokenizer();
        let set = EvalSet::of_texts(&["abc"], &t, EvalOptions { seq_len: 8, overlap: 0, bos: true }).unwrap();
        let nll = set.scored as f64 * 256f64.ln();
        assert!((set.bits_per_byte(nll) - set.scored as f64 * 8.0 / 3.0).abs() < 1e-12);
        let bad = EvalOptions { seq_len: 8, overlap: 8, bos: true };
        assert!(matches!(EvalSet::of_texts(&["abc"], &t, bad), Err(DataError::Option { .. })));
    }
}
