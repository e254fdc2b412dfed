//! Clients that go, send nonsense, or want too much.

use super::client::{begin, finish, get, post, read_until};
use super::{Running, loaded, options, soon};
use crate::ServeOptions;
use crate::metrics::Metrics;
use crate::worker::{Broken, Submission, Worker};
use hadal_infer::{EngineOptions, Event, Request};
use serde_json::{Value, json};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

/// A request that takes long.
fn long(stream: bool) -> Value {
    json!({"prompt": "[", "max_tokens": 1000, "n": 8, "ignore_eos": true, "seed": 1, "stream": stream})
}

fn start(server: &Running, body: &Value) -> TcpStream {
    begin(server.address, "POST", "/v1/completions", "", body.to_string().as_bytes())
}

#[test]
fn a_client_that_goes_gives_its_pages_back() {
    let server = Running::new();
    for stream in [true, false] {
        let mut client = start(&server, &long(stream));
        soon("it runs", || server.figure("hadal_sequences_running") == 8.0);
        if stream {
            read_until(&mut client, "data: ");
        }
        drop(client);
        soon("it is gone", || server.figure("hadal_sequences_running") == 0.0);
        let pages = ["", "_free", "_prefix"].map(|name| server.figure(&format!("hadal_cache_pages{name}")));
        assert_eq!(pages[0], pages[1] + pages[2]);
    }
    assert_eq!(server.figure("hadal_cancelled_total"), 2.0);
    assert_eq!(server.figure("hadal_queue_free"), 264.0);
    assert!(server.figure("hadal_generated_tokens_total") < 16.0 * 1000.0);
}

#[test]
fn a_full_server_turns_clients_away() {
    let engine = EngineOptions { sequences: 6, ..options().engine };
    let server = Running::start(ServeOptions { engine, queue: 2, ..options() });
    assert_eq!(get(server.address, "/ready").status, 200);
    let first = start(&server, &long(true));
    soon("it runs", || server.figure("hadal_sequences_running") == 6.0);
    let refused = post(server.address, "/v1/completions", &json!({"prompt": "x"}));
    assert_eq!((refused.status, refused.json()["error"]["type"].as_str()), (429, Some("rate_limit_error")));
    assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    let ready = get(server.address, "/ready");
    assert_eq!((ready.status, ready.json()["status"].as_str()), (503, Some("full")));
    assert_eq!(get(server.address, "/health").status, 200);
    drop(first);
    soon("there is room", || post(server.address, "/v1/completions", &json!({"prompt": "x"})).status == 200);
    let large = post(server.address, "/v1/completions", &json!({"prompt": "x", "n": 9}));
    assert_eq!(large.status, 400);
}

/// The same bias for tokens.
fn all(tokens: std::ops::Range<u32>, bias: i32) -> Value {
    tokens.map(|token| (token.to_string(), json!(bias))).collect::<serde_json::Map<_, _>>().into()
}

#[test]
fn mistakes_are_named() {
    let server = Running::new();
    for (body, param) in [
        (json!({}), "prompt"),
        (json!({"prompt": []}), "prompt"),
        (json!({"prompt": ["a", 1]}), "prompt"),
        (json!({"prompt": [1, "a"]}), "prompt"),
        (json!({"prompt": [[1], [400]]}), "prompt[1]"),
        (json!({"prompt": [-1]}), "prompt"),
        (json!({"prompt": [[]]}), "prompt"),
        (json!({"prompt": vec![7; 2560]}), "prompt"),
        (json!({"prompt": "x", "n": 0}), "n"),
        (json!({"prompt": "x", "best_of": 2}), "best_of"),
        (json!({"prompt": "x", "max_tokens": "many"}), "max_tokens"),
        (json!({"prompt": "x", "temperature": -1}), "temperature"),
        (json!({"prompt": "x", "logprobs": 21}), "logprobs"),
        (json!({"prompt": "x", "stop": ["a", ""]}), "stop"),
        (json!({"prompt": "x", "logit_bias": {"320": 1}}), "logit_bias.320"),
        (json!({"prompt": "x", "stream_options": {}}), "stream_options"),
        (json!({"prompt": "x", "stream": true, "stream_options": {"x": 1}}), "stream_options.x"),
        (json!({"prompt": "x", "beam_width": 4}), "beam_width"),
        (json!({"prompt": "x", "use_beam_search": true}), "use_beam_search"),
        (json!({"prompt": "x", "echo": true, "suffix": "y"}), "echo"),
        (json!({"prompt": [1], "suffix": "y"}), "suffix"),
        (json!({"prompt": "x", "response_format": {"type": "xml"}}), "response_format.type"),
        // Too much of something.
        (json!({"prompt": "x", "n": 129}), "n"),
        (json!({"prompt": "x", "temperature": 1e39}), "temperature"),
        (json!({"prompt": "x", "presence_penalty": 1e300}), "presence_penalty"),
        (json!({"prompt": "x", "stop": vec!["a"; 65]}), "stop"),
        (json!({"prompt": "x", "stop": "a".repeat(1025)}), "stop"),
        (json!({"prompt": "x", "stop_token_ids": vec![1; 1025]}), "stop_token_ids"),
        (json!({"prompt": "x", "logit_bias": all(0..1025, 1)}), "logit_bias"),
        (json!({"prompt": "x", "logit_bias": all(0..320, -100)}), "logit_bias"),
        (json!({"prompt": vec![7; 400], "n": 128, "echo": true, "logprobs": 20}), "logprobs"),
    ] {
        let reply = post(server.address, "/v1/completions", &body);
        assert_eq!((reply.error().0, &reply.error().1), (400, &json!(param)), "{body}: {reply:?}");
    }
    let grammar = post(server.address, "/v1/completions", &json!({"prompt": "x", "guided_regex": "("}));
    assert_eq!(grammar.error(), (400, Value::Null, json!("invalid_grammar")));
    let many = post(server.address, "/v1/completions", &json!({"prompt": vec!["x"; 265]}));
    assert_eq!(many.error(), (400, Value::Null, json!("too_many_sequences")));
    let number =
        finish(begin(server.address, "POST", "/v1/completions", "", br#"{"prompt": "x", "temperature": 1e999}"#));
    assert_eq!(number.error(), (400, Value::Null, json!("invalid_body")));
    // An error does not repeat much of what was sent.
    let long = "x".repeat(100_000);
    for body in [json!({"prompt": "x", "model": long}), json!({"prompt": "x", "logit_bias": {long.as_str(): 1}})] {
        assert!(post(server.address, "/v1/completions", &body).body.len() < 3000);
    }
    let model = post(server.address, "/v1/completions", &json!({"prompt": "x", "model": "gpt"}));
    assert_eq!(model.error(), (404, json!("model"), json!("model_not_found")));
    for body in ["", "{", "[1]", "\u{0}", "{\"prompt\": \"x\"", "{\"prompt\": \"\\ud800\"}"] {
        let reply = finish(begin(server.address, "POST", "/v1/completions", "", body.as_bytes()));
        assert_eq!(reply.error().0, 400, "{body:?}");
    }
    let deep = "[".repeat(100_000);
    assert_eq!(finish(begin(server.address, "POST", "/v1/completions", "", deep.as_bytes())).error().0, 400);
    for (method, path) in [("GET", "/v1/completions"), ("PUT", "/v1/completions"), ("POST", "/health")] {
        let reply = finish(begin(server.address, method, path, "", b""));
        assert_eq!(reply.error().0, 405);
        assert!(reply.body.contains(&format!("{path} cannot be asked with {method}")));
    }
    assert_eq!(get(server.address, "/v2").error().0, 404);
    // None of it went to the engine.
    assert_eq!(server.figure("hadal_passes_total"), 0.0);
    // Fields that change nothing may be there.
    let body = json!({"prompt": "x", "user": "u", "metadata": {}, "best_of": 1, "suffix": null, "length_penalty": 1.0});
    assert_eq!(post(server.address, "/v1/completions", &body).status, 200);
}

#[test]
fn large_bodies_are_refused() {
    let server = Running::start(ServeOptions { body_bytes: 1000, ..options() });
    let body = json!({"prompt": "x".repeat(2000)}).to_string();
    let refused = finish(begin(server.address, "POST", "/v1/completions", "", body.as_bytes()));
    assert_eq!((refused.status, refused.json()["error"]["code"].as_str()), (413, Some("body_too_large")));
}

#[test]
fn an_answer_that_takes_too_long_ends() {
    let server = Running::start(ServeOptions { timeout: Duration::from_millis(30), ..options() });
    let whole = finish(start(&server, &long(false)));
    assert_eq!(whole.error(), (503, Value::Null, json!("timeout")));
    assert_eq!(whole.header("x-should-retry"), Some("false"));
    let events = finish(start(&server, &long(true))).events();
    assert_eq!(events.last().unwrap()["error"]["code"], "timeout");
    soon("it is gone", || server.figure("hadal_sequences_running") == 0.0);
}

/// One client never reads. It is stopped, and the other one gets everything.
#[test]
fn a_client_that_does_not_read_disturbs_nobody() {
    let loaded = Arc::new(loaded());
    let metrics = Arc::<Metrics>::default();
    let worker = Worker::start(Arc::clone(&loaded), options().engine, 16, Arc::clone(&metrics)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let request = |max_new| Request { prompt: vec![1, 2, 3], max_new, ..Request::default() };
    let submission = |name: &str, max_new| Submission {
        name: name.into(),
        key: None,
        requests: vec![request(max_new)],
        held: Box::new(()),
    };
    runtime.block_on(async {
        let mut slow = worker.submit(submission("slow", 500)).await.unwrap().unwrap();
        let mut other = worker.submit(submission("other", 12)).await.unwrap().unwrap();
        let mut tokens = 0;
        while !matches!(other.next().await.unwrap().event, Event::Finished { .. }) {
            tokens += 1;
        }
        assert_eq!(tokens, 12);
        let mut heard = 0;
        // It reads late: there is what fitted, and then the reason.
        while metrics.load().running > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let end = loop {
            match slow.next().await {
                Ok(_) => heard += 1,
                Err(broken) => break broken,
            }
        };
        assert_eq!((heard, end), (16, Broken::Slow));
    });
    worker.stop();
}

#[test]
fn what_was_accepted_is_finished_at_the_end() {
    let mut server = Running::new();
    let body = json!({"prompt": "[", "max_tokens": 400, "ignore_eos": true, "seed": 1, "stream": true, "logprobs": 0});
    let mut client = start(&server, &body);
    read_until(&mut client, "\r\n\r\n");
    server.end();
    soon("it says so", || get(server.address, "/ready").status == 503);
    let refused = post(server.address, "/v1/completions", &json!({"prompt": "x"}));
    assert_eq!(refused.error(), (503, Value::Null, json!("shutting_down")));
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut client, &mut rest).unwrap();
    assert!(rest.contains("data: [DONE]") && rest.contains("\"finish_reason\":\"length\""), "{rest}");
    let tokens: usize = rest.matches("\"token_logprobs\":[-").count();
    assert!(tokens > 300, "{tokens}");
    server.join();
}
