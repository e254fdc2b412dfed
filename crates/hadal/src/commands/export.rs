//! `hadal export`: Hugging Face checkpoints of runs. What a checkpoint stores goes tensor by tensor from format to format;
//! only a run's exact weights pass through a model.

use super::common::open;
use super::folder::{conversion, write};
use crate::cli::{ExportArgs, Weights};
use anyhow::{Result, bail};
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
    // What a checkpoint stores of the weights is rounded; its state is not.
    let exact = state.filter(|_| args.ema || args.dtype != Weights::Bf16);
    let folder = match &exact {
        Some(folder) => folder.clone(),
        None => model_folder(&args.model)?,
    };
    let checkpoint = open(&folder)?;
    let conversion = conversion(Some(args.dtype), args.files, checkpoint.format())?;
    let what = if args.ema { "averaged weights" } else { "weights" };
    let said = if let Some(state) = &exact {
        let format = conversion.format.unwrap_or(WeightFormat::F32);
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

/// The checkpoint with a training state that `path` means, if there is one: itself, or a run's newest.
fn with_state(path: &Path) -> Result<Option<PathBuf>> {
    if path.join(STATE_FILE).is_file() {
        return Ok(Some(path.to_owned()));
    }
    Ok(checkpoints(&path.join("checkpoints"))?.pop().filter(|p| p.join(STATE_FILE).is_file()))
}

/// The state, which must have averaged weights if they are asked for.
fn averaged_if(wanted: bool, state: State) -> Result<State> {
    if wanted && !state.has(EMA) {
        bail!(
            "{} has no averaged weights: the run kept none (`ema.decay` in its recipe was 0)",
            state.path().display()
        );
    }
    Ok(state)
}
