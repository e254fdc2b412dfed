//! Anthropic's Messages API, with the tests' own format.

use super::client::{begin, finish, get, post, whole_and_events};
use super::{END, Running, options};
use crate::{Keys, ServeOptions};
use serde_json::{Value, json};

const PATH: &str = "/v1/messages";

/// A request whose answer has thoughts, text and a call with some seeds.
fn body(seed: u64) -> Value {
    json!({
        "messages": [{"role": "user", "content": "{\"name\": "}], "max_tokens": 60, "seed": seed,
        "logit_bias": {END.1: 6}, "tools": [{"name": "tool", "input_schema": {"type": "object"}}],
    })
}

/// Puts a message together from the events of a stream, as clients do.
fn replay(events: &[Value]) -> Value {
    let [first, rest @ ..] = events else { panic!("no events") };
    assert_eq!(first["type"], "message_start");
    let mut message = first["message"].clone();
    let (mut open, mut input) = (None, String::new());
    for event in rest {
        let blocks = message["content"].as_array_mut().unwrap();
        match event["type"].as_str().unwrap() {
            "content_block_start" => {
                assert_eq!((open, &event["index"]), (None, &json!(blocks.len())));
                open = Some(blocks.len());
                input.clear();
                blocks.push(event["content_block"].clone());
            }
            "content_block_delta" => {
                assert_eq!(event["index"], open.unwrap());
                let (block, delta) = (blocks.last_mut().unwrap(), &event["delta"]);
                let mut add = |name: &str| {
                    block[name] = (block[name].as_str().unwrap().to_owned() + delta[name].as_str().unwrap()).into();
                };
                match delta["type"].as_str().unwrap() {
                    "thinking_delta" => add("thinking"),
                    "signature_delta" => add("signature"),
                    "text_delta" => add("text"),
                    "input_json_delta" => input += delta["partial_json"].as_str().unwrap(),
                    other => panic!("{other}"),
                }
            }
            "content_block_stop" => {
                assert_eq!(event["index"], open.take().unwrap());
                let block = blocks.last_mut().unwrap();
                if block["type"] == "tool_use" && !input.is_empty() {
                    let read = serde_json::from_str::<Value>(&input).ok().filter(Value::is_object);
                    block["input"] = read.unwrap_or_else(|| json!({"INVALID_JSON": input}));
                }
            }
            "message_delta" => {
                for (from, name) in
                    [(&event["delta"], "stop_reason"), (&event["delta"], "stop_sequence"), (event, "usage")]
                {
                    message[name] = from[name].clone();
                }
            }
            "message_stop" => assert_eq!(open, None),
            other => panic!("{other}"),
        }
    }
    message
}

/// A message without its name and those of its calls, and without its tokens from the cache.
fn nameless(message: &Value) -> Value {
    let mut message = message.clone();
    message["id"] = "".into();
    message["usage"] = message["usage"]["output_tokens"].clone();
    for block in message["content"].as_array_mut().unwrap() {
        if block["type"] == "tool_use" {
            block["id"] = "".into();
        }
    }
    message
}

#[test]
fn a_stream_says_what_the_whole_says() {
    let server = Running::new();
    let mut kinds = [0; 3];
    for seed in 0..8 {
        let body = body(seed);
        let (whole, events) = whole_and_events(server.address, PATH, &body);
        let last: Vec<&Value> = events.iter().rev().take(2).map(|event| &event["type"]).collect();
        assert_eq!(last, ["message_stop", "message_delta"]);
        assert_eq!(nameless(&replay(&events)), nameless(&whole));
        let chat = json!({
            "messages": body["messages"], "max_tokens": 60, "seed": seed, "logit_bias": body["logit_bias"],
            "tools": [{"type": "function", "function": {"name": "tool"}}],
        });
        let chat = post(server.address, "/v1/chat/completions", &chat).json();
        let (said, mut text, mut thinking) = (&chat["choices"][0]["message"], Value::Null, Value::Null);
        for block in whole["content"].as_array().unwrap() {
            let kind = ["thinking", "text", "tool_use"].iter().position(|kind| block["type"] == *kind).unwrap();
            kinds[kind] += 1;
            match kind {
                0 => thinking = block["thinking"].clone(),
                1 => text = block["text"].clone(),
                _ => assert_eq!(block["name"], "tool"),
            }
        }
        let or_null = |value: &Value| if value == "" { Value::Null } else { value.clone() };
        assert_eq!((&thinking, text), (&said["reasoning_content"], or_null(&said["content"])));
        let usage = &whole["usage"];
        assert_eq!(usage["output_tokens"], chat["usage"]["completion_tokens"]);
        assert_eq!(usage["output_tokens_details"]["thinking_tokens"].as_u64().unwrap() > 0, !thinking.is_null());
        let reason = match chat["choices"][0]["finish_reason"].as_str().unwrap() {
            "length" => "max_tokens",
            "tool_calls" => "tool_use",
            _ => "end_turn",
        };
        assert_eq!(whole["stop_reason"], reason);
    }
    assert!(kinds.iter().all(|n| *n > 0), "{kinds:?}: the seeds show nothing");
}

#[test]
fn tokens_are_counted_and_found_in_the_cache() {
    let server = Running::new();
    let content = "[1, 2], ".repeat(60);
    let mut body = json!({"messages": [{"role": "user", "content": content}], "system": "[", "model": "tiny"});
    let count = post(server.address, "/v1/messages/count_tokens", &body);
    assert_eq!(count.status, 200, "{count:?}");
    let count = count.json()["input_tokens"].as_u64().unwrap();
    body["max_tokens"] = 2.into();
    let usage = |body: &Value| {
        let usage = post(server.address, PATH, body).json()["usage"].clone();
        (usage["input_tokens"].as_u64().unwrap(), usage["cache_read_input_tokens"].as_u64().unwrap())
    };
    assert_eq!(usage(&body), (count, 0));
    let (new, found) = usage(&body);
    assert!(found >= 128 && new + found == count, "{new} {found} {count}");
}

#[test]
fn why_an_answer_ended_is_told() {
    let server = Running::new();
    let ask = |more: Value| {
        let mut body = json!({"messages": [{"role": "user", "content": "{\"name\": "}], "max_tokens": 30, "seed": 1});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        post(server.address, PATH, &body).json()
    };
    let ends = |more: Value| {
        let answer = ask(more);
        (answer["stop_reason"].clone(), answer["stop_sequence"].clone())
    };
    // The model thinks, so a stop string in its thoughts ends it as well.
    let text = ask(json!({"ignore_eos": true}))["content"][0]["thinking"].as_str().unwrap().to_owned();
    let letter = text.chars().nth(2).unwrap().to_string();
    assert_eq!(ends(json!({"stop_sequences": ["never to be seen", letter]})), (json!("stop_sequence"), json!(letter)));
    assert_eq!(ends(json!({"ignore_eos": true})), (json!("max_tokens"), Value::Null));
    let full = json!({"ignore_eos": true, "max_tokens": 1_000_000});
    assert_eq!(ends(full), (json!("model_context_window_exceeded"), Value::Null));
    let only = json!({"logit_bias": {END.1: 100}, "guided_choice": ["yes"], "max_tokens": 100});
    let answer = ask(only);
    assert_eq!((&answer["stop_reason"], &answer["content"][0]["text"]), (&json!("end_turn"), &json!("yes")));
}

#[test]
fn errors_have_the_form_of_this_api() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    std::fs::write(&path, "abc\n").unwrap();
    let server = Running::start(ServeOptions { keys: Some(Keys::read(&path).unwrap()), body_bytes: 999, ..options() });
    let ask =
        |headers: &str, body: &Value| finish(begin(server.address, "POST", PATH, headers, body.to_string().as_bytes()));
    let good = json!({"messages": [{"role": "user", "content": "["}], "max_tokens": 2});
    assert_eq!(ask("x-api-key: abc\r\n", &good).status, 200);
    assert_eq!(ask("authorization: Bearer abc\r\n", &good).status, 200);
    let key = "x-api-key: abc\r\n";
    for (headers, body, status, kind) in [
        ("", good.clone(), 401, "authentication_error"),
        ("x-api-key: abd\r\n", good.clone(), 401, "authentication_error"),
        (key, json!({"messages": good["messages"]}), 400, "invalid_request_error"),
        (key, json!({"messages": good["messages"], "max_tokens": 2, "model": "claude"}), 404, "not_found_error"),
        (key, json!({"messages": "a".repeat(1000)}), 413, "request_too_large"),
    ] {
        let reply = ask(headers, &body);
        let error = reply.json();
        assert_eq!((reply.status, &error["type"], &error["error"]["type"]), (status, &json!("error"), &json!(kind)));
        assert!(error["error"]["message"].as_str().is_some_and(|m| !m.is_empty()), "{reply:?}");
        assert_eq!(reply.header("content-length"), Some(reply.body.len().to_string().as_str()));
    }
    // Other paths keep their own form.
    assert_eq!(get(server.address, "/v1/models").error().0, 401);
}
