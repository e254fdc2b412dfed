//! What operators see and set.

use super::client::{begin, finish, get, post};
use super::{Running, loaded, options, soon};
use crate::{Keys, ServeOptions, Server};
use serde_json::json;

#[test]
fn the_model_is_listed() {
    let server = Running::new();
    let models = get(server.address, "/v1/models").json();
    assert_eq!((&models["data"][0]["id"], &models["data"][0]["max_model_len"]), (&json!("tiny"), &json!(2560)));
    assert_eq!(get(server.address, "/v1/models/tiny").json(), models["data"][0]);
    assert_eq!(get(server.address, "/v1/models/a/b").status, 404);
    let info = get(server.address, "/tokenizer_info").json();
    assert_eq!(info["eos_token"], "<|eos_token|>");
}

#[test]
fn counters_count() {
    let server = Running::new();
    for _ in 0..2 {
        post(
            server.address,
            "/v1/completions",
            &json!({"prompt": [1, 2, 3], "n": 2, "max_tokens": 5, "ignore_eos": true}),
        );
    }
    post(server.address, "/v1/completions", &json!({}));
    for (name, value) in [
        ("hadal_prompt_tokens_total", 6.0),
        ("hadal_generated_tokens_total", 20.0),
        ("hadal_time_to_first_token_seconds_count", 2.0),
        ("hadal_time_per_token_seconds_count", 16.0),
        ("hadal_request_seconds_count", 2.0),
        ("hadal_http_answers_total{path=\"/v1/completions\",status=\"200\"}", 2.0),
        ("hadal_http_answers_total{path=\"/v1/completions\",status=\"400\"}", 1.0),
        ("hadal_sequences_running", 0.0),
        ("hadal_cache_pages", 32.0),
    ] {
        // A request is counted just after its client has the answer.
        soon(name, || server.figure(name) == value);
    }
}

#[test]
fn only_keys_come_in() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    std::fs::write(&file, "# clients\nabc name=ada per_minute=2\n\nother concurrent=1\n").unwrap();
    let server = Running::start(ServeOptions { keys: Some(Keys::read(&file).unwrap()), ..options() });
    let ask = |key: &str, n: u32| {
        let body = json!({"prompt": "x", "max_tokens": 1, "n": n}).to_string();
        finish(begin(server.address, "POST", "/v1/completions", &format!("authorization: {key}\r\n"), body.as_bytes()))
    };
    assert_eq!(ask("Bearer abd", 1).error().0, 401);
    assert_eq!(get(server.address, "/v1/models").error().2, "invalid_api_key");
    assert_eq!(get(server.address, "/metrics").status, 401);
    assert_eq!((get(server.address, "/health").status, get(server.address, "/ready").status), (200, 200));
    let statuses: Vec<u16> = (0..3).map(|_| ask("Bearer abc", 1).status).collect();
    assert_eq!(statuses, [200, 200, 429]);
    assert!(ask("Bearer abc", 1).header("retry-after").is_some());
    assert_eq!((ask("Bearer other", 1).status, ask("Bearer other", 2).status), (200, 400));
    std::fs::write(&file, "abc\nabc\n").unwrap();
    assert!(Keys::read(&file).unwrap_err().to_string().contains("keys:2:"));
}

#[test]
fn pages_of_other_origins_come_in_if_told() {
    let ask = |server: &Running| {
        let head = "origin: https://example.org\r\naccess-control-request-method: POST\r\n";
        finish(begin(server.address, "OPTIONS", "/v1/completions", head, b""))
    };
    assert_eq!(ask(&Running::new()).header("access-control-allow-origin"), None);
    let from = |origin: &str| ServeOptions { origins: vec![origin.into()], ..options() };
    let server = Running::start(from("https://example.org"));
    assert_eq!(ask(&server).header("access-control-allow-origin"), Some("https://example.org"));
    for wrong in ["example.org", "https://example.org/", "https://", "https://a b"] {
        let started = Server::start(loaded(), None, "127.0.0.1:0".parse().unwrap(), from(wrong));
        assert!(started.is_err_and(|error| error.to_string().contains(wrong)), "{wrong}");
    }
}
