//! `hadal serve` as a process: what it prints, and how it ends.

use crate::setup::{Tiny, fails};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Sends a completion, and returns the connection once the answer has begun.
fn ask(address: &str, body: &str) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_mins(2))).unwrap();
    let length = body.len();
    write!(
        stream,
        "POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut reader = BufReader::new(stream);
    let mut status = String::new();
    reader.read_line(&mut status).unwrap();
    assert!(status.contains("200"), "{status}");
    reader
}

fn terminate(child: &Child) {
    let status = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

#[test]
fn sigterm_finishes_what_was_accepted() {
    let tiny = Tiny::new();
    let mut child = Command::new(env!("CARGO_BIN_EXE_hadal"))
        .args([
            "serve",
            &tiny.path("model"),
            "--port",
            "0",
            "--threads",
            "1",
            "--cache-tokens",
            "4096",
            "--log",
            "json",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut said = Vec::new();
    let address = loop {
        let line = out.next().expect("the server listens");
        if let Some(url) = line.strip_prefix("listening on http://") {
            break url.trim_end_matches("/v1").to_owned();
        }
        said.push(line);
    };
    let said = said.join("\n");
    assert!(address.starts_with("127.0.0.1:") && said.starts_with("model: loaded in"), "{address} {said}");
    assert!(said.contains("weights") && said.contains("4,096 tokens"), "{said}");

    let body = r#"{"prompt": "fn secret(", "max_tokens": 600, "ignore_eos": true, "seed": 1, "n": 4, "stream": true}"#;
    let mut answer = ask(&address, body);
    terminate(&child);
    let mut rest = String::new();
    answer.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("data: [DONE]"), "{rest}");
    assert_eq!(rest.matches(r#""finish_reason":"length""#).count(), 4);
    assert!(child.wait().unwrap().success());

    let mut log = String::new();
    child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    let done = log.lines().find(|line| line.contains(r#""outcome":"done""#)).expect("a line for the request");
    let done: serde_json::Value = serde_json::from_str(done).unwrap();
    assert_eq!(done["new_tokens"], 2400);
    assert!(!log.contains("secret"), "{log}");
}

#[test]
fn what_is_wrong_is_said_before_the_model_is_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("keys");
    std::fs::write(&keys, "abc speed=3\n").unwrap();
    let error = fails(["serve", "nowhere", "--api-keys", keys.to_str().unwrap()]);
    assert!(error.contains("keys:1: `speed=3`"), "{error}");
}
