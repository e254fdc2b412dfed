//! What a model says, in the items and events of OpenAI's Responses API.

use super::request::Echo;
use crate::answer::Answer;
use crate::app::{App, unix_seconds};
use crate::chat::blocks::{Block, Blocks, End, Kind, Step};
use crate::chat::endpoint::Wanted;
use crate::error::ApiError;
use crate::worker::Told;
use hadal_infer::Stop;
use serde_json::{Value, json};

/// The answer.
pub(super) struct Answered {
    /// What its name and those of its items have in common.
    number: String,
    created: u64,
    model: String,
    echo: Echo,
    blocks: Blocks,
    /// Number of the next event.
    next: usize,
}

impl Answered {
    pub(super) fn new(app: &App, number: String, wanted: &Wanted, echo: Echo) -> Self {
        let (created, model) = (unix_seconds(), app.options.name.clone());
        let blocks = Blocks::new(&wanted.turn, format!("call_{number}"));
        Self { number, created, model, echo, blocks, next: 0 }
    }

    /// The whole with a status.
    fn response(&self, status: &str) -> Value {
        let mut response = json!({
            "id": format!("resp_{}", self.number), "object": "response", "created_at": self.created, "status": status,
            "background": false, "error": null, "incomplete_details": null, "max_tool_calls": null, "metadata": {},
            "model": self.model, "output": [], "parallel_tool_calls": true, "previous_response_id": null,
            "service_tier": "default", "store": false, "top_logprobs": 0, "truncation": "disabled", "usage": null,
            "completed_at": null,
        });
        for (name, value) in &self.echo {
            response[name] = value.clone();
        }
        let Some(End { usage, thoughts, .. }) = self.blocks.end() else { return response };
        let blocks = self.blocks.all().iter().enumerate();
        response["output"] = blocks.map(|(i, block)| self.item(i, block, self.status(i))).collect();
        response["usage"] = json!({
            "input_tokens": usage.prompt, "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": 0},
            "output_tokens": usage.generated, "output_tokens_details": {"reasoning_tokens": thoughts},
            "total_tokens": usage.prompt + usage.generated,
        });
        response
    }

    /// The whole at its end.
    fn ended(&self) -> Value {
        if self.is_cut() {
            let mut response = self.response("incomplete");
            response["incomplete_details"] = json!({"reason": "max_output_tokens"});
            return response;
        }
        let mut response = self.response("completed");
        response["completed_at"] = json!(unix_seconds());
        response
    }

    /// Whether the answer ended before the model would have ended it.
    fn is_cut(&self) -> bool {
        self.blocks.end().is_none_or(|end| matches!(end.stop, Stop::Length | Stop::Stuck))
    }

    /// The status of a block that is closed.
    fn status(&self, index: usize) -> &'static str {
        let is_last = index + 1 == self.blocks.all().len();
        if is_last && self.is_done() && self.is_cut() { "incomplete" } else { "completed" }
    }

    fn item_id(&self, index: usize, kind: &Kind) -> String {
        let prefix = match kind {
            Kind::Thoughts => "rs",
            Kind::Text => "msg",
            Kind::Call { .. } => "fc",
        };
        format!("{prefix}_{}_{index}", self.number)
    }

    /// A block as an item. One that has just begun has no content.
    fn item(&self, index: usize, Block { kind, text }: &Block, status: &str) -> Value {
        let (id, begins) = (self.item_id(index, kind), status == "in_progress");
        let parts = |part: Value| if begins { json!([]) } else { json!([part]) };
        match kind {
            Kind::Thoughts => json!({
                "type": "reasoning", "id": id, "summary": [], "content": parts(part(kind, text)),
                "encrypted_content": null, "status": status,
            }),
            Kind::Text => json!({
                "type": "message", "id": id, "role": "assistant", "content": parts(part(kind, text)), "status": status,
            }),
            Kind::Call { id: call, name } => json!({
                "type": "function_call", "id": id, "call_id": call, "name": name,
                "arguments": if begins { "" } else { text }, "status": status,
            }),
        }
    }

    /// An event with its number.
    fn event(&mut self, kind: &str, mut event: Value) -> Value {
        event["type"] = format!("response.{kind}").into();
        event["sequence_number"] = self.next.into();
        self.next += 1;
        event
    }

    /// An event about a block.
    fn about(&mut self, kind: &str, index: usize, mut event: Value) -> Value {
        let block = &self.blocks.all()[index].kind;
        event["item_id"] = self.item_id(index, block).into();
        event["output_index"] = index.into();
        if !matches!(block, Kind::Call { .. }) {
            event["content_index"] = 0.into();
        }
        self.event(kind, event)
    }

    /// The events of a step.
    fn tell(&mut self, step: Step) -> Vec<Value> {
        match step {
            Step::Open(index) => self.open(index),
            Step::More(index, text) => vec![match self.blocks.all()[index].kind {
                Kind::Thoughts => self.about("reasoning_text.delta", index, json!({"delta": text})),
                Kind::Text => self.about("output_text.delta", index, json!({"delta": text, "logprobs": []})),
                Kind::Call { .. } => self.about("function_call_arguments.delta", index, json!({"delta": text})),
            }],
            Step::Close(index) => self.close(index),
            Step::End => {
                let response = self.ended();
                let kind = if self.is_cut() { "incomplete" } else { "completed" };
                vec![self.event(kind, json!({"response": response}))]
            }
        }
    }

    fn open(&mut self, index: usize) -> Vec<Value> {
        let block = self.blocks.all()[index].clone();
        let item = self.item(index, &block, "in_progress");
        let mut events = vec![self.event("output_item.added", json!({"output_index": index, "item": item}))];
        if !matches!(block.kind, Kind::Call { .. }) {
            events.push(self.about("content_part.added", index, json!({"part": part(&block.kind, "")})));
        }
        events
    }

    fn close(&mut self, index: usize) -> Vec<Value> {
        let block = self.blocks.all()[index].clone();
        let (kind, text) = (&block.kind, &block.text);
        let mut events = vec![match kind {
            Kind::Thoughts => self.about("reasoning_text.done", index, json!({"text": text})),
            Kind::Text => self.about("output_text.done", index, json!({"text": text, "logprobs": []})),
            Kind::Call { name, .. } => {
                self.about("function_call_arguments.done", index, json!({"arguments": text, "name": name}))
            }
        }];
        if !matches!(kind, Kind::Call { .. }) {
            events.push(self.about("content_part.done", index, json!({"part": part(kind, text)})));
        }
        let item = self.item(index, &block, self.status(index));
        events.push(self.event("output_item.done", json!({"output_index": index, "item": item})));
        events
    }
}

/// The text of a block as a part of its item.
fn part(kind: &Kind, text: &str) -> Value {
    match kind {
        Kind::Thoughts => json!({"type": "reasoning_text", "text": text}),
        _ => json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []}),
    }
}

impl Answer for Answered {
    const NAMED: bool = true;
    type Part = Value;

    fn begin(&mut self) -> Vec<Value> {
        let response = self.response("in_progress");
        let created = self.event("created", json!({"response": response}));
        vec![created, self.event("in_progress", json!({"response": response}))]
    }

    fn hear(&mut self, told: Told) -> Vec<Value> {
        let steps = self.blocks.hear(told.event);
        steps.into_iter().flat_map(|step| self.tell(step)).collect()
    }

    fn is_done(&self) -> bool {
        self.blocks.end().is_some()
    }

    fn chunk(&self, part: Value) -> Value {
        part
    }

    fn broken(&mut self, error: &ApiError) -> Value {
        let mut response = self.response("failed");
        response["error"] = json!({"code": "server_error", "message": error.message()});
        self.event("failed", json!({"response": response}))
    }

    fn keep(&mut self, _: Value) {}

    fn whole(&mut self) -> Value {
        self.ended()
    }
}
