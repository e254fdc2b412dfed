//! From the body of a response to that of a chat.
//!
//! Items become messages. Thoughts, text and calls that follow each other are one message of the assistant. What needs
//! answers of the past, and tools that OpenAI runs, are refused by name.

use crate::chat::{Call, Message, think};
use crate::error::ApiError;
use crate::fields::{Fields, wrong};
use serde_json::{Map, Value, json};

/// Fields of chats that have another name here.
const OTHERS: [(&str, &str); 6] = [
    ("messages", "give the conversation in `input`"),
    ("max_tokens", "use `max_output_tokens`"),
    ("max_completion_tokens", "use `max_output_tokens`"),
    ("response_format", "use `text.format`"),
    ("reasoning_effort", "use `reasoning.effort`"),
    ("logprobs", "use /v1/chat/completions"),
];
const KEEP: &str = "needs answers that are kept, and none are kept here: send the whole conversation in `input`";

/// What an answer says again of its request.
pub(super) type Echo = Map<String, Value>;

/// Reads a body. Returns the body of a chat, and what the answer says again.
pub(super) fn read(mut fields: Fields) -> Result<(Fields, Echo), ApiError> {
    refuse(&mut fields)?;
    let mut chat = Map::new();
    let mut echo = Echo::new();
    let instructions = fields.text("instructions")?;
    echo.insert("instructions".into(), json!(instructions));
    let input = fields.take("input");
    let input = input.ok_or_else(|| fields.error("input", "`input` is missing: give a text or a list of items"))?;
    chat.insert("messages".into(), messages(instructions, input)?);
    let limit = fields.whole("max_output_tokens", 1..=i64::from(u32::MAX))?;
    echo.insert("max_output_tokens".into(), json!(limit));
    chat.insert("max_tokens".into(), json!(limit));
    let format = format(&mut fields, &mut chat)?;
    echo.insert("text".into(), json!({"format": format}));
    let tools = fields.list("tools")?.unwrap_or_default();
    chat.insert("tools".into(), tools.iter().enumerate().map(tool).collect::<Result<_, _>>()?);
    echo.insert("tools".into(), tools.into_iter().map(whole_tool).collect());
    let choice = fields.take("tool_choice");
    echo.insert("tool_choice".into(), choice.clone().unwrap_or_else(|| "auto".into()));
    chat.insert("tool_choice".into(), choice.map_or(Value::Null, chosen));
    let (effort, mut values) = effort(&mut fields)?;
    echo.insert("reasoning".into(), json!({"effort": effort, "summary": null}));
    values.extend(fields.object("chat_template_kwargs")?.map(Fields::rest).unwrap_or_default());
    chat.insert("chat_template_kwargs".into(), values.into());
    let rest = fields.rest();
    for name in ["metadata", "user", "safety_identifier", "prompt_cache_key", "parallel_tool_calls"] {
        echo.extend(rest.get(name).map(|value| (name.to_owned(), value.clone())));
    }
    for name in ["temperature", "top_p"] {
        echo.insert(name.into(), rest.get(name).filter(|value| !value.is_null()).cloned().unwrap_or(json!(1.0)));
    }
    chat.extend(rest);
    Ok((Fields::from(chat), echo))
}

/// Refuses what is not supported.
fn refuse(fields: &mut Fields) -> Result<(), ApiError> {
    let no = [json!(false)];
    fields.only("previous_response_id", &[], KEEP)?;
    fields.only("conversation", &[], KEEP)?;
    fields.only("store", &no, "cannot be true, since no answers are kept here: leave it out")?;
    fields.only("background", &no, "is not supported: leave it out, or use `stream`")?;
    fields.only("prompt", &[], "names a template that OpenAI keeps: write the prompt in `input`")?;
    fields.only("truncation", &[json!("disabled")], "can only be \"disabled\": shorten `input`")?;
    fields.only("context_management", &[json!([])], "is not supported: shorten `input`")?;
    fields.only("top_logprobs", &[json!(0)], "is not supported here: use /v1/chat/completions")?;
    fields.only("n", &[json!(1)], "is not supported here: use /v1/chat/completions")?;
    // It counts calls of tools that OpenAI runs, and there are none.
    fields.take("max_tool_calls");
    for (name, instead) in OTHERS {
        fields.only(name, &[], &format!("is not a field of this API: {instead}"))?;
    }
    for (i, value) in fields.list("include")?.unwrap_or_default().iter().enumerate() {
        // Thoughts come as plain text, so that a client can send them again in any case.
        if value != "reasoning.encrypted_content" {
            let message = format!("{value} cannot be included here: leave it out");
            return Err(ApiError::field(format!("include[{i}]"), message));
        }
    }
    Ok(())
}

/// Takes the form of the answer.
fn format(fields: &mut Fields, chat: &mut Map<String, Value>) -> Result<Value, ApiError> {
    let plain = json!({"type": "text"});
    let Some(mut text) = fields.object("text")? else { return Ok(plain) };
    text.only("verbosity", &[json!("medium")], "is not supported: say it in `instructions`")?;
    let format = text.take("format").unwrap_or(plain);
    text.finish()?;
    let mut form = format.clone();
    if format["type"] == "json_schema" {
        let inner = json!({"name": format["name"], "schema": format["schema"], "strict": format["strict"]});
        form = json!({"type": "json_schema", "json_schema": inner});
        if format["schema"].is_null() {
            let message = "`text.format.schema` is missing: give the JSON schema";
            return Err(ApiError::field("text.format.schema", message));
        }
    }
    chat.insert("response_format".into(), form);
    Ok(format)
}

/// Takes how much is to be thought, also as values for the template.
fn effort(fields: &mut Fields) -> Result<(Option<String>, Map<String, Value>), ApiError> {
    let mut values = Map::new();
    let Some(mut reasoning) = fields.object("reasoning")? else { return Ok((None, values)) };
    let effort = reasoning.text("effort")?;
    for name in ["summary", "generate_summary"] {
        reasoning.only(name, &[json!("auto")], "can only be \"auto\": thoughts are given in full")?;
    }
    reasoning.finish()?;
    if let Some(effort) = &effort {
        think(&mut values, effort != "none");
        values.insert("reasoning_effort".into(), effort.clone().into());
    }
    Ok((effort, values))
}

/// A tool as chats have it.
fn tool((i, tool): (usize, &Value)) -> Result<Value, ApiError> {
    let path = format!("tools[{i}]");
    if tool["type"] != "function" {
        let message = format!("`{path}.type` must be \"function\"; other tools are not supported");
        return Err(ApiError::field(format!("{path}.type"), message));
    }
    if !tool["name"].is_string() {
        let path = format!("{path}.name");
        return Err(ApiError::field(&path, format!("`{path}` is missing: name the tool")));
    }
    let mut function = Map::new();
    for name in ["name", "description", "parameters", "strict"] {
        function.extend(tool.get(name).filter(|value| !value.is_null()).map(|value| (name.to_owned(), value.clone())));
    }
    Ok(json!({"type": "function", "function": function}))
}

/// A tool with all the fields that answers have.
fn whole_tool(mut tool: Value) -> Value {
    if let Value::Object(fields) = &mut tool {
        for name in ["description", "parameters", "strict"] {
            fields.entry(name).or_insert(Value::Null);
        }
    }
    tool
}

/// A choice of tools as chats have it.
fn chosen(choice: Value) -> Value {
    match choice["type"].as_str() {
        Some("function") => json!({"type": "function", "function": {"name": choice["name"]}}),
        Some("allowed_tools") => {
            let named = |tool: &Value| json!({"type": "function", "function": {"name": tool["name"]}});
            let tools: Vec<Value> = choice["tools"].as_array().into_iter().flatten().map(named).collect();
            json!({"type": "allowed_tools", "allowed_tools": {"mode": choice["mode"], "tools": tools}})
        }
        _ => choice,
    }
}

/// The messages of a conversation.
fn messages(instructions: Option<String>, input: Value) -> Result<Value, ApiError> {
    let mut messages = Messages::default();
    if let Some(text) = instructions {
        messages.push("system", text);
    }
    match input {
        Value::String(text) => messages.push("user", text),
        Value::Array(items) => {
            for (i, item) in items.into_iter().enumerate() {
                messages.item(&format!("input[{i}]"), item)?;
            }
        }
        other => return Err(wrong("input", "a string or a list of items", &other)),
    }
    messages.flush();
    if messages.all.is_empty() {
        return Err(ApiError::field("input", "`input` is empty: give at least one item"));
    }
    Ok(messages.all.into())
}

/// Messages on their way.
#[derive(Default)]
struct Messages {
    all: Vec<Value>,
    /// The assistant's message that further items may belong to.
    open: Option<Message>,
}

impl Messages {
    fn push(&mut self, role: &str, content: String) {
        self.flush();
        self.all.push(json!({"role": role, "content": content}));
    }

    fn flush(&mut self) {
        self.all.extend(self.open.take().map(|message| message.to_json()));
    }

    /// The message that a thought or a text of the assistant belongs to.
    fn fresh(&mut self, is_free: impl Fn(&Message) -> bool) -> &mut Message {
        if self.open.as_ref().is_some_and(|message| !is_free(message)) {
            self.flush();
        }
        self.open.get_or_insert_default()
    }

    fn item(&mut self, path: &str, item: Value) -> Result<(), ApiError> {
        let mut fields = Fields::of(path, item)?;
        let kind = fields.text("type")?.unwrap_or_else(|| "message".into());
        match kind.as_str() {
            "message" => {
                let role = needed(&mut fields, "role")?;
                let content = text(&fields.path("content"), fields.take("content").unwrap_or_default())?;
                match role.as_str() {
                    "assistant" => {
                        self.fresh(|m| m.content.is_empty() && m.calls.is_empty()).content = content;
                    }
                    "system" | "developer" | "user" => self.push(&role, content),
                    other => {
                        let message =
                            format!("the role `{other}` is not known: use system, developer, user or assistant");
                        return Err(fields.error("role", message));
                    }
                }
            }
            "reasoning" => {
                let full = fields.take("content").filter(|parts| parts != &json!([]));
                let parts = full.or_else(|| fields.take("summary")).unwrap_or_default();
                let thoughts = text(&fields.path("content"), parts)?;
                self.fresh(|m| m.content.is_empty() && m.calls.is_empty()).reasoning += &thoughts;
            }
            "function_call" => {
                let [id, name, arguments] = ["call_id", "name", "arguments"];
                let call = Call {
                    id: needed(&mut fields, id)?,
                    name: needed(&mut fields, name)?,
                    arguments: needed(&mut fields, arguments)?,
                };
                self.open.get_or_insert_default().calls.push(call);
            }
            "function_call_output" => {
                let id = needed(&mut fields, "call_id")?;
                let content = text(&fields.path("output"), fields.take("output").unwrap_or_default())?;
                self.flush();
                self.all.push(json!({"role": "tool", "tool_call_id": id, "content": content}));
            }
            "item_reference" => {
                let message = "an item of the past is named, and none are kept here: send the item itself";
                return Err(fields.error("type", message));
            }
            other => {
                let message = format!("items of the type `{other}` are not supported: leave it out");
                return Err(fields.error("type", message));
            }
        }
        Ok(())
    }
}

/// A text that must be there.
fn needed(fields: &mut Fields, name: &str) -> Result<String, ApiError> {
    let text = fields.text(name)?;
    text.ok_or_else(|| fields.error(name, format!("`{}` is missing", fields.path(name))))
}

/// A text, or the texts of parts.
fn text(path: &str, content: Value) -> Result<String, ApiError> {
    let parts = match content {
        Value::String(text) => return Ok(text),
        Value::Null => return Ok(String::new()),
        Value::Array(parts) => parts,
        other => return Err(wrong(path, "a string or a list of parts", &other)),
    };
    let mut all = String::new();
    for (i, part) in parts.iter().enumerate() {
        match (part["type"].as_str(), part["text"].as_str(), part["refusal"].as_str()) {
            (Some("input_text" | "output_text" | "text" | "reasoning_text" | "summary_text"), Some(more), _)
            | (Some("refusal"), _, Some(more)) => all += more,
            (kind, ..) => {
                let kind = kind.unwrap_or("without a type");
                let message = format!("a part is {kind}: only text is supported");
                return Err(ApiError::field(format!("{path}[{i}]"), message));
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
