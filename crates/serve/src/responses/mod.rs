//! `POST /v1/responses`: OpenAI's Responses API over the path of chats. Nothing is kept: each request brings its whole
//! conversation.
//!
//! [`request`] turns a body into that of a chat. [`answer`] tells what the model says in the API's own events.

mod answer;
mod request;

use crate::answer::respond as send;
use crate::app::{App, Caller};
use crate::chat::endpoint::Wanted;
use crate::error::ApiError;
use crate::fields::Fields;
use answer::Answered;
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Response, StatusCode};
use std::sync::Arc;

pub(crate) async fn respond(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    app.check_open()?;
    let renamed = |error: ApiError| error.renamed("messages", "input");
    let (wanted, echo) = app
        .read(&headers, body, |body| {
            let (chat, echo) = request::read(Fields::of_body(body)?)?;
            Ok((Wanted::read(&app, chat).map_err(renamed)?, echo))
        })
        .await?;
    let number = app.request_name();
    let job = wanted.submit(&app, &caller, &format!("resp_{number}")).await.map_err(renamed)?;
    let answer = Answered::new(&app, number, &wanted, echo);
    send(app, job, answer, wanted.asked.stream).await
}

/// What asks for an answer of the past.
pub(crate) async fn kept() -> ApiError {
    let message = "answers are not kept here: keep what /v1/responses answers, and send it in `input` again";
    ApiError::new(StatusCode::NOT_FOUND, "not_kept", message)
}
