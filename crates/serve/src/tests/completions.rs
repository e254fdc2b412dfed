//! Completions: what they say, in each form of prompt and answer.

use super::client::{Reply, post};
use super::{Running, loaded, options};
use hadal_infer::{Engine, Score, score};
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn complete(server: &Running, body: &Value) -> Value {
    let reply = post(server.address, "/v1/completions", body);
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()
}

/// The choices and the usage of a whole answer, put together from a stream.
fn together(reply: &Reply) -> (Vec<Value>, Value) {
    let mut choices: BTreeMap<u64, Value> = BTreeMap::new();
    let events = reply.events();
    let (last, events) = events.split_last().unwrap();
    for event in events {
        assert_eq!(event["usage"], Value::Null);
        let part = &event["choices"][0];
        let whole = choices.entry(part["index"].as_u64().unwrap()).or_insert_with(|| {
            let mut start = part.clone();
            start["text"] = "".into();
            if let Some(lists) = start["logprobs"].as_object_mut() {
                lists.values_mut().for_each(|list| *list = json!([]));
            }
            start
        });
        whole["text"] = (whole["text"].as_str().unwrap().to_owned() + part["text"].as_str().unwrap()).into();
        if let Some(lists) = whole["logprobs"].as_object_mut() {
            for (name, list) in lists {
                list.as_array_mut().unwrap().extend(part["logprobs"][name].as_array().unwrap().clone());
            }
        }
        for name in ["finish_reason", "stop_reason"] {
            whole[name] = part[name].clone();
        }
    }
    assert_eq!(last["choices"], json!([]));
    (choices.into_values().collect(), last["usage"].clone())
}

#[test]
fn a_stream_says_what_the_whole_says() {
    let server = Running::new();
    for more in [
        json!({"temperature": 0}),
        json!({"seed": 7, "n": 3, "echo": true, "logprobs": 2}),
        json!({"seed": 8, "logprobs": 0, "stop": ["1", "\"", "é"], "min_p": 0.01, "presence_penalty": 0.5}),
        json!({"seed": 9, "n": 2, "echo": true, "skip_special_tokens": false, "logit_bias": {"1": 6}, "logprobs": 1}),
    ] {
        let mut body = json!({"prompt": ["{\"name\": \"é", "[1, 2", "x"], "max_tokens": 40});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let whole = complete(&server, &body);
        body["stream"] = true.into();
        body["stream_options"] = json!({"include_usage": true});
        let (choices, usage) = together(&post(server.address, "/v1/completions", &body));
        assert_eq!(Value::from(choices), whole["choices"], "{body}");
        for name in ["prompt_tokens", "completion_tokens", "total_tokens"] {
            assert_eq!(usage[name], whole["usage"][name]);
        }
        // The second time, all whole pages of the prompts were there. These are shorter.
        assert!(whole["usage"]["prompt_tokens"].as_u64().unwrap() > 10);
    }
}

#[test]
fn clients_at_once_get_what_each_gets_alone() {
    let server = Running::new();
    let body = |i: u64| json!({"prompt": format!("{{\"born\": {}", i * 37), "max_tokens": 30 + i, "seed": i, "logprobs": 1, "echo": i.is_multiple_of(2)});
    let alone: Vec<Value> = (0..12).map(|i| complete(&Running::new(), &body(i))["choices"].clone()).collect();
    let together: Vec<Value> = std::thread::scope(|scope| {
        let server = &server;
        let clients: Vec<_> =
            (0..12).map(|i| scope.spawn(move || complete(server, &body(i))["choices"].clone())).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    assert_eq!(together, alone);
}

#[test]
fn a_prompt_of_tokens_is_that_of_its_text() {
    let server = Running::new();
    let texts = ["{\"name\": ", "[[1, 2], []] é"];
    let ids = texts.map(|text| {
        let reply = post(server.address, "/tokenize", &json!({"prompt": text, "return_token_strs": true})).json();
        assert_eq!(reply["count"].as_u64().unwrap() as usize, reply["tokens"].as_array().unwrap().len());
        assert_eq!(reply["token_strs"][0], "<|bos_token|>");
        let back = post(server.address, "/detokenize", &json!({"tokens": reply["tokens"]})).json();
        assert_eq!(back["prompt"], format!("<|bos_token|>{text}"));
        reply["tokens"].clone()
    });
    let choices = |prompt: Value| {
        complete(&server, &json!({"prompt": prompt, "temperature": 0, "max_tokens": 12}))["choices"].clone()
    };
    let both = choices(json!(texts));
    assert_eq!(choices(json!(ids)), both);
    for i in 0..2 {
        let one = choices(json!(texts[i]));
        assert_eq!(one[0]["text"], both[i]["text"]);
        assert_eq!(choices(ids[i].clone()), one);
    }
    // An echo is the prompt as it was given.
    let echo = complete(&server, &json!({"prompt": texts, "echo": true, "max_tokens": 0, "logprobs": 0}));
    for i in 0..2 {
        assert_eq!(echo["choices"][i]["text"], texts[i]);
        let lists = &echo["choices"][i]["logprobs"];
        assert_eq!(lists["tokens"].as_array().unwrap().len(), ids[i].as_array().unwrap().len());
        assert_eq!((&lists["token_logprobs"][0], &lists["top_logprobs"][0]), (&Value::Null, &Value::Null));
    }
}

/// lm-eval 0.4.13 asks so (`local-completions`), and takes the log-probabilities between the context and the last token.
#[test]
fn what_lm_eval_asks_gives_the_log_probabilities_of_score() {
    let (server, own) = (Running::new(), loaded());
    let texts: Vec<Vec<u32>> = (0..4u32).map(|s| (0..40 + s).map(|i| (i * 31 + s * 7) % 310).collect()).collect();
    let end = own.stop_tokens()[0];
    for bias in [0.0, 100.0] {
        // With the bias, the new token is the one that ends texts. It must be there all the same.
        let body = json!({
            "model": "tiny", "prompt": texts, "max_tokens": 1, "logprobs": 1, "echo": true, "seed": 1234, "temperature": 0,
            "logit_bias": {end.to_string(): bias},
        });
        let answer = complete(&server, &body);
        for (i, ids) in texts.iter().enumerate() {
            let choice = &answer["choices"][i];
            let list = |name: &str| choice["logprobs"][name].as_array().unwrap();
            assert_eq!(choice["index"], i);
            assert_eq!(choice["finish_reason"], if bias > 0.0 { "stop" } else { "length" });
            assert_eq!((list("token_logprobs").len(), list("top_logprobs").len()), (ids.len() + 1, ids.len() + 1));
            let mut engine = Engine::new(&own.cx, &own.model, options().engine);
            let scores = score(&own.cx, &own.model, &mut engine, ids, Score { from: 1, top: 1 }).unwrap();
            for (at, score) in (1..).zip(&scores) {
                // This reader of JSON may miss the last bit of an f64.
                let f32 = |value: &Value| value.as_f64().unwrap() as f32;
                assert_eq!(f32(&list("token_logprobs")[at]), score.logprob);
                let tops = list("top_logprobs")[at].as_object().unwrap();
                let most = tops.values().map(f32).fold(f32::NEG_INFINITY, f32::max);
                assert_eq!(most, score.top[0].logprob);
            }
        }
    }
}

#[test]
fn a_suffix_asks_for_what_is_between() {
    let (server, own) = (Running::new(), loaded());
    let ids = own.fim_prompt("{\"name\": ", "\"}").unwrap();
    let ask = |body: Value| complete(&server, &body)["choices"].clone();
    let gap = ask(json!({"prompt": "{\"name\": ", "suffix": "\"}", "temperature": 0}));
    assert_eq!(gap, ask(json!({"prompt": ids, "temperature": 0})));
}

#[test]
fn answers_have_the_form_that_is_asked_for() {
    let server = Running::new();
    let schema = json!({
        "type": "object", "additionalProperties": false, "required": ["name"],
        "properties": {"name": {"type": "string", "maxLength": 6}}, "x-guidance": {"whitespace_flexible": false},
    });
    for form in [
        json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}),
        json!({"guided_json": schema}),
        json!({"structured_outputs": {"json": schema}}),
    ] {
        let mut body = json!({"prompt": "x", "seed": 3, "max_tokens": 60});
        body.as_object_mut().unwrap().extend(form.as_object().unwrap().clone());
        let choice = complete(&server, &body)["choices"][0].clone();
        let value: Value = serde_json::from_str(choice["text"].as_str().unwrap()).unwrap();
        assert!(value["name"].is_string() && choice["finish_reason"] == "stop", "{choice}");
    }
    let choice = complete(&server, &json!({"prompt": "x", "n": 8, "seed": 1, "guided_choice": ["a.b", "c"]}));
    assert!(choice["choices"].as_array().unwrap().iter().all(|c| c["text"] == "a.b" || c["text"] == "c"), "{choice}");
    let stop = complete(&server, &json!({"prompt": "x", "guided_regex": "ab+cab*", "stop": ["ca"], "seed": 1}));
    assert_eq!(
        (&stop["choices"][0]["finish_reason"], &stop["choices"][0]["stop_reason"]),
        (&json!("stop"), &json!("ca"))
    );
}
