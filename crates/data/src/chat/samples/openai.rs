//! Messages and tools in OpenAI's shape: each value is checked, and passed on to the template as it is.
//!
//! Keys that are null count as absent, because data sets with fixed columns write all keys in each message. Only the
//! content of a message with calls may be null, and templates get it as it is.

use minijinja::Value;
use serde_json::{Map, Value as Json};

use super::place::{Place, Problem};

/// A checked message.
pub(super) struct Message {
    /// As the template gets it.
    pub(super) value: Value,
    /// Whether it is the assistant's.
    pub(super) assistant: bool,
    /// Whether it is trained.
    pub(super) trained: bool,
}

const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

/// A value as templates see it.
pub(in crate::chat) fn value(json: Json) -> Value {
    serde_json::from_value(json).unwrap_or_default()
}

/// The messages of a conversation.
pub(super) fn messages(list: Json, place: &Place) -> Result<Vec<Message>, Problem> {
    let Json::Array(list) = list else { return Err(place.wrong("a list of messages", &list)) };
    if list.is_empty() {
        return Err(place.problem("the conversation is empty"));
    }
    list.into_iter().enumerate().map(|(at, json)| message(json, &place.at(at))).collect()
}

fn message(json: Json, place: &Place) -> Result<Message, Problem> {
    let Json::Object(mut fields) = json else {
        return Err(place.wrong("a message: an object with `role` and `content`", &json));
    };
    if fields.contains_key("from") && !fields.contains_key("role") {
        return Err(place.problem("it has `from` instead of `role`; name the list `conversations`"));
    }
    fields.retain(|key, value| key == "content" || !value.is_null());
    let role = match fields.get("role") {
        Some(Json::String(role)) => role.clone(),
        Some(other) => return Err(place.key("role").wrong("text", other)),
        None => return Err(place.problem("it has no `role`")),
    };
    if !ROLES.contains(&role.as_str()) {
        let known = ROLES.join(", ");
        return Err(place.key("role").problem(format!("`{role}` is not a role; the roles are: {known}")));
    }
    let assistant = role == "assistant";
    for key in ["tool_calls", "reasoning_content", "weight"] {
        if !assistant && fields.contains_key(key) {
            return Err(place
                .key(key)
                .problem(format!("only the assistant's messages have it, and this is `{role}`'s")));
        }
    }
    for key in ["reasoning_content", "name", "tool_call_id"] {
        if let Some(other) = fields.get(key).filter(|value| !value.is_string()) {
            return Err(place.key(key).wrong("text", other));
        }
    }
    if let Some(calls) = fields.get("tool_calls") {
        check_calls(calls, &place.key("tool_calls"))?;
    }
    let may_lack = fields.get("tool_calls").and_then(Json::as_array).is_some_and(|calls| !calls.is_empty());
    check_content(fields.get("content"), may_lack, place)?;
    let trained = match fields.remove("weight") {
        None => assistant,
        Some(weight) => match weight.as_f64() {
            Some(0.0) => false,
            Some(1.0) => true,
            _ => return Err(place.key("weight").problem(format!("it is {weight}, and must be 0 or 1"))),
        },
    };
    Ok(Message { value: value(Json::Object(fields)), assistant, trained })
}

fn check_content(content: Option<&Json>, may_lack: bool, place: &Place) -> Result<(), Problem> {
    let here = place.key("content");
    match content {
        Some(Json::String(_)) => Ok(()),
        None | Some(Json::Null) if may_lack => Ok(()),
        None => Err(place.problem("it has no `content`")),
        Some(Json::Array(parts)) => {
            for (at, part) in parts.iter().enumerate() {
                let here = here.at(at);
                match part.get("type").and_then(Json::as_str) {
                    Some("text") if part.get("text").is_some_and(Json::is_string) => {}
                    Some("text") => return Err(here.key("text").problem("it is not text")),
                    Some(other) => {
                        return Err(here.key("type").problem(format!("`{other}` cannot be read; only `text` can")));
                    }
                    None => return Err(here.wrong("a part with `type` and `text`", part)),
                }
            }
            Ok(())
        }
        Some(other) => Err(here.wrong("text or a list of parts", other)),
    }
}

fn check_calls(calls: &Json, place: &Place) -> Result<(), Problem> {
    let Json::Array(list) = calls else { return Err(place.wrong("a list of calls", calls)) };
    for (at, call) in list.iter().enumerate() {
        let here = place.at(at);
        match call.get("type") {
            None | Some(Json::Null) => {}
            Some(Json::String(kind)) if kind == "function" => {}
            Some(other) => return Err(here.key("type").problem(format!("it is {other}, and must be \"function\""))),
        }
        let here = here.key("function");
        let Some(function) = call.get("function").and_then(Json::as_object) else {
            return Err(here.problem("there is no object with `name` and `arguments`"));
        };
        if !function.get("name").is_some_and(Json::is_string) {
            return Err(here.key("name").problem("there is no text that names the function"));
        }
        let here = here.key("arguments");
        match function.get("arguments") {
            Some(Json::Object(_)) => {}
            Some(Json::String(text)) => match serde_json::from_str(text) {
                Ok(Json::Object(_)) => {}
                Ok(other) => return Err(here.wrong("an object written as JSON", &other)),
                Err(error) => return Err(here.problem(format!("it is not JSON ({error})"))),
            },
            Some(other) => return Err(here.wrong("an object, or one written as JSON", other)),
            None => return Err(here.problem("there are no arguments; write {} if there are none")),
        }
    }
    Ok(())
}

/// The tools of a conversation: a list, or a list written as JSON. A function alone is put into the shape of a tool.
pub(super) fn tools(list: Json, place: &Place) -> Result<Vec<Value>, Problem> {
    let list = match list {
        Json::Null => return Ok(Vec::new()),
        Json::String(text) if text.trim().is_empty() => return Ok(Vec::new()),
        Json::String(text) => {
            serde_json::from_str(&text).map_err(|e| place.problem(format!("it is not a list as JSON ({e})")))?
        }
        other => other,
    };
    let Json::Array(list) = list else { return Err(place.wrong("a list of tools", &list)) };
    list.into_iter()
        .enumerate()
        .map(|(at, tool)| {
            let here = place.at(at);
            let Json::Object(fields) = tool else { return Err(here.wrong("a tool: an object", &tool)) };
            let tool = if fields.contains_key("function") || !fields.contains_key("name") {
                fields
            } else {
                Map::from_iter([("type".to_owned(), "function".into()), ("function".to_owned(), fields.into())])
            };
            match tool.get("function").and_then(|function| function.get("name")) {
                Some(Json::String(_)) => Ok(value(Json::Object(tool))),
                _ => Err(here.key("function").key("name").problem("there is no text that names the function")),
            }
        })
        .collect()
}
