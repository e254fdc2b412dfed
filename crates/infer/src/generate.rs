//! Requests one at a time.

use crate::acceptance::Acceptance;
use crate::engine::{Engine, Event, Request, RequestError, Reuse};
use crate::sample::SampleParams;
use hadal_model::Model;
use hadal_ops::Cx;
use std::time::Instant;

/// Why a continuation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// A stop token was generated. It is not part of the result.
    Token,
    /// The stop string with this number was generated. The tokens include those of the stop string.
    Text(usize),
    /// The text is complete by its grammar, and nothing can follow.
    Grammar,
    /// The grammar allows no token, or needs too much work.
    Stuck,
    /// The requested number of tokens was generated, or the model's longest context is full.
    Length,
    /// The caller asked to stop.
    Caller,
}

/// The result of a generation.
#[derive(Clone, Debug)]
pub struct Generation {
    /// New tokens, without the prompt.
    pub tokens: Vec<u32>,
    /// Their text, if the request asks for text.
    pub text: String,
    /// Why it ended.
    pub stop: Stop,
    /// Seconds for the prompt, and seconds for the new tokens.
    pub seconds: (f64, f64),
    /// Drafts of the new tokens that were verified and accepted.
    pub drafts: Acceptance,
}

/// Continues `prompt` by at most `max_new` tokens and passes each to `each`, which returns false to stop. The engine
/// must be idle. The result has the bits of a cold start.
///
/// # Errors
/// If the prompt is empty or does not fit into the model's context or the engine's cache.
pub fn generate(
    cx: &Cx,
    model: &Model,
    engine: &mut Engine,
    prompt: &[u32],
    params: SampleParams,
    stop: &[u32],
    max_new: usize,
    each: &mut dyn FnMut(u32) -> bool,
) -> Result<Generation, RequestError> {
    let request = Request {
        prompt: prompt.to_vec(),
        params,
        max_new,
        stop: stop.to_vec(),
        reuse: Reuse::Given,
        ..Request::default()
    };
    run(cx, model, engine, &request, &mut |event| match event {
        Event::Token { token, .. } => each(token.token),
        _ => true,
    })
}

/// Runs a request for one sample to its end and passes each event to `each`, which returns false to stop. The engine
/// must be idle.
///
/// # Errors
/// If the engine cannot take the request.
///
/// # Panics
/// If the engine is not idle, or the request is for several samples.
pub fn run(
    cx: &Cx,
    model: &Model,
    engine: &mut Engine,
    request: &Request,
    each: &mut dyn FnMut(&Event) -> bool,
) -> Result<Generation, RequestError> {
    run_while(cx, model, engine, request, &|| true, each)
}

/// Like [`run`], but only while `goes_on`. It is asked before each pass, also while the prompt is read.
///
/// # Errors
/// If the engine cannot take the request.
///
/// # Panics
/// If the engine is not idle, or the request is for several samples.
pub fn run_while(
    cx: &Cx,
    model: &Model,
    engine: &mut Engine,
    request: &Request,
    goes_on: &dyn Fn() -> bool,
    each: &mut dyn FnMut(&Event) -> bool,
) -> Result<Generation, RequestError> {
    assert!(engine.is_idle(), "run: the engine has other requests");
    assert!(request.samples <= 1, "run: {} samples instead of one", request.samples);
    let id = engine.submit(model, request)?;
    let mut done = Generation {
        tokens: Vec::new(),
        text: String::new(),
        stop: Stop::Caller,
        seconds: (0.0, 0.0),
        drafts: Acceptance::default(),
    };
    let before = engine.load().drafts;
    let start = Instant::now();
    let mut ended = false;
    while !ended && goes_on() {
        let reading = done.tokens.is_empty();
        engine.step(cx, model, &mut |event| {
            if ended {
                return;
            }
            match &event {
                Event::Token { token, .. } => done.tokens.push(token.token),
                Event::Text { piece, .. } => done.text += &piece.text,
                Event::Finished { stop, .. } => (done.stop, ended) = (*stop, true),
                Event::Scored { .. } => {}
            }
            ended |= !each(&event);
        });
        if reading {
            done.seconds.0 = start.elapsed().as_secs_f64();
        }
    }
    // This does nothing if the request has ended by itself.
    engine.cancel(id);
    done.drafts = engine.load().drafts - before;
    done.seconds.1 = start.elapsed().as_secs_f64() - done.seconds.0;
    Ok(done)
}
