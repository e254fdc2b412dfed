//! What a run optimises. The run loop does the rest (steps, spikes, validation, checkpoints, metrics, the view) and knows of
//! an objective only what this trait says.

use crate::corpus::Corpus;
use crate::run::RunError;
use crate::step::{StepBatch, Trainer};
use hadal_data::{Batch, Cursor, Loader, Share, StreamOptions};
use hadal_ops::Tensor;
use hadal_recipe::plan::Plan;
use hadal_recipe::schedule::StepPlan;
use serde_json::Value;

/// Rows the loader prepares ahead.
const AHEAD: usize = 64;

/// Where batches come from, and what is known of them beside their losses.
pub trait Objective {
    /// Fills `batch` with the sequences of the next step. The trainer is lent for the call: an objective may run the model.
    fn next_batch(&mut self, trainer: &mut Trainer, step: &StepPlan, batch: &mut StepBatch) -> Result<(), RunError>;

    /// Figures of the last batch by name. They go into the log, the view, TensorBoard and the plots.
    fn figures(&self) -> Vec<(String, f64)> {
        Vec::new()
    }

    /// What it goes on from after the last batch.
    fn state(&self) -> Value;

    /// Tensors that belong to its state, by name: always the same names and shapes.
    fn tensors(&self) -> Vec<(&str, &Tensor)> {
        Vec::new()
    }

    /// The same, to be filled before [`Objective::resume`].
    fn tensors_mut(&mut self) -> Vec<(&str, &mut Tensor)> {
        Vec::new()
    }

    /// Goes on from what [`Objective::state`] said.
    fn resume(&mut self, state: Value) -> Result<(), RunError>;

    /// Seconds that steps have waited for data so far.
    fn waited(&self) -> f64 {
        0.0
    }
}

/// Makes the objective that a plan names, over a run's text.
pub type Make = fn(&Plan, &Corpus) -> Result<Box<dyn Objective>, RunError>;

/// Next tokens of the packed text, in rows of one length: pre-training, and the extension of its context.
pub struct Pretraining {
    loader: Box<dyn Fn(Option<Cursor>) -> Result<Loader, RunError>>,
    rows: Option<Loader>,
    batch: Batch,
    seq_len: usize,
    cursor: Option<Cursor>,
}

impl Pretraining {
    /// The name in recipes.
    pub const NAME: &str = "pretraining";

    /// Over the text of a run.
    pub fn new(plan: &Plan, corpus: &Corpus) -> Self {
        let (packed, tokenizer, options) = (corpus.train.clone(), corpus.tokenizer.clone(), stream_options(plan));
        let seq_len = options.seq_len;
        let loader = move |start| {
            let (packed, tokenizer) = (packed.clone(), tokenizer.clone());
            Ok(Loader::new(packed, tokenizer, options.clone(), Share::ALL, start, AHEAD)?)
        };
        Self { loader: Box::new(loader), rows: None, batch: Batch::default(), seq_len, cursor: None }
    }

    /// The position after the last batch.
    pub fn cursor(&self) -> Option<Cursor> {
        self.cursor
    }
}

impl Objective for Pretraining {
    fn next_batch(&mut self, _: &mut Trainer, step: &StepPlan, batch: &mut StepBatch) -> Result<(), RunError> {
        let rows = match &mut self.rows {
            Some(rows) => rows,
            none => none.insert((self.loader)(self.cursor)?),
        };
        // The tokens' memory goes back and forth between the two.
        std::mem::swap(&mut self.batch.tokens, &mut batch.tokens);
        rows.next_batch_into(step.sequences as usize, &mut self.batch)?;
        std::mem::swap(&mut self.batch.tokens, &mut batch.tokens);
        batch.make_uniform(self.seq_len);
        self.cursor = self.batch.cursor;
        Ok(())
    }

    fn state(&self) -> Value {
        serde_json::to_value(self.cursor).expect("a position has numbers")
    }

    fn resume(&mut self, state: Value) -> Result<(), RunError> {
        // What other objectives keep of the same rows lies in theirs.
        let state = state.get(Self::NAME).cloned().unwrap_or(state);
        self.cursor = serde_json::from_value(state)
            .map_err(|e| RunError::Mismatch(format!("the checkpoint's position in the data cannot be read: {e}")))?;
        self.rows = None;
        Ok(())
    }

    fn waited(&self) -> f64 {
        self.rows.as_ref().map_or(0.0, Loader::wait_seconds)
    }
}

/// The objective of a plan, of those that this crate has.
pub fn make(plan: &Plan, corpus: &Corpus) -> Result<Box<dyn Objective>, RunError> {
    let objective = &plan.objective;
    if objective.name != Pretraining::NAME {
        let why = format!("`objective.name`: there is no objective `{}`", objective.name);
        return Err(RunError::Mismatch(why));
    }
    if let Some(key) = objective.settings.keys().next() {
        return Err(RunError::Mismatch(format!("`objective.{key}`: pretraining has no such setting")));
    }
    Ok(Box::new(Pretraining::new(plan, corpus)))
}

/// The loader's settings of a plan.
pub fn stream_options(plan: &Plan) -> StreamOptions {
    StreamOptions {
        seq_len: plan.data.seq_len,
        seed: plan.run.seed,
        fim_rate: plan.data.fim_rate,
        fim_span: (plan.data.fim_span > 0).then_some(plan.data.fim_span),
        split_rate: plan.data.boundary_split_rate,
        bos: true,
        shuffle_rows: plan.data.shuffle_rows,
        shuffle_len: plan.shuffle_len,
    }
}
