//! OpenAI's Responses API, with the tests' own format.

use super::client::{get, post, whole_and_events};
use super::{END, Running};
use serde_json::{Value, json};

const PATH: &str = "/v1/responses";

/// A request whose answer has thoughts, text and a call with some seeds.
fn body(seed: u64) -> Value {
    json!({
        "input": "{\"name\": ", "max_output_tokens": 60, "seed": seed, "logit_bias": {END.1: 6},
        "tools": [{"type": "function", "name": "tool", "parameters": {"type": "object"}}],
    })
}

/// The items of an answer without names, which differ between two answers.
fn nameless(response: &Value) -> Vec<Value> {
    let item = |item: &Value| {
        let mut item = item.clone();
        item["id"] = "".into();
        if !item["call_id"].is_null() {
            item["call_id"] = "".into();
        }
        item
    };
    response["output"].as_array().unwrap().iter().map(item).collect()
}

/// Puts the items together from the events of a stream, as clients do.
fn replay(events: &[Value]) -> Vec<Value> {
    let mut items: Vec<Value> = Vec::new();
    for event in events {
        let index = event["output_index"].as_u64().map(|i| i as usize);
        let delta = event["delta"].as_str().unwrap_or_default();
        let Some(index) = index else { continue };
        if let Some(item) = items.get(index).filter(|_| !event["item_id"].is_null()) {
            assert_eq!(event["item_id"], item["id"]);
        }
        match event["type"].as_str().unwrap() {
            "response.output_item.added" => {
                assert_eq!((index, &event["item"]["status"]), (items.len(), &json!("in_progress")));
                items.push(event["item"].clone());
            }
            "response.content_part.added" => {
                let parts = items[index]["content"].as_array_mut().unwrap();
                assert_eq!(event["content_index"], parts.len());
                parts.push(event["part"].clone());
            }
            "response.output_text.delta" | "response.reasoning_text.delta" => {
                let text = &mut items[index]["content"][0]["text"];
                *text = (text.as_str().unwrap().to_owned() + delta).into();
            }
            "response.function_call_arguments.delta" => {
                let text = &mut items[index]["arguments"];
                *text = (text.as_str().unwrap().to_owned() + delta).into();
            }
            "response.output_text.done" | "response.reasoning_text.done" => {
                assert_eq!(event["text"], items[index]["content"][0]["text"]);
            }
            "response.content_part.done" => assert_eq!(event["part"], items[index]["content"][0]),
            "response.function_call_arguments.done" => {
                assert_eq!((&event["arguments"], &event["name"]), (&items[index]["arguments"], &items[index]["name"]));
            }
            "response.output_item.done" => {
                items[index]["status"] = event["item"]["status"].clone();
                assert_eq!(event["item"], items[index]);
            }
            other => panic!("{other}"),
        }
    }
    items
}

#[test]
fn a_stream_says_what_the_whole_says() {
    let server = Running::new();
    let mut kinds = [0; 3];
    for seed in 0..8 {
        let body = body(seed);
        let (whole, events) = whole_and_events(server.address, PATH, &body);
        for (i, event) in events.iter().enumerate() {
            assert_eq!(event["sequence_number"], i, "{event}");
        }
        let types: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
        assert_eq!(types[..2], ["response.created", "response.in_progress"]);
        let last = &events.last().unwrap()["response"];
        let cut = last["status"] == "incomplete";
        assert_eq!(*types.last().unwrap(), if cut { "response.incomplete" } else { "response.completed" });
        assert_eq!(last["incomplete_details"], if cut { json!({"reason": "max_output_tokens"}) } else { Value::Null });
        assert_eq!(replay(&events), *last["output"].as_array().unwrap());
        assert_eq!((nameless(last), &last["status"]), (nameless(&whole), &whole["status"]));
        assert_eq!(last["usage"]["output_tokens"], whole["usage"]["output_tokens"]);
        assert_eq!(events[0]["response"]["id"], last["id"]);
        for item in last["output"].as_array().unwrap() {
            let kind = ["reasoning", "message", "function_call"].iter().position(|kind| item["type"] == *kind).unwrap();
            kinds[kind] += 1;
        }
    }
    assert!(kinds.iter().all(|n| *n > 0), "{kinds:?}: the seeds show nothing");
}

#[test]
fn an_answer_says_what_the_chat_says() {
    let server = Running::new();
    let (mut thoughts, mut seen) = (0, 0);
    for seed in 0..8 {
        let own = body(seed);
        let whole = post(server.address, PATH, &own).json();
        let chat = json!({
            "messages": [{"role": "user", "content": own["input"]}], "max_tokens": 60, "seed": seed,
            "logit_bias": own["logit_bias"], "tools": [{"type": "function", "function": {"name": "tool"}}],
        });
        let chat = post(server.address, "/v1/chat/completions", &chat).json();
        let message = &chat["choices"][0]["message"];
        let of = |kind: &str| whole["output"].as_array().unwrap().iter().find(|item| item["type"] == kind);
        let text = |item: Option<&Value>| item.map_or(Value::Null, |item| item["content"][0]["text"].clone());
        let or_null = |value: &Value| if value == "" { Value::Null } else { value.clone() };
        assert_eq!(text(of("reasoning")), message["reasoning_content"]);
        assert_eq!(text(of("message")), or_null(&message["content"]));
        let call = of("function_call").map_or(&Value::Null, |item| &item["arguments"]);
        assert_eq!(call, &message["tool_calls"][0]["function"]["arguments"]);
        let usage = &whole["usage"];
        assert_eq!(usage["output_tokens"], chat["usage"]["completion_tokens"]);
        let reasoning = usage["output_tokens_details"]["reasoning_tokens"].as_u64().unwrap();
        assert!(reasoning <= usage["output_tokens"].as_u64().unwrap());
        assert_eq!(reasoning > 0, of("reasoning").is_some());
        thoughts += reasoning;
        seen += usage["input_tokens_details"]["cached_tokens"].as_u64().unwrap();
    }
    // A prompt of less than a page is not kept.
    assert!(thoughts > 0, "{thoughts} {seen}");
}

#[test]
fn answers_tell_their_request_and_cached_tokens() {
    let server = Running::new();
    let body = json!({
        "input": "[1, 2], ".repeat(60), "max_output_tokens": 2, "temperature": 0, "instructions": "[", "metadata": {"a": "b"},
        "tools": [{"type": "function", "name": "tool", "parameters": {}}], "tool_choice": "none",
    });
    let first = post(server.address, PATH, &body).json();
    assert_eq!(first["usage"]["input_tokens_details"]["cached_tokens"], 0);
    let second = post(server.address, PATH, &body).json();
    assert!(second["usage"]["input_tokens_details"]["cached_tokens"].as_u64().unwrap() >= 128);
    for (name, value) in [
        ("object", json!("response")),
        ("status", json!("incomplete")),
        ("model", json!("tiny")),
        ("instructions", json!("[")),
        ("max_output_tokens", json!(2)),
        ("temperature", json!(0)),
        ("top_p", json!(1.0)),
        ("metadata", json!({"a": "b"})),
        ("tool_choice", json!("none")),
        ("store", json!(false)),
        ("previous_response_id", Value::Null),
        ("text", json!({"format": {"type": "text"}})),
    ] {
        assert_eq!(second[name], value, "{name}");
    }
    assert_eq!(second["tools"][0]["strict"], Value::Null);
}

#[test]
fn a_schema_is_kept_to() {
    let server = Running::new();
    let schema =
        json!({"type": "object", "properties": {"n": {"enum": [0]}}, "required": ["n"], "additionalProperties": false});
    let mut complete = 0;
    for seed in 0..6 {
        let body = json!({
            "input": "[", "seed": seed, "max_output_tokens": 200, "logit_bias": {END.1: 4},
            "text": {"format": {"type": "json_schema", "name": "n", "schema": schema}},
        });
        let answer = post(server.address, PATH, &body).json();
        if answer["status"] == "completed" {
            complete += 1;
            let item = answer["output"].as_array().unwrap().last().unwrap();
            let text = item["content"][0]["text"].as_str().unwrap();
            assert_eq!(serde_json::from_str::<Value>(text).unwrap(), json!({"n": 0}));
        }
    }
    assert!(complete > 0, "the seeds show nothing");
}

#[test]
fn mistakes_are_named_as_the_client_knows_them() {
    let server = Running::new();
    let long = post(server.address, PATH, &json!({"input": "[1, 2], ".repeat(9000)}));
    assert_eq!(long.error(), (400, json!("input"), json!("invalid_prompt")));
    let unknown = post(server.address, PATH, &json!({"input": "a", "beams": 3}));
    assert_eq!(unknown.error(), (400, json!("beams"), json!("unknown_field")));
    let kept = get(server.address, "/v1/responses/resp_1");
    assert_eq!(kept.error(), (404, Value::Null, json!("not_kept")));
    let other = post(server.address, PATH, &json!({"input": "a", "model": "gpt"}));
    assert_eq!(other.error(), (404, json!("model"), json!("model_not_found")));
}
