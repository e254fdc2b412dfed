//! `hadal import`: Hugging Face checkpoints checked and converted, tensor by tensor and in little memory.

use super::common::grouped;
use super::export::name;
use super::folder::write;
use crate::cli::{FilesArgs, ImportArgs, ScaleFmt, Weights};
use anyhow::{Result, ensure};
use hadal_model::count;
use hadal_model::hf::{self, Audit, Checkpoint, Conversion, Converted, ScaleFormat, WeightFormat, convert_into};
use indicatif::{ProgressBar, ProgressStyle};

pub(crate) fn run(args: &ImportArgs) -> Result<()> {
    if let Some(out) = &args.out {
        hf::place(out)?;
    }
    let folder = &args.checkpoint;
    ensure!(folder.is_dir(), "{} is no folder: name the one that holds config.json and the weights", folder.display());
    let checkpoint = Checkpoint::open(folder)?;
    let stored = checkpoint.format();
    let conversion = conversion(args.dtype, args.files, stored)?;
    let mut audit = checkpoint.audit()?;
    if args.deep && audit.is_clean() {
        deepen(&checkpoint, &mut audit)?;
    }
    if args.all {
        audit.lines().iter().for_each(|line| say!("{line}"));
        audit.ignored.iter().for_each(|name| say!("rightly not needed: {name}"));
        audit.off_format.iter().for_each(|name| say!("no powers of two: {name}"));
    }
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
        let more = if rest.is_empty() { String::new() } else { format!(" and {} more (--all names them)", rest.len()) };
        say!(
            "config.json says `scale_fmt: ue8m0`, but these scales are no powers of two: {first}{more}; they are read as they are"
        );
    }
    if !folder.join("tokenizer.json").is_file() {
        say!("it has no tokenizer.json, which generate, complete and eval need");
    }
    let Some(out) = &args.out else {
        let read = if args.deep { "every value" } else { "scales and copies; --deep reads every value" };
        say!("read were names, shapes, types and {read}");
        return Ok(());
    };
    let converted =
        write(folder, out, args.files.shard_size, |dir, options| convert_into(&checkpoint, dir, conversion, options))?;
    say!("written to {} {}", out.display(), done(conversion, converted));
    Ok(())
}

/// Reads every value, with a bar where someone looks at it.
fn deepen(checkpoint: &Checkpoint, audit: &mut Audit) -> Result<()> {
    let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left")?;
    let bar = ProgressBar::new(checkpoint.size()).with_style(style);
    checkpoint.audit_values(audit, |bytes| bar.inc(bytes as u64))?;
    bar.finish_and_clear();
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
    let what = match (conversion.format, conversion.scales) {
        (Some(WeightFormat::Fp8(_)), None) => "fp8",
        (Some(format), _) => name(format),
        (None, Some(scales)) => name(WeightFormat::Fp8(scales)),
        (None, None) => "it is stored",
    };
    let mut parts = vec![format!("as {what}: {copied} of {tensors} tensors copied bit for bit")];
    if narrowed > 0 {
        parts.push(format!("{narrowed} narrowed"));
    }
    if requantised > 0 {
        parts.push(format!("{requantised} quantised again because their scales were no powers of two"));
    }
    parts.join(", ")
}
