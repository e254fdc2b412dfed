//! `GET /health` (does it live?), `GET /ready` (can it take a request now?) and `GET /metrics` (for Prometheus).

use crate::app::App;
use crate::error::answer;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use axum::http::{Response, StatusCode};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

pub(crate) async fn health(State(app): State<Arc<App>>) -> Response<Body> {
    if app.worker.is_alive() {
        answer(StatusCode::OK, &json!({"status": "ok"}))
    } else {
        answer(StatusCode::SERVICE_UNAVAILABLE, &json!({"status": "the engine has ended"}))
    }
}

pub(crate) async fn ready(State(app): State<Arc<App>>) -> Response<Body> {
    let (load, free) = (app.metrics.load(), app.slots.available_permits());
    let status = match () {
        () if !app.worker.is_alive() => "the engine has ended",
        () if app.draining.load(Relaxed) => "shutting down",
        () if free == 0 => "full",
        () => "ready",
    };
    let code = if status == "ready" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let value = json!({"status": status, "running": load.running, "waiting": load.waiting, "free": free});
    let mut response = answer(code, &value);
    if code != StatusCode::OK {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(app.wait()));
    }
    response
}

pub(crate) async fn metrics(State(app): State<Arc<App>>) -> Response<Body> {
    let text = app.metrics.text(app.slots.available_permits(), app.draining.load(Relaxed));
    let mut response = Response::new(Body::from(text));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
