//! Measures how fast a model reads and generates, on random tokens.
//!
//! Random weights draft nothing right, and the acceptance of a trained module depends on the text. So acceptance can be
//! forced: a first run without drafts gives the right tokens. In the measured run each draft is replaced by the right
//! token with the given probability, and otherwise by a wrong one. The module still runs.

use crate::acceptance::Acceptance;
use crate::engine::{Engine, EngineOptions, Event, ForcedDrafts, Request, RequestError, Reuse, Speculation};
use hadal_base::{Purpose, Rng};
use hadal_model::Model;
use hadal_ops::Cx;
use hadal_ops::latent::PAGE;
use serde::Serialize;
use std::collections::BTreeMap;
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
    /// Whether the MTP module drafts tokens.
    pub speculation: Speculation,
    /// Share of drafts that are accepted. `None` leaves it to the module.
    pub acceptance: Option<f64>,
}

/// The result of one repetition.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct InferRates {
    /// Tokens of all sequences that are read per second.
    pub prefill: f64,
    /// Tokens of all sequences that are generated per second. 0 if none were asked for.
    pub decode: f64,
    /// Drafts that were verified and accepted in the measurement.
    pub drafts: Acceptance,
    /// Distinct experts per pass while generating, drafts included, summed over layers.
    pub experts: f64,
    /// Bytes of weights that are read per second while generating. `None` with drafts, or if nothing is generated.
    pub weight_rate: Option<f64>,
}

/// Reads and generates once.
///
/// # Errors
/// If the sequences do not fit into the model's context.
pub fn bench(cx: &Cx, model: &Model, settings: InferSettings, seed: u64) -> Result<InferRates, RequestError> {
    let forced = match settings.acceptance.filter(|_| settings.speculation != Speculation::Off) {
        Some(share) => {
            let plain = InferSettings { speculation: Speculation::Off, ..settings };
            let mut forced = ForcedDrafts::new(share, seed);
            let mut answers = BTreeMap::new();
            measure(cx, model, plain, seed, None, &mut |event| {
                if let Event::Token { id, sample, token } = event {
                    answers.entry((id, sample)).or_insert_with(Vec::new).push(token.token);
                }
            })?;
            answers.into_iter().for_each(|((id, sample), tokens)| forced.expect(id, sample, tokens));
            Some(forced)
        }
        None => None,
    };
    measure(cx, model, settings, seed, forced, &mut |_| {})
}

/// Reads and generates with these drafts, and gives each event to `each`.
fn measure(
    cx: &Cx,
    model: &Model,
    settings: InferSettings,
    seed: u64,
    forced: Option<ForcedDrafts>,
    each: &mut dyn FnMut(Event),
) -> Result<InferRates, RequestError> {
    let InferSettings { depth, prompt, generate, batch, rows, speculation, .. } = settings;
    let (prompt, batch) = (prompt.max(1), batch.max(1));
    let room = (depth + prompt + generate + 2).next_multiple_of(PAGE) + PAGE;
    let options = EngineOptions { cache_tokens: 2 * batch * room, rows, sequences: batch, speculation };
    let mut engine = Engine::new(cx, model, options);
    engine.prepare(cx, model);
    if let Some(forced) = forced {
        engine.force_drafts(forced);
    }
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
    // Runs until so many tokens are generated. Returns their number, and the seconds.
    let mut run = |engine: &mut Engine, until: usize| {
        let (start, mut tokens) = (Instant::now(), 0);
        while tokens < until && !engine.is_idle() {
            engine.step(cx, model, &mut |event| {
                tokens += usize::from(matches!(event, Event::Token { .. }));
                each(event);
            });
        }
        (tokens, start.elapsed().as_secs_f64())
    };
    if depth > 0 {
        submit(&mut engine, depth, 1)?;
        run(&mut engine, usize::MAX);
    }
    submit(&mut engine, depth + prompt, 1)?;
    let (_, reading) = run(&mut engine, usize::MAX);
    // The prompts are in the cache now, so that all sequences begin to generate together.
    let (mut rest, mut generating) = (0, 0.0);
    let mut before = engine.load();
    if generate > 0 {
        submit(&mut engine, depth + prompt, generate + 1)?;
        run(&mut engine, batch);
        before = engine.load();
        (rest, generating) = run(&mut engine, usize::MAX);
    }
    let after = engine.load();
    let passes = (after.passes - before.passes).max(1) as f64;
    let experts = (after.experts - before.experts) as f64 / passes;
    let bytes = engine.pass_bytes(model);
    let pass = bytes.always as f64 + experts * bytes.expert as f64;
    let plain = speculation == Speculation::Off || model.mtp.is_empty();
    Ok(InferRates {
        prefill: (batch * prompt) as f64 / reading,
        decode: if rest == 0 { 0.0 } else { rest as f64 / generating },
        drafts: after.drafts - before.drafts,
        experts,
        weight_rate: (plain && rest > 0).then(|| passes * pass / generating),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hadal_model::Fresh;
    use hadal_ops::DType;
    use hadal_weights::ModelConfig;
    use hadal_weights::precision::Precision;

    /// The share of right drafts is the one that was asked for, within four standard errors of a binomial share.
    #[test]
    fn acceptance_is_as_asked_for() {
        let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/../model/tests/fixtures/mtp2/config.json");
        let config = ModelConfig::from_file(fixture).unwrap();
        let cx = Cx::cpu(1, DType::F32);
        let model = Model::fresh(&cx, &config, Precision::COMPUTE, Fresh { seed: 5, std: 0.3 });
        let settings = InferSettings {
            depth: 3,
            prompt: 5,
            generate: 60,
            batch: 3,
            rows: 512,
            speculation: Speculation::Always,
            acceptance: None,
        };
        for share in [0.0, 0.6, 1.0] {
            let rates = bench(&cx, &model, InferSettings { acceptance: Some(share), ..settings }, 1).unwrap();
            let n = rates.drafts.drafts as f64;
            assert!(n >= 3.0 * 29.0 && rates.experts > 0.0, "{rates:?}");
            let error = (rates.drafts.rate().unwrap() - share).abs();
            assert!(error <= 4.0 * (share * (1.0 - share) / n).sqrt(), "{share}: {rates:?}");
        }
        let off = InferSettings { speculation: Speculation::Off, acceptance: Some(1.0), ..settings };
        assert_eq!(bench(&cx, &model, off, 1).unwrap().drafts, Acceptance::default());
    }
}
