//! Prompts: description, examples and question, put together as lm-evaluation-harness 0.4.13 does it, for plain text and
//! for chats.

use serde_json::Value;

use super::chat::{Turn, prompt};
use super::field::{Document, Field};
use super::{Fields, Task};
use crate::error::Result;

/// The fields of few-shot examples.
#[derive(Debug)]
pub(super) struct Shots {
    pub(super) text: Field,
    pub(super) target: Field,
    pub(super) choice: Option<Field>,
    pub(super) gen_prefix: Option<Field>,
    pub(super) fewshot_delimiter: String,
    pub(super) target_delimiter: String,
    pub(super) documents: Vec<Document>,
    /// Whether the examples come from the split that is evaluated. A question is then left out of its own examples.
    pub(super) same_split: bool,
}

impl Task {
    /// The text before the answer. There are several where each choice is a question of its own.
    pub(super) fn contexts(&self, number: usize) -> Result<Vec<String>> {
        let document = &self.documents[number];
        let mut turns: Vec<Turn> = Vec::new();
        turns.extend(self.description(document, number)?.map(|text| Turn::new("system", text, "")));
        for (at, shot) in self.examples(document).into_iter().enumerate() {
            turns.extend(self.example(shot, at)?);
        }
        let prefix = self.gen_prefix(number)?;
        let question = self.fields.text.question(document, number, self.fields.choice.is_some())?;
        let (questions, delimiter) = if self.fields.multiple_input {
            (self.choices(number)?, "")
        } else {
            let Value::String(question) = question else {
                return Err(self.fields.text.wrong(number, "gives a number, but text is needed"));
            };
            (vec![question], self.config.target_delimiter.as_str())
        };
        let whole = |question: &String| {
            let mut turns = turns.clone();
            turns.extend(asked(question, prefix.as_deref(), delimiter));
            prompt(turns, self.chat.as_ref())
        };
        questions.iter().map(whole).collect()
    }

    /// What stands before examples and question. Nothing if it is empty.
    pub(super) fn description(&self, document: &Document, number: usize) -> Result<Option<String>> {
        let text =
            self.fields.description.as_ref().map(|description| description.text(document, number)).transpose()?;
        Ok(text.filter(|text| !text.is_empty()))
    }

    /// What the answer begins with. Nothing if it is empty.
    pub(super) fn gen_prefix(&self, number: usize) -> Result<Option<String>> {
        match &self.fields.gen_prefix {
            Some(prefix) => Ok(Some(prefix.text(&self.documents[number], number)?).filter(|prefix| !prefix.is_empty())),
            None => Ok(None),
        }
    }

    /// The first documents of the examples, without the question itself.
    fn examples(&self, document: &Document) -> Vec<&Document> {
        let others = self.shots.documents.iter();
        let others = others.filter(|shot| !self.shots.same_split || shot.fields != document.fields);
        others.take(self.config.num_fewshot).collect()
    }

    /// An example with its answer.
    pub(super) fn example(&self, shot: &Document, at: usize) -> Result<Vec<Turn>> {
        let shots = &self.shots;
        let choices = match &shots.choice {
            Some(choice) => Some(choice.choices(shot, at)?),
            None => None,
        };
        let chosen = |index: &Value, field: &Field| {
            let index = index.as_i64().and_then(|i| usize::try_from(i).ok());
            let choice = choices.as_ref().zip(index).and_then(|(choices, i)| choices.get(i));
            choice.cloned().ok_or_else(|| field.wrong(at, "an example gives a number that is not that of a choice"))
        };
        let has_choices = self.fields.choice.is_some();
        let question = match shots.text.question(shot, at, has_choices)? {
            Value::String(text) => text,
            index => chosen(&index, &shots.text)?,
        };
        let answer = match shots.target.target(shot, at, has_choices)? {
            Value::String(text) => text,
            Value::Array(answers) => match answers.into_iter().next() {
                Some(Value::String(text)) => text,
                _ => return Err(shots.target.wrong(at, "an example's list of answers does not begin with text")),
            },
            index => chosen(&index, &shots.target)?,
        };
        let prefix = match &shots.gen_prefix {
            Some(prefix) => prefix.text(shot, at)?,
            None => String::new(),
        };
        if answer.is_empty() {
            return Ok(asked(&question, Some(prefix.as_str()).filter(|p| !p.is_empty()), &shots.target_delimiter));
        }
        let delimiter = prefix.is_empty() || needs_delimiter(&question, &prefix);
        let delimiter = if delimiter { &shots.target_delimiter } else { "" };
        let answer = joined(&prefix, &answer, " ");
        Ok(vec![Turn::new("user", question, delimiter), Turn::new("assistant", answer, &shots.fewshot_delimiter)])
    }
}

impl Fields {
    /// Reads the first document to learn what the fields give: a number for a question means that each choice is a
    /// question of its own, and a list for an answer means that any of them is right.
    pub(super) fn probe(&mut self, documents: &[Document]) -> Result<()> {
        let Some(first) = documents.first() else { return Ok(()) };
        let choices = self.choice.is_some();
        self.multiple_input = choices && self.text.question(first, 0, true)?.is_number();
        self.multiple_target = self.target.target(first, 0, choices)?.is_array();
        Ok(())
    }
}

/// A question without its answer, up to what the answer begins with.
fn asked(question: &str, prefix: Option<&str>, delimiter: &str) -> Vec<Turn> {
    let needed = prefix.is_some_and(|prefix| needs_delimiter(question, prefix));
    let question = Turn::new("user", question.to_owned(), if needed { delimiter } else { "" });
    let prefix = prefix.map(|prefix| Turn::new("assistant", prefix.to_owned(), ""));
    [question].into_iter().chain(prefix).collect()
}

/// Whether no white space stands where two texts meet.
fn needs_delimiter(before: &str, after: &str) -> bool {
    let ends = before.chars().next_back().is_none_or(char::is_whitespace);
    !ends && !after.starts_with(char::is_whitespace)
}

/// Two texts with a delimiter between them, unless one is empty or white space stands where they meet.
fn joined(before: &str, after: &str, delimiter: &str) -> String {
    let delimiter = if !after.is_empty() && needs_delimiter(before, after) { delimiter } else { "" };
    format!("{before}{delimiter}{after}")
}
