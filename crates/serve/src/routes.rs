//! Which path leads where, and what every request passes on its way: its key, the log, and the counters.

use crate::app::{App, Caller};
use crate::error::ApiError;
use crate::{anthropic, chat, completions, engine, health, models, page, responses, tokenize};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::HeaderValue;
use axum::http::{Method, Response, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::IntoResponse;
use axum::routing::{any, get, post};
use std::sync::Arc;
use std::time::Instant;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

/// All paths, as counters name them. Those without a key come first.
const PATHS: [&str; 15] = [
    "/health",
    "/ready",
    "/",
    "/assets",
    "/engine",
    "/metrics",
    "/v1/models",
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/messages",
    "/tokenize",
    "/detokenize",
    "/tokenizer_info",
    "/v1",
];
/// How many of them need no key.
const OPEN: usize = 4;

pub(crate) fn router(app: &Arc<App>, origins: Option<CorsLayer>) -> Router {
    let router = Router::new()
        .route("/", get(page::index))
        .route("/assets/{name}", get(page::asset))
        .route("/engine", get(engine::figures))
        .route("/engine/experts", get(engine::experts))
        .route("/health", get(health::health))
        .route("/ready", get(health::ready))
        .route("/metrics", get(health::metrics))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*name}", get(models::one))
        .route("/v1/completions", post(completions::complete))
        .route("/v1/chat/completions", post(chat::endpoint::chat))
        .route("/v1/responses", post(responses::respond))
        .route("/v1/responses/{*rest}", any(responses::kept))
        .route("/v1/messages", post(anthropic::messages))
        .route("/v1/messages/count_tokens", post(anthropic::count_tokens))
        .route("/tokenize", post(tokenize::tokenize))
        .route("/detokenize", post(tokenize::detokenize))
        .route("/tokenizer_info", get(tokenize::info))
        .fallback(unknown)
        .method_not_allowed_fallback(other_method)
        .layer(from_fn_with_state(Arc::clone(app), pass))
        .with_state(Arc::clone(app));
    match origins {
        Some(origins) => router.layer(origins),
        None => router,
    }
}

/// Lets pages of these origins call the server. `None` without any.
///
/// # Errors
/// The first one that is not an origin.
pub(crate) fn cors(origins: &[String]) -> Result<Option<CorsLayer>, String> {
    if origins.is_empty() {
        return Ok(None);
    }
    let allowed = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        let origins = origins.iter().map(|origin| header(origin).ok_or_else(|| origin.clone()));
        AllowOrigin::list(origins.collect::<Result<Vec<HeaderValue>, String>>()?)
    };
    // Clients of these APIs send headers of their own.
    let layer = CorsLayer::new().allow_origin(allowed).allow_methods([Method::GET, Method::POST]);
    Ok(Some(layer.allow_headers(AllowHeaders::mirror_request())))
}

/// An origin as browsers send it: scheme and host, without a path.
fn header(origin: &str) -> Option<HeaderValue> {
    let host = origin.split_once("://").map(|(_, host)| host)?;
    let is_host = !host.is_empty() && !host.contains(['/', '?', '#', ' ']);
    HeaderValue::from_str(origin).ok().filter(|_| is_host)
}

/// Checks the key, and notes what was answered.
async fn pass(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response<axum::body::Body> {
    let (start, method) = (Instant::now(), request.method().clone());
    let own = request.uri().path();
    let place =
        PATHS.iter().position(|path| own == *path || own.strip_prefix(path).is_some_and(|p| p.starts_with('/')));
    let path = place.map_or("other", |place| PATHS[place]);
    let keys = app.options.keys.as_ref().filter(|_| place.is_none_or(|place| place >= OPEN));
    let key = keys.map(|keys| keys.find(request.headers())).transpose();
    let mut name = None;
    let response = match key {
        Ok(key) => {
            name = key.as_ref().map(|key| key.name.clone());
            request.extensions_mut().insert(Caller(key));
            next.run(request).await
        }
        Err(error) => error.into_response(),
    };
    let response = if path == anthropic::PATH { anthropic::shaped(response) } else { response };
    let status = response.status().as_u16();
    app.metrics.answered(path, status);
    let seconds = start.elapsed().as_secs_f64();
    if status < 400 {
        tracing::debug!(%method, path, status, seconds, key = name, "answer");
    } else {
        tracing::info!(%method, path, status, seconds, key = name, "answer");
    }
    response
}

async fn unknown(request: Request) -> ApiError {
    let message = format!("there is nothing at {}: see docs/serve.md for the paths", request.uri().path());
    ApiError::new(StatusCode::NOT_FOUND, "unknown_path", message)
}

async fn other_method(request: Request) -> ApiError {
    let (method, path) = (request.method(), request.uri().path());
    let message = format!("{path} cannot be asked with {method}: see docs/serve.md for the paths");
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", message)
}
