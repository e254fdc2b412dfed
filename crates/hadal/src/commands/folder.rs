//! Shared by `export` and `import`: the requested format, and writing a folder so that a signal can stop it.

use crate::cli::{FilesArgs, ScaleFmt, Weights};
use anyhow::{Result, ensure};
use hadal_watch::signals::Watch;
use hadal_weights::{Conversion, Error, SaveOptions, ScaleFormat, WeightFormat, write_folder};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Like [`write_folder`]. A signal stops it at the next piece. Prints the files that were not copied.
pub(crate) fn write<T>(
    from: &Path,
    out: &Path,
    shard_bytes: usize,
    weights: impl FnOnce(&Path, &SaveOptions<'_>) -> Result<T, Error>,
) -> Result<T> {
    let stop = Arc::new(AtomicBool::new(false));
    let _watch = Watch::new(&stop);
    let options = SaveOptions { shard_bytes, stop: Some(&stop) };
    let (written, left_out) = write_folder(from, out, &options, weights)?;
    if !left_out.is_empty() {
        say!("not copied: {}", left_out.join(", "));
    }
    Ok(written)
}

/// The conversion that the options ask for, given the `stored` format of the checkpoint.
pub(crate) fn conversion(dtype: Option<Weights>, files: FilesArgs, stored: WeightFormat) -> Result<Conversion> {
    let scales = files.scale_fmt.map(|scales| match scales {
        ScaleFmt::F32 => ScaleFormat::F32,
        ScaleFmt::Ue8m0 => ScaleFormat::Ue8m0,
        ScaleFmt::Ue8m0Byte => ScaleFormat::Ue8m0Byte,
    });
    let fp8 = dtype.map_or(matches!(stored, WeightFormat::Fp8(_)), |d| d == Weights::Fp8);
    ensure!(scales.is_none() || fp8, "--scale-fmt applies only to FP8 weights: add --dtype fp8 or leave it out");
    let format = dtype.map(|dtype| match dtype {
        Weights::F32 => WeightFormat::F32,
        Weights::Bf16 => WeightFormat::Bf16,
        Weights::Fp8 => WeightFormat::Fp8(scales.unwrap_or(ScaleFormat::F32)),
    });
    Ok(Conversion { format, scales })
}
