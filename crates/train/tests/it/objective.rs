//! The run loop with an objective that runs the model, reports figures, and stores JSON and a tensor. After a kill, it
//! continues to the same bits.

use hadal_model::Model;
use hadal_ops::{Cx, DType, Tensor};
use hadal_recipe::plan::Plan;
use hadal_recipe::recipe::Recipe;
use hadal_recipe::schedule::StepPlan;
use hadal_train::corpus::{Corpus, TextSource};
use hadal_train::objective::{Objective, Pretraining};
use hadal_train::run::{Run, RunError, trainer};
use hadal_train::state::State;
use hadal_train::step::{StepBatch, Trainer};
use hadal_watch::live::Mode;
use hadal_watch::metrics::{self, StepMetrics, Validation};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Weights tokens by how unlikely they are for the model, and keeps a mean of the losses.
struct Surprise {
    inner: Pretraining,
    mean: Tensor,
    batches: u64,
}

impl Objective for Surprise {
    fn next_batch(&mut self, trainer: &mut Trainer, step: &StepPlan, batch: &mut StepBatch) -> Result<(), RunError> {
        self.inner.next_batch(trainer, step, batch)?;
        let stride = batch.segments[0] + 1;
        let rows: Vec<&[i32]> = batch.tokens.chunks_exact(stride).collect();
        let input = hadal_model::Input::of(&trainer.cx, &rows, 0);
        let (losses, _) = trainer.model.losses(&trainer.cx, &input, None, false, None);
        // The weight of a token is its own loss. The first token of a row is not a target.
        let shifted =
            losses.f32().chunks_exact(stride).flat_map(|l| [0.0].into_iter().chain(l[..stride - 1].iter().copied()));
        batch.weights = shifted.collect();
        let all = losses.f32();
        self.mean.f32_mut()[0] = 0.5 * self.mean.f32()[0] + 0.5 * all.iter().sum::<f32>() / all.len() as f32;
        self.batches += 1;
        Ok(())
    }
    fn figures(&self) -> Vec<(String, f64)> {
        vec![("surprise".into(), f64::from(self.mean.f32()[0]))]
    }
    fn state(&self) -> Value {
        json!({"pretraining": self.inner.state(), "batches": self.batches})
    }
    fn tensors(&self) -> Vec<(&str, &Tensor)> {
        vec![("mean", &self.mean)]
    }
    fn tensors_mut(&mut self) -> Vec<(&str, &mut Tensor)> {
        vec![("mean", &mut self.mean)]
    }
    fn validate(&self, cx: &Cx, model: &Model, go_on: &dyn Fn() -> bool) -> Option<Validation> {
        self.inner.validate(cx, model, go_on)
    }
    fn files(&self) -> &[PathBuf] {
        self.inner.files()
    }
    fn resume(&mut self, state: Value) -> Result<(), RunError> {
        self.batches = state["batches"].as_u64().unwrap();
        self.inner.resume(state)
    }
}

fn run(plan: &Plan, corpus: &Corpus, folder: &Path, resume: bool) -> Vec<StepMetrics> {
    let trainer = trainer(plan, None).unwrap();
    let mean = Cx::cpu(1, DType::F32).zeros(&[1], DType::F32);
    let objective = Surprise { inner: Pretraining::new(plan, corpus).unwrap(), mean, batches: 0 };
    let run = Run::new(plan, folder, trainer, Box::new(objective), resume).unwrap();
    assert_eq!(run.progress().step, if resume { 4 } else { 0 });
    assert!(run.run(Mode::Plain).unwrap().1.finished);
    metrics::read(folder).unwrap()
}

#[test]
fn an_objective_runs_the_model_shows_figures_and_resumes_to_the_bit() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("text.txt");
    let line = |i: u32| format!("the {} of {} is a number like {}, and the next one is another.\n", i * 7, i, i * i);
    std::fs::write(&text, (0..120).map(line).collect::<String>()).unwrap();
    std::fs::write(dir.path().join("other.txt"), (0..60).map(|i| line(i + 500)).collect::<String>()).unwrap();
    let paths = [text, dir.path().join("other.txt")].map(|p| p.display().to_string());
    let sets = [
        "model.vocab_size=300",
        "model.hidden_size=32",
        "model.num_hidden_layers=2",
        "run.threads=1",
        "data.seq_len=32",
        "data.fim_span=24",
        "schedule.total_tokens=512",
        "batch.sequences=2",
        "batch.micro_batch=1",
        "batch.ramp.from=2",
        "checkpoint.every=4 steps",
        "checkpoint.keep_last=0",
        "data.shuffle_rows=4",
        "data.validation_share=0.3",
        "data.filter=none",
    ];
    let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
    let plan = Plan::new(&Recipe::load("quickstart", &sets).unwrap(), None).unwrap();
    let source = TextSource::Paths(&paths);
    let corpus = Corpus::prepare(&source, &plan.data, 300, 1, dir.path(), &mut |_| ()).unwrap();
    let folder = dir.path().join("run");
    std::fs::create_dir(&folder).unwrap();
    let whole = run(&plan, &corpus, &folder, false);
    assert_eq!(whole.len(), 8);
    assert!(whole.iter().all(|m| m.figures["surprise"] > 1.0));
    let last = folder.join("checkpoints/step-00000008");
    let state = std::fs::read(last.join("state/tensors.safetensors")).unwrap();
    assert!(State::open(&last).unwrap().has("objective"));
    // As if it was killed before the last checkpoint.
    std::fs::remove_dir_all(&last).unwrap();
    let again = run(&plan, &corpus, &folder, true);
    let bits = |steps: &[StepMetrics]| -> Vec<(u64, u64, u64)> {
        steps.iter().map(|m| (m.step, m.loss.to_bits(), m.figures["surprise"].to_bits())).collect()
    };
    assert_eq!(bits(&again), bits(&whole));
    assert!(std::fs::read(last.join("state/tensors.safetensors")).unwrap() == state);
}
