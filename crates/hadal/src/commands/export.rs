//! `hadal export`: writes the weights of runs as Hugging Face checkpoints. Stored weights are converted tensor by
//! tensor. A run's exact weights come from its training state.

use super::common::open;
use super::folder::{conversion, write};
use crate::cli::{ExportArgs, Weights};
use anyhow::{Result, bail};
use hadal_train::adapters::Adapters;
use hadal_train::checkpoint::open_state;
use hadal_train::state::{EMA, STATE_FILE, State, WEIGHT};
use hadal_weights::folder::{checkpoints, model_folder};
use hadal_weights::{WeightFormat, convert_into};
use std::path::{Path, PathBuf};

pub(crate) fn export(args: &ExportArgs) -> Result<()> {
    hadal_base::place(&args.out)?;
    let state = with_state(&args.model)?;
    if args.ema && state.is_none() {
        bail!("{}: averaged weights are only in a run's checkpoints, and there is none here", args.model.display());
    }
    // The weights in a checkpoint are rounded; those in its state are not. Adapters change finished weights.
    let exact = state.filter(|_| args.adapter.is_none() && (args.ema || args.dtype != Weights::Bf16));
    let folder = match &exact {
        Some(folder) => folder.clone(),
        None => model_folder(&args.model)?,
    };
    let checkpoint = open(&folder)?;
    let conversion = conversion(Some(args.dtype), args.files, checkpoint.format())?;
    let what = if args.ema { "averaged weights" } else { "weights" };
    let format = conversion.format.unwrap_or(WeightFormat::F32);
    let said = if let Some(adapter) = &args.adapter {
        checkpoint.audit()?.into_result()?;
        let adapters = Adapters::read(adapter, checkpoint.config())?;
        write(&folder, &args.out, args.files.shard_size, |dir, options| {
            adapters.save_merged(&checkpoint, dir, format, options)
        })?;
        format!("as {format}, with the adapters in {}", adapter.display())
    } else if let Some(state) = &exact {
        let what = if args.ema { EMA } else { WEIGHT };
        let state = averaged_if(args.ema, open_state(state)?)?;
        write(&folder, &args.out, args.files.shard_size, |dir, options| {
            state.save_into(dir, checkpoint.config(), what, format, options)
        })?;
        format!("as {format}")
    } else {
        checkpoint.audit()?.into_result()?;
        let converted = write(&folder, &args.out, args.files.shard_size, |dir, options| {
            convert_into(&checkpoint, dir, conversion, options)
        })?;
        converted.describe(conversion)
    };
    say!("{what} of {} written to {} {said}", folder.display(), args.out.display());
    Ok(())
}

/// The checkpoint with a training state that `path` stands for, if there is one: itself, or a run's newest.
fn with_state(path: &Path) -> Result<Option<PathBuf>> {
    if path.join(STATE_FILE).is_file() {
        return Ok(Some(path.to_owned()));
    }
    Ok(checkpoints(&path.join("checkpoints"))?.pop().filter(|p| p.join(STATE_FILE).is_file()))
}

/// The state. It is an error if averaged weights are wanted but missing.
fn averaged_if(wanted: bool, state: State) -> Result<State> {
    if wanted && !state.has(EMA) {
        bail!(
            "{} has no averaged weights: the run kept none (`ema.decay` in its recipe was 0)",
            state.path().display()
        );
    }
    Ok(state)
}
