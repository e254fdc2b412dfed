//! `hadal serve`: answers clients of OpenAI's API.

use super::common::{grouped, load, model_name};
use crate::cli::{LogForm, ServeArgs};
use anyhow::{Context, Result};
use hadal_infer::{EngineOptions, Loaded, Speculation};
use hadal_model::LatentPool;
use hadal_ops::latent::pages_for;
use hadal_serve::{Keys, ServeOptions, Server, Template, signals};
use hadal_weights::folder::model_folder;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) fn run(args: &ServeArgs) -> Result<()> {
    start_log(args.log);
    // What is wrong with keys is an error before the model is loaded.
    let keys = args.api_keys.as_deref().map(Keys::read).transpose()?;
    let start = Instant::now();
    let loaded = load(&args.model, None)?;
    loaded.prepare();
    let template = Template::load(
        &model_folder(&args.model.model)?,
        args.chat_template.as_deref(),
        Arc::clone(&loaded.tokenizer),
    )?;
    let seconds = start.elapsed().as_secs_f64();
    let engine = EngineOptions {
        cache_tokens: args.cache_tokens,
        rows: args.rows,
        sequences: args.sequences,
        speculation: args.speculation.speculation(),
    };
    let options = ServeOptions {
        name: args.name.clone().unwrap_or_else(|| model_name(&args.model.model)),
        engine,
        queue: args.queue,
        body_bytes: args.max_body,
        timeout: Duration::from_secs(args.timeout),
        drain: Duration::from_secs(args.drain),
        connections: args.connections,
        keys,
        origins: args.cors.clone(),
        log_prompts: args.log_prompts,
    };
    let about = about(&loaded, &options, template.origin(), seconds);
    let server = Server::start(loaded, Some(Box::new(template)), SocketAddr::new(args.host, args.port), options)?;
    say!("{about}");
    let address = server.address();
    let end = async {
        // Whoever reads the address may already ask the process to end.
        let end = signals();
        say!("a page to talk to it: http://{address}\nlistening on http://{address}/v1");
        end.await;
    };
    server.wait(end).context("the server ended")
}

/// What was loaded, and what it takes.
fn about(loaded: &Loaded, options: &ServeOptions, template: &str, seconds: f64) -> String {
    let (cx, model) = (&loaded.cx, &loaded.model);
    let mut formats: BTreeMap<&str, usize> = BTreeMap::new();
    for param in model.params() {
        *formats.entry(param.stored().format()).or_default() += param.stored().bytes();
    }
    let mut formats: Vec<(&str, usize)> = formats.into_iter().collect();
    formats.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let formats: Vec<String> = formats.iter().map(|(name, bytes)| format!("{name} {}", size(*bytes))).collect();
    let pages = pages_for(options.engine.cache_tokens);
    let drafts = options.engine.speculation != Speculation::Off;
    let cache = LatentPool::bytes(cx, &model.config, pages, drafts);
    format!(
        "{}: loaded in {seconds:.1} s\nweights {} ({})\ncache up to {} for {} tokens; a request may have {}\nchat template: {template}\n{} threads, {}",
        options.name,
        size(model.bytes()),
        formats.join(", "),
        size(cache),
        grouped(options.engine.cache_tokens as u64),
        grouped(model.config.max_position_embeddings.min(options.engine.cache_tokens) as u64),
        cx.threads().count(),
        cx.isa().name()
    )
}

/// A size for people.
fn size(bytes: usize) -> String {
    let (value, unit) = if bytes < 1_000_000_000 { (1e6, "MB") } else { (1e9, "GB") };
    format!("{:.2} {unit}", bytes as f64 / value)
}

fn start_log(form: LogForm) {
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false);
    match form {
        LogForm::Text => log.init(),
        LogForm::Json => log.json().flatten_event(true).init(),
        LogForm::Off => {}
    }
}
