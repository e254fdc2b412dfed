//! Needles as an objective: pre-training's batches, in a share of whose rows facts are hidden and asked for, so that a small
//! model learns to look things up (report 4.3, figure 8).
//!
//! Which rows, and what is hidden in them, is a function of the seed and the number of the row. The real text of such a row
//! is the beginning of what it had; what the facts leave no room for is not trained on.

use hadal_base::{Purpose, Rng};
use hadal_data::needle::Needles;
use hadal_ops::Tensor;
use hadal_recipe::plan::Plan;
use hadal_recipe::schedule::StepPlan;
use hadal_train::corpus::Corpus;
use hadal_train::objective::{self, Objective, Pretraining};
use hadal_train::run::RunError;
use hadal_train::step::{StepBatch, Trainer};
use serde_json::{Value, json};

/// The name in recipes.
pub const NAME: &str = "needles";
/// Index of the random number that makes a row a retrieval text.
const CHOOSE: u64 = 0;

/// The objective that a plan names: one of this crate, or of the training crate.
pub fn make(plan: &Plan, corpus: &Corpus) -> Result<Box<dyn Objective>, RunError> {
    if plan.objective.name == NAME {
        Ok(Box::new(WithNeedles::new(plan, corpus)?))
    } else {
        objective::make(plan, corpus)
    }
}

/// Pre-training's batches with needles.
struct WithNeedles {
    inner: Pretraining,
    needles: Needles,
    seed: u64,
    rate: f64,
    /// Rows given so far.
    rows: u64,
}

impl WithNeedles {
    fn new(plan: &Plan, corpus: &Corpus) -> Result<Self, RunError> {
        let wrong = |why: &str| RunError::Mismatch(format!("`objective.{why}"));
        let settings = &plan.objective.settings;
        if let Some(key) = settings.keys().find(|key| *key != "rate") {
            return Err(wrong(&format!("{key}`: needles have `rate` only")));
        }
        let rate = settings.get("rate").and_then(Value::as_f64).filter(|rate| (0.0..=1.0).contains(rate));
        let rate = rate.ok_or_else(|| wrong("rate`: write the share of rows with needles, from 0 to 1"))?;
        let needles = Needles::new(&corpus.tokenizer, true)?;
        let (need, have) = (needles.room(1), plan.data.seq_len);
        if need > have {
            return Err(wrong(&format!("name`: sequences of {have} tokens are too short: a needle takes {need}")));
        }
        Ok(Self { inner: Pretraining::new(plan, corpus), needles, seed: plan.run.seed, rate, rows: 0 })
    }

    /// Hides facts in a row of inputs and one target, if it is one of those.
    fn hide(&self, row: &mut [i32], number: u64) -> Result<(), RunError> {
        let rng = Rng::new(self.seed, Purpose::Needle, number);
        if rng.uniform(CHOOSE) >= self.rate {
            return Ok(());
        }
        let inputs = row.len() - 1;
        let mut ids = Vec::with_capacity(inputs);
        self.needles
            .row(inputs, rng.substream(CHOOSE), &mut ids, |n| Ok(row[..n].iter().map(|id| *id as u32).collect()))?;
        row.iter_mut().zip(&ids).for_each(|(to, id)| *to = *id as i32);
        Ok(())
    }
}

impl Objective for WithNeedles {
    fn next_batch(&mut self, trainer: &mut Trainer, step: &StepPlan, batch: &mut StepBatch) -> Result<(), RunError> {
        self.inner.next_batch(trainer, step, batch)?;
        let stride = batch.segments.first().map_or(1, |inputs| inputs + 1);
        let mut tokens = std::mem::take(&mut batch.tokens);
        for row in tokens.chunks_exact_mut(stride) {
            self.hide(row, self.rows)?;
            self.rows += 1;
        }
        batch.tokens = tokens;
        Ok(())
    }

    fn state(&self) -> Value {
        json!({"pretraining": self.inner.state(), "rows": self.rows})
    }

    fn resume(&mut self, state: Value) -> Result<(), RunError> {
        // An extension may begin after a run without needles.
        let (inner, rows) = match state.get("pretraining") {
            Some(inner) => (inner.clone(), state["rows"].as_u64().unwrap_or(0)),
            None => (state, 0),
        };
        self.rows = rows;
        self.inner.resume(inner)
    }

    fn tensors(&self) -> Vec<(&str, &Tensor)> {
        self.inner.tensors()
    }

    fn waited(&self) -> f64 {
        self.inner.waited()
    }
}
