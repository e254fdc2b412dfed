//! From one stored format to another, tensor by tensor: a checkpoint of any size in a few megabytes of memory.
//!
//! What is FP8 and stays FP8 is copied bit for bit where its scales allow it (powers of two are f32 scales, too); f32
//! scales become powers of two by de-quantising and quantising again.

use super::error::Error;
use super::fp8::{ScaleFormat, scale_name};
use super::header::Dtype;
use super::layout::{WeightFormat, expected, is_fp8};
use super::reader::Checkpoint;
use super::writer::{SaveDtype, SaveOptions, SaveTensor, Source, write_into};
use hadal_ops::fp8::ue8m0_from_scale;
use std::collections::HashMap;
use std::path::Path;

/// Writes a checkpoint that an audit found whole into the folder `dir`, which is there, as `format` in shards of at most
/// `shard_bytes`. MTP modules get their copies of embedding and head. Of a checkpoint in FP8 the very tensors that are
/// FP8 stay it; of any other, those that the released weights have in FP8 become it.
pub fn convert_into(
    checkpoint: &Checkpoint,
    dir: &Path,
    format: WeightFormat,
    shard_bytes: usize,
) -> Result<(), Error> {
    let from_fp8 = matches!(checkpoint.format(), WeightFormat::Fp8(_));
    let mut tensors = Vec::new();
    let mut origin = HashMap::new();
    for t in expected(checkpoint.config()) {
        let dtype = match format {
            WeightFormat::Fp8(_) if is_stored_fp8(checkpoint, &t.name) => SaveDtype::F8E4M3,
            WeightFormat::Fp8(_) if from_fp8 && is_fp8(&t.name) => SaveDtype::Bf16,
            _ => format.of(&t.name),
        };
        let mut add = |name: &str| tensors.push(SaveTensor { name: name.into(), shape: t.shape.clone(), dtype });
        add(&t.name);
        t.aliases.iter().for_each(|alias| add(alias));
        origin.extend(t.aliases.into_iter().map(|alias| (alias, t.name.clone())));
    }
    let scales = match format {
        WeightFormat::Fp8(scales) => scales,
        _ => ScaleFormat::F32,
    };
    let options = SaveOptions { shard_bytes, scales, ..SaveOptions::default() };
    write_into(dir, checkpoint.config(), &tensors, &options, Stored { checkpoint, origin })
}

fn is_stored_fp8(checkpoint: &Checkpoint, name: &str) -> bool {
    checkpoint.info(name).is_some_and(|info| *info.dtype == Dtype::F8E4M3)
        && checkpoint.info(&scale_name(name)).is_some()
}

/// A checkpoint as the source of another.
struct Stored<'a> {
    checkpoint: &'a Checkpoint,
    /// Tensors that are copies, and of what.
    origin: HashMap<String, String>,
}

impl Stored<'_> {
    fn name<'b>(&'b self, tensor: &'b SaveTensor) -> &'b str {
        self.origin.get(&tensor.name).unwrap_or(&tensor.name)
    }
}

impl Source for Stored<'_> {
    fn values(&mut self, tensor: &SaveTensor, start: usize, out: &mut [f32]) -> Result<(), Error> {
        self.checkpoint.read_from(self.name(tensor), start, out)
    }

    fn scales(&mut self, tensor: &SaveTensor, format: ScaleFormat) -> Result<Option<Vec<f32>>, Error> {
        if !is_stored_fp8(self.checkpoint, self.name(tensor)) {
            return Ok(None);
        }
        let scales = self.checkpoint.scales(self.name(tensor))?;
        let fits = !format.powers_of_two() || scales.iter().all(|s| ue8m0_from_scale(*s).is_some());
        Ok(fits.then_some(scales))
    }

    fn codes(&mut self, tensor: &SaveTensor, start: usize, out: &mut [u8]) -> Result<(), Error> {
        self.checkpoint.codes(self.name(tensor), start, out)
    }
}
