//! The assistant's turns in conversations whose template does not mark them.
//!
//! Each turn is written as in use: the messages before it with the generation prompt, then the messages up to it. The
//! first text should be a prefix of the second. The rest is trained. Templates depart from this in four ways:
//!
//! - **They write earlier turns in another way than the last one**, mostly without thoughts. Then no single text has
//!   every turn as the model sees it in use. So turns share a sequence as long as one text continues the other.
//!   Otherwise a new sequence begins, with the conversation as it is written then. No turn is lost, and none is trained
//!   in a context that the model never sees.
//! - **A turn changes the messages before it** (Kimi's final answer removes the thoughts of the steps before it). The
//!   turn's own text is then what follows the last generation prompt. It is trained after the prompt as in use.
//! - **The thought of the turn is left out**: the prompt opens a thought that a finished turn does not have (R1, V3.1), or
//!   the turn has an empty one. The message's thought is put there. If it has no place, that is an error, because a
//!   thought that someone wrote must not get lost.
//! - **No token ends a turn** (GLM). The token that begins the next message ends it, so it is trained as well.

use std::ops::Range;

use minijinja::Value;
use serde_json::{Value as Json, json};

use super::{Problem, Turns};
use crate::chat::output::{Syntax, Thoughts};
use crate::chat::samples::{Sample, value};
use crate::chat::template::Rendered;

/// A turn as in use: the whole text, and which bytes the model has to generate.
struct Turn {
    text: String,
    own: Range<usize>,
}

impl Turns<'_> {
    /// The texts of a conversation, with the bytes of all trained turns.
    pub(super) fn by_prefixes(&self, sample: &Sample) -> Result<Vec<Rendered>, Problem> {
        let source = self.template.source(&sample.request).map_err(|e| (None, e.to_string()))?;
        let marks = Syntax::recognise(source, |_| false).thoughts;
        let mut all: Vec<Rendered> = Vec::new();
        for at in sample.trained.iter().enumerate().filter_map(|(at, trained)| trained.then_some(at)) {
            let Turn { text, own } = self.turn(sample, at, marks).map_err(|what| (Some(at), what))?;
            match all.last_mut() {
                Some(last)
                    if text.starts_with(&last.text) && last.generated.iter().all(|before| before.end <= own.start) =>
                {
                    last.text = text;
                    last.generated.push(own);
                }
                _ => all.push(Rendered { text, generated: vec![own] }),
            }
        }
        Ok(all)
    }

    fn turn(&self, sample: &Sample, at: usize, marks: Option<Thoughts>) -> Result<Turn, String> {
        let messages = &sample.request.messages;
        let prompt = self.render(sample, &messages[..at], true).map_err(|what| match at {
            0 => format!("it comes first, and the template cannot write that ({what}); put a user's message before it"),
            _ => what,
        })?;
        let (prompt, written) = (prompt.text, self.render(sample, &messages[..=at], false)?.text);
        // The text of the last trained turn has all messages that are used.
        if !sample.trained[at + 1..].contains(&true) {
            self.check_written(sample, &messages[..=at], &written)?;
        }
        let thought = thought(&messages[at], marks);
        let own = match written.strip_prefix(&prompt) {
            Some(own) => own.to_owned(),
            None => opened(&prompt, &written, thought.as_deref(), marks)
                .or_else(|| self.after_prompt(sample, at, &prompt, &written))
                .ok_or_else(|| not_a_prefix(&prompt, &written))?,
        };
        let own = match thought {
            Some(thought) => with_thought(own, &thought, marks).ok_or(
                "the template leaves out its thought, which would be lost; turn thoughts on in `chat_template_kwargs` \
                 (such as {\"thinking\": true}), remove the thought, or train with a template that writes it",
            )?,
            None => own,
        };
        let (kept, end) = self.end(sample, at, &own).ok_or_else(|| {
            let tail = &own[own.floor_char_boundary(own.len().saturating_sub(40))..];
            format!(
                "the template writes no special token after it (it ends in {tail:?}), so the model would not learn to \
                 stop; use a template that ends the assistant's messages"
            )
        })?;
        let trained = prompt.len()..prompt.len() + kept + end.len();
        // White space after the end token is part of the text for the turns that follow.
        let text = if end.is_empty() { prompt + &own } else { prompt + &own[..kept] + &end };
        Ok(Turn { text, own: trained })
    }

    /// What follows the last generation prompt, for a turn that changes the messages before it.
    fn after_prompt(&self, sample: &Sample, at: usize, prompt: &str, written: &str) -> Option<String> {
        let messages = &sample.request.messages;
        let before = self.render(sample, &messages[..at], false).ok()?.text;
        let asks = prompt.strip_prefix(&before).filter(|asks| !asks.trim().is_empty())?;
        // A message that contains the prompt could be mistaken for it.
        let message = format!("{:?}", messages[at]);
        let (_, own) = written.rsplit_once(asks)?;
        (!message.contains(asks.trim()) && written.matches(asks).count() > prompt[..before.len()].matches(asks).count())
            .then(|| own.to_owned())
    }

    /// How much of a turn's own text the model has to generate, and the token to add after that, which ends it.
    fn end(&self, sample: &Sample, at: usize, own: &str) -> Option<(usize, String)> {
        if let Some((place, _)) = self.tokenizer.special_in(own).pop()
            && own[place.end..].trim().is_empty()
        {
            return Some((place.end, String::new()));
        }
        // A call is followed by its result, an answer by a question. A short conversation shows how that begins.
        let called = sample.request.messages[at].get_attr("tool_calls").ok().filter(Value::is_true);
        let (answer, next) = match called {
            Some(calls) => {
                let calls = serde_json::to_value(calls).ok()?;
                (json!({"role": "assistant", "content": "", "tool_calls": calls}), "tool")
            }
            None => (json!({"role": "assistant", "content": "y"}), "user"),
        };
        let mut messages = vec![value(json!({"role": "user", "content": "x"})), value(answer)];
        let short = self.render(sample, &messages, false).ok()?.text;
        messages.push(value(json!({"role": next, "content": "z"})));
        let longer = self.render(sample, &messages, false).ok()?.text;
        let rest = longer.strip_prefix(short.trim_end())?;
        let (place, _) = self.tokenizer.special_in(rest).into_iter().next()?;
        rest[..place.start].trim().is_empty().then(|| (own.trim_end().len(), rest[..place.end].to_owned()))
    }
}

/// The thought of a message: in its own field, or at the beginning of the content.
fn thought(message: &Value, marks: Option<Thoughts>) -> Option<String> {
    let message: Json = serde_json::to_value(message).ok()?;
    let own = message.get("reasoning_content").and_then(Json::as_str);
    let inline = || {
        let (content, marks) = (message.get("content")?.as_str()?, marks?);
        Some(content.trim_start().strip_prefix(marks.open)?.split_once(marks.close)?.0)
    };
    own.or_else(inline).map(|text| text.trim_matches('\n').to_owned()).filter(|text| !text.trim().is_empty())
}

/// A turn's own text after a prompt that opens a thought, where the template writes the turn without it.
fn opened(prompt: &str, written: &str, thought: Option<&str>, marks: Option<Thoughts>) -> Option<String> {
    let (thought, marks) = (thought?, marks?);
    let shut = prompt.trim_end();
    let rest = written.strip_prefix(shut.strip_suffix(marks.open)?)?;
    if rest.starts_with(marks.close) {
        return Some(format!("{thought}{rest}"));
    }
    // The line break after the mark that opens the thought belongs to the other mark as well.
    let line = &prompt[shut.len()..];
    Some(format!("{thought}{line}{}{line}{line}{}", marks.close, rest.trim_start()))
}

/// A turn's own text with the thought in it: as it is, or put where the template writes an empty one.
fn with_thought(own: String, thought: &str, marks: Option<Thoughts>) -> Option<String> {
    let Some(marks) = marks else { return own.contains(thought.trim()).then_some(own) };
    let head = own.split_once(marks.close)?.0;
    if head.contains(thought.trim()) {
        return Some(own);
    }
    let (before, inside) = head.split_once(marks.open)?;
    if !before.trim().is_empty() || !inside.trim().is_empty() {
        return None;
    }
    let open = before.len() + marks.open.len();
    Some(format!("{}{}{}", &own[..open], thought.trim(), &own[open..]))
}

/// Why a turn that does not begin with its prompt cannot be trained.
fn not_a_prefix(prompt: &str, turn: &str) -> String {
    let same = prompt.bytes().zip(turn.bytes()).take_while(|(a, b)| a == b).count();
    let same = prompt.floor_char_boundary(same).min(turn.floor_char_boundary(same));
    let shown = |text: &str| text.chars().take(40).collect::<String>();
    format!(
        "the template asks for it with {:?} and then writes it as {:?}, so the model would learn an answer to a prompt \
         that it never gets; if thoughts are the reason, give the message a `reasoning_content`, or turn them off in \
         `chat_template_kwargs` (such as {{\"enable_thinking\": false}}), or train with a template that has \
         {{% generation %}}",
        shown(&prompt[same..]),
        shown(&turn[same..])
    )
}
