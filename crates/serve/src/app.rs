//! What all endpoints share: the model, the way to the engine, limits, and who may come in.

use crate::error::ApiError;
use crate::keys::{Key, Keys};
use crate::metrics::Metrics;
use crate::worker::{Broken, Job, Refusal, Submission, Worker};
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode};
use hadal_infer::{Constraint, EngineOptions, Grammar, Loaded, Request};
use hadal_ops::latent::{PAGE, pages_for};
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::Semaphore;

/// Grammars that are built at a time.
const BUILDERS: usize = 2;
/// Events of a sequence that wait for its client at most.
const BACKLOG: usize = 1024;
/// Time for a client to send a body.
const BODY_TIME: Duration = Duration::from_secs(30);

/// How a server behaves.
#[derive(Debug)]
pub struct ServeOptions {
    /// The name that clients know the model by.
    pub name: String,
    /// Limits of the engine.
    pub engine: EngineOptions,
    /// Sequences that may wait. With these and those that are worked on, the server is full.
    pub queue: usize,
    /// Largest body in bytes.
    pub body_bytes: usize,
    /// Longest time for an answer.
    pub timeout: Duration,
    /// Longest time to finish what was accepted, once the server is told to end.
    pub drain: Duration,
    /// Connections at a time.
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
    builders: Semaphore,
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
        let slots = Arc::new(Semaphore::new(options.engine.sequences + options.queue));
        let (draining, builders) = (AtomicBool::new(false), Semaphore::new(BUILDERS));
        let (created, started) = (unix_seconds(), Instant::now());
        // Names of requests differ between two starts.
        let requests = AtomicU64::new(created << 24);
        Ok(Self { loaded, chat, worker, metrics, options, slots, draining, created, started, builders, requests })
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
        self.options.engine.sequences + self.options.queue
    }

    /// A name for a request that no other one has.
    pub(crate) fn request_name(&self) -> String {
        format!("{:x}", self.requests.fetch_add(1, Relaxed))
    }

    /// Reads a body.
    pub(crate) async fn body(&self, headers: &HeaderMap, body: Body) -> Result<Bytes, ApiError> {
        let most = self.options.body_bytes;
        let large = || {
            let message = format!("the body has more than {most} bytes: shorten it");
            ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
        };
        let length = headers.get("content-length").and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if length.is_some_and(|length| length > most as u64) {
            return Err(large());
        }
        match tokio::time::timeout(BODY_TIME, axum::body::to_bytes(body, most)).await {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(_)) => {
                let message = format!("the body is broken off, or has more than {most} bytes: shorten it");
                Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message))
            }
            Err(_) => Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "slow_body", "the body came too slowly")),
        }
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

    /// Lets a request for so many sequences in. What it returns is held until they have ended.
    pub(crate) fn admit(&self, caller: &Caller, sequences: usize) -> Result<Box<dyn Any + Send>, ApiError> {
        if self.draining.load(Relaxed) {
            return Err(ApiError::draining());
        }
        let most = self.most();
        if sequences > most {
            let message = format!(
                "the request has {sequences} sequences, and the server takes {most} at most: send fewer prompts, or a smaller `n`"
            );
            return Err(ApiError::new(StatusCode::BAD_REQUEST, "too_many_sequences", message));
        }
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

    /// Builds a grammar. It begins after the tokens `after`.
    pub(crate) async fn constraint(&self, grammar: Grammar, after: &[u32]) -> Result<Constraint, ApiError> {
        let _turn = self.builders.acquire().await;
        let loaded = Arc::clone(&self.loaded);
        let built = tokio::task::spawn_blocking(move || loaded.constraint(&grammar)).await;
        let broken = || ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "broken", "the grammar could not be built");
        let constraint = built.map_err(|_| broken())?;
        let constraint = constraint.map_err(|error| ApiError::body(error.to_string()).with_code("invalid_grammar"))?;
        Ok(constraint.after(after))
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
            Ok(Err(Refusal { prompt, error })) => {
                let path = if several { format!("{param}[{prompt}]") } else { param.to_owned() };
                Err(ApiError::field(path, error.to_string()).with_code("invalid_prompt"))
            }
            Err(broken) => Err(stopped(broken)),
        }
    }
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
