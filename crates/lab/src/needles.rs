//! Needles as an objective: batches of pre-training, where a share of the rows contains hidden facts and questions
//! about them. So a small model learns to look things up (report 4.3, figure 8).
//!
//! Which rows, and what is hidden in them, is a function of the seed and the number of the row. The real text of such a
//! row is the beginning of its original text. The rest, for which the facts leave no room, is not trained on.

use hadal_base::{Purpose, Rng};
use hadal_data::needle::Needles;
use hadal_model::Model;
use hadal_ops::{Cx, Tensor};
use hadal_recipe::plan::Plan;
use hadal_recipe::schedule::StepPlan;
use hadal_train::corpus::Corpus;
use hadal_train::objective::{self, Objective, Pretraining};
use hadal_train::run::RunError;
use hadal_train::step::{StepBatch, Trainer};
use hadal_watch::metrics::Validation;
use serde_json::Value;
use std::path::PathBuf;

/// The name in recipes.
pub const NAME: &str = "needles";
/// Index of the random number that decides whether a row has needles.
const CHOOSE: u64 = 0;

/// Makes the objective that a plan names: one of this crate, or of the training crate.
pub fn make(plan: &Plan, corpus: &Corpus) -> Result<Box<dyn Objective>, RunError> {
    if plan.objective.name == NAME {
        Ok(Box::new(WithNeedles::new(plan, corpus)?))
    } else {
        objective::make(plan, corpus)
    }
}

/// Batches of pre-training with needles.
struct WithNeedles {
    inner: Pretraining,
    hiding: Hiding,
}

/// Which rows have needles.
struct Hiding {
    needles: Needles,
    seed: u64,
    rate: f64,
}

impl WithNeedles {
    fn new(plan: &Plan, corpus: &Corpus) -> Result<Self, RunError> {
        let wrong = |why: &str| RunError::Mismatch(format!("`objective.{why}"));
        let settings = &plan.objective.settings;
        if let Some(key) = settings.keys().find(|key| *key != "rate") {
            return Err(wrong(&format!("{key}`: the only setting of needles is `rate`")));
        }
        let rate = settings.get("rate").and_then(Value::as_f64).filter(|rate| (0.0..=1.0).contains(rate));
        let rate = rate.ok_or_else(|| wrong("rate`: write the share of rows with needles, from 0 to 1"))?;
        let needles = Needles::new(&corpus.tokenizer, true)?;
        let (need, have) = (needles.room(1), plan.data.seq_len);
        if need > have {
            return Err(wrong(&format!("name`: sequences of {have} tokens are too short: a needle takes {need}")));
        }
        let hiding = Hiding { needles, seed: plan.run.seed, rate };
        Ok(Self { inner: Pretraining::new(plan, corpus)?, hiding })
    }
}

impl Hiding {
    /// Hides facts in a row of inputs and one target, if the row is one of those with needles.
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
        let first = self.inner.cursor().map_or(0, |cursor| cursor.rows);
        self.inner.next_batch(trainer, step, batch)?;
        let stride = batch.segments.first().map_or(1, |inputs| inputs + 1);
        let mut tokens = std::mem::take(&mut batch.tokens);
        for (row, number) in tokens.chunks_exact_mut(stride).zip(first..) {
            self.hiding.hide(row, number)?;
        }
        batch.tokens = tokens;
        Ok(())
    }

    fn state(&self) -> Value {
        self.inner.state()
    }

    fn resume(&mut self, state: Value) -> Result<(), RunError> {
        self.inner.resume(state)
    }

    fn tensors(&self) -> Vec<(&str, &Tensor)> {
        self.inner.tensors()
    }

    fn waited(&self) -> f64 {
        self.inner.waited()
    }

    fn validate(&self, cx: &Cx, model: &Model, go_on: &dyn Fn() -> bool) -> Option<Validation> {
        self.inner.validate(cx, model, go_on)
    }

    fn files(&self) -> &[PathBuf] {
        self.inner.files()
    }
}

#[cfg(test)]
mod tests {
    use super::Hiding;
    use hadal_data::needle::Needles;
    use hadal_data::tokenizer::TrainOptions;
    use hadal_data::{Document, Tokenizer};

    #[test]
    fn the_share_of_rows_that_was_asked_for_has_needles_and_each_row_always_the_same() {
        let document =
            |(i, text): (usize, &str)| Document { id: format!("{i}"), group: "g".into(), text: text.to_owned() };
        let text = [include_str!("needles.rs"), include_str!("verdict.rs")];
        let documents: Vec<Document> = text.into_iter().enumerate().map(document).collect();
        let options = TrainOptions { vocab_size: 512, ..TrainOptions::default() };
        let (tokenizer, _) = Tokenizer::train(&documents, &options).unwrap();
        let ids: Vec<i32> = tokenizer.encode(&documents[0].text).into_iter().map(|id| id as i32).collect();
        let needles = Needles::new(&tokenizer, true).unwrap();
        let inputs = needles.room(1) + 20;
        let hiding = Hiding { needles, seed: 7, rate: 0.3 };
        let row = |number: u64| {
            let mut row = ids[..=inputs].to_vec();
            hiding.hide(&mut row, number).unwrap();
            row
        };
        let rows = 1000;
        let (mut changed, mut asking) = (0, 0);
        for number in 0..rows {
            let row = row(number);
            changed += u64::from(row != ids[..=inputs]);
            let shown = tokenizer.decode(&row.iter().map(|id| *id as u32).collect::<Vec<_>>());
            asking += u64::from(shown.matches("The magic number of ").count() >= 2);
        }
        assert_eq!(changed, asking, "a row is left alone or has a fact and its question");
        // Five standard deviations of a binomial count.
        let (mean, sd) = (rows as f64 * 0.3, (rows as f64 * 0.3 * 0.7).sqrt());
        assert!((changed as f64 - mean).abs() < 5.0 * sd, "{changed} of {rows}");
        assert!((0..50).all(|number| row(number) == row(number)));
    }
}
