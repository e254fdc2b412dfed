//! From the engine's events to an HTTP answer: as a whole, or piece by piece as server-sent events.
//!
//! Both come from the same parts. A whole answer is its parts put together, so a stream says what the whole says.

use crate::app::{App, overdue, stopped};
use crate::error::{ApiError, answer};
use crate::worker::{Job, Told};
use axum::body::{Body, Bytes};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use axum::http::{Response, StatusCode};
use futures_util::stream;
use serde_json::Value;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// A stream that has nothing to say for so long sends a comment, so that nobody takes it for dead.
const QUIET: Duration = Duration::from_secs(15);

/// An answer that comes in parts.
pub(crate) trait Answer: Send + 'static {
    /// Whether each event of a stream is named by its `type`. If not, a mark follows the last one.
    const NAMED: bool = false;
    /// A part.
    type Part: Send;
    /// What comes before all events.
    fn begin(&mut self) -> Vec<Self::Part>;
    /// What an event adds.
    fn hear(&mut self, told: Told) -> Vec<Self::Part>;
    /// Whether all that was asked for is there.
    fn is_done(&self) -> bool;
    /// A part as an event of a stream.
    fn chunk(&self, part: Self::Part) -> Value;
    /// The last event of a stream, if its usage is wanted.
    fn usage_chunk(&self) -> Option<Value> {
        None
    }
    /// The last event of a stream that breaks off.
    fn broken(&mut self, error: &ApiError) -> Value {
        error.to_json()
    }
    /// Adds a part to the whole.
    fn keep(&mut self, part: Self::Part);
    /// The whole.
    fn whole(&mut self) -> Value;
}

/// Answers with what the engine tells of a job.
pub(crate) async fn respond<A: Answer>(
    app: Arc<App>,
    mut job: Job,
    mut answered: A,
    stream: bool,
) -> Result<Response<Body>, ApiError> {
    let deadline = Instant::now() + app.options.timeout;
    if stream {
        return Ok(streamed(&app, job, answered, deadline));
    }
    for part in answered.begin() {
        answered.keep(part);
    }
    while !answered.is_done() {
        let told = timeout_at(deadline, job.next()).await.map_err(|_| overdue(app.options.timeout))?;
        for part in answered.hear(told.map_err(stopped)?) {
            answered.keep(part);
        }
    }
    Ok(answer(StatusCode::OK, &answered.whole()))
}

/// A stream on its way.
struct Stream<A> {
    app: Arc<App>,
    job: Job,
    answer: A,
    deadline: Instant,
    ready: VecDeque<Value>,
    is_over: bool,
}

fn streamed<A: Answer>(app: &Arc<App>, job: Job, mut answer: A, deadline: Instant) -> Response<Body> {
    let ready = answer.begin().into_iter().map(|part| answer.chunk(part)).collect();
    let stream = Stream { app: Arc::clone(app), job, answer, deadline, ready, is_over: false };
    let body = Body::from_stream(stream::unfold(stream, |mut stream| async move {
        let bytes = stream.next().await?;
        Some((Ok::<_, Infallible>(bytes), stream))
    }));
    let mut response = Response::new(body);
    for (name, value) in [
        (CONTENT_TYPE, "text/event-stream"),
        (CACHE_CONTROL, "no-cache"),
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

impl<A: Answer> Stream<A> {
    /// The next bytes. `None` after the last ones.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(value) = self.ready.pop_front() {
                return Some(Bytes::from(event::<A>(&value)));
            }
            if self.is_over {
                return None;
            }
            if self.answer.is_done() {
                return Some(self.end(self.answer.usage_chunk()));
            }
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let error = self.answer.broken(&overdue(self.app.options.timeout));
                return Some(self.end(Some(error)));
            }
            match timeout(QUIET.min(left), self.job.next()).await {
                Ok(Ok(told)) => {
                    let parts = self.answer.hear(told);
                    self.ready.extend(parts.into_iter().map(|part| self.answer.chunk(part)));
                }
                Ok(Err(broken)) => {
                    let error = self.answer.broken(&stopped(broken));
                    return Some(self.end(Some(error)));
                }
                Err(_) => return Some(Bytes::from_static(b": waiting\n\n")),
            }
        }
    }

    /// The last bytes.
    fn end(&mut self, last: Option<Value>) -> Bytes {
        self.is_over = true;
        let last = last.map_or(String::new(), |value| event::<A>(&value));
        Bytes::from(if A::NAMED { last } else { last + "data: [DONE]\n\n" })
    }
}

/// An event as it is sent.
fn event<A: Answer>(value: &Value) -> String {
    match value["type"].as_str() {
        Some(name) if A::NAMED => format!("event: {name}\ndata: {value}\n\n"),
        _ => format!("data: {value}\n\n"),
    }
}
