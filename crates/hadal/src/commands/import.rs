//! `hadal import`: Hugging Face checkpoints checked and converted, tensor by tensor and in little memory.

use super::common::grouped;
use super::export::name;
use crate::cli::{FilesArgs, ImportArgs, ScaleFmt, Weights};
use anyhow::{Context, Result, ensure};
use hadal_model::count;
use hadal_model::hf::{
    self, Checkpoint, Conversion, Converted, ScaleFormat, WeightFormat, atomic::StagedDir, convert_into,
};
use std::path::Path;

/// Files beside the weights that other programs want.
const BESIDE: [&str; 6] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
];

pub(crate) fn run(args: &ImportArgs) -> Result<()> {
    if let Some(out) = &args.out {
        check_out(out)?;
    }
    let folder = &args.checkpoint;
    ensure!(folder.is_dir(), "{} is no folder: name the one that holds config.json and the weights", folder.display());
    let checkpoint = Checkpoint::open(folder)?;
    let stored = checkpoint.format();
    let conversion = conversion(args.dtype, args.files, stored)?;
    let audit = checkpoint.audit()?;
    let (ignored, off_format) = (audit.ignored.len(), audit.off_format.clone());
    audit.into_result()?;
    let found = count::count(checkpoint.config());
    say!(
        "{} holds the whole model as {}: {} parameters, {} of MTP modules, {ignored} tensors that are rightly not needed",
        folder.display(),
        name(stored),
        grouped(found.main + found.mtp),
        grouped(found.mtp)
    );
    if let [first, rest @ ..] = off_format.as_slice() {
        let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
        say!(
            "config.json says `scale_fmt: ue8m0`, but these scales are no powers of two: {first}{more}; they are read as they are"
        );
    }
    if !folder.join("tokenizer.json").is_file() {
        say!("it has no tokenizer.json, which generate, complete and eval need");
    }
    let Some(out) = &args.out else { return Ok(()) };
    let converted = write(folder, out, |dir| convert_into(&checkpoint, dir, conversion, args.files.shard_size))?;
    say!("written to {} {}", out.display(), done(conversion, converted));
    Ok(())
}

/// What the options ask for, of a checkpoint that is `stored` so.
pub(crate) fn conversion(dtype: Option<Weights>, files: FilesArgs, stored: WeightFormat) -> Result<Conversion> {
    let scales = files.scale_fmt.map(|scales| match scales {
        ScaleFmt::F32 => ScaleFormat::F32,
        ScaleFmt::Ue8m0 => ScaleFormat::Ue8m0,
        ScaleFmt::Ue8m0Byte => ScaleFormat::Ue8m0Byte,
    });
    let fp8 = dtype.map_or(matches!(stored, WeightFormat::Fp8(_)), |d| d == Weights::Fp8);
    ensure!(scales.is_none() || fp8, "--scale-fmt is about FP8 weights: add --dtype fp8 or leave it out");
    let format = dtype.map(|dtype| match dtype {
        Weights::F32 => WeightFormat::F32,
        Weights::Bf16 => WeightFormat::Bf16,
        Weights::Fp8 => WeightFormat::Fp8(scales.unwrap_or(ScaleFormat::F32)),
    });
    Ok(Conversion { format, scales })
}

/// What was written, for people.
pub(crate) fn done(conversion: Conversion, converted: Converted) -> String {
    let Converted { tensors, copied, narrowed, requantised } = converted;
    let mut text = match (conversion.format, conversion.scales) {
        (Some(WeightFormat::Fp8(_)), None) => "as fp8".into(),
        (Some(format), _) => format!("as {}", name(format)),
        (None, Some(scales)) => format!("as {}", name(WeightFormat::Fp8(scales))),
        (None, None) => "as it is stored".into(),
    };
    text += &format!(": {copied} of {tensors} tensors copied bit for bit");
    if narrowed > 0 {
        text += &format!(", {narrowed} narrowed");
    }
    if requantised > 0 {
        text += &format!(", {requantised} quantised again because their scales were no powers of two");
    }
    text
}

/// Found out before any work is done; the final rename refuses as well.
pub(crate) fn check_out(out: &Path) -> Result<()> {
    let taken = if out.is_dir() { std::fs::read_dir(out)?.next().is_some() } else { out.exists() };
    ensure!(!taken, "{} is there already: choose another --out or remove it", out.display());
    Ok(())
}

/// A Hugging Face folder with what `weights` writes and the tokenizer of `from`, whole or not at all.
pub(crate) fn write<T>(from: &Path, out: &Path, weights: impl FnOnce(&Path) -> Result<T, hf::Error>) -> Result<T> {
    let staged = StagedDir::new(out)?;
    let written = weights(staged.path())?;
    for file in BESIDE {
        let source = from.join(file);
        if source.is_file() {
            let to = staged.path().join(file);
            std::fs::copy(&source, &to).with_context(|| format!("cannot copy {}", source.display()))?;
        }
    }
    staged.commit()?;
    Ok(written)
}
