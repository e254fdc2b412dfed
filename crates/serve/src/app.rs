//! What all endpoints share: the model, the way to the engine, limits, and who may come in.

use crate::error::ApiError;
use crate::keys::{Key, Keys};
use crate::metrics::Metrics;
use crate::worker::{Broken, Job, Refusal, Submission, Worker};
use axum::body::Body;
use axum::http::header::CONTENT_LENGTH;
use axum::http::{HeaderMap, StatusCode};
use hadal_infer::{Constraint, EngineOptions, Grammar, Loaded, Request, RequestError};
use hadal_ops::latent::{PAGE, pages_for};
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

/// Grammars that are built at a time.
const BUILDERS: usize = 2;
/// Events of a sequence that wait for its client at most.
const BACKLOG: usize = 1024;
/// Time for a client to send a body.
const BODY_TIME: Duration = Duration::from_secs(30);
/// Bodies of the largest size that are in memory at a time.
const BODIES: usize = 32;
/// Bodies that are read as JSON at a time. That takes many times the memory of the body.
const READERS: usize = 4;

/// Most places for sequences and connections. More would not fit into what counts them.
pub(crate) const MOST: usize = 1_000_000;
const YEAR: Duration = Duration::from_hours(8760);
/// Bytes that are counted as one.
const UNIT: usize = 1024;

/// How a server behaves.
#[derive(Debug)]
pub struct ServeOptions {
    /// The name that clients know the model by.
    pub name: String,
    /// Limits of the engine.
    pub engine: EngineOptions,
    /// Sequences that may wait. With these and those that are worked on, a million at most, the server is full.
    pub queue: usize,
    /// Largest body in bytes.
    pub body_bytes: usize,
    /// Longest time for an answer, a year at most.
    pub timeout: Duration,
    /// Longest time to finish what was accepted, once the server is told to end.
    pub drain: Duration,
    /// Connections at a time, a million at most.
    pub connections: usize,
    /// Keys of clients. Without them, everybody may come.
    pub keys: Option<Keys>,
    /// Origins whose pages may call the server, or `*` for all.
    pub origins: Vec<String>,
    /// Whether prompts are written to the log.
    pub log_prompts: bool,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            name: "model".into(),
            engine: EngineOptions::default(),
            queue: 256,
            body_bytes: 8 << 20,
            timeout: Duration::from_mins(10),
            drain: Duration::from_mins(1),
            connections: 1024,
            keys: None,
            origins: Vec::new(),
            log_prompts: false,
        }
    }
}

/// The state of a server.
pub(crate) struct App {
    pub(crate) loaded: Arc<Loaded>,
    pub(crate) chat: Option<Box<dyn crate::chat::ChatFormat>>,
    pub(crate) worker: Worker,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) options: ServeOptions,
    /// Sequences that can be taken.
    pub(crate) slots: Arc<Semaphore>,
    pub(crate) draining: AtomicBool,
    pub(crate) created: u64,
    pub(crate) started: Instant,
    /// Memory for bodies, in units of [`UNIT`].
    bodies: Semaphore,
    readers: Semaphore,
    builders: Arc<Semaphore>,
    requests: AtomicU64,
}

/// The key of a request, put there when it came in.
#[derive(Clone)]
pub(crate) struct Caller(pub(crate) Option<Arc<Key>>);

impl App {
    pub(crate) fn new(
        loaded: Arc<Loaded>,
        chat: Option<Box<dyn crate::chat::ChatFormat>>,
        options: ServeOptions,
    ) -> std::io::Result<Self> {
        let metrics = Arc::<Metrics>::default();
        let worker = Worker::start(Arc::clone(&loaded), options.engine, BACKLOG, Arc::clone(&metrics))?;
        let options = ServeOptions { timeout: options.timeout.min(YEAR), ..options };
        let slots = Arc::new(Semaphore::new(most(&options)));
        let (draining, builders) = (AtomicBool::new(false), Arc::new(Semaphore::new(BUILDERS)));
        let bodies = Semaphore::new(BODIES * options.body_bytes.div_ceil(UNIT));
        let readers = Semaphore::new(READERS);
        let (created, started) = (unix_seconds(), Instant::now());
        // Names of requests differ between two starts.
        let requests = AtomicU64::new(created << 24);
        Ok(Self {
            loaded,
            chat,
            worker,
            metrics,
            options,
            slots,
            draining,
            created,
            started,
            bodies,
            readers,
            builders,
            requests,
        })
    }

    /// Tokens of prompt and continuation together, at most.
    pub(crate) fn longest(&self) -> usize {
        let cache = pages_for(self.options.engine.cache_tokens).max(1) * PAGE;
        self.loaded.model.config.max_position_embeddings.min(cache)
    }

    /// Refuses a request before its body is read, if there is no room for any.
    pub(crate) fn check_open(&self) -> Result<(), ApiError> {
        match self.slots.available_permits() {
            _ if self.draining.load(Relaxed) => Err(ApiError::draining()),
            0 => Err(self.full()),
            _ => Ok(()),
        }
    }

    fn full(&self) -> ApiError {
        ApiError::busy(self.wait(), "the server is full: try again later")
    }

    /// Sequences that the server has at most.
    pub(crate) fn most(&self) -> usize {
        most(&self.options)
    }

    /// A name for a request that no other one has.
    pub(crate) fn request_name(&self) -> String {
        format!("{:x}", self.requests.fetch_add(1, Relaxed))
    }

    /// Takes a body, and reads it with `read`. Large bodies wait for each other, so that they fit into memory together.
    pub(crate) async fn read<T>(
        &self,
        headers: &HeaderMap,
        body: Body,
        read: impl FnOnce(&[u8]) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let most = self.options.body_bytes;
        let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        let length = length.unwrap_or(most);
        let large = |how: &str| {
            let message = format!("the body {how} more than {most} bytes: shorten it");
            ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
        };
        if length > most {
            return Err(large("has"));
        }
        let deadline = Instant::now() + BODY_TIME;
        let room = self.bodies.acquire_many(u32::try_from(length.div_ceil(UNIT)).unwrap_or(u32::MAX));
        let busy = |_| ApiError::busy(self.wait(), "many large bodies come at the same time: try again later");
        let _room = timeout_at(deadline, room).await.map_err(busy)?;
        let slow = |_| ApiError::new(StatusCode::REQUEST_TIMEOUT, "slow_body", "the body came too slowly");
        let bytes = timeout_at(deadline, axum::body::to_bytes(body, most)).await.map_err(slow)?;
        let bytes = bytes.map_err(|_| large("is broken off, or has"))?;
        let _turn = self.readers.acquire().await;
        tokio::task::block_in_place(|| read(&bytes))
    }

    /// Refuses a model that is not this one.
    pub(crate) fn check_model(&self, model: Option<&str>) -> Result<(), ApiError> {
        let name = &self.options.name;
        match model {
            Some(model) if model != name => {
                let message = format!("there is no model `{model}` here: ask for `{name}`, or leave out `model`");
                let error = ApiError::field("model", message).with_code("model_not_found");
                Err(error.with_status(StatusCode::NOT_FOUND))
            }
            _ => Ok(()),
        }
    }

    /// Refuses more sequences than the server can have.
    pub(crate) fn check_count(&self, sequences: usize) -> Result<(), ApiError> {
        let most = self.most();
        if sequences <= most {
            return Ok(());
        }
        let message = format!(
            "the request has {sequences} sequences, and the server takes {most} at most: send fewer prompts, or a smaller `n`"
        );
        Err(ApiError::new(StatusCode::BAD_REQUEST, "too_many_sequences", message))
    }

    /// Lets a request for so many sequences in. What it returns is held until they have ended.
    pub(crate) fn admit(&self, caller: &Caller, sequences: usize) -> Result<Box<dyn Any + Send>, ApiError> {
        if self.draining.load(Relaxed) {
            return Err(ApiError::draining());
        }
        self.check_count(sequences)?;
        let sequences = sequences as u32;
        let slots = Arc::clone(&self.slots).try_acquire_many_owned(sequences);
        let slots = slots.map_err(|_| self.full())?;
        let key = caller.0.as_ref().map(|key| key.admit(sequences)).transpose()?;
        Ok(Box::new((slots, key)))
    }

    /// Seconds until there may be room, from the mean time of a request.
    pub(crate) fn wait(&self) -> u64 {
        self.metrics.whole.mean().map_or(1, |mean| mean.ceil() as u64).clamp(1, 60)
    }

    /// Builds a grammar.
    pub(crate) async fn constraint(&self, grammar: Grammar) -> Result<Constraint, ApiError> {
        let time = self.options.timeout;
        let turn = timeout(time, Arc::clone(&self.builders).acquire_owned()).await.map_err(|_| overdue(time))?;
        let loaded = Arc::clone(&self.loaded);
        let built = tokio::task::spawn_blocking(move || {
            // A client that goes does not end the building. So the building keeps its turn.
            let _turn = turn;
            loaded.constraint(&grammar)
        });
        let built = built.await;
        let broken = || ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "broken", "the grammar could not be built");
        let constraint = built.map_err(|_| broken())?;
        constraint.map_err(|error| ApiError::body(error.to_string()).with_code("invalid_grammar"))
    }

    /// Hands prompts to the engine. `param` is the field that they came from.
    pub(crate) async fn submit(
        &self,
        name: String,
        caller: &Caller,
        requests: Vec<Request>,
        held: Box<dyn Any + Send>,
        param: &str,
    ) -> Result<Job, ApiError> {
        let several = requests.len() > 1;
        let key = caller.0.as_ref().map(|key| key.name.clone());
        match self.worker.submit(Submission { name, key, requests, held }).await {
            Ok(Ok(job)) => Ok(job),
            Ok(Err(Refusal { error: error @ RequestError::NothingAllowed, .. })) => {
                Err(ApiError::field("logit_bias", error.to_string()))
            }
            Ok(Err(Refusal { prompt, error })) => {
                let path = if several { format!("{param}[{prompt}]") } else { param.to_owned() };
                Err(ApiError::field(path, error.to_string()).with_code("invalid_prompt"))
            }
            Err(broken) => Err(stopped(broken)),
        }
    }
}

fn most(options: &ServeOptions) -> usize {
    options.engine.sequences.max(1).saturating_add(options.queue).min(MOST)
}

/// An answer that was broken off.
pub(crate) fn stopped(broken: Broken) -> ApiError {
    let code = match broken {
        Broken::Slow => "slow_client",
        Broken::Ended => "engine_ended",
    };
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, code, broken.to_string())
}

/// An answer that took too long.
pub(crate) fn overdue(time: Duration) -> ApiError {
    let message = format!("the answer was not complete after {} s: ask for fewer tokens", time.as_secs());
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "timeout", message).for_good()
}

/// The time as OpenAI's API tells it.
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
