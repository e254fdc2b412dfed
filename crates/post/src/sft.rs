//! Supervised fine-tuning as an objective of the run loop (report section 5.1).
//!
//! A step takes the next rows. Each sequence in a row is a segment of its own: it sees no other, and its positions begin
//! at 0. So a token's loss has the bits that it has when its sequence is trained alone. Only the assistant's tokens have
//! weight, 1 each. The step divides by the sum of the weights of all its rows, however they are cut.

use crate::error::{Result, SftError};
use crate::prepare::{TRAIN, VALIDATION};
use crate::rows::Rows;
use crate::store::Store;
use hadal_data::chat::Learned;
use hadal_data::{DataError, Tokenizer};
use hadal_model::{Input, Model, Segment};
use hadal_ops::Cx;
use hadal_recipe::plan::Plan;
use hadal_recipe::schedule::StepPlan;
use hadal_train::objective::{Objective, check_vocabulary};
use hadal_train::run::RunError;
use hadal_train::step::{StepBatch, Trainer};
use hadal_watch::metrics::Validation;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Largest number of tokens that a validation processes together.
const TOGETHER: usize = 2048;

/// The position in the data: the next row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    epoch: u64,
    row: usize,
    /// The data that it belongs to.
    data: u64,
}

/// A held-out sequence.
struct HeldOut {
    tokens: Vec<i32>,
    weights: Vec<f32>,
    /// Bytes of its trained text.
    bytes: u64,
}

/// The objective.
pub struct Sft {
    store: Store,
    rows: Rows,
    epochs: u64,
    place: Place,
    /// The rows of an epoch, with its number.
    epoch: Option<(u64, Vec<Vec<u32>>)>,
    held_out: Vec<HeldOut>,
    files: Vec<PathBuf>,
    figures: Vec<(String, f64)>,
}

impl Sft {
    /// The objective of a plan for the sequences in `data`. The `weights` are those of the data sets. `files` belong beside
    /// the weights of the model.
    pub fn new(
        plan: &Plan,
        data: &Path,
        tokenizer: &Tokenizer,
        weights: &[f64],
        epochs: u64,
        files: Vec<PathBuf>,
    ) -> Result<Self> {
        check_vocabulary(plan, tokenizer)?;
        let store = Store::open(data, TRAIN, tokenizer)?;
        let rows = rows(&store, weights, plan.data.seq_len, plan.run.seed)?;
        let held_out = held_out(&Store::open(data, VALIDATION, tokenizer)?, plan.eval_tokens)?;
        let place = Place { data: store.fingerprint(), ..Place::default() };
        Ok(Self { store, rows, epochs, place, epoch: None, held_out, files, figures: Vec::new() })
    }

    /// Appends a row to a batch.
    fn push(&self, row: &[u32], batch: &mut StepBatch) -> Result<(), DataError> {
        for sequence in row {
            let (tokens, weights) = tokens_of(&self.store.read(*sequence as usize)?);
            batch.segments.push(tokens.len() - 1);
            batch.tokens.extend(tokens);
            batch.weights.extend(weights);
        }
        batch.rows.push(row.len());
        Ok(())
    }
}

/// The sequences of a store, by their data sets.
fn rows(store: &Store, weights: &[f64], seq_len: usize, seed: u64) -> Result<Rows> {
    let inputs = (0..store.len()).map(|of| store.inputs(of) as u32).collect();
    let mut sets: Vec<(Vec<u32>, f64)> = weights.iter().map(|weight| (Vec::new(), *weight)).collect();
    for (sequence, set) in (0..).zip(store.sets()?) {
        let lost = || SftError::Nothing(format!("the stored sequences name a data set {set}, which the plan lacks"));
        sets.get_mut(set).ok_or_else(lost)?.0.push(sequence);
    }
    // Of a data set with nothing left in it, no part can be taken.
    sets.retain(|(sequences, _)| !sequences.is_empty());
    Ok(Rows { inputs, sets, seq_len, seed })
}

/// Number of inputs of a whole run with this seed.
pub fn total_inputs(data: &Path, tokenizer: &Tokenizer, weights: &[f64], epochs: u64, seed: u64) -> Result<u64> {
    Ok(rows(&Store::open(data, TRAIN, tokenizer)?, weights, 1, seed)?.total_inputs(epochs))
}

/// Held-out sequences of about so many tokens, spread evenly.
fn held_out(store: &Store, tokens: u64) -> Result<Vec<HeldOut>> {
    let all: u64 = (0..store.len()).map(|of| store.inputs(of) as u64).sum();
    let every = (all / tokens.max(1)).clamp(1, store.len().max(1) as u64) as usize;
    let read = |of: usize| {
        let (tokens, weights) = tokens_of(&store.read(of)?);
        Ok(HeldOut { tokens, weights, bytes: store.bytes(of) })
    };
    (0..store.len()).step_by(every).map(read).collect()
}

impl Objective for Sft {
    fn next_batch(&mut self, _: &mut Trainer, step: &StepPlan, batch: &mut StepBatch) -> Result<(), RunError> {
        batch.tokens.clear();
        batch.weights.clear();
        batch.segments.clear();
        batch.rows.clear();
        while (batch.rows.len() as u64) < step.sequences {
            let Place { epoch, row, .. } = self.place;
            // The run's last step ends with its last epoch. After a rollback, further epochs follow.
            if epoch >= self.epochs && row == 0 && !batch.rows.is_empty() {
                break;
            }
            let rows = match self.epoch.take() {
                Some((of, rows)) if of == epoch => rows,
                _ => self.rows.epoch(epoch),
            };
            self.push(&rows[row], batch)?;
            let last = row + 1 == rows.len();
            (self.place.epoch, self.place.row) = if last { (epoch + 1, 0) } else { (epoch, row + 1) };
            self.figures = vec![("epoch".into(), epoch as f64 + (row + 1) as f64 / rows.len() as f64)];
            self.epoch = Some((epoch, rows));
        }
        let targets = batch.weights.iter().filter(|weight| **weight > 0.0).count();
        let room = batch.rows.len() * self.rows.seq_len;
        self.figures.push(("trained tokens".into(), targets as f64));
        self.figures.push(("samples".into(), batch.segments.len() as f64));
        self.figures.push(("rows filled".into(), batch.inputs() as f64 / room as f64));
        Ok(())
    }

    fn figures(&self) -> Vec<(String, f64)> {
        self.figures.clone()
    }

    fn state(&self) -> Value {
        serde_json::to_value(self.place).expect("a position has numbers")
    }

    fn resume(&mut self, state: Value) -> Result<(), RunError> {
        let place: Place = serde_json::from_value(state)
            .map_err(|e| RunError::Mismatch(format!("the checkpoint's position in the data cannot be read: {e}")))?;
        if place.data != self.place.data {
            return Err(DataError::Cursor("its sequences are others than those of the checkpoint".into()).into());
        }
        let rows = self.rows.epoch(place.epoch);
        if place.row >= rows.len() {
            return Err(DataError::Cursor(format!("epoch {} has no row {}", place.epoch, place.row)).into());
        }
        (self.epoch, self.place) = (Some((place.epoch, rows)), place);
        Ok(())
    }

    fn validate(&self, cx: &Cx, model: &Model, go_on: &dyn Fn() -> bool) -> Option<Validation> {
        let (mut loss, mut targets, mut bytes) = (0.0, 0, 0);
        let (mut input, mut done) = (Input::new(cx, 0), 0);
        while done < self.held_out.len() {
            let rest = &self.held_out[done..];
            let mut tokens = 0;
            let fits = |held_out: &&HeldOut| {
                tokens += held_out.tokens.len();
                tokens <= TOGETHER
            };
            let some = &rest[..rest.iter().take_while(fits).count().max(1)];
            done += some.len();
            input.set(some.iter().map(|HeldOut { tokens, weights, .. }| Segment {
                weights: Some(weights),
                ..Segment::to_predict(tokens)
            }));
            let (losses, _) = model.losses(cx, &input, None, false, None);
            loss += losses.f32().iter().map(|loss| f64::from(*loss)).sum::<f64>();
            targets += input.targets.count;
            bytes += some.iter().map(|held_out| held_out.bytes).sum::<u64>();
            if !go_on() {
                loss = f64::NAN;
                break;
            }
        }
        let bits = loss / std::f64::consts::LN_2;
        (targets > 0).then(|| Validation {
            loss: loss / targets as f64,
            bits_per_byte: bits / bytes.max(1) as f64,
            ..Validation::default()
        })
    }

    fn files(&self) -> &[PathBuf] {
        &self.files
    }
}

/// The tokens of a sequence and their weights.
fn tokens_of(learned: &Learned) -> (Vec<i32>, Vec<f32>) {
    let mut weights = vec![0.0; learned.ids.len()];
    learned.trained.iter().for_each(|of| weights[of.clone()].fill(1.0));
    (learned.ids.iter().map(|id| *id as i32).collect(), weights)
}
