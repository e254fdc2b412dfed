//! Synthetic families: questions with exact answers, generated from a seed, with a dial of difficulty.
//!
//! | family | question | difficulty d, 1 to 10 |
//! | --- | --- | --- |
//! | `sums` | a sum or difference in words | numbers below 10^d |
//! | `countdown` | an expression with given numbers and a given value | d + 1 numbers |
//! | `sorting` | numbers or words in order | 2 d + 1 of them |
//! | `edits` | steps of editing applied to letters | d steps, 2 d + 3 letters |
//! | `programs` | what a small program prints | d statements |
//! | `needle` | a number that stands somewhere in a text | 2^d sentences for each of d facts |
//!
//! A question belongs to a split by its own text: one of eight to `test`, one of eight to `validation`, the others to all
//! other splits. So no question of the test is ever trained on, whatever the seeds are.

mod countdown;
mod edits;
mod needle;
mod programs;
mod sorting;
mod sums;
mod words;

use hadal_base::{Purpose, Rng, name_key};
use serde_json::{Map, Value, json};

use crate::checker::{Case, Checker, Each};
use crate::error::Result;
use crate::file::Node;
use crate::maths::find_answer;
use crate::task::Options;
use crate::task::keys::Keys;

/// The most documents of a split.
const MOST: usize = 1 << 20;
/// How many questions are drawn for each that is wanted, before a family counts as exhausted.
const TRIES: usize = 200;

/// A synthetic family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Sums and differences in words.
    Sums,
    /// Expressions with given numbers and a given value.
    Countdown,
    /// Sorting.
    Sorting,
    /// Edits of strings.
    Edits,
    /// What small programs print.
    Programs,
    /// Numbers in a long text, as in [`hadal_data::needle`].
    Needle,
}

/// A question with its answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// The text.
    pub question: String,
    /// A right answer.
    pub answer: String,
    /// What the checker needs beside the answer.
    pub data: Value,
}

/// Random numbers in order.
struct Draw {
    rng: Rng,
    next: u64,
}

impl Draw {
    fn below(&mut self, n: u64) -> u64 {
        self.next += 1;
        self.rng.below(self.next, n)
    }

    fn choose<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }
}

impl Family {
    /// All families.
    pub const ALL: [Self; 6] = [Self::Sums, Self::Countdown, Self::Sorting, Self::Edits, Self::Programs, Self::Needle];

    /// The family's name in task files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sums => "sums",
            Self::Countdown => "countdown",
            Self::Sorting => "sorting",
            Self::Edits => "edits",
            Self::Programs => "programs",
            Self::Needle => "needle",
        }
    }

    /// The family of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.name() == name)
    }

    /// The question that belongs to a stream of random numbers. `difficulty` is from 1 to 10.
    pub fn question(self, rng: Rng, difficulty: u32) -> Question {
        let mut draw = Draw { rng, next: 0 };
        let difficulty = difficulty.clamp(1, 10);
        match self {
            Self::Sums => sums::question(&mut draw, difficulty),
            Self::Countdown => countdown::question(&mut draw, difficulty),
            Self::Sorting => sorting::question(&mut draw, difficulty),
            Self::Edits => edits::question(&mut draw, difficulty),
            Self::Programs => programs::question(&mut draw, difficulty),
            Self::Needle => needle::question(&mut draw, difficulty),
        }
    }

    /// Whether an answer is right. `document` is a document of [`Generator::documents`].
    pub fn check(self, document: &Value, answer: &str) -> bool {
        let Some(answer) = find_answer(answer).map(|answer| answer.trim().trim_end_matches('.').trim()) else {
            return false;
        };
        let expected = document.get("answer").and_then(Value::as_str).unwrap_or_default();
        match self {
            Self::Sums => words::number(answer).is_some_and(|number| Some(number) == words::number(expected)),
            Self::Countdown => countdown::check(&document["data"], answer),
            Self::Sorting => !answer.is_empty() && answer.split_whitespace().eq(expected.split_whitespace()),
            Self::Edits | Self::Programs | Self::Needle => !answer.is_empty() && answer == expected,
        }
    }
}

/// A family with its dial and seed, as `generator` in a task file describes it.
#[derive(Clone, Debug)]
pub struct Generator {
    family: Family,
    difficulty: u32,
    count: usize,
    seed: u64,
}

impl Generator {
    /// A generator of `count` documents in each split.
    pub fn new(family: Family, difficulty: u32, count: usize, seed: u64) -> Self {
        Self { family, difficulty: difficulty.clamp(1, 10), count: count.min(MOST), seed }
    }

    pub(crate) fn read(node: &Node, options: &Options) -> Result<Self> {
        let mut keys = Keys::new(node, "generator.")?;
        let names: Vec<&str> = Family::ALL.iter().map(|family| family.name()).collect();
        let family = keys.text("family")?;
        let Some(family) = family.as_deref().and_then(Family::named) else {
            return Err(keys.wrong("family", &format!("name one of: {}", names.join(", "))));
        };
        let difficulty = keys.integer("difficulty")?.unwrap_or(1);
        if !(1..=10).contains(&difficulty) {
            return Err(keys.wrong("difficulty", "give a number from 1 to 10"));
        }
        let count = keys.count("count")?;
        let count = options.count.or(count).unwrap_or(512);
        if !(1..=MOST).contains(&count) {
            return Err(keys.wrong("count", &format!("give a number from 1 to {MOST}")));
        }
        let own = keys.integer("seed")?.unwrap_or(0);
        let own = u64::try_from(own).map_err(|_| keys.wrong("seed", "give a number from 0 up"))?;
        keys.finish()?;
        Ok(Self::new(family, difficulty as u32, count, options.seed.unwrap_or(own)))
    }

    /// The checker of the family.
    pub(crate) fn checker(&self) -> Box<dyn Checker> {
        let family = self.family;
        Box::new(Each(move |case: &Case| f64::from(u8::from(family.check(case.document, case.answer)))))
    }

    /// The documents of a split: different questions, as many as wanted, or fewer if the family has no more of this
    /// difficulty.
    pub fn documents(&self, split: &str) -> Vec<Map<String, Value>> {
        let key = name_key(&format!("{}/{split}", self.family.name()));
        let stream = Rng::new(self.seed, Purpose::Task, key);
        let (mut documents, mut seen) = (Vec::new(), std::collections::HashSet::new());
        for index in 0..(self.count * TRIES) as u64 {
            if documents.len() == self.count {
                break;
            }
            let question = self.family.question(stream.substream(index), self.difficulty);
            if !belongs(&question.question, split) || !seen.insert(question.question.clone()) {
                continue;
            }
            let Question { question, answer, data } = question;
            let document = json!({
                "question": question, "answer": answer, "family": self.family.name(), "difficulty": self.difficulty, "data": data,
            });
            if let Value::Object(document) = document {
                documents.push(document);
            }
        }
        documents
    }
}

/// Whether a question belongs to a split.
fn belongs(question: &str, split: &str) -> bool {
    let part = hadal_base::mix(name_key(question)) % 8;
    match split {
        "test" => part == 0,
        "validation" => part == 1,
        _ => part > 1,
    }
}

#[cfg(test)]
mod tests;
