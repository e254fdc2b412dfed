//! Passes that continue sequences. They have the bits of a pass over the whole sequence, and the two forms of attention
//! agree.

use crate::fixtures::{Fixture, distance};
use hadal_model::{AbsorbedViews, Cache, ExpertLoads, Form, Input, LatentPool, Model, Probe, Rows, Stretch};
use hadal_ops::latent::PAGE;
use hadal_ops::{Cx, DType, Tensor};
use std::collections::BTreeMap;

const NAMES: [&str; 3] = ["yarn", "moonlight", "mtp2"];

/// Pages, views and rows for a model.
pub(crate) struct Cached {
    pool: LatentPool,
    views: AbsorbedViews,
    rows: Rows,
    loads: ExpertLoads,
}

impl Cached {
    pub(crate) fn new(cx: &Cx, model: &Model, pages: usize) -> Self {
        let pool = LatentPool::new(cx, &model.config, pages, true);
        let (views, loads) = (AbsorbedViews::new(model, &pool), ExpertLoads::new(model));
        Self { views, pool, rows: Rows::new(cx), loads }
    }

    /// Runs one pass over these stretches.
    pub(crate) fn extend(&mut self, cx: &Cx, model: &Model, stretches: &[Stretch<'_>]) -> Tensor {
        let Self { pool, views, rows, loads } = self;
        rows.set(model.config.num_attention_heads, stretches.iter().copied());
        model.extend(cx, &mut Cache { pool, views, rows, loads })
    }

    /// Runs the first MTP module on these tokens. Its latents alone if `quietly`.
    fn draft(&mut self, cx: &Cx, model: &Model, stretch: Stretch<'_>, quietly: bool) -> Option<Tensor> {
        let Self { pool, views, rows, loads } = self;
        rows.set_draft(model.config.num_attention_heads, [stretch].into_iter());
        let mut cache = Cache { pool, views, rows, loads };
        if quietly {
            model.keep_draft_latents(cx, &mut cache);
            return None;
        }
        Some(model.draft(cx, &mut cache))
    }

    pub(crate) fn given(&mut self, cx: &Cx, model: &Model, tokens: &[i32], before: usize, table: &[u32]) -> Tensor {
        self.extend(cx, model, &[Stretch { tokens, before, table, form: Form::Decompressed }])
    }

    pub(crate) fn generated(&mut self, cx: &Cx, model: &Model, tokens: &[i32], before: usize, table: &[u32]) -> Tensor {
        self.extend(cx, model, &[Stretch { tokens, before, table, form: Form::Absorbed }])
    }
}

/// A sequence over several pages, and its head inputs from the forward pass of training.
fn long(f: &Fixture, cx: &Cx, model: &Model, len: usize) -> (Vec<i32>, Vec<f32>) {
    let len = len.min(model.config.max_position_embeddings);
    let ids = f.ids();
    let tokens: Vec<i32> = (0..len).map(|i| ids[i / 7 % ids.len()][(i * i + 3 * i) % ids[0].len()]).collect();
    let h = model.head_inputs(cx, &Input::of(cx, &[&tokens], 0)).to_vec_f32();
    (tokens, h)
}

#[test]
fn given_tokens_have_the_bits_of_trainings_forward_however_they_are_cut() {
    for (name, dtype) in NAMES.iter().flat_map(|n| [DType::F32, DType::Bf16].map(|d| (n, d))) {
        let f = Fixture::named(name);
        let cx = Cx::cpu(2, dtype);
        let model = f.model(&cx);
        let (tokens, whole) = long(&f, &cx, &model, 300);
        let pages = tokens.len().div_ceil(PAGE);
        for (cuts, backwards) in [
            (vec![], false),
            (vec![1], true),
            (vec![5, 6, 40], false),
            (vec![127, 128, 129], true),
            (vec![64, 200], true),
        ] {
            let table: Vec<u32> =
                if backwards { (0..pages as u32).rev().collect() } else { (0..pages as u32).collect() };
            let mut cached = Cached::new(&cx, &model, pages);
            let mut found = Vec::new();
            let mut before = 0;
            for end in cuts.iter().copied().filter(|c| *c < tokens.len()).chain([tokens.len()]) {
                found.extend(cached.given(&cx, &model, &tokens[before..end], before, &table).to_vec_f32());
                before = end;
            }
            assert!(found == whole, "{name} {dtype:?}, cut at {cuts:?}");
        }
    }
}

#[test]
fn a_row_has_its_bits_alone_in_any_pass() {
    for (name, dtype) in NAMES.iter().flat_map(|n| [DType::F32, DType::Bf16].map(|d| (n, d))) {
        let f = Fixture::named(name);
        let cx = Cx::cpu(2, dtype);
        let model = f.model(&cx);
        let ids = f.ids();
        let (a, b) = (&ids[0], &ids[1]);
        // Alone, one token at a time.
        let mut alone = Cached::new(&cx, &model, 2);
        alone.given(&cx, &model, &a[..5], 0, &[0]);
        alone.given(&cx, &model, &b[..3], 0, &[1]);
        let one = |cached: &mut Cached, ids: &[i32], at: usize, page: u32| {
            cached.generated(&cx, &model, &ids[at..=at], at, &[page]).to_vec_f32()
        };
        let a_alone: Vec<Vec<f32>> = (5..9).map(|at| one(&mut alone, a, at, 0)).collect();
        let b_alone: Vec<Vec<f32>> = (3..5).map(|at| one(&mut alone, b, at, 1)).collect();
        let third = alone.given(&cx, &model, &b[..7], 0, &[1]).to_vec_f32();
        // Together: a prompt, four tokens of one sequence (as in speculative decoding), and two tokens of another.
        let mut together = Cached::new(&cx, &model, 5);
        together.given(&cx, &model, &a[..5], 0, &[3]);
        together.given(&cx, &model, &b[..3], 0, &[1]);
        let found = together.extend(
            &cx,
            &model,
            &[
                Stretch { tokens: &b[..7], before: 0, table: &[4], form: Form::Decompressed },
                Stretch { tokens: &a[5..9], before: 5, table: &[3], form: Form::Absorbed },
                Stretch { tokens: &b[3..5], before: 3, table: &[1], form: Form::Absorbed },
            ],
        );
        let want = [vec![third], a_alone, b_alone].concat().concat();
        assert!(found.to_vec_f32() == want, "{name} {dtype:?}");
    }
}

/// The module's rows of given tokens, however they are cut. The latents of the first ones may be kept beforehand.
#[test]
fn drafts_have_the_bits_of_trainings_mtp() {
    for (dtype, quietly) in [DType::F32, DType::Bf16].iter().flat_map(|d| [(*d, false), (*d, true)]) {
        let f = Fixture::named("mtp2");
        let cx = Cx::cpu(2, dtype);
        let model = f.model(&cx);
        let (tokens, _) = long(&f, &cx, &model, 300);
        let (n, table) = (tokens.len(), [2, 0, 1]);
        let (_, mtp) = model.logits(&cx, &Input::of(&cx, &[&tokens], 1), None, None);
        let mtp = mtp[0].to_vec_f32();
        for cut in [1, 4, 128, 129, 200, n - 2] {
            let mut cached = Cached::new(&cx, &model, 3);
            let mut found = Vec::new();
            for (from, to) in [(0, cut), (cut, n)] {
                cached.given(&cx, &model, &tokens[from..to], from, &table);
                let from = from.max(1);
                if from < to {
                    let form = Form::Decompressed;
                    let stretch = Stretch { tokens: &tokens[from..to], before: from, table: &table, form };
                    let z = cached.draft(&cx, &model, stretch, quietly && from < cut);
                    found.extend(z.iter().flat_map(|z| model.project(&cx, z).to_vec_f32()));
                }
            }
            assert!(!found.is_empty() && mtp.ends_with(&found), "{dtype:?}, cut at {cut}");
            assert!(quietly || found.len() == mtp.len(), "{dtype:?}, cut at {cut}");
        }
    }
}

/// Drafts after generated tokens: the module's row attends in the absorbed form.
#[test]
fn drafts_in_the_absorbed_form_agree_with_trainings_mtp() {
    let (f, cx) = (Fixture::named("mtp2"), Cx::cpu(2, DType::F32));
    let model = f.model(&cx);
    let (tokens, _) = long(&f, &cx, &model, 300);
    let table = [1, 2, 0];
    let (_, mtp) = model.logits(&cx, &Input::of(&cx, &[&tokens], 1), None, None);
    let vocab = mtp[0].cols();
    let mut cached = Cached::new(&cx, &model, 3);
    cached.given(&cx, &model, &tokens, 0, &table);
    let part = |from: usize, to: usize| Stretch {
        tokens: &tokens[from..to],
        before: from,
        table: &table,
        form: Form::Absorbed,
    };
    cached.draft(&cx, &model, part(1, 100), true);
    for (from, to) in [(100, 101), (101, 128), (128, 129), (129, 257), (257, 300)] {
        let z = cached.draft(&cx, &model, part(from, to), false).unwrap();
        let d = distance(model.project(&cx, &z).f32(), &mtp[0].f32()[(from - 1) * vocab..(to - 1) * vocab]);
        // The bound of the main model's absorbed form, in the test below.
        assert!(d <= 2e-6, "tokens {from}..{to} differ by {d:.1e}");
    }
}

#[test]
fn views_follow_the_weights() {
    let f = Fixture::named("moonlight");
    let cx = Cx::cpu(1, DType::F32);
    let mut model = f.model(&cx);
    let tokens = &f.ids()[0];
    let step = |model: &Model, views: Option<AbsorbedViews>| {
        let mut cached = Cached::new(&cx, model, 1);
        if let Some(mut views) = views {
            views.refresh(model);
            cached.views = views;
        }
        cached.given(&cx, model, &tokens[..5], 0, &[0]);
        cached.generated(&cx, model, &tokens[5..6], 5, &[0]).to_vec_f32()
    };
    let old = Cached::new(&cx, &model, 1).views;
    let before = step(&model, None);
    let weight = &mut model.blocks[1].attn.kv_up.param;
    let values: Vec<f32> = weight.to_f32().iter().map(|w| 1.5 * w).collect();
    weight.set(&cx, &values).unwrap();
    let after = step(&model, None);
    assert!(before != after);
    assert!(step(&model, Some(old)) == after);
}

#[test]
fn cached_decoding_agrees_with_the_decompressed_form() {
    for (name, dtype, bound) in
        [("yarn", DType::F32, 2e-6), ("moonlight", DType::F32, 2e-6), ("yarn", DType::Bf16, 3e-2)]
    {
        let f = Fixture::named(name);
        let cx = Cx::cpu(2, dtype);
        let model = f.model(&cx);
        let ids = f.ids();
        let full = model.logits(&cx, &Input::of(&cx, &[&ids[0]], 0), None, None).0;
        let vocab = full.cols();
        let mut cached = Cached::new(&cx, &model, 1);
        cached.given(&cx, &model, &ids[0][..5], 0, &[0]);
        for i in 5..ids[0].len() {
            let single = model.project(&cx, &cached.generated(&cx, &model, &ids[0][i..=i], i, &[0]));
            let d = distance(single.f32(), &full.f32()[i * vocab..][..vocab]);
            assert!(d <= bound, "{name} {dtype:?}: token {i} differs by {d:.1e}");
        }
    }
}

#[test]
fn greedy_continuations_are_the_oracles() {
    for name in NAMES {
        let f = Fixture::named(name);
        let Some(hadal_model::dump::Array::I64(_, want)) = f.oracle.get("greedy.ids") else { continue };
        let want: Vec<i32> = want.iter().map(|v| *v as i32).collect();
        let prompt = f.info["greedy_prompt"].as_u64().unwrap() as usize;
        let cx = Cx::cpu(2, DType::F32);
        let model = f.model(&cx);
        let mut cached = Cached::new(&cx, &model, 1);
        let h = cached.given(&cx, &model, &want[..prompt], 0, &[0]);
        let logits = model.project(&cx, &h);
        let best =
            |row: &[f32]| row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(i, _)| i as i32).unwrap();
        let mut next = best(&logits.f32()[(prompt - 1) * logits.cols()..]);
        for (at, token) in want.iter().enumerate().skip(prompt) {
            assert_eq!(next, *token, "{name}");
            if at + 1 < want.len() {
                let h = cached.generated(&cx, &model, &[next], at, &[0]);
                next = best(model.project(&cx, &h).f32());
            }
        }
    }
}

/// The counted loads are the histograms of the experts that one forward pass over the tokens chooses, however the tokens
/// are cut. The module has no row for the first token, and only its first depth is run.
#[test]
fn loads_are_those_of_the_routers_choices() {
    let (f, cx) = (Fixture::named("mtp2"), Cx::cpu(2, DType::F32));
    let model = f.model(&cx);
    let (tokens, _) = long(&f, &cx, &model, 200);
    let n = tokens.len();
    let mut want = BTreeMap::<usize, Vec<u64>>::new();
    let mut observer = |probe: Probe<'_>| {
        if let Probe::Routing(layer, routing) = probe {
            let loads = want.entry(layer).or_insert_with(|| vec![0; model.config.n_routed_experts]);
            routing.idx.i32().iter().for_each(|expert| loads[*expert as usize] += 1);
        }
    };
    model.logits(&cx, &Input::of(&cx, &[&tokens], 1), None, Some(&mut observer));
    want.insert(model.blocks.len() + 1, vec![0; model.config.n_routed_experts]);
    let mut cached = Cached::new(&cx, &model, 2);
    for (from, to) in [(0, 1), (1, 130), (130, n)] {
        cached.given(&cx, &model, &tokens[from..to], from, &[1, 0]);
    }
    let stretch = Stretch { tokens: &tokens[1..], before: 1, table: &[1, 0], form: Form::Decompressed };
    cached.draft(&cx, &model, stretch, false);
    let found: BTreeMap<usize, Vec<u64>> =
        cached.loads.layers().map(|(layer, _, loads)| (layer, loads.collect())).collect();
    assert_eq!(found, want);
    let modules: Vec<usize> = cached.loads.layers().filter(|(_, module, _)| *module).map(|(l, ..)| l).collect();
    assert_eq!(modules, [model.blocks.len(), model.blocks.len() + 1]);
    // The first pass has one row of some experts in each block.
    assert!(cached.loads.used() >= model.config.num_experts_per_tok as u64, "{}", cached.loads.used());
}
