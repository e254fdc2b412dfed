//! Tokens beside a text: their names, their places and their log-probabilities.

use hadal_data::Tokenizer;
use hadal_data::tokenizer::Utf8Stream;
use hadal_infer::{Logprob, NewToken, Piece, Stop, Usage};
use serde_json::{Map, Value, json};
use std::collections::VecDeque;
use std::fmt::Write;

/// A token with its place in a text.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) token: u32,
    /// `None` for the first token of a prompt.
    pub(crate) logprob: Option<f32>,
    pub(crate) top: Vec<Logprob>,
    /// Where its text begins, in characters.
    pub(crate) at: usize,
}

/// A token as text. Bytes that are not text are written as OpenAI's API writes them.
pub(crate) fn name(tokenizer: &Tokenizer, token: u32) -> String {
    let bytes = tokenizer.token_bytes(token);
    std::str::from_utf8(bytes).map_or_else(
        |_| {
            bytes.iter().fold("bytes:".to_owned(), |mut name, byte| {
                let _ = write!(name, "\\x{byte:02x}");
                name
            })
        },
        str::to_owned,
    )
}

/// The tokens of one continuation that wait for their text.
#[derive(Debug, Default)]
pub(crate) struct Line {
    waiting: VecDeque<NewToken>,
    bytes: usize,
    pub(crate) chars: usize,
}

impl Line {
    /// A line whose text follows so many characters.
    pub(crate) fn after(chars: usize) -> Self {
        Self { chars, ..Self::default() }
    }

    pub(crate) fn push(&mut self, token: NewToken) {
        self.waiting.push_back(token);
    }

    /// The tokens whose text begins in a piece.
    pub(crate) fn place(&mut self, piece: &Piece) -> Vec<Placed> {
        let mut placed = Vec::with_capacity(piece.offsets.len());
        for at in &piece.offsets {
            let Some(NewToken { token, logprob, top }) = self.waiting.pop_front() else { break };
            let end = piece.text.floor_char_boundary(at.saturating_sub(self.bytes));
            placed.push(Placed { token, logprob, top, at: self.chars + piece.text[..end].chars().count() });
        }
        self.bytes += piece.text.len();
        self.chars += piece.text.chars().count();
        placed
    }
}

/// The text of given tokens, with the place of each in characters.
pub(crate) fn spell(tokenizer: &Tokenizer, tokens: &[u32], show: impl Fn(usize, u32) -> bool) -> (String, Vec<usize>) {
    let (mut text, mut stream, mut places) = (String::new(), Utf8Stream::default(), Vec::with_capacity(tokens.len()));
    let (mut seen, mut chars) = (0, 0);
    for (i, token) in tokens.iter().enumerate() {
        chars += text[seen..].chars().count();
        seen = text.len();
        places.push(chars);
        stream.push(if show(i, *token) { tokenizer.token_bytes(*token) } else { &[] }, &mut text);
    }
    stream.finish(&mut text);
    (text, places)
}

/// Log-probabilities as completions have them.
pub(crate) fn legacy(tokenizer: &Tokenizer, placed: &[Placed]) -> Value {
    let names: Vec<String> = placed.iter().map(|p| name(tokenizer, p.token)).collect();
    let tops = placed.iter().zip(&names).map(|(p, own)| {
        let logprob = p.logprob?;
        let mut tops: Map<String, Value> = Map::new();
        // The token itself is always among them. Of tokens with the same name, the likeliest counts.
        let all = p.top.iter().map(|top| (name(tokenizer, top.token), top.logprob));
        for (name, logprob) in all.chain([(own.clone(), logprob)]) {
            tops.entry(name).or_insert_with(|| logprob.into());
        }
        Some(tops)
    });
    json!({
        "tokens": names,
        "token_logprobs": placed.iter().map(|p| p.logprob).collect::<Vec<_>>(),
        "top_logprobs": tops.collect::<Vec<_>>(),
        "text_offset": placed.iter().map(|p| p.at).collect::<Vec<_>>(),
    })
}

/// A log-probability as chats have it.
pub(crate) fn entry(tokenizer: &Tokenizer, placed: &Placed) -> Value {
    let one = |token: u32, logprob: Option<f32>| json!({"token": name(tokenizer, token), "logprob": logprob, "bytes": tokenizer.token_bytes(token)});
    let mut entry = one(placed.token, placed.logprob);
    entry["top_logprobs"] = placed.top.iter().map(|top| one(top.token, Some(top.logprob))).collect();
    entry
}

/// Why a continuation ended, as OpenAI's API says it, and more precisely as vLLM does.
pub(crate) fn reason(stop: Stop, strings: &[String]) -> (&'static str, Value) {
    match stop {
        Stop::Text(i) => ("stop", strings.get(i).map_or(Value::Null, |text| json!(text))),
        // The text is incomplete, and more tokens would not help.
        Stop::Stuck => ("length", json!("grammar")),
        Stop::Length => ("length", Value::Null),
        Stop::Token | Stop::Grammar | Stop::Caller => ("stop", Value::Null),
    }
}

/// The tokens of a request, added up.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sum {
    prompt: usize,
    cached: usize,
    generated: usize,
}

impl Sum {
    /// Adds a sequence. A prompt counts once for all its samples.
    pub(crate) fn add(&mut self, sample: usize, usage: &Usage) {
        if sample == 0 {
            self.prompt += usage.prompt;
            self.cached += usage.cached;
        }
        self.generated += usage.generated;
    }

    pub(crate) fn to_json(self) -> Value {
        let Self { prompt, cached, generated } = self;
        json!({
            "prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated,
            "prompt_tokens_details": {"cached_tokens": cached},
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_in_characters() {
        let token = |token| NewToken { token, logprob: Some(0.0), top: Vec::new() };
        let mut line = Line::after(3);
        (7..10).for_each(|t| line.push(token(t)));
        let first = line.place(&Piece { text: "éa".into(), offsets: vec![0, 2] });
        let second = line.place(&Piece { text: "b".into(), offsets: vec![3] });
        let places: Vec<(u32, usize)> = first.iter().chain(&second).map(|p| (p.token, p.at)).collect();
        assert_eq!(places, [(7, 3), (8, 4), (9, 5)]);
    }
}
