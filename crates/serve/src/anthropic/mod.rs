//! `POST /v1/messages` and `POST /v1/messages/count_tokens`: Anthropic's Messages API over the path of chats.
//!
//! [`request`] turns a body into that of a chat. [`answer`] tells what the model says in the API's own blocks and events.
//! [`shaped`] gives errors the API's own form.

mod answer;
mod request;

use crate::answer::respond;
use crate::app::{App, Caller};
use crate::chat::endpoint::Wanted;
use crate::error::{self, ApiError};
use crate::fields::Fields;
use answer::Answered;
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_LENGTH;
use axum::http::{HeaderMap, Response, StatusCode};
use serde_json::{Value, json};
use std::sync::Arc;

/// What all paths of the API begin with.
pub(crate) const PATH: &str = "/v1/messages";

pub(crate) async fn messages(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    app.check_open()?;
    let wanted = app
        .read(&headers, body, |body| {
            let (chat, limit) = request::read(Fields::of_body(body)?)?;
            limit.ok_or_else(|| ApiError::field("max_tokens", "`max_tokens` is missing: give the most new tokens"))?;
            Wanted::read(&app, chat)
        })
        .await?;
    let name = format!("msg_{}", app.request_name());
    let job = wanted.submit(&app, &caller, &name).await?;
    let answer = Answered::new(&app, name, &wanted);
    respond(app, job, answer, wanted.asked.stream).await
}

pub(crate) async fn count_tokens(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let read = |body: &[u8]| Wanted::read(&app, request::read(Fields::of_body(body)?)?.0);
    let wanted = app.read(&headers, body, read).await?;
    Ok(error::answer(StatusCode::OK, &json!({"input_tokens": wanted.ids.len()})))
}

/// An answer whose error, if it has one, is in the form of this API.
pub(crate) fn shaped(mut response: Response<Body>) -> Response<Body> {
    let Some(error) = response.extensions_mut().remove::<ApiError>() else { return response };
    response.headers_mut().remove(CONTENT_LENGTH);
    *response.body_mut() = Body::from(shape(&error).to_string());
    response
}

/// An error in the form of this API.
fn shape(error: &ApiError) -> Value {
    let kind = match error.status() {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::NOT_FOUND => "not_found_error",
        StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        StatusCode::SERVICE_UNAVAILABLE if error.is_passing() => "overloaded_error",
        status if status.is_server_error() => "api_error",
        _ => "invalid_request_error",
    };
    json!({"type": "error", "error": {"type": kind, "message": error.message()}})
}
