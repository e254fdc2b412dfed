//! The trait for what a run optimises. The run loop does everything else: steps, spikes, validation, checkpoints,
//! metrics, the view. It knows an objective only through this trait.

use crate::corpus::Corpus;
use crate::evaluate::evaluate;
use crate::run::RunError;
use crate::step::{StepBatch, Trainer};
use hadal_data::{Batch, Cursor, EvalSet, Loader, Share, StreamOptions, Tokenizer};
use hadal_model::Model;
use hadal_ops::{Cx, Tensor};
use hadal_recipe::plan::Plan;
use hadal_recipe::schedule::StepPlan;
use hadal_watch::metrics::Validation;
use serde_json::Value;
use std::path::PathBuf;

/// Number of rows that the loader prepares in advance.
const AHEAD: usize = 64;

/// A source of batches, of figures about them beside their losses, and of held-out data.
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

    /// The loss of a model on held-out data. `None` if nothing is held out. If `go_on` returns false, it ends early and
    /// the loss is NaN.
    fn validate(&self, cx: &Cx, model: &Model, go_on: &dyn Fn() -> bool) -> Option<Validation>;

    /// Files that belong beside the weights of the model, such as the tokenizer's.
    fn files(&self) -> &[PathBuf];
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
    held_out: EvalSet,
    files: Vec<PathBuf>,
}

impl Pretraining {
    /// Its name in recipes.
    pub const NAME: &str = "pretraining";

    /// The objective for the text of a run.
    pub fn new(plan: &Plan, corpus: &Corpus) -> Result<Self, RunError> {
        check_vocabulary(plan, &corpus.tokenizer)?;
        let held_out = corpus.validation(plan.data.seq_len, Some(plan.eval_tokens))?;
        let (packed, tokenizer, options) = (corpus.train.clone(), corpus.tokenizer.clone(), stream_options(plan));
        let seq_len = options.seq_len;
        let loader = move |start| {
            let (packed, tokenizer) = (packed.clone(), tokenizer.clone());
            Ok(Loader::new(packed, tokenizer, options.clone(), Share::ALL, start, AHEAD)?)
        };
        let (loader, files) = (Box::new(loader), corpus.tokenizer_files.clone());
        Ok(Self { loader, rows: None, batch: Batch::default(), seq_len, cursor: None, held_out, files })
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

    fn validate(&self, cx: &Cx, model: &Model, go_on: &dyn Fn() -> bool) -> Option<Validation> {
        (self.held_out.scored > 0).then(|| evaluate(cx, model, &self.held_out, &mut |_, _| go_on()))
    }

    fn files(&self) -> &[PathBuf] {
        &self.files
    }
}

/// An error if the tokenizer has more tokens than the model has rows for.
pub fn check_vocabulary(plan: &Plan, tokenizer: &Tokenizer) -> Result<(), RunError> {
    let (tokens, rows) = (tokenizer.vocab_size(), plan.model.vocab_size);
    if tokens > rows {
        return Err(RunError::Mismatch(format!(
            "the tokenizer has {tokens} tokens, but the model has rows for only {rows}: set model.vocab_size to at least {tokens}"
        )));
    }
    Ok(())
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
    Ok(Box::new(Pretraining::new(plan, corpus)?))
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
