//! The trait for what a run optimises. The run loop does everything else: steps, spikes, validation, checkpoints,
//! metrics, the view. It knows an objective only through this trait.

use crate::corpus::Corpus;
use crate::run::RunError;
use crate::step::{StepBatch, Trainer};
use hadal_data::{Batch, Cursor, Loader, Share, StreamOptions};
use hadal_ops::Tensor;
use hadal_recipe::plan::Plan;
use hadal_recipe::schedule::StepPlan;
use serde_json::Value;

/// Number of rows that the loader prepares in advance.
const AHEAD: usize = 64;

/// A source of batches, and of figures about them beside their losses.
pub trait Objective {
    /// Fills `batch` with the sequences of the next step. The objective may use the trainer during the call, for
    /// example to run the model.
    fn next_batch(&mut self, trainer: &mut Trainer, step: &StepPlan, batch: &mut StepBatch) -> Result<(), RunError>;

    /// Figures of the last batch by name. They appear in the log, the view, TensorBoard and the plots.
    fn figures(&self) -> Vec<(String, f64)> {
        Vec::new()
    }

    /// The state from which it continues after the last batch.
    fn state(&self) -> Value;

    /// Tensors that belong to its state, by name. Names and shapes are always the same.
    fn tensors(&self) -> Vec<(&str, &Tensor)> {
        Vec::new()
    }

    /// The same tensors, to be filled before [`Objective::resume`].
    fn tensors_mut(&mut self) -> Vec<(&str, &mut Tensor)> {
        Vec::new()
    }

    /// Continues from the result of [`Objective::state`].
    fn resume(&mut self, state: Value) -> Result<(), RunError>;

    /// Seconds that steps have spent waiting for data so far.
    fn waited(&self) -> f64 {
        0.0
    }
}

/// Makes the objective that a plan names, for a run's text.
pub type Make = fn(&Plan, &Corpus) -> Result<Box<dyn Objective>, RunError>;

/// The next tokens of the packed text, in rows of one length. It is used for pre-training and for the extension of the
/// context.
pub struct Pretraining {
    loader: Box<dyn Fn(Option<Cursor>) -> Result<Loader, RunError>>,
    rows: Option<Loader>,
    batch: Batch,
    seq_len: usize,
    cursor: Option<Cursor>,
}

impl Pretraining {
    /// Its name in recipes.
    pub const NAME: &str = "pretraining";

    /// The objective for the text of a run.
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
        // The memory of the tokens is swapped between the two.
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
        // Other objectives that use the same rows store this state inside their own.
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

/// Makes the objective of a plan, among those in this crate.
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

/// The loader's settings in a plan.
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
