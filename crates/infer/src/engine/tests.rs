//! Requests in company have the tokens and log-probabilities that they have alone, and give every page back.

use super::draft_tests;
use super::*;
use crate::{Adjust, SampleParams, generate};
use hadal_model::Fresh;
use hadal_ops::DType;
use hadal_weights::ModelConfig;
use hadal_weights::precision::Precision;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// A small model of the whole architecture with weights large enough that its tokens vary.
pub(super) fn model(dtype: DType) -> &'static (Cx, Model) {
    static MODELS: [OnceLock<(Cx, Model)>; 2] = [const { OnceLock::new() }; 2];
    MODELS[usize::from(dtype == DType::F32)].get_or_init(|| {
        let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/../model/tests/fixtures/yarn/config.json");
        let config = ModelConfig::from_file(fixture).unwrap();
        let cx = Cx::cpu(1, dtype);
        let model = Model::fresh(&cx, &config, Precision::COMPUTE, Fresh { seed: 5, std: 0.3 });
        (cx, model)
    })
}

/// `n` tokens of stream `stream`.
pub(super) fn text(stream: u64, n: usize, vocab: usize) -> Vec<u32> {
    let rng = hadal_base::Rng::new(3, hadal_base::Purpose::Test, stream);
    (0..n as u64).map(|i| rng.below(i, vocab as u64) as u32).collect()
}

/// An engine for one request, without drafts.
const ALONE: EngineOptions =
    EngineOptions { cache_tokens: 4096, rows: 4096, sequences: 16, speculation: Speculation::Off };

/// Tokens with the bits of their log-probabilities.
pub(super) type Answer = Vec<(u32, u32)>;
/// Answers by request and sample, with how they ended.
pub(super) type Answers = BTreeMap<(RequestId, usize), (Answer, Option<(Stop, Usage)>)>;

/// Runs an engine until it is idle.
pub(super) fn run(engine: &mut Engine, (cx, model): &(Cx, Model)) -> Answers {
    let mut answers = Answers::new();
    let mut steps = 0;
    while !engine.is_idle() {
        engine.step(cx, model, &mut |event| keep(&mut answers, event));
        steps += 1;
        assert!(steps < 20_000, "it does not end: {:?}", engine.load());
    }
    answers
}

pub(super) fn keep(answers: &mut Answers, event: Event) {
    match event {
        Event::Token { id, sample, token } => {
            let bits = token.logprob.map_or(0, f32::to_bits);
            answers.entry((id, sample)).or_default().0.push((token.token, bits));
        }
        Event::Finished { id, sample, stop, usage, .. } => {
            answers.entry((id, sample)).or_default().1 = Some((stop, usage));
        }
        Event::Text { .. } | Event::Scored { .. } => {}
    }
}

/// What a request answers in an engine of its own without drafts, sample by sample.
pub(super) fn alone(request: &Request, both: &(Cx, Model)) -> Vec<Answer> {
    let mut engine = Engine::new(&both.0, &both.1, ALONE);
    engine.submit(&both.1, request).unwrap();
    run(&mut engine, both).into_values().map(|(answer, _)| answer).collect()
}

/// Greedy tokens and a sampled one after the other are those of whole forward passes over given tokens and the engine's
/// own.
#[test]
fn generate_gives_the_tokens_of_its_request() {
    for dtype in [DType::F32, DType::Bf16] {
        let both = model(dtype);
        let (cx, model) = both;
        let all = [Speculation::Off, Speculation::Auto, Speculation::Always];
        for (temperature, speculation) in [0.0, 1.0].iter().flat_map(|t| all.map(|s| (*t, s))) {
            let params = SampleParams { temperature, seed: 4, ..SampleParams::default() };
            let prompt = text(1, 140, model.config.vocab_size);
            let mut engine = Engine::new(cx, model, EngineOptions { speculation, ..EngineOptions::default() });
            let mut shown = Vec::new();
            let mut three = |token| {
                shown.push(token);
                shown.len() < 3
            };
            let cut = generate(cx, model, &mut engine, &prompt, params, &[], 20, &mut three).unwrap();
            assert_eq!((cut.stop, &cut.tokens), (Stop::Caller, &shown));
            let done = generate(cx, model, &mut engine, &prompt, params, &[], 20, &mut |_| true).unwrap();
            assert_eq!((done.stop, done.tokens.len(), &done.tokens[..3]), (Stop::Length, 20, &shown[..]));
            let request = Request { prompt, params, max_new: 20, ..Request::default() };
            let answer: Vec<u32> = alone(&request, both)[0].iter().map(|t| t.0).collect();
            assert_eq!(answer, done.tokens, "{dtype:?} {temperature} {speculation:?}");
        }
    }
}

#[test]
fn stop_tokens_end_a_continuation_and_log_probabilities_are_the_models() {
    let both = model(DType::F32);
    let (cx, model) = both;
    let prompt = text(2, 30, model.config.vocab_size);
    let request = Request { prompt: prompt.clone(), max_new: 6, logprobs: Some(3), ..Request::default() };
    let mut engine = Engine::new(cx, model, ALONE);
    engine.submit(model, &request).unwrap();
    let mut tokens = Vec::new();
    while !engine.is_idle() {
        engine.step(cx, model, &mut |event| {
            if let Event::Token { token, .. } = event {
                tokens.push(token);
            }
        });
    }
    // The first token's figures, from the whole model's logits.
    let ids: Vec<i32> = prompt.iter().map(|t| *t as i32).collect();
    let logits = model.logits(cx, &hadal_model::Input::of(cx, &[&ids], 0), None, None).0;
    let row = &logits.f32()[29 * model.config.vocab_size..];
    let sum: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
    let first = &tokens[0];
    assert_eq!((first.top.len(), first.top[0].token, first.top[0].logprob), (3, first.token, first.logprob.unwrap()));
    let want = f64::from(row[first.token as usize]) - sum.ln();
    assert!((f64::from(first.logprob.unwrap()) - want).abs() < 1e-5, "{} instead of {want}", first.logprob.unwrap());
    assert!(first.top.windows(2).all(|w| w[0].logprob >= w[1].logprob));
    // The same with the third token as the end.
    let stop = vec![tokens[2].token];
    let (answer, end) = {
        let id = engine.submit(model, &Request { stop, ..request }).unwrap();
        run(&mut engine, both).remove(&(id, 0)).unwrap()
    };
    let before = tokens.iter().take_while(|t| t.token != tokens[2].token).count();
    assert_eq!((answer.len(), end.unwrap().0), (before, Stop::Token));
    // All but the last token of the prompt was there.
    assert_eq!(end.unwrap().1, Usage { prompt: 30, cached: 29, generated: before, ..Usage::default() });
}

#[test]
fn penalties_and_biases_change_what_is_drawn() {
    let both = model(DType::F32);
    let prompt = text(3, 20, both.1.config.vocab_size);
    let plain = Request { prompt, max_new: 40, ..Request::default() };
    let tokens = |adjust: Adjust| -> Vec<u32> {
        alone(&Request { adjust, ..plain.clone() }, both)[0].iter().map(|t| t.0).collect()
    };
    let free = tokens(Adjust::default());
    let bias = vec![(free[0], f32::NEG_INFINITY)];
    assert!(!tokens(Adjust { bias, ..Adjust::default() }).contains(&free[0]));
    let wanted = vec![(7, 1e6)];
    assert!(tokens(Adjust { bias: wanted, ..Adjust::default() }).iter().all(|t| *t == 7));
    // A presence penalty of more than any logit: no token comes twice.
    let mut once = tokens(Adjust { presence: 1e6, ..Adjust::default() });
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), 40);
}

#[test]
fn settings_that_cannot_be_used_are_refused() {
    let both = model(DType::F32);
    let (cx, model) = both;
    let vocab = model.config.vocab_size;
    let mut engine = Engine::new(cx, model, EngineOptions::default());
    let params = |params| Request { params, ..Request::default() };
    let adjust = |adjust| Request { adjust, ..Request::default() };
    let bias = |bias| adjust(Adjust { bias, ..Adjust::default() });
    let (p, a) = (SampleParams::default(), Adjust::default());
    let mut wrong = Vec::new();
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        wrong.push(params(SampleParams { temperature: value, ..p }));
        wrong.push(params(SampleParams { top_p: value, ..p }));
        wrong.push(params(SampleParams { min_p: value, ..p }));
        wrong.push(adjust(Adjust { repetition: value, ..a.clone() }));
        wrong.push(adjust(Adjust { presence: value, ..a.clone() }));
        wrong.push(adjust(Adjust { frequency: value, ..a.clone() }));
    }
    wrong.push(params(SampleParams { temperature: -1.0, ..p }));
    wrong.push(params(SampleParams { top_p: 1.5, ..p }));
    wrong.push(adjust(Adjust { repetition: 0.0, ..a.clone() }));
    wrong.push(bias(vec![(1, f32::NAN)]));
    wrong.push(bias(vec![(1, 1.0), (2, f32::INFINITY)]));
    wrong.push(bias(vec![(vocab as u32, 1.0)]));
    for request in wrong {
        let request = Request { prompt: vec![1], max_new: 2, ..request };
        let error = engine.submit(model, &request).unwrap_err();
        assert!(
            matches!(error, RequestError::Setting { .. } | RequestError::UnknownBias { .. }),
            "{request:?}: {error}"
        );
    }
    // One token is left: it is drawn. None is left: there is nothing to draw.
    let forbid = |from: u32| (from..vocab as u32).chain([2, 2]).map(|t| (t, f32::NEG_INFINITY)).collect();
    let one = Request { prompt: vec![1], max_new: 5, ..bias(forbid(1)) };
    assert!(alone(&one, both)[0].iter().all(|t| t.0 == 0));
    let none = Request { prompt: vec![1], max_new: 5, ..bias(forbid(0)) };
    assert_eq!(engine.submit(model, &none), Err(RequestError::NothingAllowed));
    // The largest values do not overflow.
    let most =
        Adjust { repetition: 1e6, presence: -1e6, frequency: -1e6, bias: vec![(3, 1e6), (4, f32::NEG_INFINITY)] };
    let request = Request { prompt: vec![4, 4], max_new: 30, adjust: most, ..Request::default() };
    assert!(alone(&request, both)[0].iter().all(|t| t.0 != 4));
}

#[test]
fn a_follow_up_turn_computes_only_what_is_new_and_has_the_bits_of_its_history() {
    let both = [DType::F32, DType::Bf16];
    for (dtype, speculation) in both.iter().flat_map(|d| [Speculation::Off, Speculation::Always].map(|s| (*d, s))) {
        let both = model(dtype);
        let (cx, model) = both;
        let vocab = model.config.vocab_size;
        let first = Request { prompt: text(5, 150, vocab), max_new: 30, logprobs: Some(0), ..Request::default() };
        let conversation = |engine: &mut Engine, disturbed: bool| {
            let id = engine.submit(model, &first).unwrap();
            let answer = run(engine, both).remove(&(id, 0)).unwrap().0;
            if disturbed {
                // Others come and go between the turns.
                engine
                    .submit(model, &Request { prompt: text(9, 200, vocab), max_new: 9, ..Request::default() })
                    .unwrap();
                run(engine, both);
            }
            let said: Vec<u32> = answer.iter().map(|t| t.0).collect();
            let prompt = [first.prompt.clone(), said, text(6, 40, vocab)].concat();
            let second = Request { prompt, max_new: 10, logprobs: Some(0), ..Request::default() };
            let id = engine.submit(model, &second).unwrap();
            (run(engine, both).remove(&(id, 0)).unwrap(), second)
        };
        let options = EngineOptions { cache_tokens: 2048, speculation, ..EngineOptions::default() };
        let (a, second) = conversation(&mut Engine::new(cx, model, options), false);
        // Everything but the last generated token, which was drawn and not computed.
        assert_eq!(a.1.unwrap().1.cached, 150 + 29, "{dtype:?}");
        let (b, _) = conversation(&mut Engine::new(cx, model, EngineOptions { rows: 7, ..options }), true);
        assert!(a.0 == b.0, "{dtype:?}: other requests and passes change the bits");
        // With given tokens alone, a cold run's bits.
        let given = Request { reuse: Reuse::Given, ..second };
        let cold = alone(&given, both).remove(0);
        let mut engine = Engine::new(cx, model, options);
        let id = engine.submit(model, &first).unwrap();
        run(&mut engine, both).remove(&(id, 0)).unwrap();
        let id = engine.submit(model, &given).unwrap();
        let (warm, end) = run(&mut engine, both).remove(&(id, 0)).unwrap();
        assert_eq!(end.unwrap().1.cached, 150);
        assert!(warm == cold, "{dtype:?}: a hit on given tokens changes the bits");
    }
}

#[test]
fn what_cannot_be_done_is_refused() {
    let (cx, model) = model(DType::F32);
    let mut engine = Engine::new(cx, model, EngineOptions { cache_tokens: 256, ..EngineOptions::default() });
    let refused = |engine: &mut Engine, prompt: Vec<u32>, max_new: usize| {
        engine.submit(model, &Request { prompt, max_new, ..Request::default() }).unwrap_err().to_string()
    };
    assert!(refused(&mut engine, vec![], 1).contains("empty"));
    assert!(refused(&mut engine, vec![1; 100_000], 1).contains("context"));
    assert!(refused(&mut engine, vec![1; 200], 100).contains("300 together"));
    assert!(refused(&mut engine, vec![1; 10], usize::MAX).contains("together"));
    assert!(refused(&mut engine, vec![1 << 30], 1).contains("vocabulary"));
    assert!(engine.is_idle());
}

#[test]
#[should_panic(expected = "run: the engine has other requests")]
fn a_busy_engine_runs_no_single_request() {
    let (cx, model) = model(DType::F32);
    let mut engine = Engine::new(cx, model, EngineOptions::default());
    let prompt = text(1, 5, model.config.vocab_size);
    engine.submit(model, &Request { prompt: prompt.clone(), max_new: 9, ..Request::default() }).unwrap();
    let _ = generate(cx, model, &mut engine, &prompt, SampleParams::default(), &[], 1, &mut |_| true);
}

/// Requests of any priority are taken, and the higher one goes first.
#[test]
fn any_priority_is_taken() {
    let both = model(DType::F32);
    let (cx, model) = both;
    let mut engine = Engine::new(cx, model, EngineOptions::default());
    let submit = |engine: &mut Engine, priority: i32| {
        let prompt = text(1, 5, model.config.vocab_size);
        engine.submit(model, &Request { prompt, max_new: 2, priority, ..Request::default() }).unwrap()
    };
    let low = submit(&mut engine, i32::MIN);
    let high = submit(&mut engine, i32::MAX);
    let mut order = Vec::new();
    while !engine.is_idle() {
        engine.step(cx, model, &mut |event| {
            if let Event::Finished { id, .. } = event {
                order.push(id);
            }
        });
    }
    order.sort_unstable();
    assert_eq!(order, [low, high]);
}

/// A request of a random schedule.
#[derive(Clone, Debug)]
struct Arrival {
    /// Of which text it begins with how many tokens, and how many of its own follow.
    stream: u64,
    common: usize,
    own: usize,
    max_new: usize,
    samples: usize,
    priority: i32,
    temperature: f32,
    given: bool,
    /// With penalties and a bias.
    adjusted: bool,
    /// Steps of the engine before it comes.
    arrives: usize,
    /// Steps after that before it is called off.
    cancelled: Option<usize>,
}

fn arrival() -> impl Strategy<Value = Arrival> {
    let sizes =
        (0..2u64, prop_oneof![Just(0usize), Just(100), Just(128), Just(200), Just(257)], 1..20usize, 0..12usize);
    let manner = (1..3usize, 0..3i32, prop_oneof![Just(0.0f32), Just(1.0)], any::<bool>(), any::<bool>());
    let time = (0..25usize, prop::option::weighted(0.2, 0..15usize));
    (sizes, manner, time).prop_map(
        |((stream, common, own, max_new), (samples, priority, temperature, given, adjusted), time)| {
            let (arrives, cancelled) = time;
            Arrival {
                stream,
                common,
                own,
                max_new,
                samples,
                priority,
                temperature,
                given,
                adjusted,
                arrives,
                cancelled,
            }
        },
    )
}

impl Arrival {
    fn request(&self, i: usize, vocab: usize) -> Request {
        let prompt = [text(self.stream, self.common, vocab), text(100 + i as u64, self.own, vocab)].concat();
        let bias = vec![(i as u32 + 3, 2.0), (i as u32 + 20, f32::NEG_INFINITY)];
        let adjust = Adjust { repetition: 1.2, presence: 0.3, frequency: 0.1, bias };
        Request {
            prompt,
            adjust: if self.adjusted { adjust } else { Adjust::default() },
            params: SampleParams { temperature: self.temperature, seed: i as u64, ..SampleParams::default() },
            samples: self.samples,
            max_new: self.max_new,
            logprobs: Some(0),
            priority: self.priority,
            reuse: if self.given { Reuse::Given } else { Reuse::None },
            ..Request::default()
        }
    }
}

/// Schedules of the default run; `HADAL_CASES` asks for more.
fn cases() -> u32 {
    std::env::var("HADAL_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(40)
}

/// Drafts in a random schedule: the module's own, or right ones with a given probability.
fn drafts() -> impl Strategy<Value = (Speculation, Option<f64>)> {
    prop_oneof![
        Just((Speculation::Off, None)),
        Just((Speculation::Auto, None)),
        Just((Speculation::Auto, Some(0.9))),
        Just((Speculation::Always, None)),
        Just((Speculation::Always, Some(0.1))),
        Just((Speculation::Always, Some(0.7))),
        Just((Speculation::Always, Some(1.0))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_schedule_gives_each_request_its_bits_alone_and_returns_every_page(
        plans in prop::collection::vec(arrival(), 1..6),
        rows in 1usize..300,
        sequences in 1usize..5,
        spare_pages in 0usize..4,
        half in any::<bool>(),
        (speculation, accepted) in drafts(),
    ) {
        let both = model(if half { DType::Bf16 } else { DType::F32 });
        let (cx, model) = both;
        let requests: Vec<Request> =
            plans.iter().enumerate().map(|(i, plan)| plan.request(i, model.config.vocab_size)).collect();
        let wanted: Vec<Vec<Answer>> = requests.iter().map(|request| alone(request, both)).collect();
        let mut forced = accepted.map(|share| ForcedDrafts::new(share, 1));
        // There is room for the largest request and for little more, so others must be preempted.
        let largest = requests.iter().map(|r| pages_for(r.prompt.len() + r.max_new)).max().unwrap_or(1);
        let options = EngineOptions { cache_tokens: (largest + spare_pages) * PAGE, rows, sequences, speculation };
        let mut engine = Engine::new(cx, model, options);
        let mut ids = vec![None; plans.len()];
        let mut answers = Answers::new();
        let mut step = 0;
        while step < 60 || !engine.is_idle() {
            for (i, plan) in plans.iter().enumerate() {
                if plan.arrives == step {
                    let id = engine.submit(model, &requests[i]).unwrap();
                    ids[i] = Some(id);
                    if let Some(forced) = &mut forced {
                        let known = wanted[i].iter().map(|answer| answer.iter().map(|t| t.0).collect());
                        known.enumerate().for_each(|(sample, tokens)| forced.expect(id, sample, tokens));
                        engine.force_drafts(forced.clone());
                    }
                }
                if let (Some(after), Some(id)) = (plan.cancelled, ids[i]) && plan.arrives + after == step {
                    engine.cancel(id);
                }
            }
            engine.step(cx, model, &mut |event| keep(&mut answers, event));
            step += 1;
            prop_assert!(step < 20_000, "it does not end: {:?}", engine.load());
        }
        for (i, plan) in plans.iter().enumerate() {
            let id = ids[i].unwrap();
            for (sample, want) in wanted[i].iter().enumerate() {
                let (have, end) = answers.remove(&(id, sample)).unwrap_or_default();
                match end {
                    Some((_, usage)) => {
                        prop_assert_eq!(&have, want, "request {} of {:?}", i, plans);
                        prop_assert_eq!(usage.generated, want.len());
                    }
                    // Called off on the way: what it had was right.
                    None => prop_assert!(plan.cancelled.is_some() && want.starts_with(&have), "request {} of {:?}", i, plans),
                }
            }
            if !half && !plan.adjusted {
                draft_tests::are_the_modules(&engine, both, id, &requests[i], &wanted[i])?;
            }
        }
        let load = engine.load();
        prop_assert_eq!(load.free_pages + load.prefix_pages, load.pages);
        prop_assert!(load.drafts.accepted <= load.drafts.drafts);
        engine.forget_prefixes();
        prop_assert_eq!(engine.load().free_pages, load.pages);
    }
}
