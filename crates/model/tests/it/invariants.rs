//! The invariants that a model must satisfy: halves of the backward, threads, micro-batches, cached decoding.

use crate::fixtures::{Fixture, distance};
use hadal_model::{Decoder, Grads, Input, LossWeights, Model, Workspace};
use hadal_ops::{Cx, DType};
use hadal_weights::precision::{Gradients, Precision};

const NAMES: [&str; 3] = ["yarn", "moonlight", "mtp2"];

/// Loss sums, loads, and all gradients of one step over `ids`, with `groups` sequences at a time.
pub(crate) fn gradients(
    cx: &Cx,
    model: &Model,
    ids: &[Vec<i32>],
    groups: usize,
) -> (f64, Vec<Vec<i32>>, Vec<Vec<f32>>) {
    let mut grads = Grads::new(cx, model.params().into_iter());
    let (mut ws, mut stats) = (Workspace::default(), model.stats(cx));
    let targets: usize = ids.iter().map(|s| s.len() - 1).sum();
    let mtp: Vec<f32> = (0..model.mtp.len()).map(|k| 0.3 / (targets - ids.len() * (k + 1)) as f32).collect();
    let weights = LossWeights { main: 1.0 / targets as f32, mtp: &mtp, balance: None };
    for group in ids.chunks(groups) {
        let parts: Vec<&[i32]> = group.iter().map(Vec::as_slice).collect();
        let input = Input::of(cx, &parts, model.mtp.len());
        model.forward_backward(cx, &input, &weights, None, &mut ws, &mut stats, &mut grads, None);
    }
    grads.finish();
    let loads = stats.loads.iter().map(|l| l.i32().to_vec()).collect();
    (stats.main, loads, grads.iter().map(|g| g.f32().to_vec()).collect())
}

fn batch(f: &Fixture) -> Vec<Vec<i32>> {
    let ids = f.ids();
    let mut more: Vec<Vec<i32>> = ids.iter().map(|s| s.iter().rev().copied().collect()).collect();
    more.extend(ids);
    more
}

#[test]
fn threads_do_not_change_a_bit() {
    let runs = [
        (DType::F32, Precision::COMPUTE),
        (DType::Bf16, Precision::COMPUTE),
        (DType::Bf16, Precision::FP8),
        (DType::Bf16, Precision { gradients: Gradients::Block, ..Precision::FP8 }),
    ];
    for (name, (dtype, precision)) in NAMES.iter().flat_map(|n| runs.map(|run| (n, run))) {
        let f = Fixture::named(name);
        let run = |threads| {
            let cx = Cx::cpu(threads, dtype);
            gradients(&cx, &f.model_in(&cx, precision), &batch(&f), 2)
        };
        let one = run(1);
        assert!(one == run(2) && one == run(3), "{name} {dtype:?} {precision:?}");
    }
}

#[test]
fn what_is_computed_again_has_the_bits_of_what_was_kept() {
    // MTP modules are included.
    for name in NAMES {
        let f = Fixture::named(name);
        for (kept, dtype) in
            [(Precision::COMPUTE, DType::F32), (Precision::COMPUTE, DType::Bf16), (FP8_KEPT, DType::Bf16)]
        {
            let cx = Cx::cpu(2, dtype);
            let run = |recompute| {
                let model = f.model_in(&cx, Precision { recompute, ..kept });
                gradients(&cx, &model, &batch(&f), 2)
            };
            assert!(run(false) == run(true), "{name} {dtype:?} {kept:?}");
            // The same for the data that a cache stores.
            let logits = |recompute| {
                let model = f.model_in(&cx, Precision { recompute, ..kept });
                let (decoder, ids) = (Decoder::new(&cx, &model), f.ids());
                let mut cache = decoder.cache(&cx, 32);
                decoder.prefill(&cx, &ids[0][..5], &mut cache);
                model.project(&cx, &decoder.step(&cx, &[ids[0][5]], &mut [&mut cache])).to_vec_f32()
            };
            assert!(logits(false) == logits(true), "{name} {dtype:?} {kept:?}: latents");
        }
    }
}

/// FP8 without recomputation.
const FP8_KEPT: Precision = Precision { recompute: false, ..Precision::FP8 };

#[test]
fn micro_batches_give_the_same_loads_and_close_gradients() {
    for name in NAMES {
        let f = Fixture::named(name);
        let cx = Cx::cpu(2, DType::F32);
        let model = f.model(&cx);
        let (all, one) = (gradients(&cx, &model, &batch(&f), 4), gradients(&cx, &model, &batch(&f), 1));
        assert_eq!(all.1, one.1, "{name}: loads");
        assert!((all.0 - one.0).abs() <= 1e-6 * all.0.abs(), "{name}: loss");
        // A weight gradient is a sum over n tokens. Splitting it changes the order of n f32 additions, by at most n
        // 2^-24 of the sum of magnitudes. Activations have the same bits. The factor of 16 allows for cancellation in
        // the sum.
        let tokens: usize = batch(&f).iter().map(Vec::len).sum();
        let bound = 16.0 * tokens as f64 * f64::powi(2.0, -24);
        for (i, (a, b)) in all.2.iter().zip(&one.2).enumerate() {
            assert!(distance(a, b) <= bound, "{name}: gradient {i} {:.1e} > {bound:.1e}", distance(a, b));
        }
        assert_eq!(one, gradients(&cx, &model, &batch(&f), 1), "{name}: equal grouping");
    }
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
        let decoder = Decoder::new(&cx, &model);
        // Two sequences are decoded together. The other sequence does not change the result.
        let mut caches = [decoder.cache(&cx, 32), decoder.cache(&cx, 32)];
        decoder.prefill(&cx, &ids[0][..5], &mut caches[0]);
        decoder.prefill(&cx, &ids[1][..3], &mut caches[1]);
        let mut alone = decoder.cache(&cx, 32);
        decoder.prefill(&cx, &ids[0][..5], &mut alone);
        for i in 5..ids[0].len() {
            let [a, b] = &mut caches;
            let both = decoder.step(&cx, &[ids[0][i], ids[1][i - 2]], &mut [a, b]);
            let single = decoder.step(&cx, &[ids[0][i]], &mut [&mut alone]);
            let (both, single) = (model.project(&cx, &both), model.project(&cx, &single));
            assert_eq!(both.f32()[..vocab], *single.f32(), "{name}: a batch mate changed token {i}");
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
        let decoder = Decoder::new(&cx, &model);
        let mut cache = decoder.cache(&cx, want.len());
        let h = decoder.prefill(&cx, &want[..prompt], &mut cache);
        let logits = model.project(&cx, &h);
        let best =
            |row: &[f32]| row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(i, _)| i as i32).unwrap();
        let mut next = best(&logits.f32()[(prompt - 1) * logits.cols()..]);
        for token in &want[prompt..] {
            assert_eq!(next, *token, "{name}");
            if cache.len() + 1 < want.len() {
                let h = decoder.step(&cx, &[next], &mut [&mut cache]);
                next = best(model.project(&cx, &h).f32());
            }
        }
    }
}
