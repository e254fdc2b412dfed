//! From the body of a message to that of a chat.
//!
//! Blocks of the assistant become one message with its thoughts, text and calls. Results of tools become messages of
//! their own, before the text that is beside them. What only Anthropic can do is refused by name.

use crate::chat::{Call, Message, think};
use crate::error::ApiError;
use crate::fields::{Fields, wrong};
use serde_json::{Map, Value, json};

/// Fields of chats that have another name here.
const OTHERS: [(&str, &str); 6] = [
    ("n", "send several requests"),
    ("stop", "use `stop_sequences`"),
    ("max_completion_tokens", "use `max_tokens`"),
    ("response_format", "use `output_config.format`"),
    ("reasoning_effort", "use `thinking` or `output_config.effort`"),
    ("logprobs", "use /v1/chat/completions"),
];
/// The field in which a client sends arguments again that were not JSON.
pub(super) const INVALID: &str = "INVALID_JSON";

/// Reads a body. Returns the body of a chat, and the most new tokens if they are given.
pub(super) fn read(mut fields: Fields) -> Result<(Fields, Option<i64>), ApiError> {
    for (name, instead) in OTHERS {
        fields.only(name, &[], &format!("is not a field of this API: {instead}"))?;
    }
    fields.only("container", &[], "is not supported: leave it out")?;
    fields.only("mcp_servers", &[json!([])], "is not supported: leave it out")?;
    fields.only("speed", &[json!("standard")], "can only be \"standard\"")?;
    // Beginnings that were seen before are always found again.
    fields.take("cache_control");
    edits(&mut fields)?;
    let mut chat = Map::new();
    chat.insert("messages".into(), messages(&mut fields)?);
    let limit = fields.whole("max_tokens", 1..=i64::from(u32::MAX))?;
    chat.insert("max_tokens".into(), json!(limit));
    chat.insert("stop".into(), fields.list("stop_sequences")?.into());
    let tools = fields.list("tools")?.unwrap_or_default();
    chat.insert("tools".into(), tools.into_iter().enumerate().map(tool).collect::<Result<_, _>>()?);
    choice(&mut fields, &mut chat)?;
    let mut values = thinking(&mut fields)?;
    if let Some(mut output) = fields.object("output_config")? {
        if let Some(effort) = output.text("effort")? {
            values.insert("reasoning_effort".into(), effort.into());
        }
        if let Some(mut format) = output.object("format")? {
            format.only("type", &[json!("json_schema")], "can only be \"json_schema\"")?;
            let schema = format.take("schema");
            let schema = schema.ok_or_else(|| format.error("schema", "`schema` is missing: give the JSON schema"))?;
            format.finish()?;
            let form = json!({"type": "json_schema", "json_schema": {"schema": schema}});
            chat.insert("response_format".into(), form);
        }
        output.finish()?;
    }
    values.extend(fields.object("chat_template_kwargs")?.map(Fields::rest).unwrap_or_default());
    chat.insert("chat_template_kwargs".into(), values.into());
    chat.extend(fields.rest());
    Ok((Fields::from(chat), limit))
}

/// Changes of the conversation that are asked for. Templates leave out old thoughts by themselves.
fn edits(fields: &mut Fields) -> Result<(), ApiError> {
    let Some(mut management) = fields.object("context_management")? else { return Ok(()) };
    for (i, edit) in management.list("edits")?.unwrap_or_default().iter().enumerate() {
        let kind = edit["type"].as_str().unwrap_or_default();
        if !kind.starts_with("clear_thinking") {
            let message = format!("the edit `{kind}` is not supported: change `messages` instead");
            return Err(ApiError::field(format!("context_management.edits[{i}]"), message));
        }
    }
    management.finish()
}

/// A tool as chats have it.
fn tool((i, tool): (usize, Value)) -> Result<Value, ApiError> {
    let path = format!("tools[{i}]");
    let mut fields = Fields::of(&path, tool)?;
    fields.only("type", &[json!("custom")], "can only be \"custom\": describe the tool by `input_schema`")?;
    let mut function = Map::new();
    let name = fields.text("name")?;
    function.insert(
        "name".into(),
        name.ok_or_else(|| fields.error("name", format!("`{path}.name` is missing: name the tool")))?.into(),
    );
    if let Some(description) = fields.text("description")? {
        function.insert("description".into(), description.into());
    }
    let schema = fields.take("input_schema");
    let missing = || fields.error("input_schema", format!("`{path}.input_schema` is missing: give a JSON schema"));
    function.insert("parameters".into(), schema.ok_or_else(missing)?);
    if let Some(strict) = fields.take("strict") {
        function.insert("strict".into(), strict);
    }
    Ok(json!({"type": "function", "function": function}))
}

/// Takes which tools are to be called.
fn choice(fields: &mut Fields, chat: &mut Map<String, Value>) -> Result<(), ApiError> {
    let Some(mut choice) = fields.object("tool_choice")? else { return Ok(()) };
    let kind = choice.text("type")?.unwrap_or_default();
    let chosen = match kind.as_str() {
        "auto" | "none" => json!(kind),
        "any" => json!("required"),
        "tool" => json!({"type": "function", "function": {"name": choice.text("name")?}}),
        _ => return Err(choice.error("type", "`tool_choice.type` must be one of auto, any, tool, none")),
    };
    chat.insert("tool_choice".into(), chosen);
    if choice.flag("disable_parallel_tool_use")? {
        chat.insert("parallel_tool_calls".into(), false.into());
    }
    choice.finish()
}

/// Takes whether to think, as values for the template.
fn thinking(fields: &mut Fields) -> Result<Map<String, Value>, ApiError> {
    let mut values = Map::new();
    let Some(mut thinking) = fields.object("thinking")? else { return Ok(values) };
    match thinking.text("type")?.as_deref() {
        Some("enabled" | "adaptive") => think(&mut values, true),
        Some("disabled") => think(&mut values, false),
        _ => return Err(thinking.error("type", "`thinking.type` must be one of enabled, adaptive, disabled")),
    }
    // No model of these families keeps to a budget. `max_tokens` bounds thoughts and answer together.
    thinking.whole("budget_tokens", 0..=i64::from(u32::MAX))?;
    thinking.only("display", &[json!("summarized")], "can only be \"summarized\": thoughts are given in full")?;
    thinking.finish()?;
    Ok(values)
}

/// Takes the conversation.
fn messages(fields: &mut Fields) -> Result<Value, ApiError> {
    let mut messages = Vec::new();
    if let Some(system) = fields.take("system") {
        messages.push(json!({"role": "system", "content": text("system", system)?}));
    }
    let all = fields.list("messages")?;
    let all = all.ok_or_else(|| fields.error("messages", "`messages` is missing: give the conversation"))?;
    if all.is_empty() {
        return Err(fields.error("messages", "`messages` is empty: give at least one message"));
    }
    for (i, message) in all.into_iter().enumerate() {
        let path = format!("messages[{i}]");
        let mut message = Fields::of(&path, message)?;
        let (role, content) = (message.text("role")?.unwrap_or_default(), message.take("content").unwrap_or_default());
        let path = format!("{path}.content");
        match role.as_str() {
            "system" => messages.push(json!({"role": role, "content": text(&path, content)?})),
            "user" => user(&mut messages, &path, content)?,
            "assistant" => messages.push(assistant(&path, content)?.to_json()),
            _ => return Err(message.error("role", format!("`messages[{i}].role` must be one of user, assistant"))),
        }
    }
    if messages.last().is_some_and(|last| last["role"] == "assistant") {
        let message = "the last message is the assistant's, and cannot be continued here: end with one of the user";
        return Err(ApiError::field("messages", message));
    }
    Ok(messages.into())
}

/// The blocks of a content, with their paths. A text is one block.
fn blocks(path: &str, content: Value) -> Result<Vec<(String, Value)>, ApiError> {
    match content {
        Value::String(text) => Ok(vec![(path.to_owned(), json!({"type": "text", "text": text}))]),
        Value::Array(all) => Ok(all.into_iter().enumerate().map(|(i, b)| (format!("{path}[{i}]"), b)).collect()),
        other => Err(wrong(path, "a string or a list of blocks", &other)),
    }
}

/// A block that cannot be there.
fn strange(path: &str, block: &Value, what: &str) -> ApiError {
    let kind = block["type"].as_str().unwrap_or("without a type");
    ApiError::field(path, format!("`{path}` is {kind}: only {what} can be here"))
}

/// The text of a content of texts alone.
fn text(path: &str, content: Value) -> Result<String, ApiError> {
    let mut all = String::new();
    for (path, block) in blocks(path, content)? {
        match (block["type"].as_str(), block["text"].as_str()) {
            (Some("text"), Some(text)) => all += text,
            _ => return Err(strange(&path, &block, "text")),
        }
    }
    Ok(all)
}

/// Adds what a user's message has: results of tools, and then text.
fn user(messages: &mut Vec<Value>, path: &str, content: Value) -> Result<(), ApiError> {
    let (mut all, mut has_text) = (String::new(), false);
    for (path, mut block) in blocks(path, content)? {
        match block["type"].as_str() {
            Some("text") => {
                has_text = true;
                all += &text(&path, json!([block]))?;
            }
            Some("tool_result") => {
                let (content, id) = (block["content"].take(), block["tool_use_id"].take());
                if !id.is_string() {
                    let path = format!("{path}.tool_use_id");
                    return Err(ApiError::field(&path, format!("`{path}` is missing: name the call")));
                }
                let content = if content.is_null() { "".into() } else { content };
                let content = text(&format!("{path}.content"), content)?;
                messages.push(json!({"role": "tool", "tool_call_id": id, "content": content}));
            }
            _ => return Err(strange(&path, &block, "text and results of tools")),
        }
    }
    if has_text {
        messages.push(json!({"role": "user", "content": all}));
    }
    Ok(())
}

/// A message of the assistant.
fn assistant(path: &str, content: Value) -> Result<Message, ApiError> {
    let mut message = Message::default();
    for (path, block) in blocks(path, content)? {
        match (block["type"].as_str(), &block) {
            (Some("text"), _) => message.content += &text(&path, json!([block]))?,
            (Some("thinking"), block) => message.reasoning += block["thinking"].as_str().unwrap_or_default(),
            (Some("tool_use"), block) => {
                let word = |name: &str| {
                    let path = format!("{path}.{name}");
                    let missing = || ApiError::field(&path, format!("`{path}` is missing"));
                    block[name].as_str().map(str::to_owned).ok_or_else(missing)
                };
                let arguments = match &block["input"] {
                    Value::Null => "{}".into(),
                    input => input[INVALID].as_str().map_or_else(|| input.to_string(), str::to_owned),
                };
                message.calls.push(Call { id: word("id")?, name: word("name")?, arguments });
            }
            _ => return Err(strange(&path, &block, "text, thinking and tool_use")),
        }
    }
    Ok(message)
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
