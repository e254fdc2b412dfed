//! Random splits of tokens that combine punctuation with line breaks (report, section 4.1).
//!
//! The pre-tokenizer keeps `;` and the line breaks after it in one token. If a prompt ends in `;` without a line break,
//! the model sees a token that it has rarely seen before a new line. So during training a share of the combined tokens
//! is replaced by separate tokens for the punctuation and for the line breaks. The choice depends only on (seed, epoch,
//! document, position).

use crate::error::{DataError, Result};
use crate::hash::Rng;
use crate::tokenizer::{Tokenizer, pretoken};

/// The combined tokens of a vocabulary and the pieces that they are split into.
#[derive(Clone, Debug)]
pub struct BoundarySplit {
    rate: f64,
    /// The pieces of token `id` are `pieces[starts[id]..starts[id + 1]]`. Tokens that are not combined have no pieces.
    starts: Vec<u32>,
    pieces: Vec<u32>,
}

impl BoundarySplit {
    /// Finds the combined tokens. `rate` is the share that is split.
    pub fn new(tokenizer: &Tokenizer, rate: f64) -> Result<Self> {
        if !(0.0..=1.0).contains(&rate) {
            return Err(DataError::Option {
                key: "boundary split rate",
                problem: format!("{rate} is not between 0 and 1; 0.1 is a good value"),
            });
        }
        let (mut starts, mut pieces) = (vec![0u32], Vec::new());
        for id in 0..tokenizer.vocab_size() as u32 {
            let text =
                if tokenizer.is_special(id) { "" } else { str::from_utf8(tokenizer.token_bytes(id)).unwrap_or("") };
            if let Some(at) = pretoken::line_break_after_punctuation(text) {
                tokenizer.encode_into(&text[..at], &mut pieces);
                tokenizer.encode_into(&text[at..], &mut pieces);
            }
            starts.push(pieces.len() as u32);
        }
        Ok(Self { rate, starts, pieces })
    }

    /// The tokens that a combined token is split into. Empty for other tokens.
    pub fn pieces(&self, id: u32) -> &[u32] {
        match self.starts.get(id as usize..id as usize + 2) {
            Some(&[from, to]) => &self.pieces[from as usize..to as usize],
            _ => &[],
        }
    }

    /// Number of combined tokens in the vocabulary.
    pub fn combined_tokens(&self) -> usize {
        self.starts.windows(2).filter(|w| w[0] < w[1]).count()
    }

    /// Appends `ids` to `out` and splits a share of the combined tokens. `rng` belongs to the document.
    pub fn apply(&self, ids: &[u32], rng: Rng, out: &mut Vec<u32>) {
        if self.rate == 0.0 {
            out.extend_from_slice(ids);
            return;
        }
        for (position, &id) in ids.iter().enumerate() {
            let pieces = self.pieces(id);
            if !pieces.is_empty() && rng.uniform(position as u64) < self.rate {
                out.extend_from_slice(pieces);
            } else {
                out.push(id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::Purpose;
    use crate::testing::tokenizer;
    use proptest::{prop_assert_eq, proptest};

    #[test]
    fn finds_combined_tokens_and_their_pieces() {
        let t = tokenizer();
        let split = BoundarySplit::new(&t, 1.0).unwrap();
        assert!(split.combined_tokens() > 5);
        for id in 0..t.vocab_size() as u32 + 2 {
            let pieces = split.pieces(id);
            let whole = t.token_bytes(id);
            let is_combined =
                !t.is_special(id) && whole.ends_with(b"\n") && whole.iter().any(|b| !b.is_ascii_whitespace());
            assert_eq!(!pieces.is_empty(), is_combined, "{:?}", String::from_utf8_lossy(whole));
            if is_combined {
                let joined: Vec<u8> = pieces.iter().flat_map(|p| t.token_bytes(*p)).copied().collect();
                assert_eq!(joined, whole);
                assert!(pieces.len() >= 2 && pieces.iter().all(|p| split.pieces(*p).is_empty()));
            }
        }
    }

    #[test]
    fn splits_at_the_rate() {
        let t = tokenizer();
        let split = BoundarySplit::new(&t, 0.3).unwrap();
        let combined = (0..t.vocab_size() as u32).find(|id| !split.pieces(*id).is_empty()).unwrap();
        let n = 20_000;
        let mut out = Vec::new();
        split.apply(&vec![combined; n], Rng::new(1, Purpose::TokenSplit, 0), &mut out);
        let kept = out.iter().filter(|id| **id == combined).count() as f64 / n as f64;
        // The standard error is 0.0032; the bound is five of them.
        assert!((kept - 0.7).abs() < 0.0162, "{kept}");
        assert!(matches!(BoundarySplit::new(&t, 1.5), Err(DataError::Option { .. })));
    }

    proptest! {
        #[test]
        fn the_text_stays_the_same(text in "[a-z(){};\n ]{0,80}", seed: u64, rate in 0.0f64..=1.0) {
            let t = tokenizer();
            let split = BoundarySplit::new(&t, rate).unwrap();
            let (mut a, mut b) = (Vec::new(), Vec::new());
            let rng = Rng::new(seed, Purpose::TokenSplit, 1);
            split.apply(&t.encode(&text), rng, &mut a);
            split.apply(&t.encode(&text), rng, &mut b);
            prop_assert_eq!(&a, &b);
            prop_assert_eq!(t.decode(&a), text);
        }
    }
}
