//! Requests whose answers are known: each was asked for alone first. Its prompt carries a mark.

use crate::client::{Reply, ask};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// A request with the answer that it has alone.
pub(crate) struct Known {
    pub(crate) path: &'static str,
    pub(crate) body: Value,
    pub(crate) answer: Vec<Choice>,
}

/// What an answer says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Choice {
    text: String,
    finish: String,
}

impl Known {
    /// A request of each kind, and its answer. Nothing else may run.
    pub(crate) fn all(address: SocketAddr, count: u64) -> Result<Vec<Self>, String> {
        (0..count).map(|i| Self::new(address, i)).collect()
    }

    fn new(address: SocketAddr, i: u64) -> Result<Self, String> {
        let (path, body) = request(i);
        let reply = ask(address, "POST", path, body.to_string().as_bytes()).map_err(|e| e.to_string())?;
        if reply.status != 200 {
            return Err(format!("{body} alone: {reply:?}"));
        }
        let answer = whole(&reply)?;
        let mark = mark(i);
        if path == COMPLETIONS && !answer.iter().all(|choice| choice.text.starts_with(&mark)) {
            return Err(format!("an echo without its mark {mark}: {answer:?}"));
        }
        Ok(Self { path, body, answer })
    }

    /// Compares an answer with the one that the request has alone.
    pub(crate) fn check(&self, said: &[Choice]) -> Result<(), String> {
        if said == self.answer {
            return Ok(());
        }
        Err(format!("{} was answered with\n{said:?}\nand alone with\n{:?}", self.body, self.answer))
    }
}

const COMPLETIONS: &str = "/v1/completions";
const CHATS: &str = "/v1/chat/completions";

fn mark(i: u64) -> String {
    format!("[mark {i}] ")
}

fn request(i: u64) -> (&'static str, Value) {
    let prompt = format!("{}{}", mark(i), "\"born\": 1815, ".repeat(1 + i as usize % 17));
    let tokens = 4 + 7 * (i % 9);
    if i % 4 == 3 {
        let messages = json!([{"role": "user", "content": prompt}]);
        return (CHATS, json!({"messages": messages, "max_tokens": tokens, "seed": i, "n": 1 + i % 2}));
    }
    let mut body = json!({"prompt": prompt, "max_tokens": tokens, "seed": i, "echo": true, "n": 1 + i % 3});
    let fields = body.as_object_mut().expect("an object");
    match i % 5 {
        0 => fields.extend([("temperature".into(), json!(0)), ("logprobs".into(), json!(3))]),
        1 => fields.extend([("stop".into(), json!(["1", "}"])), ("frequency_penalty".into(), json!(0.5))]),
        2 => fields.extend([("guided_regex".into(), json!("[a-c]{3,40}")), ("top_p".into(), json!(0.9))]),
        _ => fields.extend([("ignore_eos".into(), json!(true))]),
    }
    (COMPLETIONS, body)
}

/// What a whole answer says.
pub(crate) fn whole(reply: &Reply) -> Result<Vec<Choice>, String> {
    let body: Value = serde_json::from_str(&reply.body).map_err(|e| format!("{e}: {reply:?}"))?;
    let choices = body["choices"].as_array().ok_or_else(|| format!("no choices: {reply:?}"))?;
    Ok(choices.iter().map(|choice| said(choice, "message")).collect())
}

/// What a stream says, and the code of the error that it ended with.
pub(crate) fn streamed(reply: &Reply) -> Result<(Vec<Choice>, Option<String>), String> {
    let lines = reply.body.strip_suffix("data: [DONE]\n\n");
    let lines = lines.ok_or_else(|| format!("a stream without its end: {reply:?}"))?;
    let lines = lines.split("\n\n").filter(|line| !line.is_empty() && !line.starts_with(':'));
    let (mut choices, mut error) = (BTreeMap::<u64, Choice>::new(), None);
    for line in lines {
        let event = line.strip_prefix("data: ").ok_or_else(|| format!("not an event: {line}"))?;
        let event: Value = serde_json::from_str(event).map_err(|e| format!("{e}: {event}"))?;
        if let Some(code) = event["error"]["code"].as_str() {
            error = Some(code.to_owned());
        }
        for part in event["choices"].as_array().into_iter().flatten() {
            let more = said(part, "delta");
            let choice = choices.entry(part["index"].as_u64().unwrap_or(u64::MAX)).or_default();
            choice.text += &more.text;
            choice.finish += &more.finish;
        }
    }
    Ok((choices.into_values().collect(), error))
}

/// What a choice or a part of one says. Chats have it in an object.
fn said(choice: &Value, inner: &str) -> Choice {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let chat = &choice[inner];
    let thoughts = text(&chat["reasoning_content"]);
    Choice { text: text(&choice["text"]) + &thoughts + &text(&chat["content"]), finish: text(&choice["finish_reason"]) }
}
