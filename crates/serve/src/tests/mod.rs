//! The server on loopback, with a small model of the whole architecture.

mod chats;
mod client;
mod completions;
mod faults;
mod messages;
mod operations;
mod page;
mod responses;
mod tiny;

use crate::chat::{Chat, ChatFormat, Delta, Parser, ToolChoice, Turn};
use crate::{ServeOptions, Server};
use client::get;
use hadal_infer::{EngineOptions, Loaded, Speculation};
use hadal_ops::{Cx, DType};
use hadal_weights::precision::RunFormats;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::oneshot;

/// A folder with the model and its tokenizer.
static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    tiny::write(folder.path());
    folder
});

fn loaded() -> Loaded {
    Loaded::open(FOLDER.path(), None, RunFormats::default(), Cx::cpu(1, DType::F32)).unwrap()
}

/// A server that ends when this is dropped.
struct Running {
    address: SocketAddr,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(options: ServeOptions) -> Self {
        let server = Server::start(loaded(), Some(Box::new(Halves)), "127.0.0.1:0".parse().unwrap(), options).unwrap();
        let address = server.address();
        let (end, ended) = oneshot::channel::<()>();
        let wait = move || {
            server.wait(async {
                let _ = ended.await;
            })
        };
        let thread = std::thread::spawn(move || wait().unwrap());
        Self { address, end: Some(end), thread: Some(thread) }
    }

    fn new() -> Self {
        Self::start(options())
    }

    /// Begins to end it.
    fn end(&mut self) {
        drop(self.end.take());
    }

    /// Waits for its end.
    fn join(&mut self) {
        self.end();
        self.thread.take().unwrap().join().unwrap();
    }

    /// A figure of its metrics.
    fn figure(&self, name: &str) -> f64 {
        let text = get(self.address, "/metrics").body;
        let line = text.lines().find(|line| line.split(' ').next() == Some(name));
        line.unwrap_or_else(|| panic!("{name} is not in {text}")).rsplit(' ').next().unwrap().parse().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }
}

/// Waits until something holds.
fn soon(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_mins(1), "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn options() -> ServeOptions {
    let engine = EngineOptions { cache_tokens: 4096, rows: 64, sequences: 8, speculation: Speculation::Auto };
    ServeOptions { name: "tiny".into(), engine, ..ServeOptions::default() }
}

/// The text that ends the thoughts in the tests' format, and its token.
const END: (&str, &str) = ("<|fim_end|>", "5");

/// The grammar of a call in the tests' format.
const CALL: &str = r#"start: "1" /[a-c]{2,4}/ "!""#;

/// A format for tests. The model thinks until [`END`]. If its answer has a `1`, the rest is the arguments of a call.
struct Halves;

impl ChatFormat for Halves {
    fn write(&self, chat: &Chat) -> Result<Turn, String> {
        let mut prompt = String::from("<|bos_token|>");
        for message in &chat.messages {
            prompt += message["content"].as_str().ok_or("a message has no content")?;
        }
        Ok(Turn {
            prompt,
            thinks_until: Some(END.0.into()),
            may_think: None,
            single_call: chat.single_call,
            calls: (chat.tool_choice != ToolChoice::Auto).then(|| CALL.into()),
            parser: Box::new(|| Box::new(Half::Thinks(String::new()))),
        })
    }
}

enum Half {
    Thinks(String),
    Answers,
    Calls,
}

impl Parser for Half {
    fn push(&mut self, text: &str) -> Vec<Delta> {
        let mut deltas = Vec::new();
        let mut text = text.to_owned();
        if let Self::Thinks(thoughts) = self {
            *thoughts += &text;
            let Some((before, after)) = thoughts.split_once(END.0) else { return deltas };
            deltas.push(Delta::Reasoning(before.into()));
            text = after.into();
            *self = Self::Answers;
        }
        for c in text.chars() {
            let delta = match (&self, c) {
                (Self::Calls, c) => Delta::Arguments { index: 0, text: c.into() },
                (_, '1') => {
                    *self = Self::Calls;
                    Delta::Call { index: 0, id: None, name: "tool".into() }
                }
                (_, c) => Delta::Content(c.into()),
            };
            deltas.push(delta);
        }
        deltas
    }

    fn finish(&mut self) -> Vec<Delta> {
        match self {
            Self::Thinks(thoughts) => vec![Delta::Reasoning(std::mem::take(thoughts))],
            _ => Vec::new(),
        }
    }
}
