//! Bodies of requests at random: known ones with fields changed, taken away, doubled and put in, and with bytes changed.
//! `fuzz_bodies [SECONDS] [SEED]`. Each must be answered, and never with an error of the server's own.

#[path = "fuzz/changes.rs"]
mod changes;
#[path = "soak/client.rs"]
mod client;
#[path = "soak/numbers.rs"]
mod numbers;
#[path = "../src/tests/tiny.rs"]
mod tiny;

use changes::{change, change_bytes};
use client::ask;
use hadal_infer::{EngineOptions, Loaded, Speculation};
use hadal_ops::{Cx, DType};
use hadal_serve::{ServeOptions, Server, Template};
use hadal_weights::precision::RunFormats;
use numbers::Numbers;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A template with thoughts and calls, so that all of a chat's fields are read.
const TEMPLATE: &str = r#"{% for m in messages %}[{{ m.role }}]{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>
{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}</tool_call>{% endfor %}{% endfor %}
{% if tools %}{{ tools | tojson }}{% endif %}{{ '<think>' if thinking else '<think></think>' }}"#;
/// Longest time for an answer.
const LONGEST: Duration = Duration::from_mins(1);

fn seeds() -> Vec<(&'static str, Value)> {
    let schema = json!({"type": "object", "properties": {"a": {"type": "string", "maxLength": 3}}, "required": ["a"]});
    let tool = json!({"type": "function", "function": {"name": "find", "description": "Finds.", "parameters": schema}});
    let call = json!({"id": "1", "type": "function", "function": {"name": "find", "arguments": "{\"a\": \"b\"}"}});
    vec![
        (
            "/v1/completions",
            json!({
                "model": "tiny", "prompt": "[1, 2", "n": 2, "best_of": 2, "logprobs": 2, "echo": true, "stop": ["]", "é"],
                "temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "seed": 3, "presence_penalty": 0.1,
                "frequency_penalty": 0.1, "repetition_penalty": 1.1, "logit_bias": {"5": 1, "7": -100}, "stream": true,
                "stream_options": {"include_usage": true}, "stop_token_ids": [9], "ignore_eos": false, "user": "u",
            }),
        ),
        ("/v1/completions", json!({"prompt": [[1, 2], [3]], "guided_regex": "[a-c]{2}", "skip_special_tokens": false})),
        ("/v1/completions", json!({"prompt": "a", "suffix": "b", "structured_outputs": {"choice": ["a", "b"]}})),
        ("/v1/completions", json!({"prompt": "a", "guided_grammar": "start: \"a\" /b+/", "add_special_tokens": false})),
        (
            "/v1/chat/completions",
            json!({
                "messages": [
                    {"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "a"}]},
                    {"role": "assistant", "content": null, "tool_calls": [call]},
                    {"role": "tool", "tool_call_id": "1", "content": "r"},
                ],
                "tools": [tool], "tool_choice": "required", "parallel_tool_calls": false, "logprobs": true,
                "top_logprobs": 2, "chat_template_kwargs": {"thinking": false}, "max_completion_tokens": 20,
            }),
        ),
        (
            "/v1/chat/completions",
            json!({
                "messages": [{"role": "user", "content": "a"}],
                "response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": true, "schema": schema}},
            }),
        ),
        ("/tokenize", json!({"prompt": "[1, 2]", "add_special_tokens": true, "return_token_strs": true})),
        ("/tokenize", json!({"messages": [{"role": "user", "content": "a"}], "tools": [tool]})),
        ("/detokenize", json!({"tokens": [1, 2, 300, 400_000]})),
    ]
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|a| a.parse().expect("a number"));
    let time = Duration::from_secs(arguments.next().unwrap_or(60));
    let mut numbers = Numbers(arguments.next().unwrap_or(1));
    let folder = tempfile::tempdir().expect("a folder");
    tiny::write(folder.path());
    std::fs::write(folder.path().join("chat_template.jinja"), TEMPLATE).expect("a template");
    let loaded = Loaded::open(folder.path(), None, RunFormats::default(), Cx::cpu(1, DType::F32)).expect("a model");
    let template = Template::load(folder.path(), None, Arc::clone(&loaded.tokenizer)).expect("a template");
    let engine = EngineOptions { cache_tokens: 4096, rows: 64, sequences: 16, speculation: Speculation::Auto };
    let options =
        ServeOptions { name: "tiny".into(), engine, timeout: Duration::from_secs(5), ..ServeOptions::default() };
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let server = Server::start(loaded, Some(Box::new(template)), address, options).expect("a server");
    let address = server.address();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let served = std::thread::spawn(move || {
        server.wait(async {
            let _ = ended.await;
        })
    });
    let seeds = seeds();
    let (start, mut statuses, mut slowest) = (Instant::now(), BTreeMap::<u16, usize>::new(), Duration::ZERO);
    while start.elapsed() < time {
        let (path, body) = &seeds[numbers.below(seeds.len())];
        let bytes = changed(body, &seeds, &mut numbers);
        let began = Instant::now();
        let reply = ask(address, "POST", path, &bytes);
        let text = String::from_utf8_lossy(&bytes);
        let reply = reply.unwrap_or_else(|error| panic!("{path} {text}: {error}"));
        slowest = slowest.max(began.elapsed());
        let is_fine = [200, 400, 404, 413, 429].contains(&reply.status) || reply.code() == "timeout";
        assert!(is_fine, "{path} {text}: {reply:?}");
        assert!(slowest < LONGEST, "{path} {text} took {slowest:?}");
        *statuses.entry(reply.status).or_default() += 1;
    }
    drop(end);
    served.join().expect("no panic").expect("the engine lives");
    println!("{statuses:?}, the slowest took {slowest:?}");
}

/// A body with some things changed.
fn changed(body: &Value, seeds: &[(&str, Value)], numbers: &mut Numbers) -> Vec<u8> {
    let mut body = body.clone();
    for _ in 0..=numbers.below(3) {
        let other = &seeds[numbers.below(seeds.len())].1;
        change(&mut body, other, numbers);
    }
    // Most of those that make sense should be answered soon.
    if numbers.below(8) > 0
        && let Some(fields) = body.as_object_mut()
        && !fields.contains_key("tokens")
    {
        fields.insert("max_tokens".into(), numbers.below(6).into());
    }
    let mut bytes = body.to_string().into_bytes();
    if numbers.below(6) == 0 {
        change_bytes(&mut bytes, numbers);
    }
    bytes
}
