//! Which tokens of a conversation are the assistant's: the ones to train on.
//!
//! What is trained in a turn is what the model has to generate there: the text after the generation prompt, with the
//! token that ends it. There are two ways to find it.
//!
//! - A template may say it (`{% generation %}`). Then the conversation is written once, and the marked text is trained,
//!   as `return_assistant_tokens_mask` of `transformers` does.
//! - For other templates, each turn is written as in use (`turns.rs`).
//!
//! The text is encoded once. Its tokens know their bytes, and the trained bytes decide which tokens are trained.

mod turns;

use std::ops::Range;
use std::path::Path;

use minijinja::Value;

use super::samples::Sample;
use super::template::{ChatRequest, ChatTemplate, Rendered};
use crate::error::{DataError, Result};
use crate::tokenizer::Tokenizer;

/// A sequence to train on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Learned {
    /// Its tokens. The last one is trained.
    pub ids: Vec<u32>,
    /// Which of them are trained: stretches in their order.
    pub trained: Vec<Range<usize>>,
}

impl Learned {
    /// Number of tokens that are targets of training. The first token of a sequence never is.
    pub fn targets(&self) -> usize {
        self.trained.iter().map(|of| of.end - of.start.max(1)).sum()
    }

    /// Keeps the first `len` tokens, and of those what comes before the last trained one.
    pub fn cut(&mut self, len: usize) {
        self.trained.retain(|of| of.start < len);
        if let Some(last) = self.trained.last_mut() {
            last.end = last.end.min(len);
        }
        self.ids.truncate(self.trained.last().map_or(0, |last| last.end));
    }
}

/// Finds the trained tokens of conversations, with a template and a tokenizer.
pub struct Turns<'a> {
    /// How conversations are written.
    pub template: &'a ChatTemplate,
    /// Its tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// The time for templates that write the date, in seconds since 1970.
    pub now: u64,
}

/// What is wrong with a conversation: a message's number, if it is about one, and the reason.
type Problem = (Option<usize>, String);

impl Turns<'_> {
    /// The sequences of a sample from the file at `path`.
    pub fn learn(&self, path: &Path, sample: &Sample) -> Result<Vec<Learned>> {
        let error = |(message, what): Problem| {
            let key = message.map_or_else(|| "messages".to_owned(), |at| format!("messages[{at}]"));
            DataError::sample(path, sample.line, key, what)
        };
        let whole = |e: DataError| error((None, e.to_string()));
        let request = ChatRequest { now: Some(self.now), ..sample.request.clone() };
        let request = self.template.known_roles(request).map_err(whole)?;
        let sample = &Sample { line: sample.line, request, trained: sample.trained.clone() };
        let marked = self.template.marks_answers(&sample.request).map_err(whole)?;
        let written = if marked { self.marked(sample) } else { self.by_prefixes(sample) };
        written.map_err(error)?.iter().map(|text| self.tokens(text).map_err(|what| error((None, what)))).collect()
    }

    /// The first messages of a sample as the template writes them.
    fn render(&self, sample: &Sample, messages: &[Value], add_generation_prompt: bool) -> Result<Rendered, String> {
        let request = ChatRequest { messages: messages.to_vec(), add_generation_prompt, ..sample.request.clone() };
        self.template.render(&request).map_err(|e| e.to_string())
    }

    /// Checks that the template wrote everything of a sample's first messages.
    fn check_written(&self, sample: &Sample, messages: &[Value], written: &str) -> Result<(), String> {
        let request = ChatRequest { messages: messages.to_vec(), ..sample.request.clone() };
        self.template.check_written(&request, written).map_err(|e| e.to_string())
    }

    /// The conversation with the text that the template marks.
    fn marked(&self, sample: &Sample) -> Result<Vec<Rendered>, Problem> {
        let messages = &sample.request.messages;
        let whole = |what| (None, what);
        let mut written = self.render(sample, messages, false).map_err(whole)?;
        self.check_written(sample, messages, &written.text).map_err(whole)?;
        let roles = messages.iter().map(|m| m.get_attr("role").is_ok_and(|role| role.as_str() == Some("assistant")));
        let trained: Vec<bool> =
            roles.zip(&sample.trained).filter_map(|(is, trained)| is.then_some(*trained)).collect();
        if trained.contains(&false) {
            if trained.len() != written.generated.len() {
                let what = format!(
                    "a message has `weight` 0, but the template marks {} stretches of text for {} messages of the \
                     assistant, so it is unclear which one is meant; leave `weight` out",
                    written.generated.len(),
                    trained.len()
                );
                return Err((None, what));
            }
            let mut keep = trained.iter();
            written.generated.retain(|_| keep.next() == Some(&true));
        }
        Ok(vec![written])
    }

    /// The tokens of a text, and those of its trained bytes. What follows the last trained token is left out.
    fn tokens(&self, written: &Rendered) -> Result<Learned, String> {
        let encoded = self.tokenizer.encode_with_places(&written.text);
        let mut learned = Learned::default();
        for (at, (id, bytes)) in encoded.into_iter().enumerate() {
            learned.ids.push(id);
            // A token without bytes of its own stands at one place.
            let end = bytes.end.max(bytes.start + 1);
            if written.generated.iter().any(|span| bytes.start < span.end && span.start < end) {
                match learned.trained.last_mut() {
                    Some(last) if last.end == at => last.end += 1,
                    _ => learned.trained.push(at..at + 1),
                }
            }
        }
        learned.cut(usize::MAX);
        if learned.targets() == 0 {
            return Err("the template marks nothing of it as the assistant's, so nothing would be learned".to_owned());
        }
        Ok(learned)
    }
}

#[cfg(test)]
mod tests;
