//! BF16 with the routing of the f32 run: its distance from f32, compared with the distance of PyTorch's BF16.
//!
//! `bf16.json` contains PyTorch's distances as `[model held in BF16, autocast over f32 weights]`, each the root mean
//! square over eight batches. Our implementation has f32 masters and an f32 residual stream, and rounds at other places
//! than either. For each tensor, the bound is 1.5 times the larger of the two. A tensor of a few hundred numbers still
//! varies by chance. All gradients together (`grad.*`) and the outputs do not, so their bound is 1.5 times the smaller
//! one.

use crate::fixtures::{Fixture, distance, routing};
use hadal_model::dump::{Array, Dump, dump};
use hadal_ops::{Cx, DType};
use std::collections::BTreeMap;

const FACTOR: f64 = 1.5;

/// The batches of `bf16.json`, in order.
fn batches(reference: &serde_json::Value) -> Vec<Vec<Vec<i32>>> {
    let all = reference["input_ids"].as_object().unwrap();
    (0..all.len()).map(|i| serde_json::from_value(all[&i.to_string()].clone()).unwrap()).collect()
}

fn values<'a>(dump: &'a Dump, name: &str) -> &'a [f32] {
    let Array::F32(_, v) = &dump[name] else { panic!("{name} is no f32 array") };
    v
}

/// The distances of every f32 array, of the losses, and of all gradients together.
fn distances(a: &Dump, b: &Dump) -> BTreeMap<String, f64> {
    let mut all = BTreeMap::new();
    for (name, array) in b {
        let Array::F32(_, want) = array else { continue };
        let have = values(a, name);
        match name.as_str() {
            "loss" => drop(all.insert("loss.main".into(), distance(have, want))),
            "mtp_loss" => {
                for (k, (x, y)) in have.iter().zip(want).enumerate() {
                    all.insert(format!("loss.mtp{}", k + 1), distance(&[*x], &[*y]));
                }
            }
            _ => drop(all.insert(name.clone(), distance(have, want))),
        }
    }
    for prefix in ["grad.", "mtp_grad."] {
        let flat = |d: &Dump| -> Vec<f32> {
            d.keys().filter(|n| n.starts_with(prefix)).flat_map(|n| values(d, n)).copied().collect()
        };
        all.insert(format!("{prefix}*"), distance(&flat(a), &flat(b)));
    }
    all
}

#[test]
fn with_routing_replayed_bf16_is_no_further_from_f32_than_pytorchs() {
    for (name, tensors) in [("yarn", 150), ("moonlight", 50)] {
        let f = Fixture::named(name);
        let text = std::fs::read_to_string(f.path.join("bf16.json")).unwrap();
        let reference: serde_json::Value = serde_json::from_str(&text).unwrap();
        let (exact, rounded) = (Cx::cpu(2, DType::F32), Cx::cpu(2, DType::Bf16));
        let (wide, narrow) = (f.model(&exact), f.model(&rounded));
        let batches = batches(&reference);
        assert_eq!(batches.len(), 8);
        let mut squares: BTreeMap<String, f64> = BTreeMap::new();
        for batch in &batches {
            let ids: Vec<&[i32]> = batch.iter().map(Vec::as_slice).collect();
            let want = dump(&exact, &wide, &ids, true, None);
            let have = dump(&rounded, &narrow, &ids, true, Some(&routing(&rounded, &want)));
            for (tensor, d) in distances(&have, &want) {
                *squares.entry(tensor).or_default() += d * d / batches.len() as f64;
            }
        }
        let (mut failures, mut compared) = (Vec::new(), 0);
        for (tensor, torch) in reference["rms"].as_object().unwrap() {
            let [pure, autocast] = [0, 1].map(|i| torch[i].as_f64().unwrap());
            let ours = squares.get(tensor).unwrap_or_else(|| panic!("{name}: no {tensor}")).sqrt();
            let steady = tensor.ends_with("grad.*") || tensor.ends_with("logits") || tensor.starts_with("hidden");
            let bound = FACTOR * if steady { pure.min(autocast) } else { pure.max(autocast) };
            if ours.is_nan() || ours > bound {
                failures.push(format!("{name} {tensor}: {ours:.2e} > {bound:.2e} ({pure:.2e}, {autocast:.2e})"));
            }
            compared += 1;
        }
        assert!(compared >= tensors, "{name}: only {compared} tensors");
        assert!(squares["logits"] > 1e-6, "{name}: BF16 was not used");
        assert!(failures.is_empty(), "{} of {compared}:\n{}", failures.len(), failures.join("\n"));
    }
}
