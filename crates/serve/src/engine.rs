//! `GET /engine`: what the engine is doing, as the page shows it. Counters count from the start, so a client that asks
//! twice knows the rates. `GET /engine/experts`: how many tokens each expert got.

use crate::app::App;
use crate::error::answer;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Response, StatusCode};
use hadal_infer::ExpertLoads;
use hadal_ops::latent::PAGE;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

pub(crate) async fn figures(State(app): State<Arc<App>>) -> Response<Body> {
    let (load, metrics) = (app.metrics.load(), &app.metrics);
    let value = json!({
        "seconds": app.started.elapsed().as_secs_f64(),
        "running": load.running,
        "waiting": load.waiting,
        "most_running": app.options.engine.sequences,
        "draining": app.draining.load(Relaxed),
        "has_chat": app.chat.is_some(),
        "pages": {"all": load.pages, "free": load.free_pages, "prefix": load.prefix_pages, "tokens": PAGE},
        "preemptions": load.preemptions,
        "passes": load.passes,
        "experts_used": load.experts,
        "prompt_tokens": load.read,
        "generated_tokens": load.generated,
        "drafts": {"verified": load.drafts.drafts, "accepted": load.drafts.accepted},
        "seconds_to_first_token": metrics.first_token.mean(),
        "seconds_per_token": metrics.per_token.mean(),
    });
    answer(StatusCode::OK, &value)
}

pub(crate) async fn experts(State(app): State<Arc<App>>) -> Response<Body> {
    let layers: Vec<Value> =
        app.metrics.expert_loads().map(ExpertLoads::layers).into_iter().flatten().map(layer).collect();
    answer(StatusCode::OK, &json!({"layers": layers}))
}

fn layer((layer, is_module, tokens): (usize, bool, impl Iterator<Item = u64>)) -> Value {
    json!({"layer": layer, "mtp": is_module, "tokens": tokens.collect::<Vec<_>>()})
}
