//! What a client may do: ask properly and check the answer, or go, be slow, or send nonsense.

use crate::client::{Reply, ask, chunk, connect, finish, head, send};
use crate::numbers::Numbers;
use crate::requests::{Known, streamed, whole};
use serde_json::{Value, json};
use std::io::{self, BufReader, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

/// Most bytes of a body that the server takes.
pub(crate) const BODY: usize = 1 << 18;

/// How a turn of a client ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ended {
    /// The answer was the one that the request has alone.
    Right,
    /// The server was full, or said that it is shutting down.
    Refused,
    /// The stream was too slow or took too long, as it should.
    Stopped,
    /// The client went.
    Gone,
    /// What was wrong was refused.
    Named,
    /// Health, readiness or metrics.
    Looked,
}

/// Does one thing.
pub(crate) fn turn(address: SocketAddr, known: &[Known], numbers: &mut Numbers) -> Result<Ended, String> {
    let one = &known[numbers.below(known.len())];
    let text = |e: io::Error| e.to_string();
    match numbers.below(100) {
        0..30 => proper(address, one, false),
        30..55 => proper(address, one, true),
        55..65 => leave(address, one, numbers).map_err(text),
        65..72 => slow(address, numbers),
        72..78 => broken_body(address, one, numbers).map_err(text),
        78..84 => refused(&ask(address, "POST", one.path, &nonsense(&one.body, numbers)).map_err(text)?),
        84..88 => large(address, one, numbers),
        88..92 => no_http(address, numbers).map_err(text),
        _ => {
            let path = ["/health", "/ready", "/metrics", "/v1/models", "/tokenizer_info"][numbers.below(5)];
            let reply = ask(address, "GET", path, b"").map_err(text)?;
            let fine = reply.status == 200 || (path == "/ready" && reply.status == 503);
            if fine { Ok(Ended::Looked) } else { Err(format!("{path}: {reply:?}")) }
        }
    }
}

/// Asks, and compares the answer with the one that the request has alone.
pub(crate) fn proper(address: SocketAddr, known: &Known, stream: bool) -> Result<Ended, String> {
    let mut body = known.body.clone();
    body["stream"] = stream.into();
    let reply = ask(address, "POST", known.path, body.to_string().as_bytes()).map_err(|e| format!("{body}: {e}"))?;
    if reply.status != 200 {
        return refused(&reply);
    }
    let (said, error) = if stream { streamed(&reply)? } else { (whole(&reply)?, None) };
    match error.as_deref() {
        None => known.check(&said).map(|()| Ended::Right),
        Some("timeout" | "slow_client") => Ok(Ended::Stopped),
        Some(code) => Err(format!("a stream ended with {code}: {body}")),
    }
}

/// Whether a refusal is one that may be.
fn refused(reply: &Reply) -> Result<Ended, String> {
    match (reply.status, reply.code().as_str()) {
        (429, _) | (503, "shutting_down") => Ok(Ended::Refused),
        (503, "timeout" | "slow_client") => Ok(Ended::Stopped),
        // Nonsense may make sense by chance.
        (200 | 400 | 404 | 408 | 413, _) => Ok(Ended::Named),
        _ => Err(format!("{reply:?}")),
    }
}

/// Goes in the middle: before the answer, or in it.
fn leave(address: SocketAddr, known: &Known, numbers: &mut Numbers) -> io::Result<Ended> {
    let mut body = known.body.clone();
    body["stream"] = (numbers.below(2) == 0).into();
    body["max_tokens"] = 200.into();
    let body = body.to_string();
    let mut reader = BufReader::new(send(address, "POST", known.path, body.len(), body.as_bytes())?);
    if numbers.below(3) > 0 && head(&mut reader)?.1 {
        for _ in 0..numbers.below(8) {
            if chunk(&mut reader)?.is_empty() {
                break;
            }
        }
    }
    Ok(Ended::Gone)
}

/// Asks for much, and reads little by little. In the end it goes, or reads the rest.
fn slow(address: SocketAddr, numbers: &mut Numbers) -> Result<Ended, String> {
    let body = json!({
        "prompt": "[slow] ", "max_tokens": 300, "n": 4, "ignore_eos": true, "logprobs": 20, "stream": true, "seed": 1,
    });
    let body = body.to_string();
    let mut read = || -> io::Result<Option<Reply>> {
        let mut stream = send(address, "POST", "/v1/completions", body.len(), body.as_bytes())?;
        let mut begin = vec![0; 1 << 10];
        stream.read_exact(&mut begin[..16])?;
        for _ in 0..numbers.below(20) {
            std::thread::sleep(Duration::from_millis(100));
            if stream.read(&mut begin)? == 0 {
                return Ok(None);
            }
        }
        if numbers.below(2) == 0 {
            return Ok(None);
        }
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest)?;
        Ok(Some(Reply { status: 200, body: String::from_utf8_lossy(&rest).into_owned() }))
    };
    match read().map_err(|e| e.to_string())? {
        Some(reply) if reply.body.contains("engine_ended") => Err(format!("{reply:?}")),
        Some(_) => Ok(Ended::Stopped),
        None => Ok(Ended::Gone),
    }
}

/// Sends a part of a body, and goes.
fn broken_body(address: SocketAddr, known: &Known, numbers: &mut Numbers) -> io::Result<Ended> {
    let body = known.body.to_string();
    let part = numbers.below(body.len());
    let stream = send(address, "POST", known.path, body.len(), &body.as_bytes()[..part])?;
    if numbers.below(2) == 0 {
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(stream);
    Ok(Ended::Gone)
}

/// A body with bytes changed, or with a field of another type.
fn nonsense(body: &Value, numbers: &mut Numbers) -> Vec<u8> {
    let mut body = body.clone();
    // It should not keep the server busy for long if it makes sense.
    body["max_tokens"] = 2.into();
    if numbers.below(2) == 0 {
        let fields: Vec<String> = body.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect();
        let field = &fields[numbers.below(fields.len())];
        body[field] =
            [json!(null), json!(-1), json!("x"), json!([[]]), json!({"a": 1}), json!(1e300)][numbers.below(6)].clone();
        return body.to_string().into_bytes();
    }
    let mut bytes = body.to_string().into_bytes();
    for _ in 0..=numbers.below(4) {
        let at = numbers.below(bytes.len());
        bytes[at] = numbers.below(256) as u8;
    }
    bytes
}

/// Sends a body that is too large, or says that it is.
fn large(address: SocketAddr, known: &Known, numbers: &mut Numbers) -> Result<Ended, String> {
    let said = BODY + 1 + numbers.below(1 << 30);
    let sent = vec![b' '; numbers.below(2 * BODY)];
    let stream = send(address, "POST", known.path, said, &sent).map_err(|e| e.to_string())?;
    match finish(BufReader::new(stream)) {
        Ok(reply) if [413, 429, 503].contains(&reply.status) => Ok(Ended::Named),
        Ok(reply) => Err(format!("a body of {said} bytes: {reply:?}")),
        // The answer is lost if the server closes while more of the body is on its way.
        Err(_) => Ok(Ended::Gone),
    }
}

/// Sends what is not HTTP.
fn no_http(address: SocketAddr, numbers: &mut Numbers) -> io::Result<Ended> {
    let mut stream = connect(address)?;
    let bytes: Vec<u8> = (0..numbers.below(3000)).map(|_| numbers.below(256) as u8).collect();
    let _ = stream.write_all(&bytes);
    let _ = stream.write_all(b"\r\n\r\n");
    if numbers.below(2) == 0 {
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    Ok(Ended::Gone)
}
