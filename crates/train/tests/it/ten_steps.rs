//! Ten training steps compared with PyTorch's: `torch.optim.AdamW` in f32 with the same weights and batches.
//!
//! The reference uses sequences of T tokens, and the last token has no target. A step here uses the first T - 1 tokens
//! as inputs and the last one only as a target. Attention is causal, so both have the same losses.

use crate::{OPTIM, fixture, train};
use hadal_ops::{Cx, DType};
use hadal_train::step::{StepSettings, Trainer};
use hadal_weights::Checkpoint;
use hadal_weights::precision::Precision;
use serde_json::Value;

/// Bound on losses and on the norms of gradients and weights.
const BOUND: f64 = 1e-4;

fn close(what: &str, have: f64, want: f64) {
    assert!((have - want).abs() <= BOUND * want.abs(), "{what}: {have} instead of {want}");
}

#[test]
fn losses_gradient_norms_and_weights_follow_pytorch() {
    for (name, run, micro_batch) in
        [("yarn", "constant", 2), ("yarn", "warm_up", 1), ("tied", "constant", 1), ("tied", "warm_up", 2)]
    {
        let text = std::fs::read_to_string(fixture(name).join("train.json")).unwrap();
        let reference: Value = serde_json::from_str(&text).unwrap();
        let (settings, expected) = (&reference["settings"], &reference[run]);
        assert_eq!(settings["betas"], serde_json::json!([0.9, 0.95]));
        assert_eq!((&settings["eps"], &settings["weight_decay"]), (&Value::from(1e-8), &Value::from(0.1)));
        let number = |v: &Value| v.as_f64().unwrap();

        let cx = Cx::cpu(2, DType::F32);
        let start = Checkpoint::open(fixture(name)).unwrap();
        let mut t = Trainer::new(cx, start.config(), Precision::COMPUTE, &start, OPTIM, 0.0).unwrap();
        for step in 0..10 {
            let batch: Vec<Vec<i32>> =
                serde_json::from_value(reference["input_ids"][step.to_string()].clone()).unwrap();
            let lr = number(&expected["lr"][step]);
            let (clip, mtp_lambda) = (number(&settings["clip"]), number(&settings["mtp_weight"]));
            let settings = StepSettings { lr, clip, gamma: 0.0, mtp_lambda, balance: None, micro_batch };
            let (losses, norm) = train(&mut t, &batch.concat(), batch[0].len() - 1, &settings);
            let at = |what: &str| format!("{name} {run}, step {step}, {what}");
            close(&at("loss"), losses[0], number(&expected["main"][step]));
            close(&at("MTP loss"), losses[2], number(&expected["mtp"][step][0]));
            close(&at("total"), losses[0] + mtp_lambda * losses[2], number(&expected["total"][step]));
            close(&at("total in f64"), losses[0] + mtp_lambda * losses[2], number(&expected["total_f64"][step]));
            close(&at("gradient norm"), norm, number(&expected["grad_norm"][step]));
        }
        let norms = expected["final_norm"].as_object().unwrap();
        let mut compared = 0;
        for p in t.model.params() {
            for part in &p.spec.parts {
                let Some(want) = norms.get(&part.name) else { continue };
                let values = &t.masters.of(p).f32()[part.range()];
                let norm = values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
                close(&format!("{name} {run}, {}", part.name), norm, number(want));
                compared += 1;
            }
        }
        let trained: usize = t.model.params().iter().filter(|p| p.spec.trainable()).map(|p| p.spec.parts.len()).sum();
        assert_eq!(compared, trained, "{name}: every trained tensor has a reference");
    }
}
