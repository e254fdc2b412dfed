//! `POST /tokenize`, `POST /detokenize` and `GET /tokenizer_info`: the model's tokenizer, with vLLM's names of fields.

use crate::app::App;
use crate::chat;
use crate::error::{ApiError, answer};
use crate::fields::Fields;
use crate::sampling::token_id;
use crate::tokens::name;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Response, StatusCode};
use serde_json::json;
use std::sync::Arc;

pub(crate) async fn tokenize(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let read = |body: &[u8]| {
        let mut fields = Fields::of_body(body)?;
        app.check_model(fields.text("model")?.as_deref())?;
        let begin = fields.flag_or("add_special_tokens", true)?;
        let names = fields.flag("return_token_strs")?;
        let ids = match fields.text("prompt")? {
            Some(text) if begin => app.loaded.prompt(&text, false),
            Some(text) => app.loaded.tokenizer.encode_with_special(&text),
            None => chat::endpoint::prompt(&app, &mut fields)?.0,
        };
        fields.finish()?;
        let names = names.then(|| ids.iter().map(|id| name(&app.loaded.tokenizer, *id)).collect::<Vec<_>>());
        let longest = app.longest();
        let value = json!({"count": ids.len(), "max_model_len": longest, "tokens": ids, "token_strs": names});
        Ok(answer(StatusCode::OK, &value))
    };
    app.read(&headers, body, read).await
}

pub(crate) async fn detokenize(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let read = |body: &[u8]| {
        let mut fields = Fields::of_body(body)?;
        app.check_model(fields.text("model")?.as_deref())?;
        let tokens = fields.list("tokens")?;
        let tokens = tokens.ok_or_else(|| fields.error("tokens", "`tokens` is missing: give the ids of tokens"))?;
        let ids: Vec<u32> = tokens.iter().map(|id| token_id(id, "tokens")).collect::<Result<_, _>>()?;
        fields.finish()?;
        Ok(answer(StatusCode::OK, &json!({"prompt": app.loaded.tokenizer.decode_with_special(&ids)})))
    };
    app.read(&headers, body, read).await
}

pub(crate) async fn info(State(app): State<Arc<App>>) -> Response<Body> {
    let tokenizer = &app.loaded.tokenizer;
    let special = tokenizer.special();
    let text = |id: Option<u32>| id.map(|id| name(tokenizer, id));
    let value = json!({
        "bos_token": text(special.bos), "eos_token": text(special.eos), "pad_token": text(special.pad),
        "vocab_size": tokenizer.vocab_size(), "model_max_length": app.longest(),
    });
    answer(StatusCode::OK, &value)
}
