//! The fields that completions and chats have in common: how tokens are drawn, where texts end, and how answers come.

use crate::error::ApiError;
use crate::fields::{Fields, wrong};
use crate::form;
use hadal_infer::{Adjust, Grammar, Loaded, Reuse, SampleParams};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

/// Most stop strings, and most bytes of one.
const MOST_STOPS: usize = 64;
const LONGEST_STOP: usize = 1024;
/// Most tokens with a bias, and most further tokens that end a continuation.
const MOST_TOKENS: usize = 1024;
/// Most of the most likely tokens beside each.
pub(crate) const MOST_LOGPROBS: i64 = 20;

/// What was asked, without the prompt.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) params: SampleParams,
    pub(crate) adjust: Adjust,
    pub(crate) reuse: Reuse,
    /// Continuations of each prompt.
    pub(crate) samples: usize,
    /// Most new tokens, if given.
    pub(crate) max_new: Option<usize>,
    /// Stop strings.
    pub(crate) stop: Vec<String>,
    pub(crate) include_stop: bool,
    pub(crate) show_special: bool,
    /// Tokens that end a continuation.
    pub(crate) stop_tokens: Vec<u32>,
    pub(crate) stream: bool,
    /// Whether a stream ends with its usage.
    pub(crate) include_usage: bool,
    pub(crate) grammar: Option<Grammar>,
}

/// Takes these fields.
pub(crate) fn take(fields: &mut Fields, loaded: &Loaded) -> Result<Asked, ApiError> {
    fields.only("use_beam_search", &[json!(false)], "is not supported: leave it out")?;
    fields.only(
        "length_penalty",
        &[json!(1), json!(1.0)],
        "belongs to beam search, which is not supported: leave it out",
    )?;
    fields.only("min_tokens", &[json!(0)], "is not supported: leave it out")?;
    let samples = fields.whole("n", 1..=128)?.unwrap_or(1);
    fields.only("best_of", &[json!(samples)], "is not supported: leave it out, or give it the value of `n`")?;
    let seed = fields.whole("seed", i64::MIN..=i64::MAX)?;
    let temperature = fields.number("temperature", 0.0..=100.0)?.unwrap_or(1.0);
    let params = SampleParams {
        temperature,
        top_k: fields.whole("top_k", -1..=i64::from(u32::MAX))?.unwrap_or(0).max(0) as usize,
        top_p: fields.number("top_p", 0.0..=1.0)?.unwrap_or(1.0),
        min_p: fields.number("min_p", 0.0..=1.0)?.unwrap_or(0.0),
        seed: seed.map_or_else(fresh_seed, |seed| seed as u64),
        ..SampleParams::default()
    };
    let adjust = Adjust {
        repetition: fields.number("repetition_penalty", 0.01..=100.0)?.unwrap_or(1.0),
        presence: fields.number("presence_penalty", -2.0..=2.0)?.unwrap_or(0.0),
        frequency: fields.number("frequency_penalty", -2.0..=2.0)?.unwrap_or(0.0),
        bias: bias(fields, loaded.model.config.vocab_size)?,
    };
    // An answer that can be asked for again has the bits of a cold start.
    let reuse = if seed.is_some() || temperature == 0.0 { Reuse::Given } else { Reuse::All };
    let stop = stops(fields)?;
    let include_stop = fields.flag("include_stop_str_in_output")?;
    let show_special = !fields.flag_or("skip_special_tokens", true)?;
    let mut stop_tokens = if fields.flag("ignore_eos")? { Vec::new() } else { loaded.stop_tokens() };
    let more = fields.list("stop_token_ids")?.unwrap_or_default();
    if more.len() > MOST_TOKENS {
        return Err(fields.error("stop_token_ids", format!("at most {MOST_TOKENS} ids are taken: give fewer")));
    }
    for token in more {
        stop_tokens.push(token_id(&token, &fields.path("stop_token_ids"))?);
    }
    let stream = fields.flag("stream")?;
    let include_usage = match fields.object("stream_options")? {
        Some(_) if !stream => return Err(fields.error("stream_options", "`stream_options` needs `stream`: true")),
        Some(mut options) => {
            let include = options.flag("include_usage")?;
            options.only("include_obfuscation", &[json!(false), json!(true)], "must be true or false")?;
            options.only("continuous_usage_stats", &[json!(false)], "is not supported: leave it out")?;
            options.finish()?;
            include
        }
        None => false,
    };
    let grammar = form::take(fields)?;
    let samples = samples as usize;
    let max_new = None;
    Ok(Asked {
        params,
        adjust,
        reuse,
        samples,
        max_new,
        stop,
        include_stop,
        show_special,
        stop_tokens,
        stream,
        include_usage,
        grammar,
    })
}

/// Takes a limit of new tokens under one of its names.
pub(crate) fn take_limit(fields: &mut Fields, names: &[&str]) -> Result<Option<usize>, ApiError> {
    let mut limit = None;
    for name in names {
        if let Some(n) = fields.whole(name, 0..=i64::from(u32::MAX))? {
            if limit.is_some_and(|other| other != n as usize) {
                return Err(fields.error(name, format!("`{}` differ: give one of them", names.join("` and `"))));
            }
            limit = Some(n as usize);
        }
    }
    Ok(limit)
}

/// A token's id.
pub(crate) fn token_id(value: &Value, path: &str) -> Result<u32, ApiError> {
    value.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| wrong(path, "a list of ids of tokens", value))
}

fn stops(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    let path = fields.path("stop");
    let all = match fields.take("stop") {
        None => Vec::new(),
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(all)) => {
            let text = |value| match value {
                Value::String(text) => Ok(text),
                other => Err(wrong(&path, "a string or a list of strings", &other)),
            };
            all.into_iter().map(text).collect::<Result<_, _>>()?
        }
        Some(other) => return Err(wrong(&path, "a string or a list of strings", &other)),
    };
    if all.iter().any(String::is_empty) {
        return Err(ApiError::field(path, "a stop string is empty: leave it out"));
    }
    if all.len() > MOST_STOPS {
        return Err(ApiError::field(path, format!("at most {MOST_STOPS} stop strings are taken: give fewer")));
    }
    if all.iter().any(|stop| stop.len() > LONGEST_STOP) {
        let message = format!("a stop string has more than {LONGEST_STOP} bytes: shorten it");
        return Err(ApiError::field(path, message));
    }
    Ok(all)
}

/// Biases by token. The least one, -100, forbids the token.
fn bias(fields: &mut Fields, vocabulary: usize) -> Result<Vec<(u32, f32)>, ApiError> {
    let Some(all) = fields.object("logit_bias")? else { return Ok(Vec::new()) };
    let all = all.rest();
    if all.len() > MOST_TOKENS {
        return Err(fields.error("logit_bias", format!("at most {MOST_TOKENS} tokens can have a bias: give fewer")));
    }
    let mut bias = Vec::new();
    for (name, value) in all {
        let path = format!("logit_bias.{name}");
        let token = name.parse::<u32>().ok().filter(|token| (*token as usize) < vocabulary);
        let token = token.ok_or_else(|| {
            ApiError::field(&path, format!("`{name}` is not the id of a token: ids are below {vocabulary}"))
        })?;
        let value = value.as_f64().filter(|value| (-100.0..=100.0).contains(value));
        let value =
            value.ok_or_else(|| ApiError::field(&path, format!("`{path}` must be a number from -100 to 100")))?;
        bias.push((token, if value == -100.0 { f32::NEG_INFINITY } else { value as f32 }));
    }
    Ok(bias)
}

/// A seed for a request that gives none. No two are alike.
fn fresh_seed() -> u64 {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
    now.wrapping_add(COUNT.fetch_add(1, Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}
