//! The answer of a chat: what a model says, taken apart into thoughts, text and calls of tools.

use super::{Delta, Message, Parser, Turn, is_wanted};
use crate::answer::Answer;
use crate::app::{App, unix_seconds};
use crate::sampling::Asked;
use crate::tokens::{Line, Placed, Sum, entry, reason};
use crate::worker::Told;
use hadal_infer::{Event, Loaded, Stop};
use serde_json::{Value, json};
use std::sync::Arc;

/// The answer.
pub(crate) struct Said {
    loaded: Arc<Loaded>,
    name: String,
    created: u64,
    model: String,
    stop: Vec<String>,
    include_usage: bool,
    has_logprobs: bool,
    /// Whether calls after the first one are left out.
    single_call: bool,
    choices: Vec<Choice>,
    left: usize,
    sum: Sum,
}

/// A sample on its way.
struct Choice {
    parser: Box<dyn Parser>,
    line: Line,
    /// Whether it has called a tool.
    calls: bool,
    whole: Message,
    placed: Vec<Placed>,
    end: Option<(&'static str, Value)>,
}

/// A part of a choice.
pub(crate) struct Part {
    choice: usize,
    what: What,
    placed: Vec<Placed>,
}

enum What {
    Begin,
    Nothing,
    More(Delta),
    End(&'static str, Value),
}

impl Said {
    pub(crate) fn new(app: &App, name: String, asked: &Asked, has_logprobs: bool, turn: &Turn) -> Self {
        let choice = |_| Choice {
            parser: (turn.parser)(),
            line: Line::default(),
            calls: false,
            whole: Message::default(),
            placed: Vec::new(),
            end: None,
        };
        Self {
            loaded: Arc::clone(&app.loaded),
            name,
            created: unix_seconds(),
            model: app.options.name.clone(),
            stop: asked.stop.clone(),
            include_usage: asked.include_usage,
            has_logprobs,
            single_call: turn.single_call,
            choices: (0..asked.samples).map(choice).collect(),
            left: asked.samples,
            sum: Sum::default(),
        }
    }

    /// The parts of a choice for what its parser found.
    fn parts(&mut self, choice: usize, deltas: Vec<Delta>, mut placed: Vec<Placed>) -> Vec<Part> {
        self.choices[choice].calls |= deltas.iter().any(|delta| matches!(delta, Delta::Call { .. }));
        let (name, single) = (&self.name, self.single_call);
        let named = |delta| match delta {
            Delta::Call { index, id: None, name: tool } => {
                Delta::Call { index, id: Some(format!("call-{name}-{choice}-{index}")), name: tool }
            }
            delta => delta,
        };
        let part = |delta| Part { choice, what: What::More(delta), placed: std::mem::take(&mut placed) };
        let mut parts: Vec<Part> =
            deltas.into_iter().filter(|delta| is_wanted(delta, single)).map(named).map(part).collect();
        if !placed.is_empty() {
            parts.push(Part { choice, what: What::Nothing, placed });
        }
        parts
    }

    fn end(&mut self, choice: usize, stop: Stop) -> Part {
        let (finish, detail) = reason(stop, &self.stop);
        let finish = if finish == "stop" && self.choices[choice].calls { "tool_calls" } else { finish };
        Part { choice, what: What::End(finish, detail), placed: Vec::new() }
    }

    fn logprobs(&self, placed: &[Placed]) -> Value {
        let all = || placed.iter().map(|placed| entry(&self.loaded.tokenizer, placed)).collect::<Vec<_>>();
        if self.has_logprobs { json!({"content": all()}) } else { Value::Null }
    }

    fn around(&self, object: &str, choices: Vec<Value>) -> Value {
        let Self { name, created, model, .. } = self;
        json!({"id": name, "object": object, "created": created, "model": model, "choices": choices})
    }
}

impl Answer for Said {
    type Part = Part;

    fn begin(&mut self) -> Vec<Part> {
        (0..self.choices.len()).map(|choice| Part { choice, what: What::Begin, placed: Vec::new() }).collect()
    }

    fn hear(&mut self, told: Told) -> Vec<Part> {
        match told.event {
            Event::Token { sample, token, .. } => {
                if self.has_logprobs {
                    self.choices[sample].line.push(token);
                }
                Vec::new()
            }
            Event::Text { sample, piece, .. } => {
                let choice = &mut self.choices[sample];
                let (placed, deltas) = (choice.line.place(&piece), choice.parser.push(&piece.text));
                self.parts(sample, deltas, placed)
            }
            Event::Finished { sample, stop, usage, .. } => {
                self.sum.add(sample, &usage);
                self.left -= 1;
                let deltas = self.choices[sample].parser.finish();
                let mut parts = self.parts(sample, deltas, Vec::new());
                parts.push(self.end(sample, stop));
                parts
            }
            Event::Scored { .. } => Vec::new(),
        }
    }

    fn is_done(&self) -> bool {
        self.left == 0
    }

    fn chunk(&self, part: Part) -> Value {
        let (mut finish, mut detail) = (Value::Null, Value::Null);
        let delta = match part.what {
            What::Begin => json!({"role": "assistant", "content": ""}),
            What::Nothing => json!({}),
            What::More(Delta::Content(text)) => json!({"content": text}),
            What::More(Delta::Reasoning(text)) => json!({"reasoning_content": text}),
            What::More(Delta::Call { index, id, name }) => {
                let function = json!({"name": name, "arguments": ""});
                json!({"tool_calls": [{"index": index, "id": id, "type": "function", "function": function}]})
            }
            What::More(Delta::Arguments { index, text }) => {
                json!({"tool_calls": [{"index": index, "function": {"arguments": text}}]})
            }
            What::End(why, more) => {
                (finish, detail) = (why.into(), more);
                json!({})
            }
        };
        let logprobs = self.logprobs(&part.placed);
        let choice = json!({
            "index": part.choice, "delta": delta, "logprobs": logprobs, "finish_reason": finish, "stop_reason": detail,
        });
        let mut chunk = self.around("chat.completion.chunk", vec![choice]);
        if self.include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }

    fn usage_chunk(&self) -> Option<Value> {
        let mut chunk = self.around("chat.completion.chunk", Vec::new());
        chunk["usage"] = self.sum.to_json();
        self.include_usage.then_some(chunk)
    }

    fn keep(&mut self, part: Part) {
        let choice = &mut self.choices[part.choice];
        choice.placed.extend(part.placed);
        match part.what {
            What::Begin | What::Nothing => {}
            What::More(delta) => choice.whole.add(delta),
            What::End(finish, detail) => choice.end = Some((finish, detail)),
        }
    }

    fn whole(&mut self) -> Value {
        let choice = |(index, choice): (usize, &Choice)| {
            let (finish, detail) = choice.end.clone().unwrap_or(("length", Value::Null));
            json!({
                "index": index, "message": choice.whole.to_json(), "logprobs": self.logprobs(&choice.placed),
                "finish_reason": finish, "stop_reason": detail,
            })
        };
        let choices = self.choices.iter().enumerate().map(choice).collect();
        let mut whole = self.around("chat.completion", choices);
        whole["usage"] = self.sum.to_json();
        whole
    }
}
