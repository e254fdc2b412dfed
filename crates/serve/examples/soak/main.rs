//! Many clients at once, some of them badly behaved, against a server in this process:
//! `soak [MODEL|tiny] [SECONDS] [CLIENTS]`.
//!
//! It checks that each answer is the one that its request has alone, that nothing but the intended refusals is refused,
//! that pages, places and memory come back, and that SIGTERM under load finishes what was accepted.

mod behaviour;
mod client;
mod numbers;
mod requests;
#[path = "../../src/tests/tiny.rs"]
mod tiny;

use behaviour::{Ended, proper, turn};
use client::{Reply, ask, chunks, head, send};
use hadal_infer::{EngineOptions, Loaded, Speculation};
use hadal_ops::{Cx, DType};
use hadal_serve::{ServeOptions, Server, Template, signals};
use hadal_weights::folder::model_folder;
use hadal_weights::precision::RunFormats;
use numbers::Numbers;
use requests::{Known, streamed};
use std::collections::BTreeMap;
use std::io::BufReader;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Requests whose answers are known.
const KNOWN: u64 = 40;
/// Rounds. After each, everything must have come back.
const ROUNDS: u32 = 4;
/// Memory that may be more after the last round than after the first, in KiB. A leak of a page or a request in each turn
/// would be more.
const MORE: usize = 48 << 10;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next().unwrap_or_else(|| "tiny".into());
    let mut number = |default| arguments.next().map_or(default, |text| text.parse().expect("a number"));
    let (seconds, clients) = (number(60), number(64));
    let folder = tempfile::tempdir().expect("a folder");
    let model = if model == "tiny" {
        tiny::write(folder.path());
        folder.path().to_owned()
    } else {
        PathBuf::from(model)
    };
    match soak(&model, Duration::from_secs(seconds), clients) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

fn soak(model: &Path, time: Duration, clients: u64) -> Result<(), String> {
    let server = start(model, clients as usize)?;
    let address = server.address();
    let (ready, listens) = std::sync::mpsc::channel();
    let served = std::thread::spawn(move || {
        server.wait(async move {
            let end = signals();
            let _ = ready.send(());
            end.await;
        })
    });
    listens.recv().map_err(|e| e.to_string())?;
    let known = Known::all(address, KNOWN)?;
    let places = figure(&metrics(address)?, "hadal_queue_free");
    let mut sizes = Vec::new();
    for round in 0..ROUNDS {
        let counts = load(address, &known, time / ROUNDS, clients, u64::from(round))?;
        settle(address, places)?;
        sizes.push(resident());
        println!("round {}: {counts:?}, {} MiB", round + 1, sizes.last().unwrap_or(&0) >> 10);
    }
    let (first, last) = (sizes[0], sizes[sizes.len() - 1]);
    if last > first + MORE {
        return Err(format!("memory grew from {first} to {last} KiB: {sizes:?}"));
    }
    terminate(address, &known[..known.len().min(clients as usize / 3)])?;
    served.join().map_err(|_| "the server panicked")?.map_err(|error| error.to_string())?;
    println!("SIGTERM under load: all that was accepted was finished");
    Ok(())
}

fn start(model: &Path, clients: usize) -> Result<Server, String> {
    let folder = model_folder(model).map_err(|e| e.to_string())?;
    let loaded =
        Loaded::open(&folder, None, RunFormats::default(), Cx::cpu(0, DType::Bf16)).map_err(|e| e.to_string())?;
    let template = Template::load(&folder, None, Arc::clone(&loaded.tokenizer)).map_err(|e| e.to_string())?;
    // Few pages and few places, so that sequences give way and clients are turned away.
    let engine =
        EngineOptions { cache_tokens: 4096, rows: 64, sequences: clients / 3 + 1, speculation: Speculation::Auto };
    let options = ServeOptions {
        engine,
        queue: clients,
        body_bytes: behaviour::BODY,
        timeout: Duration::from_secs(30),
        ..ServeOptions::default()
    };
    Server::start(loaded, Some(Box::new(template)), SocketAddr::from(([127, 0, 0, 1], 0)), options)
        .map_err(|e| e.to_string())
}

/// Lets clients do what they do for some time. How often each thing happened.
fn load(
    address: SocketAddr,
    known: &[Known],
    time: Duration,
    clients: u64,
    round: u64,
) -> Result<BTreeMap<Ended, usize>, String> {
    let end = Instant::now() + time;
    let run = |client: u64| {
        let mut numbers = Numbers(round << 32 | client);
        let mut counts: BTreeMap<Ended, usize> = BTreeMap::new();
        while Instant::now() < end {
            *counts.entry(turn(address, known, &mut numbers)?).or_default() += 1;
        }
        Ok::<_, String>(counts)
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..clients).map(|client| scope.spawn(move || run(client))).collect();
        let mut all: BTreeMap<Ended, usize> = BTreeMap::new();
        for thread in threads {
            for (ended, count) in thread.join().map_err(|_| "a client panicked")?? {
                *all.entry(ended).or_default() += count;
            }
        }
        Ok(all)
    })
}

fn metrics(address: SocketAddr) -> Result<String, String> {
    Ok(ask(address, "GET", "/metrics", b"").map_err(|e| e.to_string())?.body)
}

fn figure(metrics: &str, name: &str) -> f64 {
    let line = metrics.lines().find(|line| line.split(' ').next() == Some(name));
    line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).unwrap_or(f64::NAN)
}

/// Waits until nothing runs. Then all pages are free or in the prefix tree, and all places are free.
fn settle(address: SocketAddr, places: f64) -> Result<(), String> {
    let start = Instant::now();
    loop {
        let text = metrics(address)?;
        let pages = ["", "_free", "_prefix"].map(|name| figure(&text, &format!("hadal_cache_pages{name}")));
        let busy = figure(&text, "hadal_sequences_running") + figure(&text, "hadal_sequences_waiting");
        let missing = places - figure(&text, "hadal_queue_free");
        if busy == 0.0 && missing == 0.0 && pages[0] == pages[1] + pages[2] {
            return Ok(());
        }
        if start.elapsed() > Duration::from_mins(1) {
            return Err(format!("after a minute, {busy} sequences and {missing} places are taken; pages: {pages:?}"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Memory of this process, in KiB.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Ends the server while clients have answers on their way. All of them must get theirs.
fn terminate(address: SocketAddr, known: &[Known]) -> Result<(), String> {
    std::thread::scope(|scope| {
        let (accepted, heads) = std::sync::mpsc::channel();
        let clients: Vec<_> = known
            .iter()
            .map(|one| {
                let accepted = accepted.clone();
                scope.spawn(move || {
                    let mut body = one.body.clone();
                    body["stream"] = true.into();
                    let body = body.to_string();
                    let read = || -> std::io::Result<_> {
                        let mut reader = BufReader::new(send(address, "POST", one.path, body.len(), body.as_bytes())?);
                        let (status, _) = head(&mut reader)?;
                        let _ = accepted.send(status);
                        Ok(Reply { status, body: chunks(&mut reader)? })
                    };
                    let reply = read().map_err(|e| format!("an accepted request was not finished: {e}"))?;
                    one.check(&streamed(&reply)?.0)
                })
            })
            .collect();
        // Without senders that are left, waiting for a head ends.
        drop(accepted);
        for _ in known {
            let status = heads.recv().map_err(|e| e.to_string())?;
            if status != 200 {
                return Err(format!("status {status} before the end"));
            }
        }
        let id = std::process::id().to_string();
        let sent = Command::new("kill").args(["-TERM", &id]).status().map_err(|e| e.to_string())?;
        if !sent.success() {
            return Err("the signal was not sent".into());
        }
        // New requests are refused, or find nobody.
        let late = proper(address, &known[0], false);
        if !matches!(late, Ok(Ended::Refused | Ended::Right) | Err(_)) {
            return Err(format!("a request after the end: {late:?}"));
        }
        clients.into_iter().try_for_each(|client| client.join().map_err(|_| "a client panicked")?)
    })
}
