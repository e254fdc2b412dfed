//! Folders of weights that `export` and `import` write: what is asked for, whether it is possible before the work, whole or
//! not at all after it.

use crate::cli::{FilesArgs, ScaleFmt, Weights};
use anyhow::{Context, Result, ensure};
use hadal_base::atomic::{StagedDir, remove_leftovers_of};
use hadal_base::place;
use hadal_watch::signals::Watch;
use hadal_weights::{Conversion, Converted, Error, SaveOptions, ScaleFormat, WeightFormat};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Bytes of the largest file that is copied: a tokenizer has some megabytes.
const MAX_BESIDE: u64 = 64 << 20;

/// What only names weights, in this format or another.
const WEIGHTS: [&str; 9] =
    [".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt", ".pth", ".gguf", ".onnx", ".msgpack"];

/// A Hugging Face folder with what `weights` writes and all else that lies in `from`: tokenizer, templates, code. Ends at
/// the next piece, with nothing left behind, when the program is told to by a signal.
pub(crate) fn write<T>(
    from: &Path,
    out: &Path,
    shard_bytes: usize,
    weights: impl FnOnce(&Path, &SaveOptions<'_>) -> Result<T, Error>,
) -> Result<T> {
    let out = place(out)?;
    remove_leftovers_of(&out)?;
    let stop = Arc::new(AtomicBool::new(false));
    let _watch = Watch::new(&stop);
    let staged = StagedDir::new(&out)?;
    let written = weights(staged.path(), &SaveOptions { shard_bytes, stop: Some(&stop) })?;
    let left_out = copy_beside(from, staged.path())?;
    staged.commit()?;
    if !left_out.is_empty() {
        say!("not copied: {}", left_out.join(", "));
    }
    Ok(written)
}

/// Copies the files of a folder that are not weights and not hidden, and gives the names of those that it did not.
fn copy_beside(from: &Path, to: &Path) -> Result<Vec<String>> {
    let mut left_out = Vec::new();
    for entry in fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))? {
        let source = entry.with_context(|| format!("cannot list {}", from.display()))?.path();
        let (Some(own), Some(meta)) = (source.file_name(), fs::metadata(&source).ok()) else { continue };
        let (name, target) = (own.to_string_lossy().escape_debug().to_string(), to.join(own));
        // The configuration and the weights are written anew.
        if name.starts_with('.') || target.exists() || WEIGHTS[..2].iter().any(|end| name.ends_with(end)) {
            continue;
        }
        if !meta.is_file() || meta.len() > MAX_BESIDE || WEIGHTS.iter().any(|end| name.ends_with(end)) {
            left_out.push(if meta.is_dir() { name + "/" } else { name });
            continue;
        }
        fs::copy(&source, &target).with_context(|| format!("cannot copy {}", source.display()))?;
    }
    left_out.sort();
    Ok(left_out)
}

/// A format for people.
pub(crate) fn name(format: WeightFormat) -> &'static str {
    match format {
        WeightFormat::F32 => "f32",
        WeightFormat::Bf16 => "bf16",
        WeightFormat::Fp8(ScaleFormat::F32) => "fp8 with f32 scales",
        WeightFormat::Fp8(ScaleFormat::Ue8m0) => "fp8 with ue8m0 scales",
        WeightFormat::Fp8(ScaleFormat::Ue8m0Byte) => "fp8 with ue8m0 scales in bytes",
        WeightFormat::Fp8(ScaleFormat::Bf16) => "fp8 with bf16 scales",
    }
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
