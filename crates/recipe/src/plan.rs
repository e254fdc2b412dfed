//! A plan: a [`Recipe`] resolved and checked for one run.
//!
//! Amounts are converted to tokens, the model's fields are merged into one `config.json` value, and a measured length
//! is fixed. The plan is written to the run's folder before the first step. A resume reads the plan instead of the
//! recipe. So the run stays the same even if the recipe or the machine's speed changes.

use std::fs;
use std::path::Path;

use hadal_base::atomic;
use hadal_base::{IoContext, IoError};
use hadal_ops::DType;
use hadal_weights::config::{ConfigError, ModelConfig, ModelType};
use hadal_weights::precision::Formats;
use hadal_weights::precision::{Keep, Precision, Product};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::recipe::{
    Amount, Balance, BalanceMethod, Data, Objective, Optimizer, Recipe, RecipeError, RunPrecision, RunSettings, Spike,
    Text, Total, is_default, nearest,
};
use crate::schedule::{BatchRamp, Every, Phase, Schedule, Switch};
use crate::trained::Trained;
use crate::{removed, renamed};

/// Name of the plan in a run's folder.
pub const PLAN_FILE: &str = "plan.json";

/// Incremented when the meaning of a field changes.
const VERSION: u32 = 2;

/// A resolved run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    pub version: u32,
    pub name: String,
    pub model: ModelConfig,
    /// `vocab_size` is never 0 here.
    pub data: Data,
    /// Paths of the text, or `None` for the lock file's dependencies.
    pub text: Option<Vec<String>>,
    /// What is trained.
    #[serde(default)]
    pub objective: Objective,
    /// Which parameters are trained.
    #[serde(default, skip_serializing_if = "is_default")]
    pub trained: Trained,
    pub optimizer: Optimizer,
    pub schedule: Schedule,
    /// `gamma` and `alpha` are 0 if the method does not use them. `schedule.gamma` is gamma over the run.
    pub balance: Balance,
    /// 0 keeps no average.
    pub ema_decay: f64,
    pub checkpoint_every: Every,
    /// 0 keeps all.
    pub keep_last: usize,
    pub eval_every: Every,
    pub eval_tokens: u64,
    pub spike: Spike,
    pub run: RunSettings,
    /// Formats of products and of kept activations.
    pub precision: Precision,
    /// Length of the rows that `data.shuffle_rows` counts. In an extension it is that of the main run; otherwise 0,
    /// which means the run's own.
    #[serde(default)]
    pub shuffle_len: usize,
    /// The plans of the extensions that follow this run, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extensions: Vec<Plan>,
}

/// What can go wrong with a plan in a run's folder.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The operating system refused.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The file is not a plan.
    #[error("{path} is not a plan: {error}")]
    Malformed { path: String, error: serde_json::Error },
    #[error(
        "{path} has version {found}, but this program writes version {VERSION}: resume the run with the program that started it"
    )]
    Version { path: String, found: u64 },
    /// The plan uses a key that was removed.
    #[error("{path}: `{key}` {message}; resume the run with the program that started it")]
    Removed { path: String, key: String, message: String },
}

impl Plan {
    /// Resolves a recipe. `tokens_per_second` is the measured rate of the machine. It is needed if
    /// `schedule.total_tokens` is `"measured"` (see [`Plan::needs_measurement`]).
    pub fn new(recipe: &Recipe, tokens_per_second: Option<f64>) -> Result<Self, RecipeError> {
        check_ranges(recipe)?;
        let model = resolve_model(recipe)?;
        if let Some((key, message)) = recipe.trained.lora.as_ref().and_then(|lora| lora.problem(&model)) {
            return Err(recipe.source.at_key(&format!("trained.lora.{key}"), message));
        }
        let data = resolve_data(recipe, &model)?;
        let text = match &data.text {
            Text::One(t) if t == "cargo-lock" => None,
            Text::One(t) => Some(vec![t.clone()]),
            Text::Many(t) => Some(t.clone()),
        };
        let schedule = resolve_schedule(recipe, tokens_per_second)?;
        let every = |key: &str, amount: Amount| match amount {
            Amount::Steps(n) if n > 0 => Ok(Every::Steps(n)),
            a => match a.tokens_of(schedule.total_tokens) {
                Some(n) if n > 0 => Ok(Every::Tokens(n)),
                _ => Err(recipe.source.at_key(key, "must be more than 0")),
            },
        };
        let mut balance = recipe.balance.clone();
        balance.gamma = schedule.gamma.early;
        if balance.method == BalanceMethod::None {
            balance.alpha = 0.0;
        }
        let mut plan = Self {
            version: VERSION,
            name: recipe.name.clone(),
            model,
            data,
            text,
            objective: recipe.objective.clone(),
            trained: recipe.trained.clone(),
            optimizer: recipe.optimizer.clone(),
            balance,
            ema_decay: recipe.ema.decay,
            checkpoint_every: every("checkpoint.every", recipe.checkpoint.every)?,
            keep_last: recipe.checkpoint.keep_last,
            eval_every: every("eval.every", recipe.eval.every)?,
            eval_tokens: match recipe.eval.tokens.tokens_of(schedule.total_tokens) {
                Some(n) if n > 0 => n,
                _ => return Err(recipe.source.at_key("eval.tokens", "must be a number of tokens above 0")),
            },
            spike: recipe.spike.clone(),
            run: recipe.run.clone(),
            precision: resolve_precision(recipe)?,
            schedule,
            shuffle_len: 0,
            extensions: Vec::new(),
        };
        let extensions = recipe.extension.iter().enumerate().map(|(i, s)| {
            plan.extension(i + 1, s).map_err(|e| recipe.source.at_key(&format!("extension.{i}.{}", e.key), e.message))
        });
        plan.extensions = extensions.collect::<Result<_, _>>()?;
        Ok(plan)
    }

    /// The plan of a recipe when its length does not matter. A measured length affects nothing else.
    pub fn draft(recipe: &Recipe) -> Result<Self, RecipeError> {
        Self::new(recipe, Some(1000.0))
    }

    /// True if the machine's speed decides the length of the recipe.
    pub fn needs_measurement(recipe: &Recipe) -> bool {
        recipe.schedule.total_tokens == Total::Measured
    }

    /// The formats that the run computes in.
    pub fn formats(&self) -> Formats {
        let compute = if self.run.precision == RunPrecision::F32 { DType::F32 } else { DType::Bf16 };
        Formats { compute, table: self.precision }
    }

    /// Writes the plan into a run's folder, whole or not at all.
    pub fn save(&self, folder: &Path) -> Result<(), PlanError> {
        let path = folder.join(PLAN_FILE);
        let text = serde_json::to_string_pretty(self).expect("a plan has string keys and finite numbers") + "\n";
        Ok(atomic::write_file(&path, text.as_bytes())?)
    }

    /// Reads the plan of a run's folder.
    pub fn load(folder: &Path) -> Result<Self, PlanError> {
        let path = folder.join(PLAN_FILE);
        let shown = path.display().to_string();
        let malformed = |error| PlanError::Malformed { path: shown.clone(), error };
        let text = fs::read_to_string(&path).at("read", &path)?;
        let mut value: Value = serde_json::from_str(&text).map_err(malformed)?;
        let found = value.get("version").and_then(Value::as_u64).unwrap_or(0);
        if found != u64::from(VERSION) {
            return Err(PlanError::Version { path: shown, found });
        }
        renamed::in_plan(&mut value);
        removed::take_from_plan(&mut value).map_err(|(key, removed)| PlanError::Removed {
            path: shown.clone(),
            key,
            message: removed.message(),
        })?;
        serde_json::from_value(value).map_err(malformed)
    }

    /// The plan of the run that made a model. `model` must be that run's folder or lie in it.
    pub fn of_model(model: &Path) -> Option<Self> {
        let path = model.canonicalize().ok()?;
        // A checkpoint lies in RUN/checkpoints/step-N, a finished model in RUN/model.
        let run = path.ancestors().take(3).find(|p| p.join(PLAN_FILE).is_file())?;
        Self::load(run).ok()
    }

    /// The settings in which a recipe differs from this plan of a started run: dotted keys with the run's value and the
    /// recipe's. The folder, the threads and what was measured may change, and extensions may be added.
    pub fn contradicted_by(&self, recipe: &Recipe) -> Result<Vec<String>, RecipeError> {
        let mut recipe = recipe.clone();
        if Self::needs_measurement(&recipe) {
            recipe.schedule.total_tokens = Total::Tokens(self.schedule.total_tokens);
        }
        let mut wanted = Self::new(&recipe, None)?;
        let mut stored = self.clone();
        stored.extensions.truncate(wanted.extensions.len());
        let theirs = [&mut wanted.run].into_iter().chain(wanted.extensions.iter_mut().map(|e| &mut e.run));
        for run in theirs.chain([&mut stored.run]).chain(stored.extensions.iter_mut().map(|e| &mut e.run)) {
            run.out.clear();
            run.threads = 0;
        }
        Ok(stored.differences(&wanted))
    }

    /// The dotted keys in which two plans differ, with both values.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let value = |p: &Self| serde_json::to_value(p).expect("a plan has string keys and finite numbers");
        let mut out = Vec::new();
        diff("", &value(self), &value(other), &mut out);
        out
    }
}

fn diff(path: &str, a: &Value, b: &Value, out: &mut Vec<String>) {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            let keys: std::collections::BTreeSet<_> = x.keys().chain(y.keys()).collect();
            for k in keys {
                let path = if path.is_empty() { k.clone() } else { format!("{path}.{k}") };
                diff(&path, x.get(k).unwrap_or(&Value::Null), y.get(k).unwrap_or(&Value::Null), out);
            }
        }
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() && x.iter().chain(y).all(Value::is_object) => {
            for (i, (a, b)) in x.iter().zip(y).enumerate() {
                diff(&format!("{path}.{i}"), a, b, out);
            }
        }
        _ if a != b => out.push(format!("{path}: {a} / {b}")),
        _ => {}
    }
}

/// Checks the ranges of single values. Combinations are checked where they are resolved.
fn check_ranges(r: &Recipe) -> Result<(), RecipeError> {
    let checks: &[(&str, bool, &str)] = &[
        ("data.seq_len", r.data.seq_len >= 2, "must be at least 2"),
        ("data.fim_rate", share(r.data.fim_rate), "must be between 0 and 1"),
        ("data.boundary_split_rate", share(r.data.boundary_split_rate), "must be between 0 and 1"),
        ("data.validation_share", (0.0..=0.5).contains(&r.data.validation_share), "must be between 0 and 0.5"),
        ("batch.sequences", r.batch.sequences >= 1, "must be at least 1"),
        ("batch.micro_batch", r.batch.micro_batch >= 1, "must be at least 1"),
        ("optimizer.beta1", decay(f64::from(r.optimizer.beta1)), "must be at least 0 and below 1"),
        ("optimizer.beta2", decay(f64::from(r.optimizer.beta2)), "must be at least 0 and below 1"),
        ("optimizer.eps", r.optimizer.eps > 0.0, "must be above 0"),
        ("optimizer.weight_decay", r.optimizer.weight_decay >= 0.0, "must not be negative"),
        ("optimizer.clip", r.optimizer.clip >= 0.0, "must not be negative (0 never clips)"),
        ("schedule.minutes", r.schedule.minutes > 0.0, "must be above 0"),
        ("schedule.peak_lr", positive(r.schedule.peak_lr), "must be above 0"),
        ("schedule.mtp_weight", r.schedule.mtp_weight >= 0.0, "must not be negative"),
        ("schedule.mtp_weight_late", r.schedule.mtp_weight_late >= 0.0, "must not be negative"),
        ("balance.gamma", r.balance.gamma >= 0.0, "must not be negative"),
        ("balance.alpha", r.balance.alpha >= 0.0, "must not be negative"),
        ("ema.decay", decay(r.ema.decay), "must be at least 0 and below 1 (0 keeps no average)"),
        ("spike.window", r.spike.window >= 8, "must be at least 8 steps"),
        ("spike.grad_ratio", r.spike.grad_ratio > 1.0, "must be above 1"),
        ("spike.loss_z", r.spike.loss_z > 0.0, "must be above 0"),
        ("run.seed", i64::try_from(r.run.seed).is_ok(), "must not be negative"),
    ];
    if let Some((key, _, message)) = checks.iter().find(|c| !c.1) {
        return Err(r.source.at_key(key, *message));
    }
    Ok(())
}

fn share(x: f64) -> bool {
    (0.0..=1.0).contains(&x)
}

fn decay(x: f64) -> bool {
    (0.0..1.0).contains(&x)
}

fn positive(x: f64) -> bool {
    x > 0.0 && x.is_finite()
}

/// Makes one model configuration from `model.config` and the fields written beside it.
fn resolve_model(r: &Recipe) -> Result<ModelConfig, RecipeError> {
    let base = match &r.model.config {
        Some(name) => read_config(r, name)?,
        None if r.model.fields.is_empty() => {
            return Err(r.source.at_key("model", "write `config = \"...\"` or the fields of a config.json"));
        }
        None => ModelConfig::defaults(ModelType::DeepseekV3),
    };
    let Value::Object(mut merged) = base.to_value() else { unreachable!("a config.json is an object") };
    let known: Vec<String> = merged.keys().cloned().collect();
    for (key, value) in &r.model.fields {
        // A misspelled name is an error here. Otherwise the key would silently keep its default.
        if !known.contains(key) {
            let near = nearest(key, known.iter().map(String::as_str));
            let hint = near.map_or_else(String::new, |n| format!(" (did you mean `{n}`?)"));
            return Err(r.source.at_key(&format!("model.{key}"), format!("config.json has no such field{hint}")));
        }
        merged.insert(key.clone(), json(value));
    }
    // MLA has one number of heads, but files write it twice.
    if r.model.fields.contains_key("num_attention_heads") && !r.model.fields.contains_key("num_key_value_heads") {
        merged.remove("num_key_value_heads");
    }
    ModelConfig::from_value(Value::Object(merged)).map_err(|e| match e {
        ConfigError::Invalid(problems) => {
            // All problems are reported, at the line of the first.
            let rest = problems[1..].iter().map(|p| format!("; `model.{}`: {}", p.key, p.reason));
            let message = problems[0].reason.clone() + &rest.collect::<String>();
            r.source.at_key(&format!("model.{}", problems[0].key), message)
        }
        other => r.source.at_key("model", other.to_string()),
    })
}

/// The precision that `run.precision` chooses, changed by the rows in the recipe.
fn resolve_precision(r: &Recipe) -> Result<Precision, RecipeError> {
    let base = if r.run.precision == RunPrecision::Fp8 { Precision::FP8 } else { Precision::COMPUTE };
    let mut rows = toml::Table::try_from(base).expect("the table has plain values");
    for (key, value) in &r.precision {
        let place = format!("precision.{key}");
        let Some(old) = rows.insert(key.clone(), value.clone()) else {
            let hint = nearest(key, rows.keys().filter(|k| *k != key).map(String::as_str));
            let hint = hint.map_or_else(String::new, |n| format!(" (did you mean `{n}`?)"));
            return Err(r.source.at_key(&place, format!("the precision table has no such row{hint}")));
        };
        if !value.same_type(&old) {
            let message = format!("is {value}, not a {} (for example {old})", old.type_str());
            return Err(r.source.at_key(&place, message));
        }
        if let Err(e) = rows.clone().try_into::<Precision>() {
            return Err(r.source.at_key(&place, format!("{} (for example {old})", e.message())));
        }
    }
    let table: Precision = rows.try_into().expect("every row was tried");
    if table.dispatch == Keep::E5m6 {
        return Err(r.source.at_key("precision.dispatch", "must be \"compute\" or \"fp8\""));
    }
    let plain = toml::Table::try_from(Precision::COMPUTE).expect("the table has plain values");
    let codes = table.products().contains(&Product::Fp8);
    for (key, value) in r.precision.iter().filter(|(key, value)| plain[*key] != **value) {
        let why = match key.as_str() {
            "gradients" if !codes => "applies to fp8 products, but this run has none",
            "gradients" | "recompute" => continue,
            _ if r.run.precision == RunPrecision::F32 && value.as_str() != Some("f32") => {
                "an f32 run uses f32 everywhere: the table only changes bf16 and fp8 runs"
            }
            _ => continue,
        };
        return Err(r.source.at_key(&format!("precision.{key}"), why));
    }
    Ok(table)
}

fn read_config(r: &Recipe, name: &str) -> Result<ModelConfig, RecipeError> {
    if let Some(config) = ModelConfig::named(name) {
        return Ok(config);
    }
    ModelConfig::from_file(name).map_err(|e| {
        let known = ModelConfig::names().collect::<Vec<_>>().join(", ");
        r.source.at_key("model.config", format!("{e} (built-in configs: {known})"))
    })
}

fn json(value: &toml::Value) -> Value {
    match value {
        toml::Value::String(s) if s == "none" => Value::Null,
        toml::Value::Table(t) => Value::Object(t.iter().map(|(k, v)| (k.clone(), json(v))).collect()),
        toml::Value::Array(a) => Value::Array(a.iter().map(json).collect()),
        other => serde_json::to_value(other).unwrap_or(Value::Null),
    }
}

fn resolve_data(r: &Recipe, model: &ModelConfig) -> Result<Data, RecipeError> {
    let mut data = r.data.clone();
    if data.vocab_size == 0 {
        data.vocab_size = model.vocab_size;
    }
    if data.vocab_size > model.vocab_size {
        let message = format!("{} tokens do not fit the model's vocab_size of {}", data.vocab_size, model.vocab_size);
        return Err(r.source.at_key("data.vocab_size", message));
    }
    if data.seq_len > model.max_position_embeddings {
        let longest = model.max_position_embeddings;
        let message = format!("{} is beyond the model's max_position_embeddings of {longest}", data.seq_len);
        return Err(r.source.at_key("data.seq_len", message));
    }
    if matches!(&data.text, Text::Many(paths) if paths.is_empty()) {
        return Err(r.source.at_key("data.text", "must name at least one file or folder"));
    }
    Ok(data)
}

fn resolve_schedule(r: &Recipe, tokens_per_second: Option<f64>) -> Result<Schedule, RecipeError> {
    let seq_len = r.data.seq_len as u64;
    let step = r.batch.sequences * seq_len;
    let total = match r.schedule.total_tokens {
        Total::Tokens(n) => n,
        Total::Measured => {
            let rate = tokens_per_second.filter(|&x| positive(x)).ok_or_else(|| {
                r.source.at_key("schedule.total_tokens", "\"measured\" needs a measurement of this machine first")
            })?;
            let most = match r.schedule.max_tokens {
                None => u64::MAX,
                Some(Amount::Tokens(n)) if n > 0 => n,
                Some(_) => return Err(r.source.at_key("schedule.max_tokens", "must be a number of tokens above 0")),
            };
            let tokens = ((rate * 60.0 * r.schedule.minutes) as u64).min(most);
            // Whole steps, at least one.
            (tokens / step).max(1) * step
        }
    };
    let batch = resolve_batch(r, total)?;
    let tokens = |key: &str, a: Amount| {
        let n = a.tokens_of(total).unwrap_or_else(|| match a {
            Amount::Steps(n) => batch.tokens_after(n),
            _ => total,
        });
        if n > total {
            let message = format!("{a} is {n} tokens, more than the {total} of the whole run");
            return Err(r.source.at_key(key, message));
        }
        Ok(n)
    };
    let gamma = if r.balance.method == BalanceMethod::AuxFree { r.balance.gamma } else { 0.0 };
    let s = &r.schedule;
    let mut phases = Vec::with_capacity(s.phases.len());
    let mut begin = 0;
    for (i, p) in s.phases.iter().enumerate() {
        let key = format!("schedule.phases.{i}");
        let end = tokens(&format!("{key}.until"), p.until)?;
        if end < begin {
            return Err(r.source.at_key(&format!("{key}.until"), "must not lie before the end of the previous phase"));
        }
        let lr = p.lr.of(s.peak_lr).map_err(|why| r.source.at_key(&format!("{key}.lr"), why))?;
        if !(lr >= 0.0 && lr.is_finite()) {
            return Err(r.source.at_key(&format!("{key}.lr"), "must not be negative"));
        }
        phases.push(Phase { end, shape: p.shape, lr });
        begin = end;
    }
    if begin != total {
        return Err(r.source.at_key("schedule.phases", "the last phase must end with the run: until = \"100%\""));
    }
    Ok(Schedule {
        total_tokens: total,
        peak_lr: s.peak_lr,
        warmup_tokens: tokens("schedule.warmup", s.warmup)?,
        phases,
        batch,
        gamma: Switch { early: gamma, until: tokens("balance.gamma_until", r.balance.gamma_until)?, late: 0.0 },
        mtp_weight: Switch {
            early: s.mtp_weight,
            until: tokens("schedule.mtp_until", s.mtp_until)?,
            late: s.mtp_weight_late,
        },
    })
}

fn resolve_batch(r: &Recipe, total: u64) -> Result<BatchRamp, RecipeError> {
    let b = &r.batch;
    let whole = |key: &str, n: u64| {
        if n.is_multiple_of(b.micro_batch) {
            return Ok(());
        }
        let message = format!("{n} sequences are not a whole number of micro-batches of {}", b.micro_batch);
        Err(r.source.at_key(key, message))
    };
    whole("batch.sequences", b.sequences)?;
    if let Some(why) = r.balance.method.cut(b.sequences, b.micro_batch) {
        return Err(r.source.at_key("balance.method", format!("{why}: set batch.micro_batch = {}", b.sequences)));
    }
    let (mut from, mut over) = (b.sequences, 0);
    if let Some(ramp) = &b.ramp {
        whole("batch.ramp.from", ramp.from)?;
        if ramp.from == 0 || ramp.from > b.sequences {
            return Err(r.source.at_key("batch.ramp.from", "must be between 1 and batch.sequences"));
        }
        from = ramp.from;
        over = ramp
            .over
            .tokens_of(total)
            .ok_or_else(|| r.source.at_key("batch.ramp.over", "write tokens or a share, not steps"))?;
    }
    Ok(BatchRamp { from, to: b.sequences, over, micro_batch: b.micro_batch, seq_len: r.data.seq_len as u64 })
}
