//! `hadal export`: Hugging Face checkpoints of runs. What a checkpoint stores goes tensor by tensor from format to format;
//! only a run's exact weights pass through a model.

use super::folder::{conversion, done, name, write};
use crate::cli::{ExportArgs, Weights};
use anyhow::{Context, Result, bail};
use hadal_model::Model;
use hadal_ops::{Cx, DType, mmap};
use hadal_weights::folder::{checkpoints, model_folder};
use hadal_weights::{Checkpoint, WeightFormat, convert_into};
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};

/// Masters, averages and moments of a checkpoint that training goes on from.
const STATE: &str = "state/tensors.safetensors";

pub(crate) fn export(args: &ExportArgs) -> Result<()> {
    hadal_base::place(&args.out)?;
    let state = with_state(&args.model)?;
    if args.ema && state.is_none() {
        bail!("{}: averaged weights are in a run's checkpoints only, and here is none", args.model.display());
    }
    // What a checkpoint stores of the weights is rounded; its state is not.
    let exact = state.filter(|_| args.ema || args.dtype != Weights::Bf16);
    let folder = match &exact {
        Some(folder) => folder.clone(),
        None => model_folder(&args.model)?,
    };
    let checkpoint = Checkpoint::open(&folder)?;
    let conversion = conversion(Some(args.dtype), args.files, checkpoint.format())?;
    let what = if args.ema { "averaged weights" } else { "weights" };
    let said = if let Some(state) = &exact {
        // A model that was trained here fits into memory here.
        let cx = Cx::cpu(0, DType::F32);
        let mut model = cx.threads().run(|| Model::load(&cx, &checkpoint))?;
        read_state(&mut model, &state.join(STATE), if args.ema { "ema" } else { "weight" })?;
        let format = conversion.format.unwrap_or(WeightFormat::F32);
        write(&folder, &args.out, args.files.shard_size, |dir, options| {
            model.save_into(dir, format, options, |_| None)
        })?;
        format!("as {}", name(format))
    } else {
        checkpoint.audit()?.into_result()?;
        let converted = write(&folder, &args.out, args.files.shard_size, |dir, options| {
            convert_into(&checkpoint, dir, conversion, options)
        })?;
        done(conversion, converted)
    };
    say!("{what} of {} written to {} {said}", folder.display(), args.out.display());
    Ok(())
}

/// The checkpoint with a training state that `path` means, if there is one: itself, or a run's newest.
fn with_state(path: &Path) -> Result<Option<PathBuf>> {
    if path.join(STATE).is_file() {
        return Ok(Some(path.to_owned()));
    }
    Ok(checkpoints(&path.join("checkpoints"))?.pop().filter(|p| p.join(STATE).is_file()))
}

/// Takes the tensors `what/NAME` of a training state as the model's masters.
fn read_state(model: &mut Model, path: &Path, what: &str) -> Result<()> {
    let shown = path.display();
    let map = mmap::map_file(path).with_context(|| format!("cannot read {shown}"))?;
    let stored = SafeTensors::deserialize(&map).with_context(|| format!("{shown} is broken"))?;
    let mut done = Ok(());
    model.visit_mut(&mut |p| {
        // Selection biases are not averaged.
        if done.is_err() || (what == "ema" && !p.trainable()) {
            return;
        }
        let key = format!("{what}/{}", p.parts[0].name);
        let values = p.value.f32_mut();
        done = match stored.tensor(&key) {
            Err(_) if what == "ema" => Err(anyhow::anyhow!(
                "{shown} has no averaged weights: the run kept none (`ema.decay` in its recipe was 0)"
            )),
            Err(_) => Err(anyhow::anyhow!("{shown} lacks the tensor `{key}`")),
            Ok(t) if t.dtype() != safetensors::Dtype::F32 || t.data().len() != 4 * values.len() => {
                Err(anyhow::anyhow!("{shown}: `{key}` is {:?} {:?}, not what the model needs", t.dtype(), t.shape()))
            }
            Ok(t) => {
                for (v, bytes) in values.iter_mut().zip(t.data().as_chunks::<4>().0) {
                    *v = f32::from_le_bytes(*bytes);
                }
                Ok(())
            }
        };
    });
    done
}
