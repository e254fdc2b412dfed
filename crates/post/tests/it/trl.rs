//! Tokens, masks, the loss and every gradient of a step are those of TRL's `SFTTrainer`.

use crate::{distance, fixture};
use hadal_data::Tokenizer;
use hadal_data::chat::samples::read_samples;
use hadal_data::chat::{ChatTemplate, Turns};
use hadal_ops::{Cx, DType};
use hadal_post::SftSession;
use hadal_recipe::schedule::StepPlan;
use hadal_recipe::sft::SftRecipe;
use hadal_train::objective::Objective;
use hadal_train::optim::OptimConfig;
use hadal_train::run;
use hadal_train::step::{StepBatch, StepSettings, Trainer};
use hadal_weights::precision::Precision;
use hadal_weights::{Checkpoint, TensorFile};
use serde::Deserialize;

#[derive(Deserialize)]
struct Reference {
    loss: f64,
    ids: Vec<i32>,
    labels: Vec<i32>,
    positions: Vec<i32>,
    trained: usize,
}

/// The conversations of the fixture as one row.
fn batch(reference: &Reference) -> StepBatch {
    let folder = fixture();
    let tokenizer = Tokenizer::load(&folder).unwrap();
    let template = ChatTemplate::load(&folder, &tokenizer).unwrap();
    let turns = Turns { template: &template, tokenizer: &tokenizer, now: 0 };
    let (mut batch, path) = (StepBatch::default(), folder.join("chats.jsonl"));
    let starts = reference.positions.iter().enumerate().filter_map(|(at, position)| (*position == 0).then_some(at));
    let starts: Vec<usize> = starts.chain([reference.ids.len()]).collect();
    let mut number = 0;
    read_samples(&path, |sample| {
        let [learned] = turns.learn(&path, &sample)?.try_into().unwrap();
        let place = starts[number]..starts[number + 1];
        number += 1;
        let (ids, labels) = (&reference.ids[place.clone()], &reference.labels[place]);
        let mut mask = vec![0.0; learned.ids.len()];
        learned.trained.iter().for_each(|of| mask[of.clone()].fill(1.0));
        // TRL keeps what follows the last trained token, which has no effect.
        assert!(ids.iter().zip(&learned.ids).all(|(a, b)| *a == *b as i32));
        assert!(labels[mask.len()..].iter().all(|label| *label == -100));
        assert!(labels.iter().zip(&mask).all(|(label, weight)| (*label != -100) == (*weight > 0.0)));
        batch.segments.push(learned.ids.len() - 1);
        batch.tokens.extend(learned.ids.into_iter().map(|id| id as i32));
        batch.weights.extend(mask);
        Ok(())
    })
    .unwrap();
    batch.rows = vec![number];
    batch
}

/// The sequences of a batch with their weights, in a fixed order.
fn sequences(batch: &StepBatch) -> Vec<(Vec<i32>, Vec<u32>)> {
    let mut first = 0;
    let one = |inputs: &usize| {
        let place = first..first + inputs + 1;
        first = place.end;
        (batch.tokens[place.clone()].to_vec(), batch.weights[place].iter().map(|weight| weight.to_bits()).collect())
    };
    let mut all: Vec<_> = batch.segments.iter().map(one).collect();
    all.sort();
    all
}

/// What the objective of a run gives to the step is what TRL trains.
#[test]
fn a_run_trains_the_same_sequences() {
    let dir = tempfile::tempdir().unwrap();
    let sets = [
        format!("start.model={}", fixture().display()),
        format!("data.train=[\"{}\"]", fixture().join("chats.jsonl").display()),
        format!("run.out={}", dir.path().join("run").display()),
        "data.seq_len=200".into(),
        "data.validation=0".into(),
        "run.precision=f32".into(),
    ];
    let recipe = SftRecipe::parse("sft.toml", hadal_recipe::sft::EXAMPLE, &sets).unwrap();
    let session = SftSession::begin(&recipe, &|_| ()).unwrap();
    let (mut objective, mut trainer) = (session.objective().unwrap(), session.trainer().unwrap());
    let reference: Reference =
        serde_json::from_str(&std::fs::read_to_string(fixture().join("trl.json")).unwrap()).unwrap();
    let (settings, step) = run::settings(&session.plan, 0).unwrap();
    let mut found = StepBatch::default();
    objective.next_batch(&mut trainer, &StepPlan { sequences: 1, ..step }, &mut found).unwrap();
    assert!(found.rows == [4] && sequences(&found) == sequences(&batch(&reference)));
    trainer.gradients(&found, &settings);
    assert!((trainer.losses().main - reference.loss).abs() < 1e-5 * reference.loss);
    assert_eq!(objective.figures()[1], ("trained tokens".to_owned(), reference.trained as f64));
}

#[test]
fn loss_and_gradients_are_those_of_trl() {
    let folder = fixture();
    let reference: Reference =
        serde_json::from_str(&std::fs::read_to_string(folder.join("trl.json")).unwrap()).unwrap();
    let batch = batch(&reference);
    assert_eq!(batch.weights.iter().filter(|weight| **weight > 0.0).count(), reference.trained);
    let start = Checkpoint::open(&folder).unwrap();
    let optim = OptimConfig { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.0, moments: DType::F32 };
    let cx = Cx::cpu(2, DType::F32);
    let mut t = Trainer::new(cx, start.config(), Precision::COMPUTE, &start, optim, 0.0).unwrap();
    let settings = StepSettings { lr: 0.0, clip: 0.0, gamma: 0.0, mtp_lambda: 0.0, balance: None, micro_batch: 1 };
    t.gradients(&batch, &settings);
    let loss = t.losses().main;
    assert!((loss - reference.loss).abs() < 1e-5 * reference.loss, "{loss} and {}", reference.loss);
    let file = TensorFile::open(&folder.join("gradients.safetensors")).unwrap();
    let (mut seen, mut largest) = (0, 0.0f64);
    for p in t.model.params() {
        let Some(grad) = t.grads.get(p.index) else { continue };
        for part in &p.spec.parts {
            let mut expected = vec![0.0f32; part.len()];
            file.read(&part.name, 0, bytemuck::cast_slice_mut(&mut expected)).unwrap();
            let apart = distance(&grad.f32()[part.range()], &expected);
            assert!(apart < 1e-5, "{}: {apart}", part.name);
            (seen, largest) = (seen + 1, largest.max(apart));
        }
    }
    assert_eq!(seen, file.names().count());
    println!("{seen} gradients, at most {largest:.1e} apart");
}
