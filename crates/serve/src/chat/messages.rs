//! A conversation in the body of a request.

use super::{Chat, ToolChoice};
use crate::error::ApiError;
use crate::fields::{Fields, wrong};
use serde_json::{Map, Value, json};

impl Chat {
    /// Reads a conversation from JSON: the body of a request, or its `messages` alone. What else was asked of an answer
    /// counts for nothing.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn from_json(text: &str) -> Result<Self, String> {
        let body = match serde_json::from_str(text) {
            Ok(Value::Object(body)) => body,
            Ok(messages) => Map::from_iter([("messages".to_owned(), messages)]),
            Err(error) => return Err(format!("it is not JSON: {error}")),
        };
        let chat = take(&mut Fields::from(body)).map_err(|error| error.message().to_owned())?;
        Ok(Self { tool_choice: ToolChoice::Auto, single_call: false, ..chat })
    }

    /// Reads tools from JSON: a list, or an object with the list as its `tools`.
    ///
    /// # Errors
    /// Says what is wrong with them.
    pub fn tools_from_json(text: &str) -> Result<Vec<Value>, String> {
        let value: Value = serde_json::from_str(text).map_err(|error| format!("it is not JSON: {error}"))?;
        let tools = if let Value::Object(mut body) = value { body.remove("tools").unwrap_or_default() } else { value };
        let chat = json!({"messages": [{"role": "user", "content": ""}], "tools": tools});
        Ok(Self::from_json(&chat.to_string())?.tools)
    }

    /// The conversation as the body of a request.
    pub fn to_json(&self) -> Value {
        let Self { messages, tools, values, .. } = self;
        let mut body = json!({"messages": messages});
        if !tools.is_empty() {
            body["tools"] = json!(tools);
        }
        if !values.is_empty() {
            body["chat_template_kwargs"] = json!(values);
        }
        body
    }
}

const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

/// Takes the conversation and its tools.
pub(crate) fn take(fields: &mut Fields) -> Result<Chat, ApiError> {
    let all = fields.list("messages")?;
    let all = all.ok_or_else(|| fields.error("messages", "`messages` is missing: give the conversation"))?;
    if all.is_empty() {
        return Err(fields.error("messages", "`messages` is empty: give at least one message"));
    }
    let messages = all.into_iter().enumerate().map(|(i, one)| message(&format!("messages[{i}]"), one));
    let messages = messages.collect::<Result<_, _>>()?;
    fields.only("add_generation_prompt", &[json!(true)], "can only be true: leave it out")?;
    fields.only("continue_final_message", &[json!(false)], "is not supported: use /v1/completions")?;
    let mut tools = Vec::new();
    for (i, tool) in fields.list("tools")?.unwrap_or_default().into_iter().enumerate() {
        let path = format!("tools[{i}]");
        if tool["type"] != "function" {
            let message = format!("`{path}.type` must be \"function\"; other tools are not supported");
            return Err(ApiError::field(format!("{path}.type"), message));
        }
        if !tool["function"]["name"].is_string() {
            let path = format!("{path}.function.name");
            return Err(ApiError::field(&path, format!("`{path}` is missing: name the tool")));
        }
        tools.push(tool);
    }
    let tool_choice = choice(fields, &mut tools)?;
    let single_call = !fields.flag_or("parallel_tool_calls", true)?;
    let values = fields.object("chat_template_kwargs")?.map(Fields::rest).unwrap_or_default();
    Ok(Chat { messages, tools, tool_choice, single_call, values })
}

/// Takes the choice of tools. If none may be called, there are none.
fn choice(fields: &mut Fields, tools: &mut Vec<Value>) -> Result<ToolChoice, ApiError> {
    let choice = match fields.take("tool_choice") {
        None => ToolChoice::Auto,
        Some(choice) if choice == "auto" => ToolChoice::Auto,
        Some(choice) if choice == "none" => {
            tools.clear();
            ToolChoice::Auto
        }
        Some(choice) if choice == "required" => ToolChoice::Required,
        Some(choice) => {
            let name = choice["function"]["name"].as_str().filter(|_| choice["type"] == "function");
            let name = name.ok_or_else(|| {
                let message = "`tool_choice` must be \"auto\", \"none\", \"required\" or \
                               {\"type\": \"function\", \"function\": {\"name\": NAME}}";
                fields.error("tool_choice", message)
            })?;
            ToolChoice::Named(name.to_owned())
        }
    };
    match &choice {
        ToolChoice::Required if tools.is_empty() => {
            Err(fields.error("tool_choice", "`tool_choice` wants a call, and there are no `tools`: give at least one"))
        }
        ToolChoice::Named(name) if !tools.iter().any(|tool| tool["function"]["name"] == **name) => {
            let message = format!("`tool_choice` wants `{name}`, which is not among the `tools`: describe it there");
            Err(fields.error("tool_choice", message))
        }
        _ => Ok(choice),
    }
}

/// A message with its content as one string.
fn message(path: &str, mut message: Value) -> Result<Value, ApiError> {
    let Value::Object(fields) = &mut message else { return Err(wrong(path, "an object", &message)) };
    match fields.get("role").and_then(Value::as_str) {
        Some(role) if ROLES.contains(&role) => {}
        _ => {
            let path = format!("{path}.role");
            return Err(ApiError::field(&path, format!("`{path}` must be one of {}", ROLES.join(", "))));
        }
    }
    let path = format!("{path}.content");
    match fields.get("content") {
        None | Some(Value::Null | Value::String(_)) => {}
        Some(Value::Array(parts)) => {
            let mut text = String::new();
            for (i, part) in parts.iter().enumerate() {
                match (part["type"].as_str(), part["text"].as_str()) {
                    (Some("text"), Some(more)) => text += more,
                    (kind, _) => {
                        let (path, kind) = (format!("{path}[{i}]"), kind.unwrap_or("without a type"));
                        return Err(ApiError::field(path, format!("a part is {kind}: only text is supported")));
                    }
                }
            }
            fields.insert("content".into(), text.into());
        }
        Some(other) => return Err(wrong(&path, "a string or a list of parts", other)),
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(body: &Value) -> Result<Chat, ApiError> {
        take(&mut Fields::of_body(body.to_string().as_bytes()).unwrap())
    }

    #[test]
    fn a_conversation_is_read_as_it_was_written() {
        let call = json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}});
        let messages = json!([
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": null, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": "b"},
        ]);
        let tools = json!([{"type": "function", "function": {"name": "f"}}]);
        let body = json!({"messages": messages, "tools": tools, "chat_template_kwargs": {"thinking": true}});
        assert_eq!(Chat::from_json(&body.to_string()).unwrap().to_json(), body);
        assert_eq!(Chat::from_json(&messages.to_string()).unwrap().to_json(), json!({"messages": messages}));
        for text in [tools.to_string(), json!({"tools": tools}).to_string()] {
            assert_eq!(json!(Chat::tools_from_json(&text).unwrap()), tools);
        }
        assert!(Chat::from_json("[").unwrap_err().contains("not JSON"));
        assert!(Chat::from_json("[{}]").unwrap_err().contains("messages[0].role"));
        assert!(Chat::tools_from_json("[3]").unwrap_err().contains("tools[0]"));
    }

    #[test]
    fn parts_become_one_text_and_mistakes_are_named() {
        let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
        let chat = taken(&json!({"messages": [{"role": "user", "content": parts}]})).unwrap();
        assert_eq!(chat.messages, [json!({"role": "user", "content": "ab"})]);
        let tool = json!({"type": "function", "function": {"name": "f"}});
        let named = |name: &str| json!({"type": "function", "function": {"name": name}});
        let chosen = |choice: Value| {
            let body = json!({"messages": [{"role": "user"}], "tools": [tool], "tool_choice": choice});
            taken(&body).map(|chat| (chat.tools.len(), chat.tool_choice))
        };
        assert_eq!(chosen(json!("auto")), Ok((1, ToolChoice::Auto)));
        assert_eq!(chosen(json!("none")), Ok((0, ToolChoice::Auto)));
        assert_eq!(chosen(json!("required")), Ok((1, ToolChoice::Required)));
        assert_eq!(chosen(named("f")), Ok((1, ToolChoice::Named("f".into()))));
        for (body, param) in [
            (json!({}), "messages"),
            (json!({"messages": []}), "messages"),
            (json!({"messages": ["a"]}), "messages[0]"),
            (json!({"messages": [{"role": "me"}]}), "messages[0].role"),
            (json!({"messages": [{"role": "user", "content": 3}]}), "messages[0].content"),
            (json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}), "messages[0].content[0]"),
            (json!({"messages": [{"role": "user"}], "tools": [{"type": "x"}]}), "tools[0].type"),
            (json!({"messages": [{"role": "user"}], "tool_choice": "required"}), "tool_choice"),
            (json!({"messages": [{"role": "user"}], "tool_choice": "any"}), "tool_choice"),
            (
                json!({"messages": [{"role": "user"}], "tools": [tool], "tool_choice": {"type": "function"}}),
                "tool_choice",
            ),
            (json!({"messages": [{"role": "user"}], "tools": [tool], "tool_choice": named("g")}), "tool_choice"),
            (json!({"messages": [{"role": "user"}], "parallel_tool_calls": 1}), "parallel_tool_calls"),
        ] {
            assert_eq!(taken(&body).unwrap_err().to_json()["error"]["param"], param, "{body}");
        }
    }
}
