//! Speculation: the drafts are those that the module makes in one forward pass over the text, after any history of the
//! engine, and what is accepted is counted.

use super::tests::{Answer, alone, model, run, text};
use super::*;
use crate::acceptance::Acceptance;
use crate::{Adjust, SampleParams, argmax};
use hadal_model::Input;
use hadal_ops::DType;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

/// A draft is the module's if its logit is this close to the best one of the module's forward pass. Generated tokens
/// attend in the absorbed form there. Logits are of the order of ten, and the forms differ by 2e-6 of that in f32
/// (`model/tests/it/cached.rs`).
const TIE: f32 = 1e-3;

/// The module's logits `[T - 1, V]` from a pass over all of `tokens`: row `i` predicts token `i + 2`.
fn forward((cx, model): &(Cx, Model), tokens: &[u32]) -> Vec<f32> {
    let ids: Vec<i32> = tokens.iter().map(|t| *t as i32).collect();
    model.logits(cx, &Input::of(cx, &[&ids], 1), None, None).1[0].to_vec_f32()
}

/// Whether all drafts that an engine made for a request are those of the module.
pub(super) fn are_the_modules(
    engine: &Engine,
    both: &(Cx, Model),
    id: RequestId,
    request: &Request,
    answers: &[Answer],
) -> Result<(), TestCaseError> {
    let vocab = both.1.config.vocab_size;
    let Some(drafting) = &engine.drafting else { return Ok(()) };
    for (sample, answer) in answers.iter().enumerate() {
        let made: Vec<(usize, u32)> = drafting
            .made
            .iter()
            .filter(|(s, ..)| *s == (id, sample))
            .map(|(_, place, token)| (*place, *token))
            .collect();
        if made.is_empty() {
            continue;
        }
        let all: Vec<u32> = request.prompt.iter().copied().chain(answer.iter().map(|t| t.0)).collect();
        let logits = forward(both, &all);
        for (place, token) in made {
            let row = &logits[(request.prompt.len() + place - 2) * vocab..][..vocab];
            let (best, have) = (row[argmax(row)], row[token as usize]);
            prop_assert!(have >= best - TIE, "draft {} of {:?}: {} instead of {}", place, (id, sample), have, best);
        }
    }
    Ok(())
}

const ALWAYS: EngineOptions =
    EngineOptions { cache_tokens: 4096, rows: 512, sequences: 8, speculation: Speculation::Always };

/// The counts of a greedy continuation are those of the module's forward pass over it. A token after an accepted draft
/// is drawn in the same pass, so it has no draft of its own.
#[test]
fn acceptance_is_that_of_the_modules_forward_pass() {
    let both = model(DType::F32);
    let (cx, model) = both;
    let vocab = model.config.vocab_size;
    // Of three tokens, a module with random weights hits one in three.
    let few = 3;
    let bias = (few as u32..vocab as u32).map(|token| (token, f32::NEG_INFINITY)).collect();
    let adjust = Adjust { bias, ..Adjust::default() };
    let mut all = Acceptance::default();
    for stream in 0..12 {
        let prompt = text(stream, 1 + 11 * stream as usize, vocab);
        let request = Request { prompt: prompt.clone(), adjust: adjust.clone(), max_new: 60, ..Request::default() };
        let mut engine = Engine::new(cx, model, ALWAYS);
        let id = engine.submit(model, &request).unwrap();
        let (answer, end) = run(&mut engine, both).remove(&(id, 0)).unwrap();
        let tokens: Vec<u32> = prompt.iter().copied().chain(answer.iter().map(|t| t.0)).collect();
        let logits = forward(both, &tokens);
        let mut want = Acceptance::default();
        let mut next = prompt.len() + 1;
        // The last token has no draft: nothing follows that it could save.
        while next + 1 < tokens.len() {
            let accepted = argmax(&logits[(next - 2) * vocab..][..few]) == tokens[next] as usize;
            want += Acceptance { accepted: usize::from(accepted), drafts: 1 };
            next += 1 + usize::from(accepted);
        }
        assert_eq!(end.unwrap().1.drafts, want, "stream {stream}");
        assert_eq!(engine.load().drafts, want);
        all += want;
    }
    assert!(all.accepted > 100 && all.accepted < all.drafts, "{all:?}");
}

/// Right drafts halve the passes, and the answer stays what it is.
#[test]
fn an_accepted_draft_saves_a_pass() {
    for (dtype, temperature) in [(DType::F32, 0.0), (DType::F32, 1.5), (DType::Bf16, 1.5)] {
        let both = model(dtype);
        let (cx, model) = both;
        let params = SampleParams { temperature, top_p: 0.95, seed: 8, ..SampleParams::default() };
        let prompt = text(1, 125, model.config.vocab_size);
        let request = Request { prompt, params, max_new: 41, logprobs: Some(0), ..Request::default() };
        let want = alone(&request, both).remove(0);
        for (share, passes) in [(1.0, 21), (0.0, 41)] {
            let mut engine = Engine::new(cx, model, ALWAYS);
            let id = engine.submit(model, &request).unwrap();
            let mut forced = ForcedDrafts::new(share, 1);
            forced.expect(id, 0, want.iter().map(|t| t.0).collect());
            engine.force_drafts(forced);
            let (answer, end) = run(&mut engine, both).remove(&(id, 0)).unwrap();
            assert!(answer == want, "{dtype:?} {temperature} {share}");
            let (load, usage) = (engine.load(), end.unwrap().1);
            assert_eq!((load.passes, usage.drafts.accepted), (passes, if share == 1.0 { 20 } else { 0 }));
            // The last token needs no draft.
            assert_eq!(usage.drafts.drafts, if share == 1.0 { 20 } else { 39 });
        }
    }
}

/// Pages that were found hold the module's latents of some of their tokens, or of none. The drafts are the same.
#[test]
fn drafts_do_not_depend_on_what_was_found() {
    let both = model(DType::F32);
    let (cx, model) = both;
    let vocab = model.config.vocab_size;
    let request = |common: usize, own: u64, max_new: usize| {
        let prompt = [text(1, common, vocab), text(50 + own, 9, vocab)].concat();
        Request { prompt, max_new, reuse: Reuse::Given, ..Request::default() }
    };
    let mut engine = Engine::new(cx, model, ALWAYS);
    // A request of one token has no draft, so its pages have no latents of the module.
    let plans = [(256, 1, 1), (256, 2, 30), (300, 3, 30), (300, 4, 1), (127, 5, 30), (128, 6, 30), (300, 7, 30)];
    for (common, own, max_new) in plans {
        let request = request(common, own, max_new);
        let id = engine.submit(model, &request).unwrap();
        let (answer, end) = run(&mut engine, both).remove(&(id, 0)).unwrap();
        let usage = end.unwrap().1;
        assert!(own == 1 || usage.cached >= common.min(256), "{common} {own}: {usage:?}");
        assert_eq!(usage.drafts.drafts > 0, max_new > 1);
        let mut cold = Engine::new(cx, model, ALWAYS);
        let id = cold.submit(model, &request).unwrap();
        let (same, end) = run(&mut cold, both).remove(&(id, 0)).unwrap();
        assert!(answer == same && usage.drafts == end.unwrap().1.drafts, "{common} {own}");
    }
    for (i, (common, own, max_new)) in plans.into_iter().enumerate() {
        let request = request(common, own, max_new);
        are_the_modules(&engine, both, RequestId(i as u64), &request, &alone(&request, both)).unwrap();
    }
}

/// Sequences that share their pages compute the module's latents of these once, and each has its own drafts.
#[test]
fn samples_of_a_prompt_share_the_modules_latents() {
    let both = model(DType::F32);
    let (cx, model) = both;
    let params = SampleParams { temperature: 1.0, ..SampleParams::default() };
    let prompt = text(4, 260, model.config.vocab_size);
    let request = Request { prompt, params, samples: 3, max_new: 25, logprobs: Some(0), ..Request::default() };
    let mut engine = Engine::new(cx, model, ALWAYS);
    let id = engine.submit(model, &request).unwrap();
    let answers: Vec<Answer> = run(&mut engine, both).into_values().map(|(answer, _)| answer).collect();
    let want = alone(&request, both);
    assert!(answers == want);
    are_the_modules(&engine, both, id, &request, &want).unwrap();
}

#[test]
fn without_speculation_there_are_no_drafts() {
    let both = model(DType::F32);
    let (cx, model) = both;
    let mut engine = Engine::new(cx, model, EngineOptions { speculation: Speculation::Off, ..ALWAYS });
    let prompt = text(1, 20, model.config.vocab_size);
    engine.submit(model, &Request { prompt, max_new: 9, ..Request::default() }).unwrap();
    run(&mut engine, both);
    let load = engine.load();
    assert_eq!((load.drafts, load.passes), (Acceptance::default(), 9));
    // One MoE block, three experts of each token.
    assert!(load.experts >= 9 * 3, "{load:?}");
    assert_eq!((load.read, load.generated), (20, 9));
}
