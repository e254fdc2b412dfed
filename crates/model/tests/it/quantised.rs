//! Models whose weights are quantised at run time, compared with the same model with the quantised values in f32, and
//! their bits.

use crate::cached::Cached;
use crate::fixtures::{Fixture, distance};
use hadal_model::{Input, Model, Stored};
use hadal_ops::{Cx, DType};
use hadal_weights::Checkpoint;
use hadal_weights::precision::{RunFormat, RunFormats};

fn all(format: RunFormat) -> RunFormats {
    RunFormats { attention: format, experts: format, head: format }
}

/// The products read int8 rows of 32 inputs: each is off by at most 1/254 of the largest of its group, and some of these
/// errors cancel. With the weights' own error taken out, what is left must be a few times that, and not of the size of a
/// layer that was left out. Experts that are nearly tied may be chosen otherwise, so the routing is replayed.
#[test]
fn a_quantised_model_computes_with_its_quantised_weights() {
    for (name, format) in
        ["yarn", "moonlight", "mtp2", "tied"].iter().flat_map(|n| [RunFormat::Int8, RunFormat::Int4].map(|f| (n, f)))
    {
        let f = Fixture::named(name);
        let cx = Cx::cpu(2, DType::F32);
        let quantised = Model::load_as(&cx, &Checkpoint::open(&f.path).unwrap(), all(format)).unwrap();
        let count = quantised.params().iter().filter(|p| matches!(p.stored(), Stored::Quantised(_))).count();
        assert!(count > 5, "{name}: {count} quantised parameters");
        // The same weights in f32.
        let mut plain = f.model(&cx);
        let values: Vec<Vec<f32>> = quantised.params().iter().map(|p| p.to_f32()).collect();
        let mut at = values.iter();
        plain.visit_mut(&mut |p| p.set(&cx, at.next().unwrap()).unwrap());
        let ids = f.ids();
        let ids: Vec<&[i32]> = ids.iter().map(Vec::as_slice).collect();
        let input = Input::of(&cx, &ids, plain.mtp.len());
        let mut routing = Vec::new();
        let mut keep = |probe: hadal_model::Probe<'_>| {
            if let hadal_model::Probe::Routing(_, r) = probe {
                routing.push(cx.copy(&r.idx));
            }
        };
        let (want, _) = plain.logits(&cx, &input, None, Some(&mut keep));
        let (have, _) = quantised.logits(&cx, &input, Some(&routing), None);
        let off = distance(have.f32(), want.f32());
        assert!(off < 0.05, "{name} {format:?}: {off}");
        // Losses go by the same head.
        let (losses, _) = quantised.losses(&cx, &input, Some(&routing), false, None);
        for (row, (loss, target)) in
            losses.f32().iter().zip(input.targets.ids.i32()).enumerate().filter(|(_, l)| *l.1 >= 0)
        {
            let logits = &have.f32()[row * have.cols()..(row + 1) * have.cols()];
            let sum: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
            let want = sum.ln() - f64::from(logits[*target as usize]);
            assert!((f64::from(*loss) - want).abs() < 1e-4 * want.abs().max(1.0), "{name}: {loss} instead of {want}");
        }
    }
}

/// As for weights in the compute format: a row has its bits alone, given tokens however they are cut.
#[test]
fn rows_of_a_quantised_model_have_their_bits_alone() {
    for format in [RunFormat::Int8, RunFormat::Int4] {
        let f = Fixture::named("yarn");
        let cx = Cx::cpu(2, DType::Bf16);
        let model = Model::load_as(&cx, &Checkpoint::open(&f.path).unwrap(), all(format)).unwrap();
        let ids = &f.ids()[0];
        let whole = model.head_inputs(&cx, &Input::of(&cx, &[ids], 0)).to_vec_f32();
        let mut cached = Cached::new(&cx, &model, 1);
        let mut found = cached.given(&cx, &model, &ids[..3], 0, &[0]).to_vec_f32();
        found.extend(cached.given(&cx, &model, &ids[3..], 3, &[0]).to_vec_f32());
        assert!(found == whole, "{format:?}");
        let together = cached.generated(&cx, &model, &ids[5..9], 5, &[0]).to_vec_f32();
        let alone: Vec<f32> =
            (5..9).flat_map(|i| cached.generated(&cx, &model, &ids[i..=i], i, &[0]).to_vec_f32()).collect();
        assert!(together == alone, "{format:?}");
    }
}

/// The absorbed form reads `W_UK` and `W_UV` in eight bits, and its own inputs too. Each rounding is off by at most 1/254
/// of the largest of its group, some 0.6% in the mean, and later layers round slightly different inputs. So the bound is
/// that of the test above. Views of four bits are beyond it.
#[test]
fn both_forms_of_attention_use_the_same_quantised_weights() {
    for (name, format) in ["yarn", "moonlight"].iter().flat_map(|n| [RunFormat::Int8, RunFormat::Int4].map(|f| (n, f)))
    {
        let f = Fixture::named(name);
        let cx = Cx::cpu(2, DType::F32);
        let model = Model::load_as(&cx, &Checkpoint::open(&f.path).unwrap(), all(format)).unwrap();
        let ids = &f.ids()[0];
        let given = model.head_inputs(&cx, &Input::of(&cx, &[ids], 0)).to_vec_f32();
        let mut cached = Cached::new(&cx, &model, 1);
        let generated = cached.generated(&cx, &model, ids, 0, &[0]).to_vec_f32();
        let off = distance(&generated, &given);
        assert!(off > 0.0 && off < 0.05, "{name} {format:?}: {off}");
    }
}
