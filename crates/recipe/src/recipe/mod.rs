//! A recipe: everything that decides a training run, as a person writes it (report section 4.2).
//!
//! A recipe is TOML, and it is read in two stages. Here, in the first stage, keys are known and typed, but nothing is
//! interpreted. The second stage is [`crate::plan::Plan`]: amounts become tokens, and all values are checked against
//! each other. An error names the file, the line and the key, and suggests the key that was probably meant.
//!
//! Every key except `model` and `schedule.total_tokens` has a default. Where the report gives a value, that is the
//! default.

mod amount;
mod builtin;
mod extension;
mod schedule;
mod source;

use std::path::Path;

use crate::trained::Trained;
use hadal_base::{IoContext, IoError};
use serde::{Deserialize, Serialize};

pub use amount::Amount;
pub use builtin::{RECIPES, recipe};
pub use extension::Extension;
pub use schedule::{Lr, Phase, Schedule, Shape, Total};
pub use source::WrittenText;
pub(crate) use source::nearest;

/// What can be wrong with a recipe.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] IoError),
    /// There is no file and no built-in recipe with this name.
    #[error("there is no recipe `{name}`: it is neither a file nor a built-in recipe ({known})")]
    Unknown { name: String, known: String },
    /// A `--set` that is not `key=value`.
    #[error("--set {text}: write it as section.key=value, for example --set batch.sequences=8")]
    Override { text: String },
    /// A key that is unknown, of the wrong type, or whose value makes no sense.
    #[error("{place}: {}{message}", if key.is_empty() { String::new() } else { format!("`{key}`: ") })]
    Key { place: String, key: String, message: String },
}

/// A recipe as written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Short name, used for the run folder and titles.
    #[serde(default)]
    pub name: String,
    /// One sentence for `--help` and lists.
    #[serde(default)]
    pub description: String,
    pub model: Model,
    #[serde(default)]
    pub data: Data,
    /// The objective that is trained.
    #[serde(default)]
    pub objective: Objective,
    #[serde(default)]
    pub batch: Batch,
    #[serde(default)]
    pub optimizer: Optimizer,
    pub schedule: Schedule,
    #[serde(default)]
    pub balance: Balance,
    /// Rows of the precision table that change what `run.precision` chooses.
    #[serde(default)]
    pub precision: toml::Table,
    /// What is trained. By default, everything.
    #[serde(default, skip_serializing_if = "is_default")]
    pub trained: Trained,
    #[serde(default)]
    pub ema: Ema,
    #[serde(default)]
    pub checkpoint: Checkpoint,
    #[serde(default)]
    pub eval: Eval,
    #[serde(default)]
    pub spike: Spike,
    #[serde(default)]
    pub run: RunSettings,
    /// The extensions after the main run, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extension: Vec<Extension>,
    /// Where each key was written.
    #[serde(skip)]
    pub source: WrittenText,
}

pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Recipe {
    /// Loads a file, or a built-in recipe by its name, and applies `--set` overrides (`section.key=value`).
    pub fn load(name_or_path: &str, overrides: &[String]) -> Result<Self, RecipeError> {
        if let Some(text) = recipe(name_or_path) {
            return Self::parse(&format!("recipe {name_or_path}"), text, overrides);
        }
        let path = Path::new(name_or_path);
        if !path.exists() {
            let known = RECIPES.iter().map(|r| r.0).collect::<Vec<_>>().join(", ");
            return Err(RecipeError::Unknown { name: name_or_path.into(), known });
        }
        let text = std::fs::read_to_string(path).at("read", path)?;
        Self::parse(name_or_path, &text, overrides)
    }

    /// The recipe as written in its file, without the overrides.
    pub fn without_overrides(&self) -> Result<Self, RecipeError> {
        Self::parse(&self.source.name, self.source.file_text(), &[])
    }

    /// Reads a recipe's text; `name` stands for the file in errors.
    pub fn parse(name: &str, text: &str, overrides: &[String]) -> Result<Self, RecipeError> {
        let (mut recipe, source): (Self, WrittenText) = WrittenText::read(name, text, overrides)?;
        if recipe.name.is_empty() {
            let stem = Path::new(name).file_stem().map(|s| s.to_string_lossy().into_owned());
            recipe.name = stem.unwrap_or_else(|| "run".into());
        }
        recipe.source = source;
        Ok(recipe)
    }
}

/// The model: a Hugging Face `config.json`, its fields written in the recipe, or a `config.json` changed by such
/// fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// Path of a `config.json`, or the name of a built-in config.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// Fields of `config.json`. They override `config`. The string "none" stands for JSON's null.
    #[serde(flatten)]
    pub fields: toml::Table,
}

/// The objective that is trained: a name and its settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Objective {
    /// `pretraining`, or the name of an objective from another crate.
    pub name: String,
    /// Settings of the objective.
    #[serde(flatten)]
    pub settings: serde_json::Map<String, serde_json::Value>,
}

impl Default for Objective {
    fn default() -> Self {
        Self { name: "pretraining".into(), settings: serde_json::Map::new() }
    }
}

/// Where the text comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected \"cargo-lock\", a path, or a list of paths")]
pub enum Text {
    /// `"cargo-lock"` (the sources of the dependencies in the lock file) or one path.
    One(String),
    /// Files and folders.
    Many(Vec<String>),
}

/// Which rules decide what is left out of the text: copies, and text that is not worth learning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    /// `Code` for the lock file's sources, `Prose` for everything else.
    #[default]
    Auto,
    /// The rules for source code.
    Code,
    /// The rules for prose. Long documents are cut into pieces.
    Prose,
    /// Nothing is left out.
    None,
}

/// Text, tokenizer and packing (report section 4.1).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Data {
    pub text: Text,
    /// The field of `.jsonl`, `.json` and `.parquet` files that holds the text.
    pub text_field: String,
    /// What is left out of the text before it is packed.
    pub filter: Filter,
    /// `"train"`, or the path of an existing `tokenizer.json`.
    pub tokenizer: String,
    /// Number of tokens of the tokenizer to train, special tokens included. 0 means the model's `vocab_size`.
    pub vocab_size: usize,
    /// Tokens per training sequence.
    pub seq_len: usize,
    /// Share of documents turned into fill-in-the-middle examples.
    pub fim_rate: f64,
    /// Largest number of tokens in a stretch that is rearranged on its own. This is for sequences shorter than most
    /// documents. 0 means whole documents, as in the report.
    pub fim_span: usize,
    /// Share of combined punctuation-and-line-break tokens that is split at random.
    pub boundary_split_rate: f64,
    /// Number of sequences in a window within which their order is shuffled, so that a batch is not a single document.
    /// 0 keeps the order.
    pub shuffle_rows: usize,
    /// Share of the text held out for validation, in whole packages or files.
    pub validation_share: f64,
}

impl Default for Data {
    fn default() -> Self {
        Self {
            text: Text::One("cargo-lock".into()),
            text_field: "text".into(),
            filter: Filter::Auto,
            tokenizer: "train".into(),
            vocab_size: 0,
            seq_len: 4096,
            fim_rate: 0.1,
            fim_span: 0,
            boundary_split_rate: 0.1,
            shuffle_rows: 1024,
            validation_share: 0.05,
        }
    }
}

/// How many sequences an optimiser step sees.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Batch {
    /// Sequences per step (after the ramp).
    pub sequences: u64,
    /// Sequences per forward and backward pass. The gradients of a step's passes are added up.
    pub micro_batch: u64,
    /// Starts the run with smaller steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ramp: Option<Ramp>,
}

impl Default for Batch {
    fn default() -> Self {
        Self { sequences: 8, micro_batch: 1, ramp: None }
    }
}

/// Grows the batch linearly in tokens, in whole micro-batches.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ramp {
    /// Sequences in the first step.
    pub from: u64,
    /// When `batch.sequences` is reached.
    pub over: Amount,
}

/// Format of the products of linear layers, and the other formats that belong to it (`hadal_weights::precision`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunPrecision {
    Bf16,
    F32,
    Fp8,
}

/// How moments are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    Bf16,
    F32,
}

/// AdamW.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Optimizer {
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    /// Applied to matrices only.
    pub weight_decay: f32,
    /// Largest global gradient norm; 0 never clips.
    pub clip: f32,
    /// Storage format of the moments.
    pub moments: Storage,
}

impl Default for Optimizer {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, clip: 1.0, moments: Storage::Bf16 }
    }
}

/// Which of the report's balancing methods is on (sections 2.1.2 and 4.5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BalanceMethod {
    /// Bias update plus the small sequence-wise loss.
    AuxFree,
    /// No balancing.
    None,
    /// Sequence-wise auxiliary loss only.
    SequenceAux,
    /// Only an auxiliary loss over the whole batch. The batch must then be one micro-batch.
    BatchAux,
}

impl BalanceMethod {
    /// The reason why the method cannot be used with this split into micro-batches, if there is one.
    pub(crate) fn cut(self, sequences: u64, micro_batch: u64) -> Option<String> {
        (self == Self::BatchAux && micro_batch != sequences).then(|| {
            format!(
                "batch-aux balances all {sequences} sequences of a batch together, so they must be in one micro-batch"
            )
        })
    }
}

/// Expert load balancing (report section 2.1.2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Balance {
    pub method: BalanceMethod,
    /// Step size of the bias update. Only aux-free uses it.
    pub gamma: f64,
    /// The bias update stops here.
    pub gamma_until: Amount,
    /// Weight of the auxiliary loss. All methods except none use it.
    pub alpha: f64,
}

impl Default for Balance {
    fn default() -> Self {
        let gamma_until = Amount::Share { part: 14.3, whole: 14.8 };
        Self { method: BalanceMethod::AuxFree, gamma: 0.001, gamma_until, alpha: 0.0001 }
    }
}

/// Exponential moving average of the weights (report section 3.2.3).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ema {
    /// 0 keeps no average.
    pub decay: f64,
}

/// When the run is saved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Checkpoint {
    pub every: Amount,
    /// Number of checkpoints that are kept; older ones are removed. 0 keeps all.
    pub keep_last: usize,
}

impl Default for Checkpoint {
    fn default() -> Self {
        Self { every: Amount::Share { part: 10.0, whole: 100.0 }, keep_last: 2 }
    }
}

/// When and on how much text the run is validated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Eval {
    pub every: Amount,
    /// Number of validation tokens per evaluation during training.
    pub tokens: Amount,
}

impl Default for Eval {
    fn default() -> Self {
        Self { every: Amount::Share { part: 5.0, whole: 100.0 }, tokens: Amount::Tokens(1_000_000) }
    }
}

/// What happens when the watch sees a spike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SpikeAction {
    /// Record it and continue.
    Continue,
    /// Do not apply this step's gradients to the weights.
    Skip,
    /// Go back to the last checkpoint and skip the data since then.
    Rollback,
}

/// The watch on gradient norm and loss (report section 1: "no irrecoverable loss spikes").
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Spike {
    pub action: SpikeAction,
    /// Number of past steps that a step is compared with.
    pub window: usize,
    /// Steps at the start that are never judged.
    pub ignore_first: u64,
    /// A gradient norm of more than this many medians is a spike.
    pub grad_ratio: f64,
    /// A loss this many robust standard deviations above the median is a spike.
    pub loss_z: f64,
    /// After this many skipped steps in a row, the next step is applied anyway.
    pub max_skips: u32,
    /// After this many rollbacks the run stops with an error.
    pub max_rollbacks: u32,
}

impl Default for Spike {
    fn default() -> Self {
        Self {
            action: SpikeAction::Continue,
            window: 64,
            ignore_first: 100,
            grad_ratio: 10.0,
            loss_z: 8.0,
            max_skips: 3,
            max_rollbacks: 3,
        }
    }
}

/// Settings for the machine and the run's folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunSettings {
    pub seed: u64,
    /// 0 uses every core. The result is the same for any number of threads.
    pub threads: usize,
    /// Format of the products: chooses the precision table.
    pub precision: RunPrecision,
    /// The run's folder.
    pub out: String,
}

impl Default for RunSettings {
    fn default() -> Self {
        Self { seed: 1, threads: 0, precision: RunPrecision::Bf16, out: "runs".into() }
    }
}

#[cfg(test)]
mod tests;
