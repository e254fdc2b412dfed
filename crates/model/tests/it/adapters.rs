//! Adapters compared with the same change made in the weights; frozen parameters; weights that two models share.

use crate::fixtures::{Fixture, distance};
use hadal_model::{BalanceGroups, Grads, Input, LossWeights, Model, Purpose, Workspace};
use hadal_ops::{Cx, DType};
use hadal_weights::precision::Precision;

const KINDS: [&str; 6] = ["q_a_proj", "kv_b_proj", "o_proj", "gate_proj", "down_proj", "q_proj"];
const RANK: usize = 3;
const ALPHA: f32 = 6.0;

/// The model with adapters whose B is not zero.
fn adapted(cx: &Cx, fixture: &Fixture) -> Model {
    let mut model = fixture.model_in(cx, Precision::COMPUTE);
    model.attach_adapters(cx, &KINDS, RANK, ALPHA, 3, Purpose::Training);
    model.visit_mut(&mut |p| {
        if p.spec.name().contains("lora_B") {
            let values: Vec<f32> = (0..p.spec.len()).map(|i| ((i * 37 % 19) as f32 - 9.0) * 0.004).collect();
            p.set(cx, &values).unwrap();
        }
    });
    model
}

/// The model with `s B A` added to the weights.
fn merged(cx: &Cx, fixture: &Fixture, adapted: &Model) -> Model {
    let mut model = fixture.model_in(cx, Precision::COMPUTE);
    let values = |name: &str| -> Option<(Vec<f32>, Vec<usize>)> {
        let of = |p: &&&hadal_model::Param| p.spec.parts.iter().any(|part| part.name == name);
        let params = adapted.params();
        let param = params.iter().find(of)?;
        let part = param.spec.parts.iter().find(|part| part.name == name)?;
        Some((param.to_f32()[part.range()].to_vec(), part.shape.clone()))
    };
    model.visit_mut(&mut |p| {
        let mut all = p.to_f32();
        for part in &p.spec.parts {
            let base = part.name.strip_suffix(".weight").unwrap_or(&part.name);
            let Some((a, [r, k])) = values(&format!("{base}.lora_A.weight")).map(|(v, s)| (v, [s[0], s[1]])) else {
                continue;
            };
            let (b, _) = values(&format!("{base}.lora_B.weight")).unwrap();
            for (row, w) in all[part.range()].chunks_exact_mut(k).enumerate() {
                for (i, w) in w.iter_mut().enumerate() {
                    let sum: f64 = (0..r).map(|j| f64::from(b[row * r + j]) * f64::from(a[j * k + i])).sum();
                    *w += (f64::from(ALPHA / RANK as f32) * sum) as f32;
                }
            }
        }
        p.set(cx, &all).unwrap();
    });
    model
}

/// Loss, and the gradients that `wanted` accepts, by name.
fn gradients(cx: &Cx, model: &Model, input: &Input, wanted: fn(&str) -> bool) -> (f64, Vec<(String, Vec<f32>)>) {
    let params = model.params();
    let mut grads = Grads::of(cx, params.iter().copied(), |p| wanted(p.spec.name()));
    let (mut stats, mut ws) = (model.stats(cx), Workspace::default());
    let mtp = vec![0.1; model.mtp.len()];
    let weights = LossWeights { main: 0.1, mtp: &mtp, balance: Some((BalanceGroups::Sequences, 0.01)) };
    model.forward_backward(cx, input, &weights, None, &mut ws, &mut stats, &mut grads, None);
    grads.finish();
    let of = |p: &&hadal_model::Param| Some((p.spec.name().to_owned(), grads.get(p.index)?.f32().to_vec()));
    (stats.main, params.iter().filter_map(of).collect())
}

fn input(cx: &Cx, fixture: &Fixture, depth: usize) -> Input {
    let ids = fixture.ids();
    Input::of(cx, &ids.iter().map(Vec::as_slice).collect::<Vec<_>>(), depth)
}

/// The merged model's product has one more f32 rounding for each weight, so the losses differ by a few of these. The
/// gradient of B is `s dW A^T` with the merged weight's gradient dW, and that of A is `s B^T dW`.
#[test]
fn adapters_are_what_they_are_in_the_weights() {
    for name in ["yarn", "tied", "v2_group"] {
        let cx = Cx::cpu(2, DType::F32);
        let fixture = Fixture::named(name);
        let adapted = adapted(&cx, &fixture);
        let merged = merged(&cx, &fixture, &adapted);
        let plain = fixture.model_in(&cx, Precision::COMPUTE);
        let input = input(&cx, &fixture, plain.mtp.len());
        let (loss, all) = gradients(&cx, &adapted, &input, |_| true);
        let (same, of_merged) = gradients(&cx, &merged, &input, |_| true);
        let (other, _) = gradients(&cx, &plain, &input, |_| true);
        assert!(
            (loss - same).abs() < 1e-5 * same && (loss - other).abs() > 1e-3 * other,
            "{name}: {loss} {same} {other}"
        );
        let (lora, base): (Vec<_>, Vec<_>) = all.into_iter().partition(|(name, _)| name.contains("lora_"));
        assert!(lora.len() > 8 && base.len() == of_merged.len());
        for ((a, x), (b, y)) in base.iter().zip(&of_merged) {
            assert!(a == b && distance(x, y) < 1e-4, "{name} {a}: {}", distance(x, y));
        }
        // For the attention's output projection, whose layer has one part and one group.
        let find = |all: &[(String, Vec<f32>)], name: &str| all.iter().find(|g| g.0 == name).unwrap().1.clone();
        let layer = "model.layers.1.self_attn.o_proj";
        let dw = find(&of_merged, &format!("{layer}.weight"));
        let value = |which: &str| {
            let params = adapted.params();
            params.iter().find(|p| p.spec.name() == format!("{layer}.{which}.weight")).unwrap().to_f32()
        };
        let (a, b) = (value("lora_A"), value("lora_B"));
        let (k, s) = (a.len() / RANK, f64::from(ALPHA / RANK as f32));
        let n = dw.len() / k;
        let dot = |f: &dyn Fn(usize) -> f64, n: usize| (s * (0..n).map(f).sum::<f64>()) as f32;
        let at = |row: usize, col: usize| f64::from(dw[row * k + col]);
        let d_b: Vec<f32> =
            (0..n * RANK).map(|i| dot(&|col| at(i / RANK, col) * f64::from(a[i % RANK * k + col]), k)).collect();
        let d_a: Vec<f32> =
            (0..RANK * k).map(|i| dot(&|row| at(row, i % k) * f64::from(b[row * RANK + i / k]), n)).collect();
        assert!(distance(&find(&lora, &format!("{layer}.lora_B.weight")), &d_b) < 1e-4);
        assert!(distance(&find(&lora, &format!("{layer}.lora_A.weight")), &d_a) < 1e-4);
    }
}

/// Frozen parameters have no gradient. The gradients of the others keep their bits.
#[test]
fn frozen_parameters_have_no_gradient() {
    let cx = Cx::cpu(2, DType::Bf16);
    let fixture = Fixture::named("yarn");
    let model = adapted(&cx, &fixture);
    let input = input(&cx, &fixture, model.mtp.len());
    let (loss, all) = gradients(&cx, &model, &input, |_| true);
    for wanted in [|name: &str| name.contains("lora_"), |name: &str| name.contains("norm"), |_: &str| false] {
        let (again, some) = gradients(&cx, &model, &input, wanted);
        let expected: Vec<_> = all.iter().filter(|(name, _)| wanted(name)).cloned().collect();
        assert!(again == loss && some == expected, "{} of {}", some.len(), all.len());
    }
}

#[test]
fn a_shared_weight_cannot_be_written() {
    let cx = Cx::cpu(1, DType::F32);
    let fixture = Fixture::named("yarn");
    let (mut a, b) = (fixture.model_in(&cx, Precision::COMPUTE), fixture.model_in(&cx, Precision::COMPUTE));
    a.norm.share(&b.norm);
    assert!(a.norm.is_shared() && b.norm.is_shared());
    let before = a.norm.version();
    let refused = a.norm.edit(&cx, |norm| norm.f32_mut().fill(0.0)).unwrap_err();
    assert!(refused.to_string().contains("model.norm.weight"), "{refused}");
    assert!(b.norm.to_f32() == a.norm.to_f32() && a.norm.version() == before);
    drop(b);
    a.norm.edit(&cx, |norm| norm.f32_mut().fill(0.0)).unwrap();
    assert_eq!(a.norm.version(), before + 1);
}
