//! Fill-in-middle (report, section 4.1). At a rate of 0.1, before packing, a document becomes `<|fim_begin|> prefix
//! <|fim_hole|> suffix <|fim_end|> middle`. So the middle is predicted from both sides.
//!
//! The two cuts are uniform over the document's characters. The three parts are encoded separately, because the parts
//! of a prompt are separate as well. Which documents are changed, and where they are cut, depends only on (seed, epoch,
//! document).
//!
//! Where we depart: with `span`, a chosen document is first cut into stretches of at most that many tokens, and each
//! stretch is treated as a document. The report's contexts of 4K tokens fit most documents whole. With a few hundred
//! tokens, the three parts would rarely be in the same sequence.

use crate::error::{DataError, Result};
use crate::hash::Rng;
use crate::tokenizer::Tokenizer;

/// Index of the random number that chooses a document. The numbers for the cuts follow.
const CHOOSE: u64 = 0;

/// The transformation's settings and tokens.
#[derive(Clone, Copy, Debug)]
pub struct Fim {
    rate: f64,
    span: Option<usize>,
    begin: u32,
    hole: u32,
    end: u32,
}

impl Fim {
    /// `None` at rate 0. An error if the tokenizer lacks the three tokens.
    pub fn new(tokenizer: &Tokenizer, rate: f64, span: Option<usize>) -> Result<Option<Self>> {
        if !(0.0..=1.0).contains(&rate) {
            return Err(DataError::Option {
                key: "fim rate",
                problem: format!("{rate} is not between 0 and 1; 0.1 is a good value"),
            });
        }
        if span.is_some_and(|s| s < 8) {
            return Err(DataError::Option { key: "fim span", problem: "it must be at least 8 tokens".into() });
        }
        if rate == 0.0 {
            return Ok(None);
        }
        let ids = tokenizer.special();
        match (ids.fim_begin, ids.fim_hole, ids.fim_end) {
            (Some(begin), Some(hole), Some(end)) => Ok(Some(Self { rate, span, begin, hole, end })),
            _ => Err(DataError::tokenizer(
                None,
                "it has no fill-in-middle tokens; set the rate of fill-in-middle to 0, or train a tokenizer of your own",
            )),
        }
    }

    /// Whether the document that `rng` belongs to is transformed.
    pub fn chooses(&self, rng: Rng) -> bool {
        rng.uniform(CHOOSE) < self.rate
    }

    /// Transforms a document given as ids. `each` receives the ids of every stretch, without the document's begin and
    /// end tokens.
    pub fn transform(&self, tokenizer: &Tokenizer, ids: &[u32], rng: Rng, mut each: impl FnMut(&[u32])) {
        let mut out = Vec::with_capacity(ids.len() + 3);
        let stretches = ids.chunks(self.span.unwrap_or(ids.len()).max(1));
        for (number, stretch) in stretches.enumerate() {
            out.clear();
            let bytes: Vec<u8> = stretch.iter().flat_map(|id| tokenizer.token_bytes(*id)).copied().collect();
            match String::from_utf8(bytes) {
                Ok(text) => self.encode(tokenizer, &text, rng.substream(number as u64), &mut out),
                // A stretch that ends inside a character is not changed.
                Err(_) => out.extend_from_slice(stretch),
            }
            each(&out);
        }
    }

    /// Appends the three parts of a text. `rng` decides the cuts.
    pub fn encode(&self, tokenizer: &Tokenizer, text: &str, rng: Rng, out: &mut Vec<u32>) {
        let (a, b) = cuts(text, rng);
        out.push(self.begin);
        tokenizer.encode_into(&text[..a], out);
        out.push(self.hole);
        tokenizer.encode_into(&text[b..], out);
        out.push(self.end);
        tokenizer.encode_into(&text[a..b], out);
    }
}

/// A prompt that asks for the text between `prefix` and `suffix`.
pub fn prompt(tokenizer: &Tokenizer, prefix: &str, suffix: &str) -> Result<Vec<u32>> {
    let fim = Fim::new(tokenizer, 1.0, None)?.expect("a rate of 1");
    let mut ids = vec![fim.begin];
    tokenizer.encode_into(prefix, &mut ids);
    ids.push(fim.hole);
    tokenizer.encode_into(suffix, &mut ids);
    ids.push(fim.end);
    Ok(ids)
}

/// Two positions in a text, in ascending order, uniform over the boundaries of its characters.
fn cuts(text: &str, rng: Rng) -> (usize, usize) {
    let places = text.chars().count() as u64 + 1;
    let (x, y) = (rng.below(1, places) as usize, rng.below(2, places) as usize);
    let byte_of = |place: usize| text.char_indices().nth(place).map_or(text.len(), |(at, _)| at);
    (byte_of(x.min(y)), byte_of(x.max(y)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::Purpose;
    use crate::testing::tokenizer;
    use proptest::{prop_assert, prop_assert_eq, proptest};

    #[test]
    fn chooses_at_the_rate_and_anew_each_epoch() {
        let fim = Fim::new(&tokenizer(), 0.1, None).unwrap().unwrap();
        let chosen = |epoch| -> Vec<bool> {
            let rng = Rng::new(1, Purpose::Fim, epoch);
            (0..20_000).map(|d| fim.chooses(rng.substream(d))).collect()
        };
        let (a, b) = (chosen(0), chosen(1));
        let share = |v: &[bool]| v.iter().filter(|c| **c).count() as f64 / v.len() as f64;
        // The standard error is 0.0021; the bound is five of them.
        assert!((share(&a) - 0.1).abs() < 0.0106 && (share(&b) - 0.1).abs() < 0.0106);
        assert_ne!(a, b);
    }

    #[test]
    fn settings_are_checked() {
        let t = tokenizer();
        assert!(Fim::new(&t, 0.0, None).unwrap().is_none());
        assert!(Fim::new(&t, -0.1, None).is_err() && Fim::new(&t, 0.1, Some(2)).is_err());
        let ids = prompt(&t, "fn f(", ") {}").unwrap();
        assert_eq!(t.decode_with_special(&ids), "<|fim_begin|>fn f(<|fim_hole|>) {}<|fim_end|>");
    }

    proptest! {
        #[test]
        fn parts_put_together_are_the_document(text in "[a-z\u{e9}\u{6df1} \n;]{0,60}", seed: u64) {
            let t = tokenizer();
            let fim = Fim::new(&t, 1.0, None).unwrap().unwrap();
            let rng = Rng::new(seed, Purpose::Fim, 0);
            let mut got = Vec::new();
            fim.transform(&t, &t.encode(&text), rng, |ids| got.extend_from_slice(ids));
            if text.is_empty() {
                prop_assert!(got.is_empty());
            } else {
                let shown = t.decode_with_special(&got);
                let rest = shown.strip_prefix("<|fim_begin|>").unwrap();
                let (prefix, rest) = rest.split_once("<|fim_hole|>").unwrap();
                let (suffix, middle) = rest.split_once("<|fim_end|>").unwrap();
                prop_assert_eq!(format!("{prefix}{middle}{suffix}"), text);
            }
        }

        #[test]
        fn stretches_hold_the_whole_document(text in "[a-z\u{e9}\u{6df1} \n;]{0,200}", seed: u64) {
            let t = tokenizer();
            let fim = Fim::new(&t, 1.0, Some(8)).unwrap().unwrap();
            let (mut bytes, mut stretches) = (0, 0);
            let ids = t.encode(&text);
            fim.transform(&t, &ids, Rng::new(seed, Purpose::Fim, 0), |out| {
                stretches += 1;
                bytes += out.iter().filter(|id| !t.is_special(**id)).map(|id| t.token_bytes(*id).len()).sum::<usize>();
            });
            prop_assert_eq!((bytes, stretches), (text.len(), ids.len().div_ceil(8)));
        }
    }
}
