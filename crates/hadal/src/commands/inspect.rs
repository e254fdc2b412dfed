//! `hadal inspect`: what a configuration means in numbers; see `hadal_model::count`.

use super::common::{model_folder, show};
use crate::cli::InspectArgs;
use anyhow::{Context, Result, bail};
use hadal_model::{ModelConfig, count};
use hadal_train::plan::Plan;
use hadal_train::recipe::{RECIPES, Recipe};
use std::path::Path;

pub(crate) fn run(args: &InspectArgs) -> Result<()> {
    let (config, seq_len) = find(&args.config)?;
    let found = count::inspect(&config, args.seq_len.or(seq_len), None);
    let text = if args.json { serde_json::to_string_pretty(&found)? + "\n" } else { found.to_string() };
    show(&text).context("cannot write to standard output")
}

/// The configuration that `name` means, and the sequence length if a recipe gives one.
fn find(name: &str) -> Result<(ModelConfig, Option<usize>)> {
    if let Some(config) = ModelConfig::named(name) {
        return Ok((config, None));
    }
    let path = Path::new(name);
    if RECIPES.iter().any(|r| r.0 == name) || path.extension().is_some_and(|e| e == "toml") {
        let recipe = Recipe::load(name, &[])?;
        return Ok((model_of(&recipe)?, Some(recipe.data.seq_len)));
    }
    if path.is_dir() {
        return Ok((ModelConfig::from_file(model_folder(path)?.join("config.json"))?, None));
    }
    if path.is_file() {
        return Ok((ModelConfig::from_file(path)?, None));
    }
    let mut known: Vec<&str> = ModelConfig::names().chain(RECIPES.iter().map(|r| r.0)).collect();
    known.sort_unstable();
    known.dedup();
    bail!("`{name}` is neither a file or folder nor a built-in name ({})", known.join(", "))
}

/// The model of a recipe.
pub(crate) fn model_of(recipe: &Recipe) -> Result<ModelConfig> {
    // A length that is measured when a run begins changes nothing about the model; any rate serves here.
    Ok(Plan::new(recipe, Some(1e4))?.model)
}
