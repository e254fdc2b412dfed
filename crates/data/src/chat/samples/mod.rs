//! Conversations to learn from: one per line of a `.jsonl` file.
//!
//! A line has one of two shapes, and a file may mix them:
//!
//! - OpenAI's (`openai.rs`): `{"messages": [{"role": "user", "content": "..."}, ...], "tools": [...]}`
//! - ShareGPT's (`sharegpt.rs`): `{"conversations": [{"from": "human", "value": "..."}, ...], "system": "..."}`
//!
//! ShareGPT's lines are turned into OpenAI's shape first, so both pass the same checks. Every mistake is an error that
//! names file, line and key. Nothing is left out in silence: [`Seen`] counts what is read and not used.

mod openai;
mod place;
mod sharegpt;

pub(super) use openai::value;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value as Json};

use super::ChatRequest;
use crate::error::{DataError, Result};
use crate::source::{each_line, open_text};
use place::{Place, Problem};

/// A conversation to learn from.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Its line in the file, from 1.
    pub line: usize,
    /// Its messages up to the assistant's last one, its tools, and values for the template.
    pub request: ChatRequest,
    /// For each message, whether it is trained. The assistant's messages are, unless their `weight` is 0.
    pub trained: Vec<bool>,
}

/// What was read from a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Number of samples.
    pub samples: usize,
    /// Messages after the assistant's last one. Nothing can be learned from them.
    pub after: usize,
    /// Keys that mean nothing here, and in how many lines they are.
    pub unused: BTreeMap<String, usize>,
}

/// Reads a `.jsonl` file of samples and passes each to `take`. Empty lines are allowed. The file may be compressed with
/// gzip, zstd or xz.
pub fn read_samples(path: &Path, mut take: impl FnMut(Sample) -> Result<()>) -> Result<Seen> {
    let mut seen = Seen::default();
    each_line(&mut open_text(path)?, path, |line, text| {
        let error = |problem: Problem| DataError::sample(path, line, problem.key, problem.what);
        let text = std::str::from_utf8(text).map_err(|_| error(Problem::whole("it is not UTF-8")))?;
        let sample = parse(text, line, &mut seen).map_err(error)?;
        seen.samples += 1;
        take(sample)
    })?;
    if seen.samples == 0 {
        let problem = "it has no samples; write one conversation per line, as JSON".to_owned();
        return Err(DataError::NoText { path: path.to_path_buf(), problem });
    }
    Ok(seen)
}

/// Reads one line.
fn parse(text: &str, line: usize, seen: &mut Seen) -> Result<Sample, Problem> {
    let value: Json = serde_json::from_str(text).map_err(|e| Problem::whole(format!("it is not JSON ({e})")))?;
    let Json::Object(fields) = value else {
        return Err(Problem::whole(format!("it is {}, not an object with `messages`", place::kind(&value))));
    };
    let fields = match (fields.contains_key("messages"), fields.contains_key("conversations")) {
        (true, false) => fields,
        (false, true) => sharegpt::as_messages(fields)?,
        (true, true) => return Err(Problem::whole("it has both `messages` and `conversations`; keep one of them")),
        (false, false) => {
            let names: Vec<&str> = fields.keys().map(String::as_str).collect();
            let what = format!("it has neither `messages` nor `conversations` (it has: {})", names.join(", "));
            return Err(Problem::whole(what));
        }
    };
    sample(fields, line, seen)
}

/// Checks a line in OpenAI's shape.
fn sample(mut fields: Map<String, Json>, line: usize, seen: &mut Seen) -> Result<Sample, Problem> {
    let top = |key: &str| Place::default().key(key);
    let mut messages = openai::messages(fields.remove("messages").unwrap_or_default(), &top("messages"))?;
    let tools = openai::tools(fields.remove("tools").unwrap_or_default(), &top("tools"))?;
    let values = match fields.remove("chat_template_kwargs") {
        None | Some(Json::Null) => BTreeMap::new(),
        Some(Json::Object(values)) => values.into_iter().map(|(name, value)| (name, openai::value(value))).collect(),
        Some(other) => return Err(top("chat_template_kwargs").wrong("an object of values for the template", &other)),
    };
    for (key, instead) in [("system", "a first message with the role `system`"), ("functions", "`tools`")] {
        if fields.get(key).is_some_and(|value| !value.is_null()) {
            return Err(top(key).problem(format!("it would not be read here; write it as {instead}")));
        }
    }
    let Some(last) = messages.iter().rposition(|message| message.assistant) else {
        return Err(top("messages").problem("no message is the assistant's, so there is nothing to learn"));
    };
    if !messages.iter().any(|message| message.trained) {
        return Err(top("messages").problem("every message of the assistant has `weight` 0, so nothing is learned"));
    }
    for key in fields.keys() {
        *seen.unused.entry(key.clone()).or_default() += 1;
    }
    seen.after += messages.len() - last - 1;
    messages.truncate(last + 1);
    let trained = messages.iter().map(|message| message.trained).collect();
    let messages = messages.into_iter().map(|message| message.value).collect();
    Ok(Sample { line, request: ChatRequest { messages, tools, values, ..ChatRequest::default() }, trained })
}

#[cfg(test)]
mod tests;
