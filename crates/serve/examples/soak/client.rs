//! A client over plain sockets that may behave badly. It never panics: what went wrong is its result.

use serde_json::Value;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest time to wait for anything.
const PATIENCE: Duration = Duration::from_mins(3);

/// What came back.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Reply {
    /// The code of an error.
    pub(crate) fn code(&self) -> String {
        let body: Value = serde_json::from_str(&self.body).unwrap_or_default();
        body["error"]["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// Connects.
pub(crate) fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Sends a request. Its head gives `length` bytes for the body, whatever follows.
pub(crate) fn send(address: SocketAddr, method: &str, path: &str, length: usize, body: &[u8]) -> io::Result<TcpStream> {
    let mut stream = connect(address)?;
    let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    // A server may refuse a body before all of it has come, and close.
    let _ = stream.write_all(body);
    Ok(stream)
}

/// Sends a request and reads the answer.
pub(crate) fn ask(address: SocketAddr, method: &str, path: &str, body: &[u8]) -> io::Result<Reply> {
    finish(BufReader::new(send(address, method, path, body.len(), body)?))
}

/// Reads the status and the headers of an answer. Whether its body comes in chunks.
pub(crate) fn head(reader: &mut impl BufRead) -> io::Result<(u16, bool)> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| io::Error::other(format!("no status: {line:?}")))?;
    let mut chunked = false;
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        if line.trim_end().is_empty() {
            return Ok((status, chunked));
        }
        chunked |= line.eq_ignore_ascii_case("transfer-encoding: chunked\r\n");
    }
}

/// The next chunk of a body. Empty at its end.
pub(crate) fn chunk(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let size = usize::from_str_radix(line.trim(), 16).map_err(|_| io::Error::other(format!("no size: {line:?}")))?;
    let mut bytes = vec![0; size + 2];
    reader.read_exact(&mut bytes)?;
    bytes.truncate(size);
    Ok(bytes)
}

/// All chunks of a body.
pub(crate) fn chunks(reader: &mut impl BufRead) -> io::Result<String> {
    let mut body = Vec::new();
    loop {
        let more = chunk(reader)?;
        if more.is_empty() {
            return String::from_utf8(body).map_err(|_| io::Error::other("a body that is not UTF-8"));
        }
        body.extend(more);
    }
}

/// Reads an answer to its end.
pub(crate) fn finish(mut reader: impl BufRead) -> io::Result<Reply> {
    let (status, chunked) = head(&mut reader)?;
    if chunked {
        return Ok(Reply { status, body: chunks(&mut reader)? });
    }
    let mut body = String::new();
    reader.read_to_string(&mut body)?;
    Ok(Reply { status, body })
}
