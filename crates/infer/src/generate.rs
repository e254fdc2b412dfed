//! Generation of one sequence.

use crate::acceptance::Acceptance;
use crate::engine::{Engine, Event, Request, RequestError, Reuse};
use crate::sample::SampleParams;
use hadal_model::Model;
use hadal_ops::Cx;
use std::time::Instant;

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// A stop token was generated. It is not part of the result.
    Token,
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
    /// Why it ended.
    pub stop: Stop,
    /// Seconds for the prompt, and seconds for the new tokens.
    pub seconds: (f64, f64),
    /// Drafts of the new tokens that were verified, and accepted.
    pub drafts: Acceptance,
}

/// Continues `prompt` by at most `max_new` tokens and passes each to `each`, which returns false to stop. The engine must be
/// idle. The result has the bits of a cold start.
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
    let id = engine.submit(model, &request)?;
    let drafts = Acceptance::default();
    let mut done = Generation { tokens: Vec::new(), stop: Stop::Length, seconds: (0.0, 0.0), drafts };
    let before = engine.load().drafts;
    let start = Instant::now();
    let (mut ended, mut enough, mut more) = (false, false, false);
    while !ended && !enough {
        let reading = done.tokens.is_empty();
        engine.step(cx, model, &mut |event| match event {
            // A pass with drafts may go on after the caller has enough.
            Event::Token { .. } if enough => more = true,
            Event::Token { token, .. } => {
                done.tokens.push(token.token);
                enough = !each(token.token);
            }
            Event::Finished { stop, .. } => {
                let after = more || (enough && stop == Stop::Token);
                done.stop = if after { Stop::Caller } else { stop };
                ended = true;
            }
        });
        if reading {
            done.seconds.0 = start.elapsed().as_secs_f64();
        }
    }
    if !ended {
        engine.cancel(id);
        done.stop = Stop::Caller;
    }
    done.drafts = engine.load().drafts - before;
    done.seconds.1 = start.elapsed().as_secs_f64() - done.seconds.0;
    Ok(done)
}
