//! Conversations, with the tests' own format.

use super::client::post;
use super::{END, Running};
use serde_json::{Value, json};

fn ask(server: &Running, body: &Value) -> Value {
    let reply = post(server.address, "/v1/chat/completions", body);
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()
}

#[test]
fn a_stream_says_what_the_whole_says() {
    let server = Running::new();
    let (mut thoughts, mut calls) = (0, 0);
    for seed in 0..6 {
        let mut body = json!({
            "messages": [{"role": "user", "content": "{\"name\": "}], "max_tokens": 60, "seed": seed, "n": 2,
            "logit_bias": {END.1: 6}, "logprobs": true, "top_logprobs": 1, "tools": [{"type": "function", "function": {"name": "tool"}}],
        });
        let whole = ask(&server, &body);
        body["stream"] = true.into();
        body["stream_options"] = json!({"include_usage": true});
        let events = post(server.address, "/v1/chat/completions", &body).events();
        let (last, events) = events.split_last().unwrap();
        assert_eq!(last["usage"]["completion_tokens"], whole["usage"]["completion_tokens"]);
        for choice in whole["choices"].as_array().unwrap() {
            let parts = events.iter().map(|e| &e["choices"][0]).filter(|c| c["index"] == choice["index"]);
            let (mut content, mut reasoning, mut arguments) = (String::new(), String::new(), String::new());
            let (mut logprobs, mut finish) = (Vec::new(), Value::Null);
            for part in parts {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                content += &text(&part["delta"]["content"]);
                reasoning += &text(&part["delta"]["reasoning_content"]);
                arguments += &text(&part["delta"]["tool_calls"][0]["function"]["arguments"]);
                logprobs.extend(part["logprobs"]["content"].as_array().unwrap().clone());
                finish = part["finish_reason"].clone();
            }
            let message = &choice["message"];
            assert_eq!(message["content"].as_str().unwrap_or_default(), content);
            assert_eq!(message["reasoning_content"].as_str().unwrap_or_default(), reasoning);
            let call = &message["tool_calls"][0]["function"]["arguments"];
            assert_eq!(call.as_str().unwrap_or_default(), arguments);
            assert_eq!((&choice["logprobs"]["content"], &choice["finish_reason"]), (&Value::from(logprobs), &finish));
            thoughts += usize::from(!reasoning.is_empty());
            calls += usize::from(!call.is_null());
        }
    }
    assert!(thoughts > 0 && calls > 0, "{thoughts} {calls}: the seeds show nothing");
}

#[test]
fn a_form_begins_after_the_thoughts() {
    let server = Running::new();
    let mut answers = 0;
    for seed in 0..8 {
        let answer = ask(
            &server,
            &json!({
                "messages": [{"role": "user", "content": "["}], "seed": seed, "guided_choice": ["yes", "no"],
                "max_completion_tokens": 200, "logit_bias": {END.1: 4},
            }),
        );
        let choice = &answer["choices"][0];
        if choice["finish_reason"] == "stop" {
            answers += usize::from(!choice["message"]["reasoning_content"].is_null());
            let content = choice["message"]["content"].as_str().unwrap();
            assert!(content == "yes" || content == "no", "{choice}");
        }
    }
    assert!(answers > 0, "the seeds show nothing");
}

#[test]
fn a_call_that_must_be_made_is_made_after_the_thoughts() {
    let server = Running::new();
    let tool = json!({"type": "function", "function": {"name": "tool"}});
    for choice in [json!("required"), json!({"type": "function", "function": {"name": "tool"}})] {
        let mut calls = 0;
        for seed in 0..6 {
            let answer = ask(
                &server,
                &json!({
                    "messages": [{"role": "user", "content": "["}], "seed": seed, "tools": [tool], "tool_choice": choice,
                    "max_completion_tokens": 200, "logit_bias": {END.1: 4}, "response_format": {"type": "json_object"},
                }),
            );
            let choice = &answer["choices"][0];
            if choice["finish_reason"] == "tool_calls" {
                calls += usize::from(!choice["message"]["reasoning_content"].is_null());
                let call = &choice["message"]["tool_calls"][0]["function"];
                let arguments = call["arguments"].as_str().unwrap();
                let letters = arguments.strip_suffix('!').unwrap();
                assert!((2..=4).contains(&letters.len()) && letters.chars().all(|c| "abc".contains(c)), "{choice}");
                assert_eq!((&call["name"], &choice["message"]["content"]), (&json!("tool"), &Value::Null));
            }
        }
        assert!(calls > 0, "the seeds show nothing");
    }
}

#[test]
fn a_repeated_beginning_is_found_in_the_cache() {
    let server = Running::new();
    let body = json!({"messages": [{"role": "user", "content": "[1, 2], ".repeat(60)}], "max_tokens": 2});
    let usage = |answer: Value| answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert_eq!(usage(ask(&server, &body)), 0);
    assert!(usage(ask(&server, &body)) >= 128);
}
