//! `GET /v1/models`: the one model that is here.

use crate::app::App;
use crate::error::{ApiError, answer};
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{Response, StatusCode};
use serde_json::{Value, json};
use std::sync::Arc;

fn card(app: &App) -> Value {
    json!({
        "id": app.options.name, "object": "model", "created": app.created, "owned_by": "hadal",
        "max_model_len": app.longest(),
    })
}

pub(crate) async fn list(State(app): State<Arc<App>>) -> Response<Body> {
    answer(StatusCode::OK, &json!({"object": "list", "data": [card(&app)]}))
}

pub(crate) async fn one(State(app): State<Arc<App>>, Path(name): Path<String>) -> Result<Response<Body>, ApiError> {
    app.check_model(Some(&name))?;
    Ok(answer(StatusCode::OK, &card(&app)))
}
