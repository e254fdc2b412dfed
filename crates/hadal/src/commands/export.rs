//! `hadal export` and `hadal import`: Hugging Face checkpoints out and in. Checkpoints go tensor by tensor from format to
//! format; only a run's exact weights pass through a model.

use super::common::{grouped, model_folder};
use crate::cli::{ExportArgs, FilesArgs, ImportArgs, ScaleFmt, Weights};
use anyhow::{Context, Result, bail, ensure};
use hadal_model::hf::{self, Checkpoint, ScaleFormat, WeightFormat, atomic::StagedDir, convert_into};
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
    let format = format(args.dtype, args.files, checkpoint.format())?;
    if let Some(state) = &exact {
        // A model that was trained here fits into memory here.
        let cx = Cx::cpu(0, DType::F32);
        let mut model = cx.threads().run(|| Model::load(&cx, &checkpoint))?;
        read_state(&mut model, &state.join(STATE), if args.ema { "ema" } else { "weight" })?;
        write(&folder, &args.out, |dir| model.save_into(dir, format, args.files.shard_size, |_| None))?;
    } else {
        checkpoint.audit()?.into_result()?;
        write(&folder, &args.out, |dir| convert_into(&checkpoint, dir, format, args.files.shard_size))?;
    }
    let what = if args.ema { "averaged weights" } else { "weights" };
    say!("{what} of {} written to {} as {}", folder.display(), args.out.display(), name(format));
    Ok(())
}

pub(crate) fn import(args: &ImportArgs) -> Result<()> {
    if let Some(out) = &args.out {
        check_out(out)?;
    }
    let folder = &args.checkpoint;
    ensure!(folder.is_dir(), "{} is no folder: name the one that holds config.json and the weights", folder.display());
    let checkpoint = Checkpoint::open(folder)?;
    let stored = checkpoint.format();
    let format = match args.dtype {
        Some(dtype) => format(dtype, args.files, stored)?,
        None => match (stored, args.files.scale_fmt) {
            (WeightFormat::Fp8(_), Some(_)) => format(Weights::Fp8, args.files, stored)?,
            (_, Some(_)) => bail!("--scale-fmt is about FP8 weights: add --dtype fp8"),
            (_, None) => stored,
        },
    };
    let audit = checkpoint.audit()?;
    let ignored = audit.ignored.len();
    audit.into_result()?;
    let found = count::count(checkpoint.config());
    say!(
        "{} holds the whole model as {}: {} parameters, {} of MTP modules, {ignored} tensors that are rightly not needed",
        folder.display(),
        name(stored),
        grouped(found.main + found.mtp),
        grouped(found.mtp)
    );
    if !folder.join("tokenizer.json").is_file() {
        say!("it has no tokenizer.json, which generate, complete and eval need");
    }
    let Some(out) = &args.out else { return Ok(()) };
    write(folder, out, |dir| convert_into(&checkpoint, dir, format, args.files.shard_size))?;
    say!("written to {} as {}", out.display(), name(format));
    Ok(())
}

/// What the options ask for; scales they do not name are those of `stored`, if it has some.
fn format(dtype: Weights, files: FilesArgs, stored: WeightFormat) -> Result<WeightFormat> {
    let scales = match (files.scale_fmt, stored) {
        (None, WeightFormat::Fp8(scales)) => scales,
        (None | Some(ScaleFmt::F32), _) => ScaleFormat::F32,
        (Some(ScaleFmt::Ue8m0), _) => ScaleFormat::Ue8m0,
        (Some(ScaleFmt::Ue8m0Byte), _) => ScaleFormat::Ue8m0Byte,
    };
    ensure!(
        files.scale_fmt.is_none() || dtype == Weights::Fp8,
        "--scale-fmt is about FP8 weights: add --dtype fp8 or leave it out"
    );
    Ok(match dtype {
        Weights::F32 => WeightFormat::F32,
        Weights::Bf16 => WeightFormat::Bf16,
        Weights::Fp8 => WeightFormat::Fp8(scales),
    })
}

fn name(format: WeightFormat) -> &'static str {
    match format {
        WeightFormat::F32 => "f32",
        WeightFormat::Bf16 => "bf16",
        WeightFormat::Fp8(ScaleFormat::F32) => "fp8 with f32 scales",
        WeightFormat::Fp8(ScaleFormat::Ue8m0) => "fp8 with ue8m0 scales",
        WeightFormat::Fp8(ScaleFormat::Ue8m0Byte) => "fp8 with ue8m0 scales in bytes",
    }
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

/// A Hugging Face folder with what `weights` writes and the tokenizer of `from`, whole or not at all.
fn write(from: &Path, out: &Path, weights: impl FnOnce(&Path) -> Result<(), hf::Error>) -> Result<()> {
    let staged = StagedDir::new(out)?;
    weights(staged.path())?;
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
