//! A hub on this machine: enough of Hugging Face's answers to download from. Large files are elsewhere, as on the real one.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What a repository holds and how it answers.
#[derive(Clone, Default)]
pub(crate) struct Repository {
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// Who may read it, if not all.
    pub(crate) token: Option<String>,
    /// The answer to everything, if it is not to be found.
    pub(crate) status: Option<u16>,
    /// Files that end before their end.
    pub(crate) cut: Vec<String>,
}

/// Its address, and what it was asked.
pub(crate) struct Mock {
    pub(crate) endpoint: String,
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
}

pub(crate) const COMMIT: &str = "00112233445566778899aabbccddeeff00112233";

impl Mock {
    /// Serves `org/name` until the test ends.
    pub(crate) fn start(repository: Repository) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let (seen, own) = (asked.clone(), endpoint.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, repository, own) = (seen.clone(), repository.clone(), own.clone());
                std::thread::spawn(move || answer(stream, &repository, &own, &seen));
            }
        });
        Self { endpoint, asked }
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

fn answer(mut stream: TcpStream, repository: &Repository, endpoint: &str, asked: &Mutex<Vec<String>>) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    loop {
        let request = lines.next()?.ok()?;
        let mut headers = BTreeMap::new();
        for line in lines.by_ref() {
            let line = line.ok()?;
            let Some((name, value)) = line.split_once(':') else { break };
            headers.insert(name.to_lowercase(), value.trim().to_owned());
        }
        let path = request.split(' ').nth(1)?.to_owned();
        asked.lock().unwrap().push(path.clone());
        let (status, more, body) = respond(&path, &headers, repository, endpoint);
        let mut head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n", body.len());
        more.iter().for_each(|(name, value)| write!(head, "{name}: {value}\r\n").unwrap());
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(b"\r\n").ok()?;
        stream.write_all(&body).ok()?;
    }
}

type Response = (u16, Vec<(&'static str, String)>, Vec<u8>);

fn respond(path: &str, headers: &BTreeMap<String, String>, repository: &Repository, endpoint: &str) -> Response {
    let none = |status| (status, Vec::new(), Vec::new());
    let path = path.split('?').next().unwrap_or_default();
    let (elsewhere, file) = match path.strip_prefix("/cdn/") {
        Some(file) => (true, file),
        None => (false, path.rsplit('/').next().unwrap_or_default()),
    };
    let token = headers.get("authorization").and_then(|v| v.strip_prefix("Bearer "));
    if let Some(status) = repository.status {
        return none(status);
    }
    if !elsewhere && repository.token.is_some() && token != repository.token.as_deref() {
        return none(401);
    }
    if let Some(revision) = path.strip_prefix("/api/models/org/name/revision/") {
        if ![COMMIT, "main"].contains(&revision) {
            return none(404);
        }
        let sibling = |(name, bytes): (&String, &Vec<u8>)| {
            let cut = usize::from(repository.cut.contains(name));
            serde_json::json!({"rfilename": name, "size": bytes.len() + cut})
        };
        let siblings: Vec<_> = repository.files.iter().map(sibling).collect();
        return (200, Vec::new(), serde_json::json!({"sha": COMMIT, "siblings": siblings}).to_string().into_bytes());
    }
    let known = elsewhere || path == format!("/org/name/resolve/{COMMIT}/{file}");
    let Some(bytes) = repository.files.get(file).filter(|_| known) else { return none(404) };
    let etag = format!("\"{:x}\"", bytes.iter().fold(bytes.len() as u64, |h, b| h.wrapping_mul(31) + u64::from(*b)));
    let mut more = vec![("x-repo-commit", COMMIT.to_owned()), ("etag", etag.clone())];
    if !elsewhere && file.ends_with(".safetensors") {
        more.extend([("x-linked-etag", etag), ("location", format!("{endpoint}/cdn/{file}"))]);
        return (302, more, Vec::new());
    }
    let range = headers.get("range").and_then(|r| r.strip_prefix("bytes="));
    let (from, to) = range.and_then(|r| r.split_once('-')).unwrap_or(("0", ""));
    let from: usize = from.parse().unwrap_or(0);
    let to = to.parse::<usize>().map_or(bytes.len(), |to| (to + 1).min(bytes.len()));
    if from >= bytes.len() {
        return none(416);
    }
    more.push(("content-range", format!("bytes {from}-{}/{}", to - 1, bytes.len())));
    (206, more, bytes[from..to].to_vec())
}
