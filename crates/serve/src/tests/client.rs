//! A small HTTP client over plain sockets, so that tests decide what is sent and when a connection ends.

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The events of a stream, which must end as it should.
    pub(crate) fn events(&self) -> Vec<Value> {
        assert_eq!(self.header("content-type"), Some("text/event-stream"), "{self:?}");
        let lines: Vec<&str> = self.body.split("\n\n").filter(|l| !l.is_empty() && !l.starts_with(':')).collect();
        let (last, lines) = lines.split_last().expect("events");
        assert_eq!(*last, "data: [DONE]");
        lines.iter().map(|line| serde_json::from_str(line.strip_prefix("data: ").unwrap()).unwrap()).collect()
    }

    /// The events of a stream that are named by their types.
    pub(crate) fn named_events(&self) -> Vec<Value> {
        assert_eq!(self.header("content-type"), Some("text/event-stream"), "{self:?}");
        let event = |text: &str| {
            let (name, data) = text.strip_prefix("event: ").unwrap().split_once("\ndata: ").unwrap();
            let value: Value = serde_json::from_str(data).unwrap();
            assert_eq!(value["type"], name);
            value
        };
        self.body.split("\n\n").filter(|text| !text.is_empty() && !text.starts_with(':')).map(event).collect()
    }

    /// Status, field and code of an error.
    pub(crate) fn error(&self) -> (u16, Value, Value) {
        let error = &self.json()["error"];
        assert!(error["message"].as_str().is_some_and(|m| !m.is_empty()), "{self:?}");
        (self.status, error["param"].clone(), error["code"].clone())
    }
}

/// Sends a request, and returns the connection.
pub(crate) fn begin(address: SocketAddr, method: &str, path: &str, headers: &str, body: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_mins(2))).unwrap();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}content-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    // A server may refuse a body before it has come.
    let _ = stream.write_all(body);
    stream
}

/// Reads an answer to its end.
pub(crate) fn finish(stream: TcpStream) -> Reply {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let status = line.split(' ').nth(1).unwrap_or_else(|| panic!("{line:?}")).parse().unwrap();
    let mut headers = Vec::new();
    loop {
        line.clear();
        reader.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.push((name.to_lowercase(), value.to_owned()));
    }
    let mut body = Vec::new();
    if headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked") {
        loop {
            line.clear();
            reader.read_line(&mut line).unwrap();
            let size = usize::from_str_radix(line.trim(), 16).unwrap();
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk).unwrap();
            if size == 0 {
                break;
            }
            body.extend_from_slice(&chunk[..size]);
        }
    } else {
        reader.read_to_end(&mut body).unwrap();
    }
    Reply { status, headers, body: String::from_utf8(body).unwrap() }
}

/// Reads until the connection has said `text`.
pub(crate) fn read_until(stream: &mut TcpStream, text: &str) {
    let mut said = Vec::new();
    let mut byte = [0];
    while !String::from_utf8_lossy(&said).contains(text) {
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&said));
        said.push(byte[0]);
    }
}

pub(crate) fn get(address: SocketAddr, path: &str) -> Reply {
    finish(begin(address, "GET", path, "", b""))
}

pub(crate) fn post(address: SocketAddr, path: &str, body: &Value) -> Reply {
    finish(begin(address, "POST", path, "content-type: application/json\r\n", body.to_string().as_bytes()))
}

/// The whole answer to a body, and the events of a stream of the same.
pub(crate) fn whole_and_events(address: SocketAddr, path: &str, body: &Value) -> (Value, Vec<Value>) {
    let whole = post(address, path, body);
    assert_eq!(whole.status, 200, "{whole:?}");
    let mut streamed = body.clone();
    streamed["stream"] = true.into();
    (whole.json(), post(address, path, &streamed).named_events())
}
