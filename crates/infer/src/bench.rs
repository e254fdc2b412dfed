//! Measures how fast a model reads and generates, on random tokens.

use crate::engine::{Engine, EngineOptions, Event, Request, RequestError, Reuse};
use hadal_base::{Purpose, Rng};
use hadal_model::Model;
use hadal_ops::Cx;
use hadal_ops::latent::PAGE;
use serde::Serialize;
use std::time::Instant;

/// What to measure.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct InferSettings {
    /// Number of tokens that each sequence has before the measurement.
    pub depth: usize,
    /// Number of tokens to read, at least one.
    pub prompt: usize,
    /// Number of tokens to generate after the first one.
    pub generate: usize,
    /// Number of sequences at the same time.
    pub batch: usize,
    /// Rows per pass.
    pub rows: usize,
}

/// The result of one repetition.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct InferRates {
    /// Tokens of all sequences that are read per second.
    pub prefill: f64,
    /// Tokens of all sequences that are generated per second. 0 if none were asked for.
    pub decode: f64,
}

/// Reads and generates once.
///
/// # Errors
/// If the sequences do not fit into the model's context.
pub fn bench(cx: &Cx, model: &Model, settings: InferSettings, seed: u64) -> Result<InferRates, RequestError> {
    let InferSettings { depth, prompt, generate, batch, rows } = settings;
    let (prompt, batch) = (prompt.max(1), batch.max(1));
    let room = (depth + prompt + generate + 2).next_multiple_of(PAGE) + PAGE;
    let options = EngineOptions { cache_tokens: 2 * batch * room, rows, sequences: batch };
    let mut engine = Engine::new(cx, model, options);
    let vocabulary = model.config.vocab_size as u64;
    let ids = |sequence: usize, n: usize| -> Vec<u32> {
        let rng = Rng::new(seed, Purpose::Test, sequence as u64);
        (0..n as u64).map(|i| rng.below(i, vocabulary) as u32).collect()
    };
    let submit = |engine: &mut Engine, tokens: usize, max_new: usize| -> Result<(), RequestError> {
        for sequence in 0..batch {
            let prompt = ids(sequence, tokens);
            engine.submit(model, &Request { prompt, max_new, reuse: Reuse::Given, ..Request::default() })?;
        }
        Ok(())
    };
    if depth > 0 {
        submit(&mut engine, depth, 1)?;
        while !engine.is_idle() {
            engine.step(cx, model, &mut |_| {});
        }
    }
    submit(&mut engine, depth + prompt, generate + 1)?;
    let mut tokens = 0;
    let mut run = |engine: &mut Engine, until: usize| {
        let (start, before) = (Instant::now(), tokens);
        while tokens < until && !engine.is_idle() {
            engine.step(cx, model, &mut |event| tokens += usize::from(matches!(event, Event::Token { .. })));
        }
        (tokens - before, start.elapsed().as_secs_f64())
    };
    let (first, reading) = run(&mut engine, batch);
    let (rest, generating) = run(&mut engine, usize::MAX);
    Ok(InferRates {
        // The last sequences are still read while the first ones already generate.
        prefill: (batch * prompt + first - batch) as f64 / reading,
        decode: if rest == 0 { 0.0 } else { rest as f64 / generating },
    })
}
