//! A recipe of supervised fine-tuning (report section 5.1), as a person writes it.
//!
//! It becomes a [`Recipe`] of the general kind, whose objective is `sft`, and then a plan as any other. Tables that both
//! have are the same in both, so errors about their values name the right line.

use std::path::Path;

use hadal_base::IoContext;
use serde::{Deserialize, Serialize};

use crate::recipe::{
    Amount, Balance, BalanceMethod, Batch, Checkpoint, Data, Ema, Eval, Filter, Lr, Model, Objective, Optimizer, Phase,
    Recipe, RecipeError, RunSettings, Schedule, Shape, Spike, Text, Total, WrittenText,
};
use crate::trained::Trained;

/// The name of the objective in plans.
pub const SFT: &str = "sft";

/// The text of the recipe that shows every key.
pub const EXAMPLE: &str = include_str!("../../../recipes/sft.toml");

/// A recipe as written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SftRecipe {
    /// Short name, used in titles.
    #[serde(default)]
    pub name: String,
    /// One sentence about it.
    #[serde(default)]
    pub description: String,
    /// The weights to start from.
    pub start: Start,
    /// The conversations.
    pub data: SftData,
    #[serde(default)]
    pub batch: Batch,
    #[serde(default = "no_decay")]
    pub optimizer: Optimizer,
    #[serde(default)]
    pub schedule: SftSchedule,
    /// What is trained.
    #[serde(default)]
    pub trained: Trained,
    #[serde(default)]
    pub balance: SftBalance,
    /// Rows of the precision table that change what `run.precision` chooses.
    #[serde(default)]
    pub precision: toml::Table,
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
    /// Where each key was written.
    #[serde(skip)]
    pub source: WrittenText,
}

/// The weights to start from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// A run's folder, one of its checkpoints, or a Hugging Face checkpoint.
    pub model: String,
    /// A folder with adapters in PEFT's format, which are merged first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
}

/// The conversations to learn from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SftData {
    /// `.jsonl` files of conversations.
    pub train: Vec<Dataset>,
    /// The held-out conversations.
    #[serde(default)]
    pub validation: HeldOut,
    /// A file with a chat template to use instead of the checkpoint's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Largest number of inputs in a sequence. Several conversations are packed into one.
    #[serde(default = "seq_len")]
    pub seq_len: usize,
    /// What happens to longer conversations.
    #[serde(default)]
    pub longer: Longer,
}

impl SftData {
    /// The weights of the files to train on.
    pub fn weights(&self) -> Vec<f64> {
        self.train.iter().map(Dataset::weight).collect()
    }
}

/// A file of conversations, and how often each of them occurs in an epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a path, or { path = \"...\", weight = 1.0 }")]
pub enum Dataset {
    /// Each conversation once.
    Path(String),
    /// Each conversation `weight` times. Of a fraction, each epoch takes another part of the conversations.
    Weighted(WeightedPath),
}

/// A file with a weight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightedPath {
    /// The file.
    pub path: String,
    /// How often each conversation occurs in an epoch.
    #[serde(default = "one")]
    pub weight: f64,
}

impl Dataset {
    /// The file.
    pub fn path(&self) -> &str {
        match self {
            Self::Path(path) => path,
            Self::Weighted(of) => &of.path,
        }
    }

    /// How often each conversation occurs in an epoch.
    pub fn weight(&self) -> f64 {
        match self {
            Self::Path(_) => 1.0,
            Self::Weighted(of) => of.weight,
        }
    }
}

/// The held-out conversations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a share (0.02) or a list of files")]
pub enum HeldOut {
    /// This share of the conversations in `train`, chosen by the seed.
    Share(f64),
    /// Files of their own.
    Files(Vec<String>),
}

impl Default for HeldOut {
    fn default() -> Self {
        Self::Share(0.02)
    }
}

/// What happens to a conversation that is longer than a sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Longer {
    /// The run does not start.
    #[default]
    Error,
    /// It is left out, and counted.
    Skip,
    /// Only its beginning is used, and that is counted.
    Cut,
}

/// Length and learning rate: a cosine from `peak_lr` to `lr_end` over all epochs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SftSchedule {
    /// How often all conversations are seen.
    pub epochs: u64,
    /// Learning rate at the start.
    pub peak_lr: f64,
    /// Learning rate at the end.
    pub lr_end: f64,
    /// Linear warm-up from 0 to `peak_lr`.
    pub warmup: Amount,
    /// Weight of the MTP losses, if MTP modules are trained.
    pub mtp_weight: f64,
}

impl Default for SftSchedule {
    fn default() -> Self {
        let warmup = Amount::Share { part: 0.0, whole: 100.0 };
        Self { epochs: 2, peak_lr: 5e-6, lr_end: 1e-6, warmup, mtp_weight: 0.1 }
    }
}

/// Expert load balancing. There is no balance loss.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SftBalance {
    /// Step size of the bias update. 0 keeps the biases.
    pub gamma: f64,
}

fn seq_len() -> usize {
    4096
}

fn one() -> f64 {
    1.0
}

fn no_decay() -> Optimizer {
    Optimizer { weight_decay: 0.0, ..Optimizer::default() }
}

impl SftRecipe {
    /// Loads a file and applies `--set` overrides (`section.key=value`).
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self, RecipeError> {
        let text = std::fs::read_to_string(path).at("read", path)?;
        Self::parse(&path.display().to_string(), &text, overrides)
    }

    /// Reads a recipe's text; `name` stands for the file in errors.
    pub fn parse(name: &str, text: &str, overrides: &[String]) -> Result<Self, RecipeError> {
        let (mut recipe, source): (Self, WrittenText) = WrittenText::read(name, text, overrides)?;
        if recipe.name.is_empty() {
            let stem = Path::new(name).file_stem().map(|stem| stem.to_string_lossy().into_owned());
            recipe.name = stem.unwrap_or_else(|| SFT.into());
        }
        recipe.source = source;
        recipe.check()?;
        Ok(recipe)
    }

    /// The recipe as written in its file, without the overrides.
    pub fn without_overrides(&self) -> Result<Self, RecipeError> {
        Self::parse(&self.source.name, self.source.file_text(), &[])
    }

    fn check(&self) -> Result<(), RecipeError> {
        let bad = |key: String, message: &str| Err(self.source.at_key(&key, message));
        if self.data.train.is_empty() {
            return bad("data.train".into(), "must name at least one file");
        }
        for (i, set) in self.data.train.iter().enumerate() {
            let weight = set.weight();
            if !(weight > 0.0 && weight <= 1000.0) {
                return bad(format!("data.train.{i}.weight"), "must be above 0 and at most 1000");
            }
        }
        match &self.data.validation {
            HeldOut::Share(share) if !(0.0..=0.5).contains(share) => {
                return bad("data.validation".into(), "must be between 0 and 0.5, or a list of files");
            }
            _ => {}
        }
        if !(1..=1000).contains(&self.schedule.epochs) {
            return bad("schedule.epochs".into(), "must be between 1 and 1000");
        }
        if !(self.schedule.lr_end >= 0.0 && self.schedule.lr_end <= self.schedule.peak_lr) {
            return bad("schedule.lr_end".into(), "must be between 0 and schedule.peak_lr");
        }
        Ok(())
    }

    /// The general recipe of a run with so many input tokens in all, for the model in the file `config`. Answers end
    /// with one of the tokens `ends`.
    pub fn general(&self, config: &str, total_tokens: u64, ends: &[u32]) -> Recipe {
        let whole = Amount::Share { part: 100.0, whole: 100.0 };
        let SftSchedule { epochs, peak_lr, lr_end, warmup, mtp_weight } = self.schedule;
        let settings = serde_json::json!({"start": self.start, "data": self.data, "epochs": epochs});
        let serde_json::Value::Object(settings) = settings else { unreachable!("it is an object") };
        let mtp_weight = if self.trained.mtp { mtp_weight } else { 0.0 };
        let ends = ends.iter().map(|id| toml::Value::Integer(i64::from(*id))).collect();
        let fields = toml::Table::from_iter([("eos_token_id".to_owned(), toml::Value::Array(ends))]);
        Recipe {
            name: self.name.clone(),
            description: self.description.clone(),
            model: Model { config: Some(config.to_owned()), fields },
            data: Data {
                text: Text::Many(self.data.train.iter().map(|set| set.path().to_owned()).collect()),
                filter: Filter::None,
                seq_len: self.data.seq_len,
                fim_rate: 0.0,
                boundary_split_rate: 0.0,
                shuffle_rows: 0,
                validation_share: 0.0,
                ..Data::default()
            },
            objective: Objective { name: SFT.into(), settings },
            batch: self.batch.clone(),
            optimizer: self.optimizer.clone(),
            schedule: Schedule {
                total_tokens: Total::Tokens(total_tokens),
                minutes: 1.0,
                max_tokens: None,
                warmup,
                peak_lr,
                phases: vec![Phase { until: whole, shape: Shape::Cosine, lr: Lr::Absolute(lr_end) }],
                mtp_weight,
                mtp_until: whole,
                mtp_weight_late: mtp_weight,
            },
            balance: Balance {
                method: if self.balance.gamma > 0.0 { BalanceMethod::AuxFree } else { BalanceMethod::None },
                gamma: self.balance.gamma,
                gamma_until: whole,
                alpha: 0.0,
            },
            precision: self.precision.clone(),
            trained: self.trained.clone(),
            ema: self.ema.clone(),
            checkpoint: self.checkpoint.clone(),
            eval: self.eval.clone(),
            spike: self.spike.clone(),
            run: self.run.clone(),
            extension: Vec::new(),
            source: self.source.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;

    const SHORT: &str = "[start]\nmodel = \"m\"\n\n[data]\ntrain = [\"a.jsonl\", { path = \"b\", weight = 0.5 }]\n";

    fn plan(recipe: &SftRecipe) -> Result<Plan, RecipeError> {
        Plan::new(&recipe.general("small", 1_000_000, &[1, 7]), None)
    }

    #[test]
    fn a_short_recipe_gets_the_reports_values() {
        let recipe = SftRecipe::parse("r.toml", SHORT, &[]).unwrap();
        let p = plan(&recipe).unwrap();
        let s = &p.schedule;
        assert_eq!((s.lr(0), s.lr(1_000_000), s.total_tokens), (5e-6, 1e-6, 1_000_000));
        assert!((s.lr(500_000) - 3e-6).abs() < 1e-12);
        assert_eq!((s.gamma.at(0), p.balance.alpha, p.balance.method), (0.0, 0.0, BalanceMethod::None));
        assert_eq!((s.mtp_weight.at(0), s.mtp_weight.at(999_999)), (0.1, 0.1));
        assert_eq!((p.objective.name.as_str(), &p.objective.settings["epochs"]), ("sft", &2.into()));
        assert_eq!(p.model.eos_token_id, [1, 7]);
        assert_eq!(recipe.data.weights(), [1.0, 0.5]);
        let frozen = SftRecipe::parse("r.toml", SHORT, &["trained.mtp=false".into(), "balance.gamma=0.001".into()]);
        let p = plan(&frozen.unwrap()).unwrap();
        assert_eq!((p.schedule.mtp_weight.at(0), p.trained.mtp, p.schedule.gamma.at(0)), (0.0, false, 0.001));
        assert_eq!(p.balance.alpha, 0.0);
    }

    #[test]
    fn mistakes_are_told_by_file_line_and_key() {
        for (set, key, word) in [
            ("data.train=[]", "data.train", "at least one"),
            ("data.train=[{path = \"a\", weight = 0}]", "data.train.0.weight", "above 0"),
            ("data.train=[{pth = \"a\"}]", "data.train", "expected a path"),
            ("data.validation=0.9", "data.validation", "0.5"),
            ("data.longer=drop", "data.longer", "expected one of"),
            ("schedule.epochs=0", "schedule.epochs", "between 1"),
            ("schedule.lr_end=1", "schedule.lr_end", "peak_lr"),
            ("schedule.phases=[]", "schedule.phases", "unknown field"),
            ("data.seq_len=1", "data.seq_len", "at least 2"),
            ("batch.micro_batch=3", "batch.sequences", "micro-batches"),
            ("trained.lora.rank=0", "trained.lora.rank", "from 1 to"),
            ("trained.lora.rank=2000000", "trained.lora.rank", "from 1 to"),
            ("trained.lora.layers=[\"o_proj\", \"q_proj\"]", "trained.lora.layers", "no `q_proj`"),
            ("trained.lora.layers=[\"o_proj\", \"o_proj\"]", "trained.lora.layers", "twice"),
            ("trained.lora.layers=[\"lm_head\"]", "trained.lora.layers", "lm_head"),
            ("trained.lora.layers=[]", "trained.lora.layers", "at least one"),
        ] {
            let read = SftRecipe::parse("r.toml", SHORT, &[set.into()]).and_then(|r| plan(&r));
            let error = read.expect_err(set).to_string();
            assert!(error.contains(&format!("`{key}")) && error.contains(word), "{set}: {error}");
        }
        let error = SftRecipe::parse("r.toml", &SHORT.replace("train", "trains"), &[]).unwrap_err().to_string();
        assert!(error.starts_with("r.toml, line 5: `data.trains`") && error.contains("did you mean"), "{error}");
    }

    /// The example has every key with its default value.
    #[test]
    fn the_example_shows_every_default() {
        let example = SftRecipe::parse("sft.toml", EXAMPLE, &[]).unwrap();
        let short = format!("name = {:?}\ndescription = {:?}\n{SHORT}", example.name, example.description);
        let short = SftRecipe::parse("r.toml", &short, &[]).unwrap();
        let mut same = SftRecipe { source: example.source.clone(), start: example.start.clone(), ..short };
        same.data.train.clone_from(&example.data.train);
        same.run.out.clone_from(&example.run.out);
        assert_eq!(example, same);
        let written: toml::Table = EXAMPLE.parse().unwrap();
        for (key, value) in toml::Table::try_from(&same).unwrap() {
            let Some(table) = value.as_table() else { continue };
            let Some(shown) = written.get(&key).and_then(toml::Value::as_table) else { panic!("[{key}] is not shown") };
            for name in table.keys() {
                assert!(shown.contains_key(name), "{key}.{name} is not shown");
            }
        }
    }
}
