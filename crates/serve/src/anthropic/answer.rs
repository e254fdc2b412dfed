//! What a model says, in the blocks and events of Anthropic's Messages API.

use super::request::INVALID;
use super::shape;
use crate::answer::Answer;
use crate::app::App;
use crate::chat::blocks::{Block, Blocks, End, Kind, Step};
use crate::chat::endpoint::Wanted;
use crate::error::ApiError;
use crate::worker::Told;
use hadal_infer::Stop;
use serde_json::{Value, json};

/// What stands where Anthropic signs thoughts. Nobody checks it here, but clients send no thoughts again without one.
const SIGNATURE: &str = "unsigned";

/// The answer.
pub(super) struct Answered {
    name: String,
    model: String,
    /// Stop strings.
    stop: Vec<String>,
    /// Most new tokens.
    limit: usize,
    /// Tokens of the prompt.
    prompt: usize,
    blocks: Blocks,
}

impl Answered {
    pub(super) fn new(app: &App, name: String, wanted: &Wanted) -> Self {
        let blocks = Blocks::new(&wanted.turn, name.replacen("msg", "toolu", 1));
        let (model, stop, prompt) = (app.options.name.clone(), wanted.asked.stop.clone(), wanted.ids.len());
        let limit = wanted.asked.max_new.unwrap_or(usize::MAX);
        Self { name, model, stop, limit, prompt, blocks }
    }

    /// The message. Before its end it has no content.
    fn message(&self) -> Value {
        let content: Vec<Value> = match self.blocks.end() {
            Some(_) => self.blocks.all().iter().map(block).collect(),
            None => Vec::new(),
        };
        let (reason, sequence) = self.reason();
        json!({
            "id": self.name, "type": "message", "role": "assistant", "model": self.model, "content": content,
            "stop_reason": reason, "stop_sequence": sequence, "usage": self.usage(),
        })
    }

    /// The tokens. Those that were found in the cache are counted apart.
    fn usage(&self) -> Value {
        let Some(End { usage, thoughts, .. }) = self.blocks.end() else {
            return json!({
                "input_tokens": self.prompt, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
                "output_tokens": 0,
            });
        };
        json!({
            "input_tokens": usage.prompt - usage.cached, "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": usage.cached, "output_tokens": usage.generated,
            "output_tokens_details": {"thinking_tokens": thoughts},
        })
    }

    /// Why the answer ended, and the stop string that ended it.
    fn reason(&self) -> (Value, Value) {
        let Some(End { stop, usage, .. }) = self.blocks.end() else { return (Value::Null, Value::Null) };
        let calls = || self.blocks.all().iter().any(|block| matches!(block.kind, Kind::Call { .. }));
        let reason = match stop {
            Stop::Text(i) => return ("stop_sequence".into(), json!(self.stop.get(i))),
            Stop::Length if usage.generated < self.limit => "model_context_window_exceeded",
            Stop::Length | Stop::Stuck => "max_tokens",
            Stop::Token | Stop::Grammar | Stop::Caller if calls() => "tool_use",
            Stop::Token | Stop::Grammar | Stop::Caller => "end_turn",
        };
        (reason.into(), Value::Null)
    }

    /// The events of a step.
    fn tell(&self, step: &Step) -> Vec<Value> {
        let delta =
            |index: &usize, delta: Value| json!({"type": "content_block_delta", "index": index, "delta": delta});
        match step {
            Step::Open(index) => {
                vec![
                    json!({"type": "content_block_start", "index": index, "content_block": empty(&self.block(*index).kind)}),
                ]
            }
            Step::More(index, text) => vec![delta(
                index,
                match self.block(*index).kind {
                    Kind::Thoughts => json!({"type": "thinking_delta", "thinking": text}),
                    Kind::Text => json!({"type": "text_delta", "text": text}),
                    Kind::Call { .. } => json!({"type": "input_json_delta", "partial_json": text}),
                },
            )],
            Step::Close(index) => {
                let signs = self.block(*index).kind == Kind::Thoughts;
                let signed = signs.then(|| delta(index, json!({"type": "signature_delta", "signature": SIGNATURE})));
                signed.into_iter().chain([json!({"type": "content_block_stop", "index": index})]).collect()
            }
            Step::End => {
                let (reason, sequence) = self.reason();
                let delta = json!({"stop_reason": reason, "stop_sequence": sequence});
                vec![
                    json!({"type": "message_delta", "delta": delta, "usage": self.usage()}),
                    json!({"type": "message_stop"}),
                ]
            }
        }
    }

    fn block(&self, index: usize) -> &Block {
        &self.blocks.all()[index]
    }
}

/// A block that has just begun.
fn empty(kind: &Kind) -> Value {
    match kind {
        Kind::Thoughts => json!({"type": "thinking", "thinking": "", "signature": ""}),
        Kind::Text => json!({"type": "text", "text": "", "citations": null}),
        Kind::Call { id, name } => json!({"type": "tool_use", "id": id, "name": name, "input": {}}),
    }
}

/// A block with its content.
fn block(Block { kind, text }: &Block) -> Value {
    let mut block = empty(kind);
    match kind {
        Kind::Thoughts => {
            block["thinking"] = json!(text);
            block["signature"] = json!(SIGNATURE);
        }
        Kind::Text => block["text"] = json!(text),
        Kind::Call { .. } => {
            let input = serde_json::from_str(text).ok().filter(Value::is_object);
            // Arguments that are not an object are given as they are, under the name that Anthropic has for them.
            block["input"] = input.unwrap_or_else(|| if text.is_empty() { json!({}) } else { json!({INVALID: text}) });
        }
    }
    block
}

impl Answer for Answered {
    const NAMED: bool = true;
    type Part = Value;

    fn begin(&mut self) -> Vec<Value> {
        vec![json!({"type": "message_start", "message": self.message()})]
    }

    fn hear(&mut self, told: Told) -> Vec<Value> {
        let steps = self.blocks.hear(told.event);
        steps.iter().flat_map(|step| self.tell(step)).collect()
    }

    fn is_done(&self) -> bool {
        self.blocks.end().is_some()
    }

    fn chunk(&self, part: Value) -> Value {
        part
    }

    fn broken(&mut self, error: &ApiError) -> Value {
        shape(error)
    }

    fn keep(&mut self, _: Value) {}

    fn whole(&mut self) -> Value {
        self.message()
    }
}
