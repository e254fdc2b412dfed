//! Needles in a haystack (report 4.3, figure 8): a fact hidden somewhere in real text and asked for at the end.
//!
//! ```text
//! … text … The magic number of amber is 73941.⏎ … text … The magic number of amber is 73941
//! ```
//!
//! The haystack is real text as token ids. A needle is inserted at the boundary of a line. Lengths are exact in tokens,
//! because everything is assembled from ids. Each fixed part is encoded once. The digits are encoded one by one, so the
//! answer has one token per digit, whatever numbers the tokenizer has as single tokens.
//!
//! There are two uses. [`Needles::sample`] makes one question for an evaluation (length, depth, distractors).
//! [`Needles::row`] makes a training sequence with several facts, each asked for at least once after it was stated.
//! From such sequences a small model can learn to look things up. Both are functions of their arguments only.

use std::ops::Range;

use crate::error::{DataError, Result};
use crate::hash::{Permutation, Rng};
use crate::tokenizer::Tokenizer;

/// Words that the magic numbers may belong to: common words of text and of code. A tokenizer uses the `FACTS` words
/// with the fewest tokens, because a small model finds words of many tokens hard to recognise.
pub const WORDS: [&str; 100] = [
    "amber", "anchor", "autumn", "bamboo", "basket", "beacon", "canyon", "carpet", "castle", "cinnamon", "cobalt",
    "copper", "desert", "dragon", "eagle", "ember", "falcon", "feather", "forest", "garden", "ginger", "glacier",
    "hammer", "harbor", "island", "ivory", "jungle", "kettle", "lantern", "lemon", "marble", "meadow", "mirror",
    "needle", "orchid", "panther", "pepper", "planet", "quartz", "raven", "saddle", "silver", "thunder", "tunnel",
    "velvet", "violin", "walnut", "winter", "block", "buffer", "cache", "char", "code", "color", "crate", "data",
    "debug", "element", "error", "example", "feature", "field", "file", "format", "future", "group", "hash", "index",
    "input", "item", "length", "line", "method", "name", "object", "offset", "option", "order", "output", "panic",
    "path", "pattern", "pointer", "position", "range", "result", "search", "slice", "span", "state", "stream",
    "string", "table", "target", "thread", "time", "token", "type", "value", "version",
];

/// A fact, up to its number.
pub fn statement(word: &str) -> String {
    format!("The magic number of {word} is ")
}

/// Largest number of facts in a text.
const FACTS: usize = 48;
/// Digits of a magic number. A guess is right once in a hundred thousand.
const DIGITS: u64 = 5;

/// A question about a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The text, the question and its answer.
    pub ids: Vec<u32>,
    /// The range of the answer's tokens at the end of `ids`.
    pub answer: Range<usize>,
    /// Index of the needle's first token.
    pub needle: usize,
}

/// The properties of a [`Sample`].
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Total number of tokens, the answer included.
    pub length: usize,
    /// Share of the haystack before the needle, 0 to 1.
    pub depth: f64,
    /// Number of other facts, at any position.
    pub distractors: usize,
}

/// The fixed parts of needles and questions, encoded with one tokenizer.
#[derive(Clone, Debug)]
pub struct Needles {
    bos: Option<u32>,
    eos: u32,
    /// The statement about each word, up to the number.
    words: Vec<Vec<u32>>,
    digits: Vec<Vec<u32>>,
    end: Vec<u32>,
    /// For each token, whether its text ends a line.
    ends_line: Vec<bool>,
}

/// One fact.
struct Fact {
    /// `The magic number of amber is 73941.⏎`
    needle: Vec<u32>,
    /// The range of the number's tokens in it.
    answer: Range<usize>,
}

impl Fact {
    /// The needle up to the end of the number: the question and its answer.
    fn asked(&self) -> &[u32] {
        &self.needle[..self.answer.end]
    }
}

impl Needles {
    /// Encodes the fixed parts. `bos`: whether texts begin with the begin token.
    pub fn new(tokenizer: &Tokenizer, bos: bool) -> Result<Self> {
        let mut words: Vec<Vec<u32>> = WORDS.iter().map(|word| tokenizer.encode(&statement(word))).collect();
        words.sort_by_key(Vec::len);
        words.truncate(FACTS);
        let ends_line = (0..tokenizer.vocab_size() as u32)
            .map(|id| !tokenizer.is_special(id) && tokenizer.token_bytes(id).ends_with(b"\n"))
            .collect();
        Ok(Self {
            bos: tokenizer.special().bos.filter(|_| bos),
            eos: tokenizer.eos()?,
            words,
            digits: (0..10).map(|d| tokenizer.encode(&d.to_string())).collect(),
            end: tokenizer.encode(".\n"),
            ends_line,
        })
    }

    /// Largest number of tokens that `facts` facts with one question each may need, besides the begin and end of the
    /// text.
    pub fn room(&self, facts: usize) -> usize {
        let number = DIGITS as usize * self.digits.iter().map(Vec::len).max().unwrap_or(1);
        let longest = self.words.iter().map(Vec::len).max().unwrap_or(0);
        2 * facts * (longest + number + self.end.len()) + 2
    }

    fn fact(&self, word: usize, rng: Rng) -> Fact {
        let number = (0..DIGITS).flat_map(|i| &self.digits[rng.below(i, 10) as usize]).copied();
        let mut needle: Vec<u32> = self.words[word].iter().copied().chain(number).collect();
        let answer = self.words[word].len()..needle.len();
        needle.extend_from_slice(&self.end);
        Fact { needle, answer }
    }

    /// `count` facts about different words.
    fn facts(&self, count: usize, rng: Rng) -> Vec<Fact> {
        let order = Permutation::new(rng.substream(0), self.words.len() as u64);
        let numbers = rng.substream(1);
        (0..count).map(|i| self.fact(order.at(i as u64) as usize, numbers.substream(i as u64))).collect()
    }

    /// Positions where a line of `text` begins, including its start and its end.
    fn boundaries(&self, text: &[u32]) -> Vec<usize> {
        let ends = text.iter().enumerate().filter(|(_, id)| self.ends_line.get(**id as usize) == Some(&true));
        let mut all: Vec<usize> = std::iter::once(0).chain(ends.map(|(i, _)| i + 1)).chain([text.len()]).collect();
        all.dedup();
        all
    }

    /// A question with exactly `place.length` tokens. The text is the beginning of `haystack`, repeated if it is too
    /// short.
    pub fn sample(&self, haystack: &[u32], place: Place, rng: Rng) -> Result<Sample> {
        let bad = |problem: String| Err(DataError::Option { key: "needle", problem });
        if place.distractors >= self.words.len() {
            return bad(format!(
                "{} distractors are too many; there are words for {}",
                place.distractors,
                self.words.len() - 1
            ));
        }
        let facts = self.facts(place.distractors + 1, rng);
        let asked = &facts[0];
        let fixed =
            usize::from(self.bos.is_some()) + facts.iter().map(|f| f.needle.len()).sum::<usize>() + asked.asked().len();
        if place.length <= fixed {
            return bad(format!(
                "{} tokens leave no room for text beside needle and question ({fixed} tokens); choose longer texts",
                place.length
            ));
        }
        if haystack.is_empty() {
            return Err(DataError::TooLittle("there is no text to hide a needle in".into()));
        }
        let text: Vec<u32> = haystack.iter().copied().cycle().take(place.length - fixed).collect();
        let lines = self.boundaries(&text);
        let wanted = place.depth.clamp(0.0, 1.0) * text.len() as f64;
        let nearest = lines.iter().copied().min_by_key(|at| (*at as f64 - wanted).abs() as usize).unwrap_or(0);
        let anywhere = rng.substream(2);
        let mut inserts: Vec<(usize, usize, &[u32])> = vec![(nearest, 0, &asked.needle)];
        for (i, fact) in facts.iter().enumerate().skip(1) {
            inserts.push((lines[anywhere.below(i as u64, lines.len() as u64) as usize], i, &fact.needle));
        }
        let mut ids: Vec<u32> = self.bos.into_iter().collect();
        let begin = ids.len();
        // The position of the needle: after the text and the distractors that come before it.
        let before: usize = inserts.iter().filter(|i| i.0 < nearest).map(|i| i.2.len()).sum();
        insert(&text, inserts, &mut ids);
        let answer = ids.len() + asked.answer.start..ids.len() + asked.answer.end;
        ids.extend_from_slice(asked.asked());
        Ok(Sample { ids, answer, needle: begin + nearest + before })
    }

    /// A training text of exactly `len` tokens, appended to `out`. `take` returns as many tokens of real text as it is
    /// asked for. Facts and questions are at the boundaries of lines and take up at most three quarters of the row.
    /// Every question comes after its fact, and one question is at the end.
    pub fn row(
        &self,
        len: usize,
        rng: Rng,
        out: &mut Vec<u32>,
        take: impl FnOnce(usize) -> Result<Vec<u32>>,
    ) -> Result<()> {
        let frame = usize::from(self.bos.is_some()) + 1;
        let room = (len / 4 * 3).saturating_sub(frame);
        // Every fact appears twice: as a statement and as a question. The number of facts is log-uniform: a single fact
        // teaches finding one at all, many facts teach telling them apart.
        let mut facts = self.facts(FACTS, rng);
        let size = |facts: &[Fact]| facts.iter().map(|f| f.needle.len()).sum::<usize>();
        let most = (1..=FACTS).rev().find(|n| 2 * size(&facts[..*n]) <= room).unwrap_or(1);
        let even = |most: usize, at: u64| (most as f64 + 1.0).powf(rng.uniform(at)) as usize;
        facts.truncate(even(most, 2).min(most));
        let fixed = frame + 2 * size(&facts);
        let Some(mut rest) = len.checked_sub(fixed) else {
            let need = self.room(1);
            return Err(DataError::Option {
                key: "needle rate",
                problem: format!(
                    "sequences of {len} tokens have no room for a needle and its question ({need} tokens)"
                ),
            });
        };
        // If there is room, further questions are added. Only the few tokens of the answers teach looking up.
        let mut questions: Vec<usize> = (0..facts.len()).collect();
        let more = (room + frame).saturating_sub(fixed) / facts[0].needle.len();
        let again_of = rng.substream(5);
        for again in 1..even(more, 3) {
            let fact = again_of.below(again as u64, facts.len() as u64) as usize;
            let Some(left) = rest.checked_sub(facts[fact].needle.len()) else { break };
            rest = left;
            questions.push(fact);
        }
        let text = take(rest)?;
        let lines = self.boundaries(&text);
        let (places, asked) = (rng.substream(3), rng.substream(4));
        let at = |fact: usize| places.below(fact as u64, lines.len() as u64) as usize;
        let mut parts: Vec<_> = facts.iter().enumerate().map(|(i, f)| (lines[at(i)], i, f.needle.as_slice())).collect();
        for (i, fact) in questions.into_iter().enumerate() {
            let later = at(fact) + asked.below(i as u64, (lines.len() - at(fact)) as u64) as usize;
            // One question is at the end. At the same position, questions come after all facts.
            let place = if i == 0 { text.len() } else { lines[later] };
            parts.push((place, FACTS + i, &facts[fact].needle));
        }
        out.extend(self.bos);
        insert(&text, parts, out);
        out.push(self.eos);
        Ok(())
    }
}

/// Appends `text` with `parts` inserted. A part is (position in the text, order at the same position, ids).
fn insert(text: &[u32], mut parts: Vec<(usize, usize, &[u32])>, out: &mut Vec<u32>) {
    parts.sort_by_key(|(at, order, _)| (*at, *order));
    let mut from = 0;
    for (at, _, ids) in parts {
        out.extend_from_slice(&text[from..at]);
        out.extend_from_slice(ids);
        from = at;
    }
    out.extend_from_slice(&text[from..]);
}

/// About `tokens` tokens of text: whole documents in order, starting with one that `rng` chooses. After the last
/// document the first one follows. It stops as soon as there are enough tokens.
pub fn haystack(documents: &[Vec<u32>], tokens: usize, rng: Rng) -> Vec<u32> {
    let mut out = Vec::new();
    if documents.iter().all(Vec::is_empty) {
        return out;
    }
    let first = rng.below(0, documents.len() as u64) as usize;
    let mut next = documents.iter().cycle().skip(first);
    while let Some(document) = next.next().filter(|_| out.len() < tokens) {
        out.extend_from_slice(document);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::{Purpose, Rng};
    use crate::testing::{documents, tokenizer};
    use proptest::{prelude::ProptestConfig, prop_assert, prop_assert_eq, proptest};

    fn rng(seed: u64) -> Rng {
        Rng::new(seed, Purpose::Needle, 0)
    }

    fn text() -> Vec<u32> {
        let t = tokenizer();
        let all: Vec<Vec<u32>> = documents().iter().map(|d| t.encode(&d.text)).collect();
        haystack(&all, 3000, rng(1))
    }

    /// The words and numbers of all needles in a text, in order.
    fn needles(text: &str) -> Vec<(String, String)> {
        text.match_indices("The magic number of ")
            .filter_map(|(at, head)| {
                let (word, rest) = text[at + head.len()..].split_once(" is ")?;
                let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
                Some((word.to_owned(), number))
            })
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn samples_are_exact_and_answerable(
            length in 150usize..900, depth in 0.0f64..=1.0, distractors in 0usize..3, seed: u64, bos: bool
        ) {
            let t = tokenizer();
            let maker = Needles::new(&t, bos).unwrap();
            let (hay, place) = (text(), Place { length, depth, distractors });
            let Ok(s) = maker.sample(&hay, place, rng(seed)) else {
                prop_assert!(length < maker.room(distractors + 2));
                return Ok(());
            };
            prop_assert_eq!(s.ids.len(), length);
            prop_assert_eq!(s.answer.end, length);
            prop_assert_eq!(bos, Some(s.ids[0]) == t.special().bos);
            let shown = t.decode(&s.ids);
            let found = needles(&shown);
            // The facts, then the question with its answer. The answer is that of the only fact about the same word.
            prop_assert_eq!(found.len(), distractors + 2);
            let (asked, facts) = found.split_last().unwrap();
            let right: Vec<_> = facts.iter().filter(|f| f.0 == asked.0).collect();
            prop_assert_eq!(&right, &vec![asked]);
            prop_assert_eq!(&t.decode(&s.ids[s.answer.clone()]), &asked.1);
            prop_assert_eq!(asked.1.len(), DIGITS as usize);
            // The needle is where `needle` says: at the start of a line or at the cut end of the text.
            let line = format!("The magic number of {} is {}.\n", asked.0, asked.1);
            let after = t.decode(&s.ids[s.needle..]);
            let last = after.strip_prefix(&line).map(|rest| rest.starts_with("The magic"));
            prop_assert!(last.is_some());
            let before = t.decode(&s.ids[..s.needle]);
            let first = before.is_empty() || t.is_special(s.ids[s.needle - 1]);
            prop_assert!(first || before.ends_with('\n') || distractors > 0 || last == Some(true), "{before:?}");
            prop_assert_eq!(maker.sample(&hay, place, rng(seed)).unwrap(), s);
        }

        #[test]
        fn rows_are_exact_and_every_question_follows_its_fact(len in 130usize..1200, seed: u64) {
            let t = tokenizer();
            let maker = Needles::new(&t, true).unwrap();
            let hay = text();
            let make = || {
                let mut out = Vec::new();
                maker.row(len, rng(seed), &mut out, |n| Ok(hay.iter().copied().cycle().take(n).collect())).map(|()| out)
            };
            let Ok(ids) = make() else {
                prop_assert!(len < maker.room(1));
                return Ok(());
            };
            prop_assert_eq!(&make().unwrap(), &ids);
            prop_assert_eq!(ids.len(), len);
            prop_assert_eq!(ids[len - 1], t.eos().unwrap());
            let shown = t.decode(&ids);
            prop_assert!(shown.trim_end().ends_with('.') );
            let found = needles(&shown);
            let mut words: Vec<&str> = found.iter().map(|f| f.0.as_str()).collect();
            words.sort_unstable();
            words.dedup();
            prop_assert!(found.len() >= 2 * words.len());
            for word in words {
                let of_word: Vec<_> = found.iter().filter(|f| f.0 == word).collect();
                prop_assert!(of_word.len() > 1 && of_word.iter().all(|f| *f == of_word[0]));
            }
        }
    }

    #[test]
    fn depths_lie_where_they_are_asked_for() {
        let maker = Needles::new(&tokenizer(), true).unwrap();
        let hay = text();
        let at: Vec<usize> = (0..=10)
            .map(|d| {
                let place = Place { length: 2000, depth: f64::from(d) / 10.0, distractors: 0 };
                maker.sample(&hay, place, rng(3)).unwrap().needle
            })
            .collect();
        assert_eq!(at[0], 1);
        assert!(at.is_sorted());
        for (d, at) in at.iter().enumerate() {
            // Lines of source code have at most some tens of tokens.
            assert!((*at as f64 - d as f64 * 190.0).abs() < 120.0, "{d}: {at}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let maker = Needles::new(&tokenizer(), true).unwrap();
        let place = Place { length: 20, depth: 0.5, distractors: 0 };
        assert!(maker.sample(&text(), place, rng(1)).unwrap_err().to_string().contains("20 tokens"));
        let many = Place { length: 9000, distractors: 48, ..place };
        assert!(maker.sample(&text(), many, rng(1)).unwrap_err().to_string().contains("48 distractors"));
        assert!(maker.sample(&[], Place { length: 900, ..place }, rng(1)).is_err());
        let short = maker.row(30, rng(1), &mut Vec::new(), |_| Ok(Vec::new())).unwrap_err().to_string();
        assert!(short.contains("30 tokens"), "{short}");
        assert!(haystack(&[vec![]], 5, rng(1)).is_empty());
    }
}
