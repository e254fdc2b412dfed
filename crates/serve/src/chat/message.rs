//! The message of an assistant, put together from what its model says.

use super::Delta;
use serde_json::{Map, Value, json};

/// What a model said in one message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The answer.
    pub content: String,
    /// Thoughts before it.
    pub reasoning: String,
    /// Calls of tools.
    pub calls: Vec<Call>,
}

/// A call of a tool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// The name of the call, which its result names as well.
    pub id: String,
    /// The tool.
    pub name: String,
    /// The arguments: JSON, if the model wrote it properly.
    pub arguments: String,
}

impl Message {
    /// Adds a part.
    pub fn add(&mut self, delta: Delta) {
        match delta {
            Delta::Content(text) => self.content += &text,
            Delta::Reasoning(text) => self.reasoning += &text,
            Delta::Call { id, name, .. } => {
                self.calls.push(Call { id: id.unwrap_or_default(), name, arguments: String::new() });
            }
            Delta::Arguments { index, text } => {
                if let Some(call) = self.calls.get_mut(index) {
                    call.arguments += &text;
                }
            }
        }
    }

    /// The message in the form of OpenAI's API.
    pub fn to_json(&self) -> Value {
        let mut message = Map::from_iter([("role".to_owned(), json!("assistant"))]);
        let silent = self.content.is_empty() && !self.calls.is_empty();
        message.insert("content".into(), if silent { Value::Null } else { self.content.clone().into() });
        if !self.reasoning.is_empty() {
            message.insert("reasoning_content".into(), self.reasoning.clone().into());
        }
        if !self.calls.is_empty() {
            let call = |Call { id, name, arguments }: &Call| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
            message.insert("tool_calls".into(), self.calls.iter().map(call).collect());
        }
        message.into()
    }
}
