//! Text, constraints and log-probabilities of prompts: alone as in company, whatever the passes are.

use super::tests::text;
use super::*;
use crate::{Grammar, Grammars, SampleParams, Score, ScoredToken, TextOptions, run, score};
use hadal_data::tokenizer::TrainOptions;
use hadal_data::{Document, Tokenizer};
use hadal_model::{Fresh, Input};
use hadal_ops::DType;
use hadal_weights::ModelConfig;
use hadal_weights::precision::Precision;
use proptest::prelude::*;
use std::sync::{Arc, LazyLock, OnceLock};

const VOCABULARY: usize = 320;

static TOKENIZER: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| {
    let text = r#"{"name": "Ada", "born": 1815, "tags": [true, false, null]}, { "é": [[1, 2], []] }"#.repeat(3);
    let document = Document { id: "a".into(), group: "a".into(), text };
    Arc::new(Tokenizer::train(&[document], &TrainOptions { vocab_size: 310, ..TrainOptions::default() }).unwrap().0)
});

static GRAMMARS: LazyLock<Grammars> =
    LazyLock::new(|| Grammars::new(&TOKENIZER, VOCABULARY, &[TOKENIZER.eos().unwrap()]).unwrap());

/// A small model of the whole architecture for this tokenizer.
fn model(dtype: DType) -> &'static (Cx, Model) {
    static MODELS: [OnceLock<(Cx, Model)>; 2] = [const { OnceLock::new() }; 2];
    MODELS[usize::from(dtype == DType::F32)].get_or_init(|| {
        let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/../model/tests/fixtures/yarn/config.json");
        let config = ModelConfig { vocab_size: VOCABULARY, ..ModelConfig::from_file(fixture).unwrap() };
        let cx = Cx::cpu(2, dtype);
        let model = Model::fresh(&cx, &config, Precision::COMPUTE, Fresh { seed: 5, std: 0.3 });
        (cx, model)
    })
}

/// What a request says: tokens with the bits of their log-probabilities, text with the places of tokens, the prompt's
/// scores.
#[derive(Debug, Default, PartialEq)]
struct Said {
    tokens: Vec<(u32, u32)>,
    text: String,
    offsets: Vec<usize>,
    scored: Vec<ScoredToken>,
    end: Option<Stop>,
}

impl Said {
    fn hear(&mut self, event: Event) {
        match event {
            Event::Token { token, .. } => {
                self.tokens.push((token.token, token.logprob.map_or(0, f32::to_bits)));
            }
            Event::Text { piece, .. } => {
                self.text += &piece.text;
                self.offsets.extend(piece.offsets);
            }
            Event::Scored { tokens, .. } => self.scored.extend(tokens),
            Event::Finished { stop, .. } => self.end = Some(stop),
        }
    }
}

fn alone(request: &Request, (cx, model): &(Cx, Model)) -> Said {
    let mut engine = Engine::new(
        cx,
        model,
        EngineOptions { cache_tokens: 4096, rows: 4096, sequences: 16, ..EngineOptions::default() },
    );
    let mut said = Said::default();
    run(cx, model, &mut engine, request, &mut |event| {
        said.hear(event.clone());
        true
    })
    .unwrap();
    said
}

/// A request for text at temperature 1.
fn asking(prompt: Vec<u32>, seed: u64, max_new: usize) -> Request {
    Request {
        prompt,
        params: SampleParams { temperature: 1.0, seed, ..SampleParams::default() },
        max_new,
        logprobs: Some(0),
        text: Some(TextOptions::new(Arc::clone(&TOKENIZER))),
        ..Request::default()
    }
}

/// The same with stop strings.
fn with_stop(request: &Request, stop: &[&str], include_stop: bool) -> Request {
    let stop = stop.iter().map(|s| (*s).to_owned()).collect();
    Request { text: Some(TextOptions { stop, include_stop, ..request.text.clone().unwrap() }), ..request.clone() }
}

/// JSON with a bounded length.
fn json() -> Grammar {
    let schema = r#"{"type": "object", "additionalProperties": false, "required": ["name"], "properties": {
        "name": {"type": "string", "maxLength": 6}, "born": {"type": "integer", "minimum": 1, "maximum": 2000}}}"#;
    Grammar::JsonSchema(schema.into())
}

#[test]
fn log_probabilities_of_a_prompt_are_those_of_the_whole_models_logits() {
    for dtype in [DType::F32, DType::Bf16] {
        let (cx, model) = model(dtype);
        let prompt = text(1, 300, VOCABULARY);
        let ids: Vec<i32> = prompt.iter().map(|t| *t as i32).collect();
        let logits = model.logits(cx, &Input::of(cx, &[&ids], 0), None, None).0;
        let rows: Vec<&[f32]> = logits.f32().chunks_exact(VOCABULARY).collect();
        for (rows_of_a_pass, from, top) in [(512, 0, 3), (7, 1, 0), (150, 140, 1), (64, 299, VOCABULARY + 5)] {
            let options =
                EngineOptions { cache_tokens: 512, rows: rows_of_a_pass, sequences: 4, ..EngineOptions::default() };
            let mut engine = Engine::new(cx, model, options);
            let scored = score(cx, model, &mut engine, &prompt, Score { from, top }).unwrap();
            assert_eq!(scored.len(), 300 - from.max(1));
            for (token, at) in scored.iter().zip(from.max(1)..) {
                let row = rows[at - 1];
                // The exact value, and the bound of this form: three roundings of f32 numbers below 2^7.
                let (own, max) = (row[prompt[at] as usize], row.iter().copied().fold(f32::MIN, f32::max));
                let sum: f64 = row.iter().map(|l| f64::from(*l).exp()).sum();
                let exact = f64::from(own) - sum.ln();
                assert!(max.abs() < 64.0 && exact.abs() < 128.0);
                assert!((f64::from(token.logprob) - exact).abs() < 1.5e-5, "{} instead of {exact}", token.logprob);
                // Bits: the whole model's logits in the same form.
                let parts: f64 = row.iter().map(|l| f64::from(l - max).exp()).sum();
                assert_eq!(token.logprob.to_bits(), (own - (max + parts.ln() as f32)).to_bits());
                let mut order: Vec<usize> = (0..VOCABULARY).collect();
                order.sort_by(|a, b| row[*b].total_cmp(&row[*a]).then(a.cmp(b)));
                assert_eq!(order[token.rank], prompt[at] as usize);
                let tops: Vec<usize> = token.top.iter().map(|t| t.token as usize).collect();
                assert_eq!(tops, order[..top.min(VOCABULARY)]);
                assert!(token.top.iter().all(|t| t.token != token.token || t.logprob == token.logprob));
            }
        }
    }
}

#[test]
fn what_stands_before_the_scored_tokens_is_computed_once() {
    let both = model(DType::Bf16);
    let (cx, model) = both;
    let common = text(2, 260, VOCABULARY);
    let ask = |n: u64| Request {
        prompt: [common.clone(), text(10 + n, 20, VOCABULARY)].concat(),
        score: Some(Score { from: 262, top: 0 }),
        reuse: Reuse::Given,
        ..Request::default()
    };
    let mut engine = Engine::new(
        cx,
        model,
        EngineOptions { cache_tokens: 1024, rows: 100, sequences: 4, ..EngineOptions::default() },
    );
    let mut said: Vec<Said> = (0..3).map(|_| Said::default()).collect();
    let ids: Vec<RequestId> = (0..3).map(|n| engine.submit(model, &ask(n)).unwrap()).collect();
    let mut cached = Vec::new();
    while !engine.is_idle() {
        engine.step(cx, model, &mut |event| {
            let (Event::Scored { id, .. } | Event::Finished { id, .. }) = &event else { panic!("{event:?}") };
            if let Event::Finished { usage, .. } = &event {
                cached.push(usage.cached);
            }
            said[ids.iter().position(|i| i == id).unwrap()].hear(event);
        });
    }
    for (n, said) in said.iter().enumerate() {
        assert_eq!((said.scored.len(), said.end), (18, Some(Stop::Length)));
        assert_eq!(*said, alone(&ask(n as u64), both));
    }
    // The last token before the scored ones is computed in any case. One of the text's own is before it.
    assert_eq!(cached, [0, 260, 260]);
    // Scoring from the first token on takes nothing from others.
    let all = Request { score: Some(Score { from: 0, top: 0 }), ..ask(0) };
    let mut first = Said::default();
    run(cx, model, &mut engine, &all, &mut |event| {
        first.hear(event.clone());
        !matches!(event, Event::Finished { usage, .. } if usage.cached > 0)
    })
    .unwrap();
    assert_eq!((first.scored.len(), &first.scored[261..]), (279, &said[0].scored[..]));
}

#[test]
fn a_stop_string_ends_a_sequence_at_once() {
    let both = model(DType::F32);
    let (cx, model) = both;
    for seed in 0..12 {
        let plain = asking(text(seed, 20, VOCABULARY), seed, 40);
        let free = alone(&plain, both);
        assert_eq!((free.offsets.len(), free.end), (40, Some(Stop::Length)));
        let ids: Vec<u32> = free.tokens.iter().map(|t| t.0).collect();
        assert_eq!(free.text, TOKENIZER.decode(&ids));
        // Some characters from the middle, so that they lie across tokens.
        let chars: Vec<char> = free.text.chars().collect();
        let stop: String = chars[chars.len() / 2..chars.len() / 2 + 3].iter().collect();
        let at = free.text.find(&stop).unwrap();
        for include in [false, true] {
            let request = with_stop(&plain, &["never to be seen", &stop], include);
            let said = alone(&request, both);
            let end = if include { at + stop.len() } else { at };
            assert_eq!((said.text.as_str(), said.end), (&free.text[..end], Some(Stop::Text(1))));
            // It has all tokens up to the one that completes the stop string, and no more.
            let count = said.tokens.len();
            assert_eq!(said.tokens, free.tokens[..count]);
            let completed = at + stop.len();
            assert!(free.offsets[count - 1] < completed);
            assert!(free.offsets.get(count).is_none_or(|next| *next >= completed));
            let begun = free.offsets.iter().take_while(|offset| **offset < end).count();
            assert_eq!(said.offsets, free.offsets[..begun]);
            // Its pages are free in the same step.
            let mut engine = Engine::new(cx, model, EngineOptions { cache_tokens: 512, ..EngineOptions::default() });
            engine.submit(model, &request).unwrap();
            let mut running = true;
            while running {
                engine.step(cx, model, &mut |event| running &= !matches!(event, Event::Finished { .. }));
            }
            engine.forget_prefixes();
            assert_eq!((engine.is_idle(), engine.load().free_pages), (true, engine.load().pages));
        }
    }
    let wrong = with_stop(&asking(vec![1], 0, 1), &["a", ""], false);
    let mut engine = Engine::new(cx, model, EngineOptions::default());
    assert_eq!(engine.submit(model, &wrong), Err(RequestError::EmptyStop));
}

#[test]
fn a_constraint_shapes_the_text_and_leaves_log_probabilities_alone() {
    let both = model(DType::F32);
    let (cx, model) = both;
    let constraint = GRAMMARS.constraint(&json()).unwrap();
    let mut ended = 0;
    for seed in 0..12 {
        let request = Request { constraint: Some(constraint.clone()), ..asking(text(seed, 20, VOCABULARY), seed, 200) };
        let said = alone(&request, both);
        if said.end == Some(Stop::Length) {
            continue;
        }
        ended += 1;
        assert_eq!(said.end, Some(Stop::Grammar));
        let value: serde_json::Value = serde_json::from_str(&said.text).unwrap();
        assert!(value["name"].is_string(), "{value}");
        // The log-probability of the first token is that of the unconstrained model.
        let scored_prompt: Vec<u32> = request.prompt.iter().copied().chain([said.tokens[0].0]).collect();
        let mut engine = Engine::new(cx, model, EngineOptions::default());
        let scored = score(cx, model, &mut engine, &scored_prompt, Score { from: 20, top: 0 }).unwrap();
        assert_eq!(scored[0].logprob.to_bits(), said.tokens[0].1);
    }
    assert!(ended > 6, "{ended}");
    let other = Grammars::new(&TOKENIZER, VOCABULARY + 1, &[]).unwrap().constraint(&json()).unwrap();
    let request = Request { constraint: Some(other), ..asking(vec![1], 0, 1) };
    let mut engine = Engine::new(cx, model, EngineOptions::default());
    let want = RequestError::OtherVocabulary { tokens: VOCABULARY + 1, vocabulary: VOCABULARY };
    assert_eq!(engine.submit(model, &request), Err(want));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn company_and_lack_of_pages_change_nothing_that_is_said(
        rows in 1usize..200, sequences in 1usize..5, spare in 0usize..3, lengths in prop::collection::vec(1usize..300, 5), half: bool
    ) {
        let both = model(if half { DType::Bf16 } else { DType::F32 });
        let (cx, model) = both;
        let constraint = GRAMMARS.constraint(&json()).unwrap();
        let requests: Vec<Request> = lengths
            .iter()
            .enumerate()
            .map(|(i, n)| {
                let plain = asking(text(i as u64 % 2, *n, VOCABULARY), i as u64, 30);
                match i {
                    0 => with_stop(&plain, &["a", "}", "\u{fffd}\u{fffd}"], false),
                    1 => Request { score: Some(Score { from: n / 2, top: 2 }), ..plain },
                    2 => Request { max_new: 0, score: Some(Score { from: 0, top: 0 }), ..plain },
                    _ => Request { constraint: Some(constraint.clone()), ..plain },
                }
            })
            // Given tokens alone are re-used, so the bits are those of a run alone.
            .map(|request| Request { reuse: Reuse::Given, ..request })
            .collect();
        let largest = lengths.iter().map(|n| pages_for(n + 30)).max().unwrap();
        let options = EngineOptions { cache_tokens: (largest + spare) * PAGE, rows, sequences, ..EngineOptions::default() };
        let mut engine = Engine::new(cx, model, options);
        let ids: Vec<RequestId> = requests.iter().map(|r| engine.submit(model, r).unwrap()).collect();
        let mut said: Vec<Said> = requests.iter().map(|_| Said::default()).collect();
        let mut steps = 0;
        while !engine.is_idle() {
            engine.step(cx, model, &mut |event| {
                said[ids.iter().position(|id| *id == event.id()).unwrap()].hear(event);
            });
            steps += 1;
            prop_assert!(steps < 20_000, "it does not end: {:?}", engine.load());
        }
        for (request, said) in requests.iter().zip(&said) {
            prop_assert_eq!(said, &alone(request, both));
        }
        engine.forget_prefixes();
        prop_assert_eq!(engine.load().free_pages, engine.load().pages);
    }
}
