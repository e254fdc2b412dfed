//! Generates one sequence. First the prompt is read, then each token is a pass with one row.

use crate::decoder::{Decoder, Part, Sequence};
use crate::sample::{SampleParams, Sampler};
use hadal_model::{Form, Model};
use hadal_ops::Cx;

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
}

/// Continues `prompt` by at most `max_new` tokens and passes each to `each`, which returns false to stop.
///
/// # Panics
/// If the prompt is empty. Callers check this first and give a better message.
pub fn generate(
    cx: &Cx,
    model: &Model,
    decoder: &mut Decoder,
    prompt: &[u32],
    params: SampleParams,
    stop: &[u32],
    max_new: usize,
    each: &mut dyn FnMut(u32) -> bool,
) -> Generation {
    assert!(!prompt.is_empty(), "generate: empty prompt");
    let room = model.config.max_position_embeddings.saturating_sub(prompt.len());
    let max_new = max_new.min(room);
    decoder.reserve(cx, model, prompt.len() + max_new);
    let mut sequence = Sequence::default();
    let start = std::time::Instant::now();
    let ids: Vec<i32> = prompt.iter().map(|t| *t as i32).collect();
    let mut logits = model.project(cx, &decoder.read(cx, model, &mut sequence, &ids));
    let prefill = start.elapsed().as_secs_f64();
    let start = std::time::Instant::now();
    let mut sampler = Sampler::new(params);
    let mut tokens = Vec::with_capacity(max_new);
    let mut why = Stop::Length;
    while tokens.len() < max_new {
        let token = sampler.next(logits.f32(), sequence.len());
        if stop.contains(&token) {
            why = Stop::Token;
            break;
        }
        tokens.push(token);
        if !each(token) {
            why = Stop::Caller;
            break;
        }
        if tokens.len() < max_new {
            let part = Part { sequence: &mut sequence, tokens: &[token as i32], form: Form::Absorbed };
            logits = model.project(cx, &decoder.extend(cx, model, &mut [part]));
        }
    }
    decoder.release(sequence);
    Generation { tokens, stop: why, seconds: (prefill, start.elapsed().as_secs_f64()) }
}
