//! Tests the precision table on a model whose contractions are all longer than a tile: which row affects which results,
//! and in which format activations are kept.

use crate::block::{BlockSaved, MlpDeferred, MlpSaved};
use crate::kept::Kept;
use crate::{Fresh, Grads, Input, Model};
use hadal_base::{Purpose, Rng};
use hadal_ops::fp8::{E5M6, Style, ue8m0_from_scale};
use hadal_ops::{Cx, DType, Tensor};
use hadal_weights::ModelConfig;
use hadal_weights::precision::{Gradients, Keep, Precision, Product};

/// More tokens than a tile has.
const TOKENS: usize = 150;

/// A dense block, an MoE block and an MTP module. All contractions are longer than 128 and no multiple of 128.
fn config() -> ModelConfig {
    ModelConfig::from_file(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/wide.json")).unwrap()
}

fn model(cx: &Cx, config: &ModelConfig, precision: Precision) -> Model {
    Model::fresh(cx, config, precision, Fresh { seed: 3, std: 0.05 })
}

fn ids() -> Vec<i32> {
    (0..TOKENS as i32).map(|i| i * i % 61).collect()
}

/// A residual stream, or a gradient of it.
fn stream(cx: &Cx, rows: usize, cols: usize) -> Tensor {
    let rng = Rng::new(5, Purpose::Test, 0);
    let values: Vec<f32> = (0..(rows * cols) as u64).map(|i| rng.normal(i) as f32).collect();
    cx.tensor(&[rows, cols], &values, DType::F32)
}

/// The results of a block in the order of computation. Kept activations are given in their kept format.
fn seen(cx: &Cx, saved: &BlockSaved, y: &Tensor) -> Vec<(&'static str, Vec<f32>)> {
    let kept = |k: &Kept| k.floats(cx, &mut None).to_vec_f32();
    let attn = saved.attn.as_ref().unwrap();
    let e = attn.expanded.as_ref().unwrap();
    let (gate_up, experts) = match &saved.mlp {
        MlpSaved::Dense(f) => (kept(&f.gu), Vec::new()),
        MlpSaved::Moe(m) => (kept(&m.shared.as_ref().unwrap().gu), kept(&m.gu)),
    };
    vec![
        ("n", e.n.to_vec_f32()),
        ("a", attn.a.to_vec_f32()),
        ("q", e.q.to_vec_f32()),
        ("c_kv", e.c_kv.to_vec_f32()),
        ("k_rope", attn.k_rope.to_vec_f32()),
        ("kv", e.kv.to_vec_f32()),
        ("o", kept(&attn.o)),
        ("x", saved.x.to_vec_f32()),
        ("u", saved.norm.as_ref().unwrap().0.to_vec_f32()),
        ("gate_up", gate_up),
        ("experts", experts),
        ("y", y.to_vec_f32()),
    ]
}

/// The results of the dense block, the MoE block and the MTP module. Each has a fixed input that does not depend on the
/// others.
fn forward(precision: Precision) -> [Vec<(&'static str, Vec<f32>)>; 3] {
    let (cx, config) = (Cx::cpu(1, DType::Bf16), config());
    let model = model(&cx, &config, precision);
    let input = Input::of(&cx, &[&ids()], 1);
    let pass = model.pass(&input, None, None);
    let x = || stream(&cx, TOKENS, config.hidden_size);
    let block = |l: usize| {
        let (y, saved) = model.blocks[l].forward(&cx, x(), &pass, None, false);
        seen(&cx, &saved, &y)
    };
    let rows = &input.mtp[0];
    let mtp_pass = crate::Pass { positions: &rows.positions, seg: &rows.seg, ..pass };
    let (_, saved) = model.mtp[0].forward(&cx, &model.embed, &x(), &rows.rows, &rows.ids, &mtp_pass, None, false);
    let cat = saved.normed.as_ref().unwrap().cat.to_vec_f32();
    [block(0), block(1), vec![("cat", cat), ("projected", saved.block.attn.as_ref().unwrap().x.to_vec_f32())]]
}

/// A row changes what it names and what is computed from that, and nothing else.
#[test]
fn every_row_moves_what_it_names() {
    let base = Precision::COMPUTE;
    let plain = forward(base);
    let fp8 = Product::Fp8;
    let attention = ["a", "q", "c_kv", "k_rope", "kv", "o", "x", "u", "gate_up", "experts", "y"];
    let rows: [(Precision, &[&str]); 12] = [
        (Precision { attn_down: fp8, ..base }, &attention),
        (Precision { query_up: fp8, ..base }, &["q", "o", "x", "u", "gate_up", "experts", "y"]),
        (Precision { kv_up: fp8, ..base }, &["kv", "o", "x", "u", "gate_up", "experts", "y"]),
        (Precision { attn_out: fp8, ..base }, &["x", "u", "gate_up", "experts", "y"]),
        (Precision { gate_up: fp8, ..base }, &["gate_up", "y"]),
        (Precision { down: fp8, ..base }, &["y"]),
        (Precision { expert_gate_up: fp8, ..base }, &["experts", "y of experts"]),
        (Precision { expert_down: fp8, ..base }, &["y of experts"]),
        (Precision { mtp_proj: fp8, ..base }, &["projected"]),
        (Precision { dispatch: Keep::Fp8, ..base }, &["experts", "y of experts"]),
        // Only the kept activation changes.
        (Precision { swiglu_input: Keep::Fp8, ..base }, &["gate_up", "experts"]),
        (Precision { attn_out_input: Keep::E5m6, ..base }, &["o"]),
    ];
    for (precision, moved) in rows {
        for (part, (now, before)) in forward(precision).iter().zip(&plain).enumerate() {
            for ((name, now), (_, before)) in now.iter().zip(before) {
                let named = moved.contains(name) || *name == "y" && part == 1 && moved.contains(&"y of experts");
                let there = !before.is_empty();
                assert_eq!(now != before, named && there, "{name} of part {part}: {precision:?}");
            }
        }
    }
}

fn codes<'a>(what: &str, kept: &'a Kept, style: Style) -> &'a [f32] {
    let Kept::Tiles(q) = kept else { panic!("{what} is not in codes") };
    assert_eq!(q.style(), style, "{what}");
    assert!(q.scales().cols() > 1, "{what} has a tile a row");
    q.scales().f32()
}

#[test]
fn what_is_kept_is_in_the_table_s_format() {
    let config = config();
    for gradients in [Gradients::Tile, Gradients::Block] {
        let cx = Cx::cpu(1, DType::Bf16);
        let model = model(&cx, &config, Precision { gradients, ..Precision::FP8 });
        let input = Input::of(&cx, &[&ids()], 1);
        let pass = model.pass(&input, None, None);
        let mut grads = Grads::new(&cx, model.params().into_iter());
        let (amax, powers) = (Style::TILES, Style { power_of_two: true, ..Style::TILES });
        let all_powers = |scales: &[f32]| scales.iter().all(|s| ue8m0_from_scale(*s).is_some());
        for block in &model.blocks {
            let (y, saved) = block.forward(&cx, stream(&cx, TOKENS, config.hidden_size), &pass, None, false);
            assert!(saved.attn.as_ref().unwrap().expanded.is_none() && saved.norm.is_none());
            assert!(all_powers(codes("o", &saved.attn.as_ref().unwrap().o, Style { format: E5M6, ..powers })));
            match &saved.mlp {
                MlpSaved::Dense(f) => assert!(!all_powers(codes("gate_up", &f.gu, amax))),
                MlpSaved::Moe(m) => {
                    assert!(all_powers(codes("rows sent", &m.dispatched.x, powers)));
                    assert!(!all_powers(codes("experts' gate_up", &m.gu, amax)));
                    assert!(!all_powers(codes("shared gate_up", &m.shared.as_ref().unwrap().gu, amax)));
                }
            }
            let mut d = stream(&cx, y.rows(), y.cols());
            let deferred = block.backward_input(&cx, &mut d, saved, &pass, &mut grads);
            if let MlpDeferred::Moe(m) = &deferred.mlp {
                assert!(all_powers(codes("gradients sent", &m.d_y, powers)), "the weight's gradient reads tiles");
            }
        }
        let rows = &input.mtp[0];
        let mtp_pass = crate::Pass { positions: &rows.positions, seg: &rows.seg, ..pass };
        let previous = stream(&cx, TOKENS, config.hidden_size);
        let (_, saved) =
            model.mtp[0].forward(&cx, &model.embed, &previous, &rows.rows, &rows.ids, &mtp_pass, None, false);
        assert!(saved.normed.is_none());
    }
}

/// Gradients of a block's parameters by the name of their first part. The rows of the incoming gradient have very
/// different sizes. With powers of two as scales, blocks differ from tiles only in values below 2^-14 times the block's
/// largest number.
fn gradients(config: &ModelConfig, precision: Precision) -> Vec<(String, Vec<f32>)> {
    let cx = Cx::cpu(1, DType::Bf16);
    let model = model(&cx, config, precision);
    let input = Input::of(&cx, &[&ids()], 0);
    let pass = model.pass(&input, None, None);
    let mut grads = Grads::new(&cx, model.params().into_iter());
    let (block, mut d) = (&model.blocks[0], stream(&cx, TOKENS, config.hidden_size));
    for (r, row) in d.f32_mut().chunks_exact_mut(config.hidden_size).enumerate() {
        row.iter_mut().for_each(|v| *v *= 2f32.powi(-3 * (r as i32 % 7)));
    }
    let saved = block.forward(&cx, stream(&cx, TOKENS, config.hidden_size), &pass, None, false).1;
    let deferred = block.backward_input(&cx, &mut d, saved, &pass, &mut grads);
    block.backward_weight(&cx, deferred, &mut grads);
    let params = model.params().into_iter().filter(|p| p.spec.trainable() && p.spec.parts[0].name.contains(".layers."));
    params.map(|p| (p.spec.parts[0].name.clone(), grads.get(p.index).unwrap().to_vec_f32())).collect()
}

/// Sent blocks consist of tokens. One row is large, and all others in its block become zeros, even at experts that do
/// not receive the large row.
#[test]
fn blocks_of_sent_rows_are_of_neighbours_in_the_batch() {
    let config = ModelConfig { num_hidden_layers: 1, first_k_dense_replace: 0, ..config() };
    let sent = Precision { expert_down: Product::Fp8, dispatch: Keep::Fp8, ..Precision::COMPUTE };
    for (by, zeros) in [(Gradients::Tile, false), (Gradients::Block, true)] {
        let cx = Cx::cpu(1, DType::Bf16);
        let model = model(&cx, &config, Precision { gradients: by, ..sent });
        let (ids, block) = (ids(), &model.blocks[0]);
        let input = Input::of(&cx, &[&ids[..100]], 0);
        let pass = model.pass(&input, None, None);
        let mut grads = Grads::new(&cx, model.params().into_iter());
        let mut d = stream(&cx, 100, config.hidden_size);
        d.f32_mut()[config.hidden_size..].iter_mut().for_each(|v| *v *= 2f32.powi(-24));
        let saved = block.forward(&cx, stream(&cx, 100, config.hidden_size), &pass, None, false).1;
        let first = saved.moe().unwrap().routing.idx.i32()[..config.num_experts_per_tok].to_vec();
        let deferred = block.backward_input(&cx, &mut d, saved, &pass, &mut grads);
        block.backward_weight(&cx, deferred, &mut grads);
        let gate_up = &block.moe().unwrap().gate_up;
        let gradient = grads.get(gate_up.param.index).unwrap().f32();
        let size = gradient.len() / config.n_routed_experts;
        for (e, gradient) in gradient.chunks_exact(size).enumerate() {
            let none = gradient.iter().all(|v| *v == 0.0);
            assert_eq!(none, zeros && !first.contains(&(e as i32)), "{by:?}, expert {e}");
        }
    }
}

/// `gradients = "block"` in a dense block and in an MoE block. Gradients behind a product for an input gradient change.
/// The others keep their bits.
#[test]
fn blocks_share_scales_in_input_gradients_and_nowhere_else() {
    let one = ModelConfig { num_hidden_layers: 1, num_nextn_predict_layers: 0, ..config() };
    let dense = ModelConfig { n_routed_experts: 0, ..one.clone() };
    let moe = ModelConfig { first_k_dense_replace: 0, ..one };
    // For routed experts this affects only the down projection, because it reads rows that were sent.
    let sent = Precision { expert_down: Product::Fp8, dispatch: Keep::Fp8, ..Precision::COMPUTE };
    for (config, table, above) in
        [(dense, Precision::FP8, vec!["down_proj"]), (moe, sent, vec!["down_proj", "shared_experts"])]
    {
        let tiles = gradients(&config, table);
        let blocks = gradients(&config, Precision { gradients: Gradients::Block, ..table });
        for ((name, tiles), (_, blocks)) in tiles.iter().zip(&blocks) {
            let equal = above.iter().any(|a| name.contains(a));
            assert_eq!(tiles == blocks, equal, "{name}");
        }
    }
}
