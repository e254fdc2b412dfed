//! A run of fine-tuning in its folder, from its recipe to its end.
//!
//! ```text
//! start.json        configuration of the model that it starts from
//! tokenizer/        tokenizer, chat template: what the finished model gets as well
//! data/             sequences and which of their tokens are trained
//! plan.json, checkpoints/, metrics.jsonl, *.svg, model/     as in any other run
//! adapter/          with LoRA: the adapters in PEFT's format
//! ```

use crate::error::{Result, SftError};
use crate::prepare::Preparation;
use crate::sft::{Sft, total_inputs};
use hadal_base::{IoContext, atomic};
use hadal_data::Tokenizer;
use hadal_data::chat::{ChatRequest, ChatTemplate};
use hadal_data::tokenizer::FILES;
use hadal_recipe::plan::{PLAN_FILE, Plan};
use hadal_recipe::sft::{SFT, SftData, SftRecipe, Start};
use hadal_train::adapters::Adapters;
use hadal_train::checkpoint::copy_into;
use hadal_train::run::{self, Outcome};
use hadal_train::session::{Say, SessionError, Training, agree};
use hadal_train::step::Trainer;
use hadal_weights::Checkpoint;
use hadal_weights::folder::{checkpoints, model_folder};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Files beside a model that belong to its tokenizer, its template and its generation.
const BESIDE: [&str; 5] = [
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
];
const TEMPLATE: &str = "chat_template.jinja";
/// A folder of further templates.
const MORE: &str = "additional_chat_templates";

/// A run's folder with its plan.
pub struct SftSession {
    /// The folder.
    pub folder: PathBuf,
    /// The plan.
    pub plan: Plan,
    /// Whether it existed before.
    pub resumed: bool,
    settings: Settings,
}

/// The settings of the objective in a plan.
#[derive(Deserialize)]
struct Settings {
    start: Start,
    data: SftData,
    epochs: u64,
}

impl SftSession {
    /// Prepares a new run: reads the conversations of a recipe, and fixes the plan.
    pub fn begin(recipe: &SftRecipe, say: Say<'_>) -> Result<Self> {
        let folder = PathBuf::from(&recipe.run.out);
        if folder.join(PLAN_FILE).exists() {
            return Err(SessionError::Taken(folder).into());
        }
        let start = model_folder(Path::new(&recipe.start.model))?;
        let checkpoint = Checkpoint::open(&start)?;
        if let Some(notice) = checkpoint.notice() {
            say(&format!("note: {notice}"));
        }
        let (beside, data) = (folder.join("tokenizer"), folder.join("data"));
        std::fs::create_dir_all(&beside).at("create", &beside)?;
        let config = folder.join("start.json");
        let text = serde_json::to_string_pretty(&checkpoint.config().to_value()).expect("an object of plain values");
        atomic::write_file(&config, text.as_bytes())?;
        // The rest of the recipe is checked before conversations are read.
        let model = checkpoint.config();
        Plan::new(&recipe.general(&config.display().to_string(), 1_000_000_000, &model.eos_token_id), None)?;
        if let Some(adapter) = &recipe.start.adapter {
            Adapters::read(Path::new(adapter), model)?;
        }
        let (tokenizer, template) = tokenizer_and_template(&start, &beside, recipe.data.template.as_deref())?;
        if start.join(MORE).is_dir() {
            say(&format!("note: the finished model does not get the templates in {MORE}/"));
        }
        say(&format!("chat template: {}", template.origin()));
        let preparation =
            Preparation { data: &recipe.data, seed: recipe.run.seed, tokenizer: &tokenizer, template: &template };
        let report = preparation.run(&data)?;
        report.lines().iter().for_each(|line| say(line));
        // Answers end where the model learned to end them.
        let mut ends = model.eos_token_id.clone();
        ends.extend(report.ends.iter().filter(|id| !model.eos_token_id.contains(id) && tokenizer.is_special(**id)));
        let total = total_inputs(&data, &tokenizer, &recipe.data.weights(), recipe.schedule.epochs, recipe.run.seed)?;
        let plan = Plan::new(&recipe.general(&config.display().to_string(), total, &ends), None)?;
        plan.save(&folder)?;
        Self::of_plan(folder, plan, false)
    }

    /// Opens a stopped run with the recipe of the command that resumes it. The run keeps its plan; see [`agree`].
    pub fn resume(recipe: &SftRecipe, say: Say<'_>) -> Result<Self> {
        let folder = PathBuf::from(&recipe.run.out);
        if !folder.join(PLAN_FILE).exists() {
            return Err(SessionError::NothingToResume(folder).into());
        }
        let mut plan = Plan::load(&folder)?;
        let (config, total) = (folder.join("start.json").display().to_string(), plan.schedule.total_tokens);
        let general = |recipe: &SftRecipe| recipe.general(&config, total, &plan.model.eos_token_id);
        // A key that must be written may be among the overrides.
        let written = recipe.without_overrides().ok().map(|written| general(&written));
        let wanted = general(recipe);
        agree(&mut plan, &folder, &wanted, written.as_ref(), say)?;
        Self::of_plan(folder, plan, true)
    }

    fn of_plan(folder: PathBuf, plan: Plan, resumed: bool) -> Result<Self> {
        if plan.objective.name != SFT {
            return Err(SftError::OtherObjective { folder, name: plan.objective.name });
        }
        let settings = serde_json::from_value(plan.objective.settings.clone().into()).map_err(|error| {
            hadal_recipe::PlanError::Malformed { path: folder.join(PLAN_FILE).display().to_string(), error }
        })?;
        Ok(Self { folder, plan, resumed, settings })
    }

    /// The trainer: with the weights that the run starts from, or to be filled from its last checkpoint.
    pub fn trainer(&self) -> Result<Trainer> {
        if self.resumed && !checkpoints(&self.folder.join("checkpoints"))?.is_empty() {
            return Ok(run::trainer(&self.plan, None)?);
        }
        let Start { model, adapter } = &self.settings.start;
        let start = run::whole(&self.plan, &model_folder(Path::new(model))?)?;
        let Some(adapter) = adapter else { return Ok(run::trainer_of(&self.plan, &start)?) };
        let adapters = Adapters::read(Path::new(adapter), &self.plan.model)?;
        Ok(run::trainer_of(&self.plan, &adapters.merged(&start))?)
    }

    /// How often all conversations are seen.
    pub fn epochs(&self) -> u64 {
        self.settings.epochs
    }

    /// The objective.
    pub fn objective(&self) -> Result<Sft> {
        let beside = self.folder.join("tokenizer");
        let tokenizer = Tokenizer::load(&beside)?;
        let (data, weights) = (self.folder.join("data"), self.settings.data.weights());
        Sft::new(&self.plan, &data, &tokenizer, &weights, self.settings.epochs, files_beside(&beside))
    }

    /// Trains to the end of the plan and draws the plots. If the run finishes, it also writes the model, and the adapters
    /// if there are some.
    pub fn train(&self, plain: bool, say: Say<'_>) -> Result<(Trainer, Outcome)> {
        let Self { folder, plan, resumed, .. } = self;
        let training = Training { folder, plan, resumed: *resumed, after: None, rate: None };
        let (trainer, outcome) = training.run(self.trainer()?, Box::new(self.objective()?), plain, say)?;
        if outcome.finished && trainer.lora.is_some() {
            Adapters::of(&trainer).write(&folder.join("adapter"), &self.settings.start.model)?;
        }
        Ok((trainer, outcome))
    }
}

/// The files in a folder that belong beside a model's weights.
fn files_beside(folder: &Path) -> Vec<PathBuf> {
    FILES.into_iter().chain(BESIDE).map(|name| folder.join(name)).filter(|file| file.is_file()).collect()
}

/// The tokenizer and the template of a model. Their files are copied to `beside`. A template that is given, or the plain one
/// where the model has none, becomes the template there.
fn tokenizer_and_template(start: &Path, beside: &Path, given: Option<&str>) -> Result<(Tokenizer, ChatTemplate)> {
    copy_into(&files_beside(start), beside)?;
    let tokenizer = Tokenizer::load(beside)?;
    let template = beside.join(TEMPLATE);
    if let Some(given) = given {
        std::fs::copy(given, &template).at("copy", Path::new(given))?;
    }
    let loaded = ChatTemplate::load(beside, &tokenizer)?;
    if !loaded.is_of_checkpoint() {
        let source = loaded.source(&ChatRequest::default())?;
        std::fs::write(&template, source).at("write", &template)?;
    }
    Ok((tokenizer, loaded))
}
