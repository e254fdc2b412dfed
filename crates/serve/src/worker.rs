//! The one thread that owns the engine. It takes commands between two steps, and tells each client of its own events.
//!
//! It never waits for a client. A client's channel holds some events. One that has not read them by then is cancelled. A
//! client that has gone is cancelled before the next step, so its pages are free at once.

use crate::metrics::Metrics;
use hadal_infer::{Engine, EngineOptions, Event, Loaded, Request, RequestError, RequestId, Usage};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};

/// An event of one of a client's prompts.
#[derive(Debug)]
pub(crate) struct Told {
    /// Number of the prompt in the client's request.
    pub(crate) prompt: usize,
    pub(crate) event: Event,
}

/// Why a client hears nothing more before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    #[error("the answer was not read fast enough, so it was stopped: read the stream as it comes")]
    Slow,
    #[error("the engine has ended: try again when the server is back")]
    Ended,
}

/// What a client asks of the engine.
pub(crate) struct Submission {
    /// The request's name in logs.
    pub(crate) name: String,
    /// The name of the client's key.
    pub(crate) key: Option<String>,
    /// One for each prompt.
    pub(crate) requests: Vec<Request>,
    /// Held until the engine is done with the request.
    pub(crate) held: Box<dyn std::any::Any + Send>,
}

enum Command {
    Submit(u64, Submission, mpsc::Sender<Told>, Arc<OnceLock<Broken>>, oneshot::Sender<Result<(), Refusal>>),
    Cancel(u64),
    Stop,
}

/// A prompt that the engine does not take.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) prompt: usize,
    pub(crate) error: RequestError,
}

/// The way to the engine's thread.
pub(crate) struct Worker {
    commands: Sender<Command>,
    /// Events of a sequence that wait for its client at most.
    backlog: usize,
    next: AtomicU64,
    alive: watch::Receiver<bool>,
}

/// A request on its way. Dropping it cancels it.
pub(crate) struct Job {
    number: u64,
    events: mpsc::Receiver<Told>,
    broken: Arc<OnceLock<Broken>>,
    commands: Sender<Command>,
}

impl Job {
    /// The next event. After the last one it is not called any more.
    pub(crate) async fn next(&mut self) -> Result<Told, Broken> {
        let told = self.events.recv().await;
        told.ok_or_else(|| self.broken.get().copied().unwrap_or(Broken::Ended))
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // The engine does nothing if the request has ended. Without an engine there is nothing to cancel.
        let _ = self.commands.send(Command::Cancel(self.number));
    }
}

impl Worker {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system has none.
    pub(crate) fn start(
        loaded: Arc<Loaded>,
        options: EngineOptions,
        backlog: usize,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<Self> {
        let (commands, inbox) = channel();
        let (alive_sender, alive) = watch::channel(true);
        std::thread::Builder::new().name("engine".into()).spawn(move || {
            let _guard = Alive(alive_sender);
            let engine = Engine::new(&loaded.cx, &loaded.model, options);
            engine.prepare(&loaded.cx, &loaded.model);
            metrics.set_load(engine.load());
            metrics.set_expert_loads(engine.expert_loads());
            Desk { loaded, engine, metrics, clients: HashMap::new(), prompts: HashMap::new() }.run(&inbox);
        })?;
        Ok(Self { commands, backlog, next: AtomicU64::new(0), alive })
    }

    /// Hands a request to the engine. Returns when the engine has taken it.
    pub(crate) async fn submit(&self, submission: Submission) -> Result<Result<Job, Refusal>, Broken> {
        let number = self.next.fetch_add(1, Relaxed);
        let (sender, events) = mpsc::channel(self.backlog * sequences(&submission.requests).max(1));
        let (answer, taken) = oneshot::channel();
        let job = Job { number, events, broken: Arc::default(), commands: self.commands.clone() };
        let command = Command::Submit(number, submission, sender, Arc::clone(&job.broken), answer);
        self.commands.send(command).map_err(|_| Broken::Ended)?;
        Ok(taken.await.map_err(|_| Broken::Ended)?.map(|()| job))
    }

    /// Whether the thread runs.
    pub(crate) fn is_alive(&self) -> bool {
        *self.alive.borrow()
    }

    /// Returns when the thread has ended.
    pub(crate) async fn ended(&self) {
        let mut alive = self.alive.clone();
        let _ = alive.wait_for(|alive| !alive).await;
    }

    /// Ends the thread after its step.
    pub(crate) fn stop(&self) {
        let _ = self.commands.send(Command::Stop);
    }
}

fn sequences(requests: &[Request]) -> usize {
    requests.iter().map(|request| request.samples.max(1)).sum()
}

/// Tells of the thread's end, also after a panic.
struct Alive(watch::Sender<bool>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.send_replace(false);
    }
}

/// A request that the engine has taken.
struct Client {
    name: String,
    key: Option<String>,
    ids: Vec<RequestId>,
    events: mpsc::Sender<Told>,
    broken: Arc<OnceLock<Broken>>,
    _held: Box<dyn std::any::Any + Send>,
    /// Sequences that have not ended.
    left: usize,
    accepted: Instant,
    first: Option<Duration>,
    /// When each sequence had its last token.
    last: HashMap<(usize, usize), Instant>,
    usage: Usage,
    is_gone: bool,
}

/// What the thread works with.
struct Desk {
    loaded: Arc<Loaded>,
    engine: Engine,
    metrics: Arc<Metrics>,
    clients: HashMap<u64, Client>,
    /// Client and prompt of each of the engine's requests.
    prompts: HashMap<RequestId, (u64, usize)>,
}

impl Desk {
    fn run(mut self, inbox: &Receiver<Command>) {
        loop {
            let first = if self.engine.is_idle() { inbox.recv().ok() } else { inbox.try_recv().ok() };
            if first.is_none() && self.engine.is_idle() {
                // Nobody can ask for anything any more.
                return;
            }
            let mut next = first;
            while let Some(command) = next {
                match command {
                    Command::Stop => return,
                    Command::Cancel(number) => self.end(number, "cancelled"),
                    Command::Submit(number, submission, events, broken, answer) => {
                        let taken = self.take(number, submission, events, broken);
                        // One that has gone meanwhile sends a cancellation.
                        let _ = answer.send(taken);
                    }
                }
                next = inbox.try_recv().ok();
            }
            self.step();
            self.metrics.set_load(self.engine.load());
        }
    }

    /// Gives a client's prompts to the engine, all or none.
    fn take(
        &mut self,
        number: u64,
        submission: Submission,
        events: mpsc::Sender<Told>,
        broken: Arc<OnceLock<Broken>>,
    ) -> Result<(), Refusal> {
        let Submission { name, key, requests, held } = submission;
        let mut ids = Vec::with_capacity(requests.len());
        for (prompt, request) in requests.iter().enumerate() {
            match self.engine.submit(&self.loaded.model, request) {
                Ok(id) => ids.push(id),
                Err(error) => {
                    ids.into_iter().for_each(|id| self.engine.cancel(id));
                    return Err(Refusal { prompt, error });
                }
            }
        }
        self.prompts.extend(ids.iter().enumerate().map(|(prompt, id)| (*id, (number, prompt))));
        let left = sequences(&requests);
        let client = Client {
            name,
            key,
            ids,
            events,
            broken,
            _held: held,
            left,
            accepted: Instant::now(),
            first: None,
            last: HashMap::new(),
            usage: Usage::default(),
            is_gone: false,
        };
        self.clients.insert(number, client);
        Ok(())
    }

    fn step(&mut self) {
        let Self { loaded, engine, metrics, clients, prompts } = self;
        let mut over = Vec::new();
        engine.step(&loaded.cx, &loaded.model, &mut |event| {
            let id = event.id();
            let Some((number, prompt)) = prompts.get(&id).copied() else { return };
            let Some(client) = clients.get_mut(&number) else { return };
            if client.hear(prompt, event, metrics) {
                over.push(number);
            }
        });
        for number in over {
            let how = match self.clients.get(&number) {
                Some(client) if client.left == 0 => "done",
                Some(client) if client.broken.get().is_some() => "slow",
                _ => "cancelled",
            };
            self.end(number, how);
        }
    }

    /// Forgets a client, and cancels what it still has in the engine.
    fn end(&mut self, number: u64, how: &'static str) {
        let Some(client) = self.clients.remove(&number) else { return };
        for id in &client.ids {
            self.prompts.remove(id);
            self.engine.cancel(*id);
        }
        let time = client.accepted.elapsed();
        match how {
            "done" => self.metrics.whole.add(time),
            "slow" => self.metrics.slow(),
            _ => self.metrics.cancelled(),
        }
        tracing::info!(
            request = client.name,
            key = client.key,
            outcome = how,
            prompt_tokens = client.usage.prompt,
            cached_tokens = client.usage.cached,
            new_tokens = client.usage.generated,
            first_token_seconds = client.first.map_or(0.0, |time| time.as_secs_f64()),
            seconds = time.as_secs_f64(),
            "request"
        );
    }
}

impl Client {
    /// Passes an event on. Returns whether the client is to be forgotten.
    fn hear(&mut self, prompt: usize, event: Event, metrics: &Metrics) -> bool {
        if self.is_gone {
            return false;
        }
        match &event {
            Event::Token { sample, .. } => self.count(prompt, *sample, metrics),
            Event::Finished { sample, usage, .. } => {
                metrics.ended(*sample, usage);
                if *sample == 0 {
                    self.usage.prompt += usage.prompt;
                    self.usage.cached += usage.cached;
                }
                self.usage.generated += usage.generated;
                self.left -= 1;
            }
            Event::Text { .. } | Event::Scored { .. } => {}
        }
        match self.events.try_send(Told { prompt, event }) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                let _ = self.broken.set(Broken::Slow);
                self.is_gone = true;
            }
            Err(mpsc::error::TrySendError::Closed(_)) => self.is_gone = true,
        }
        self.is_gone || self.left == 0
    }

    fn count(&mut self, prompt: usize, sample: usize, metrics: &Metrics) {
        let now = Instant::now();
        if self.first.is_none() {
            let time = now - self.accepted;
            self.first = Some(time);
            metrics.first_token.add(time);
        }
        if let Some(last) = self.last.insert((prompt, sample), now) {
            metrics.per_token.add(now - last);
        }
    }
}
