//! ShareGPT's shape, turned into OpenAI's.
//!
//! | `from` | message |
//! |---|---|
//! | `human`, `user` | the user's |
//! | `gpt`, `assistant` | the assistant's |
//! | `system` | the system's; also the key `system` beside the list |
//! | `function_call` | the assistant's, with calls: an object with `name` and `arguments` as JSON, or a list of them |
//! | `observation`, `tool` | a tool's result |

use serde_json::{Map, Value as Json, json};

use super::place::{Place, Problem};

/// A line with `conversations` as one with `messages`. Other keys stay.
pub(super) fn as_messages(mut fields: Map<String, Json>) -> Result<Map<String, Json>, Problem> {
    let place = Place::default().key("conversations");
    let list = match fields.remove("conversations") {
        Some(Json::Array(list)) => list,
        other => return Err(place.wrong("a list of messages", &other.unwrap_or_default())),
    };
    if list.is_empty() {
        return Err(place.problem("the conversation is empty"));
    }
    let messages: Result<Vec<Json>, Problem> =
        list.into_iter().enumerate().map(|(at, entry)| message(entry, &place.at(at))).collect();
    let mut messages = messages?;
    match fields.remove("system") {
        None | Some(Json::Null) => {}
        Some(Json::String(text)) if text.is_empty() => {}
        Some(Json::String(text)) => {
            if messages[0]["role"] == "system" {
                let what = "the conversation begins with a system message as well; keep one of them";
                return Err(Place::default().key("system").problem(what));
            }
            messages.insert(0, json!({"role": "system", "content": text}));
        }
        Some(other) => return Err(Place::default().key("system").wrong("text", &other)),
    }
    fields.insert("messages".to_owned(), messages.into());
    Ok(fields)
}

fn message(entry: Json, place: &Place) -> Result<Json, Problem> {
    let Json::Object(mut fields) = entry else {
        return Err(place.wrong("a message: an object with `from` and `value`", &entry));
    };
    if fields.contains_key("role") {
        return Err(place.problem("it has `role` instead of `from`; name the list `messages`"));
    }
    let from = match fields.remove("from") {
        Some(Json::String(from)) => from,
        Some(other) => return Err(place.key("from").wrong("text", &other)),
        None => return Err(place.problem("it has no `from`")),
    };
    let text = match fields.remove("value") {
        Some(Json::String(text)) => text,
        Some(other) => return Err(place.key("value").wrong("text", &other)),
        None => return Err(place.problem("it has no `value`")),
    };
    let mut message = match from.as_str() {
        "human" | "user" => json!({"role": "user", "content": text}),
        "gpt" | "assistant" => json!({"role": "assistant", "content": text}),
        "system" => json!({"role": "system", "content": text}),
        "observation" | "tool" => json!({"role": "tool", "content": text}),
        "function_call" => {
            json!({"role": "assistant", "content": "", "tool_calls": calls(&text, &place.key("value"))?})
        }
        other => {
            let known = "human, user, gpt, assistant, system, function_call, observation, tool";
            return Err(place.key("from").problem(format!("`{other}` is not known here; use one of: {known}")));
        }
    };
    // Further keys, such as `weight`, are checked with the rest.
    for (key, value) in fields {
        message[key] = value;
    }
    Ok(message)
}

fn calls(text: &str, place: &Place) -> Result<Vec<Json>, Problem> {
    let value: Json = serde_json::from_str(text).map_err(|e| place.problem(format!("the call is not JSON ({e})")))?;
    let list = match value {
        Json::Array(list) => list,
        one => vec![one],
    };
    list.into_iter()
        .map(|call| match &call {
            Json::Object(fields) if fields.contains_key("name") => Ok(json!({"type": "function", "function": call})),
            other => Err(place.problem(format!("the call is {other}, not an object with `name` and `arguments`"))),
        })
        .collect()
}
