//! `hadal inspect`: shows the numbers of a configuration; see `hadal_model::count`.

use super::common::{open, show};
use crate::cli::InspectArgs;
use anyhow::{Context, Result, bail, ensure};
use hadal_model::count;
use hadal_recipe::plan::Plan;
use hadal_recipe::recipe::{RECIPES, Recipe};
use hadal_weights::folder::config_folder;
use hadal_weights::hub::RepoId;
use hadal_weights::precision::Formats;
use hadal_weights::{ModelConfig, PackedFile, PackedSummary, Relative};
use std::path::Path;

pub(crate) fn run(args: &InspectArgs) -> Result<()> {
    if let Some(relative) = relative(&args.config) {
        let text = if args.json { format!("{:#}\n", relative.to_value()) } else { relative.to_string() };
        return show(&text).context("cannot write to standard output");
    }
    let packed = packed(&args.config, args.deep)?;
    let Found { config, seq_len, formats } = find(&args.config, &args.set)?;
    let found = count::inspect(&config, args.seq_len.or(seq_len), formats.as_ref());
    let text = match packed {
        Some(packed) if args.json => {
            let mut found = serde_json::to_value(&found)?;
            found["packed"] = serde_json::to_value(&packed)?;
            format!("{found:#}\n")
        }
        None if args.json => serde_json::to_string_pretty(&found)? + "\n",
        packed => found.to_string() + &packed.map(|p| format!("\n{p}\n")).unwrap_or_default(),
    };
    show(&text).context("cannot write to standard output")
}

/// The relative of a known family that `name` stands for. What it lacks is then all there is to say about it.
fn relative(name: &str) -> Option<Relative> {
    let path = Path::new(name);
    let file = if path.is_file() { path.to_owned() } else { config_folder(path).ok()?.join("config.json") };
    Relative::from_file(&file)
}

/// What a folder that `hadal quantize` wrote holds. With `deep`, everything is read and compared with its checksum.
fn packed(name: &str, deep: bool) -> Result<Option<PackedSummary>> {
    let path = Path::new(name);
    if !(path.is_dir() && PackedFile::is_in(path)) {
        ensure!(
            !deep,
            "--deep reads weights that `hadal quantize` packed; `hadal import --deep` reads those of a checkpoint"
        );
        return Ok(None);
    }
    let file = PackedFile::open(path)?;
    if deep {
        file.verify(|_| {})?;
    }
    Ok(Some(file.summary()))
}

/// The configuration that a name stands for. A recipe also gives sequence length and formats.
struct Found {
    config: ModelConfig,
    seq_len: Option<usize>,
    formats: Option<Formats>,
}

impl From<ModelConfig> for Found {
    fn from(config: ModelConfig) -> Self {
        Self { config, seq_len: None, formats: None }
    }
}

fn find(name: &str, set: &[String]) -> Result<Found> {
    if let Some(config) = ModelConfig::named(name).filter(|_| set.is_empty()) {
        return Ok(config.into());
    }
    let path = Path::new(name);
    if RECIPES.iter().any(|r| r.0 == name) || path.extension().is_some_and(|e| e == "toml") {
        let plan = Plan::draft(&Recipe::load(name, set)?)?;
        return Ok(Found { formats: Some(plan.formats()), seq_len: Some(plan.data.seq_len), config: plan.model });
    }
    ensure!(set.is_empty(), "--set changes a recipe, but `{name}` is not one");
    let is_repository = RepoId::of(path).is_some() && !path.exists();
    if path.is_dir() || is_repository {
        let folder = config_folder(path)?;
        // A configuration can be inspected without its weights. Problems with the weights are reported by `import`.
        let config = match open(&folder) {
            Ok(checkpoint) => checkpoint.config().clone(),
            Err(error) => ModelConfig::from_file(folder.join("config.json")).map_err(|_| error)?,
        };
        return Ok(config.into());
    }
    if path.is_file() {
        return Ok(ModelConfig::from_file(path)?.into());
    }
    let mut known: Vec<&str> = ModelConfig::names().chain(RECIPES.iter().map(|r| r.0)).collect();
    known.sort_unstable();
    known.dedup();
    bail!("`{name}` is not a file, a folder or a built-in name ({})", known.join(", "))
}
