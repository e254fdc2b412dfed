//! `hadal export` and `hadal import`: Hugging Face checkpoints out and in.

use super::common::{grouped, model_folder};
use crate::cli::{ExportArgs, ImportArgs};
use anyhow::{Context, Result, bail, ensure};
use hadal_model::hf::{Checkpoint, Dtype, atomic::StagedDir};
use hadal_model::{Model, count};
use hadal_ops::{Cx, DType, mmap};
use hadal_train::checkpoint;
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};

/// Masters, averages and moments of a checkpoint that training goes on from.
const STATE: &str = "state/tensors.safetensors";

/// Files beside the weights that other programs want.
const BESIDE: [&str; 6] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
];

pub(crate) fn export(args: &ExportArgs) -> Result<()> {
    check_out(&args.out)?;
    let dtype = args.dtype.dtype();
    let state = with_state(&args.model)?;
    if args.ema && state.is_none() {
        bail!("{}: averaged weights are in a run's checkpoints only, and here is none", args.model.display());
    }
    // What a checkpoint stores of the weights is rounded; its state is not.
    let exact = state.filter(|_| args.ema || dtype == DType::F32);
    let folder = match &exact {
        Some(folder) => folder.clone(),
        None => model_folder(&args.model)?,
    };
    let cx = Cx::cpu(0, DType::F32);
    let mut model = cx.threads().run(|| Model::load(&cx, &Checkpoint::open(&folder)?))?;
    if let Some(folder) = &exact {
        read_state(&mut model, &folder.join(STATE), if args.ema { "ema" } else { "weight" })?;
    }
    write(&model, &folder, &args.out, dtype)?;
    let what = if args.ema { "averaged weights" } else { "weights" };
    say!("{what} of {} written to {} as {}", folder.display(), args.out.display(), name(dtype));
    Ok(())
}

pub(crate) fn import(args: &ImportArgs) -> Result<()> {
    if let Some(out) = &args.out {
        check_out(out)?;
    }
    let folder = &args.checkpoint;
    ensure!(folder.is_dir(), "{} is no folder: name the one that holds config.json and the weights", folder.display());
    let checkpoint = Checkpoint::open(folder)?;
    let cx = Cx::cpu(0, DType::F32);
    let model = Model::new(&cx, checkpoint.config());
    let audit = model.audit(&checkpoint)?;
    let ignored = audit.ignored.len();
    audit.into_result()?;
    drop(model);
    let found = count::count(checkpoint.config());
    say!(
        "{} holds the whole model: {} parameters, {} of MTP modules, {ignored} tensors that are rightly not needed",
        folder.display(),
        grouped(found.main + found.mtp),
        grouped(found.mtp)
    );
    if !folder.join("tokenizer.json").is_file() {
        say!("it has no tokenizer.json, which generate, complete and eval need");
    }
    let Some(out) = &args.out else { return Ok(()) };
    let dtype = stored_as(&checkpoint);
    let model = cx.threads().run(|| Model::load(&cx, &checkpoint))?;
    write(&model, folder, out, dtype)?;
    say!("written to {} as {}", out.display(), name(dtype));
    Ok(())
}

/// The smallest format that holds every tensor of a checkpoint exactly.
fn stored_as(checkpoint: &Checkpoint) -> DType {
    let bias = |name: &str| name.ends_with("e_score_correction_bias");
    let all_bf16 = checkpoint
        .names()
        .filter(|n| !bias(n))
        .all(|n| checkpoint.info(n).is_some_and(|info| *info.dtype == Dtype::Bf16));
    if all_bf16 { DType::Bf16 } else { DType::F32 }
}

fn name(dtype: DType) -> &'static str {
    if dtype == DType::F32 { "f32" } else { "bf16" }
}

/// Found out before any work is done; the final rename refuses as well.
fn check_out(out: &Path) -> Result<()> {
    let taken = if out.is_dir() { std::fs::read_dir(out)?.next().is_some() } else { out.exists() };
    ensure!(!taken, "{} is there already: choose another --out or remove it", out.display());
    Ok(())
}

/// The checkpoint with a training state that `path` means, if there is one: itself, or a run's newest.
fn with_state(path: &Path) -> Result<Option<PathBuf>> {
    if path.join(STATE).is_file() {
        return Ok(Some(path.to_owned()));
    }
    Ok(checkpoint::list(&path.join("checkpoints"))?.pop().filter(|p| p.join(STATE).is_file()))
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

/// A Hugging Face folder of `model`, with the tokenizer of `from`, whole or not at all.
fn write(model: &Model, from: &Path, out: &Path, dtype: DType) -> Result<()> {
    let staged = StagedDir::new(out)?;
    model.write_into(staged.path(), dtype, |_| None)?;
    for file in BESIDE {
        let source = from.join(file);
        if source.is_file() {
            let to = staged.path().join(file);
            std::fs::copy(&source, &to).with_context(|| format!("cannot copy {}", source.display()))?;
        }
    }
    staged.commit()?;
    Ok(())
}
