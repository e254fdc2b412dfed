//! `POST /v1/chat/completions`: the next message of a conversation.

use super::said::Said;
use super::{Turn, messages};
use crate::answer::respond;
use crate::app::{App, Caller};
use crate::error::ApiError;
use crate::fields::Fields;
use crate::sampling::{self, Asked, MOST_LOGPROBS};
use crate::worker::Job;
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Response};
use hadal_infer::{Grammar, Request, TextOptions};
use std::sync::Arc;

pub(crate) async fn chat(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    app.check_open()?;
    let wanted = app.read(&headers, body, |body| Wanted::read(&app, Fields::of_body(body)?)).await?;
    let name = format!("chatcmpl-{}", app.request_name());
    let job = wanted.submit(&app, &caller, &name).await?;
    let Wanted { asked, logprobs, turn, .. } = wanted;
    let (stream, answer) = (asked.stream, Said::new(&app, name, &asked, logprobs.is_some(), &turn));
    respond(app, job, answer, stream).await
}

/// What was asked.
pub(crate) struct Wanted {
    pub(crate) ids: Vec<u32>,
    pub(crate) asked: Asked,
    logprobs: Option<usize>,
    pub(crate) turn: Turn,
}

impl Wanted {
    /// Takes all fields.
    pub(crate) fn read(app: &App, mut fields: Fields) -> Result<Self, ApiError> {
        app.check_model(fields.text("model")?.as_deref())?;
        let (ids, turn) = prompt(app, &mut fields)?;
        let wants = fields.flag("logprobs")?;
        let top = fields.whole("top_logprobs", 0..=MOST_LOGPROBS)?;
        if top.is_some() && !wants {
            return Err(fields.error("top_logprobs", "`top_logprobs` needs `logprobs`: true"));
        }
        let logprobs = wants.then(|| top.unwrap_or(0) as usize);
        let limit = sampling::take_limit(&mut fields, &["max_completion_tokens", "max_tokens"])?;
        let asked = Asked { max_new: limit, ..sampling::take(&mut fields, &app.loaded)? };
        fields.finish()?;
        Ok(Self { ids, asked, logprobs, turn })
    }

    /// Hands it to the engine under a name.
    pub(crate) async fn submit(&self, app: &App, caller: &Caller, name: &str) -> Result<Job, ApiError> {
        let Self { ids, asked, logprobs, turn } = self;
        let held = app.admit(caller, asked.samples)?;
        if app.options.log_prompts {
            tracing::info!(request = name, prompt = turn.prompt, "prompt");
        }
        // An answer that must be a call has no text that could have a form.
        let constraint = match turn.calls.clone().map(Grammar::Lark).or(asked.grammar.clone()) {
            Some(grammar) => {
                let form = app.constraint(grammar).await?;
                Some(turn.after_thoughts(form, &app.loaded.tokenizer))
            }
            None => None,
        };
        let request = Request {
            prompt: ids.clone(),
            params: asked.params,
            adjust: asked.adjust.clone(),
            samples: asked.samples,
            max_new: asked.max_new.unwrap_or_else(|| app.longest().saturating_sub(ids.len())),
            stop: asked.stop_tokens.clone(),
            logprobs: *logprobs,
            // Thoughts and calls of tools are between special tokens, and the parser must see them.
            text: Some(TextOptions {
                stop: asked.stop.clone(),
                include_stop: asked.include_stop,
                show_special: true,
                ..app.loaded.text()
            }),
            constraint,
            reuse: asked.reuse,
            ..Request::default()
        };
        app.submit(name.to_owned(), caller, vec![request], held, "messages").await
    }
}

/// Takes a conversation, and writes it as the model reads it.
pub(crate) fn prompt(app: &App, fields: &mut Fields) -> Result<(Vec<u32>, Turn), ApiError> {
    let chat = messages::take(fields)?;
    let format = app.chat.as_ref().ok_or_else(|| {
        ApiError::body("the model has no template for conversations: use /v1/completions").with_code("no_template")
    })?;
    let turn = format.write(&chat).map_err(|problem| ApiError::field("messages", problem))?;
    Ok((app.loaded.tokenizer.encode_with_special(&turn.prompt), turn))
}
