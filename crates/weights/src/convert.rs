//! Converts a checkpoint from one stored format to another, tensor by tensor. A checkpoint of any size needs only a few
//! megabytes of memory.
//!
//! A tensor whose format does not change is copied bit for bit; an FP8 tensor is copied with its scales. If the
//! requested type cannot hold the scales, the tensor is dequantised and quantised again. A weight that is infinite or
//! NaN, or would become so, is an error that names the tensor and the place.

use crate::config::ModelConfig;
use crate::decode::no_number;
use crate::error::Error;
use crate::fp8::ScaleFormat;
use crate::list::{Part, WeightFormat, expected, is_fp8};
use crate::quantization::{Quantization, is_left_out};
use crate::reader::Checkpoint;
use crate::writer::{SaveDtype, SaveOptions, SaveTensor, TensorSource, write_into};
use hadal_ops::bf16;
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// What a conversion changes. The default changes nothing: every tensor keeps its stored format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conversion {
    /// The format that weights are converted to. For FP8 from an FP8 checkpoint, exactly its FP8 tensors are FP8 again.
    /// For FP8 from any other checkpoint, the tensors become FP8 that are FP8 in the released weights, except those
    /// named in `modules_to_not_convert`.
    pub format: Option<WeightFormat>,
    /// The format for the scales of tensors that are already FP8.
    pub scales: Option<ScaleFormat>,
}

impl From<WeightFormat> for Conversion {
    fn from(format: WeightFormat) -> Self {
        let scales = if let WeightFormat::Fp8(scales) = format { Some(scales) } else { None };
        Self { format: Some(format), scales }
    }
}

/// What a conversion did, in numbers of tensors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Converted {
    /// All tensors of the model.
    pub tensors: usize,
    /// Copied as they were stored.
    pub copied: usize,
    /// Rounded to a type with fewer bits, including FP8.
    pub narrowed: usize,
    /// FP8 tensors that were quantised again because the requested type cannot hold their scales.
    pub requantised: usize,
}

impl Converted {
    /// A description, for example "as bf16: 3 of 7 tensors copied bit for bit, 4 narrowed".
    pub fn describe(&self, conversion: Conversion) -> String {
        let what = match (conversion.format, conversion.scales) {
            (Some(WeightFormat::Fp8(_)), None) => "fp8".into(),
            (Some(format), _) => format.to_string(),
            (None, Some(scales)) => WeightFormat::Fp8(scales).to_string(),
            (None, None) => "it is stored".into(),
        };
        let mut parts = vec![format!("as {what}: {} of {} tensors copied bit for bit", self.copied, self.tensors)];
        if self.narrowed > 0 {
            parts.push(format!("{} narrowed", self.narrowed));
        }
        if self.requantised > 0 {
            parts.push(format!("{} quantised again because their scales were not powers of two", self.requantised));
        }
        parts.join(", ")
    }
}

/// Writes a checkpoint into the existing folder `dir`. An audit must have found it complete. MTP modules get their
/// copies of embedding and head.
pub fn convert_into(
    checkpoint: &Checkpoint,
    dir: &Path,
    conversion: Conversion,
    options: &SaveOptions<'_>,
) -> Result<Converted, Error> {
    let from_fp8 = matches!(checkpoint.format(), WeightFormat::Fp8(_));
    let mut source = Stored { checkpoint, origin: HashMap::new(), requantised: HashSet::new() };
    let (mut tensors, mut done) = (Vec::new(), Converted::default());
    for Part { name, shape, aliases, .. } in expected(checkpoint.config()) {
        let missing = || Error::NoTensor { path: checkpoint.dir().into(), name: name.clone() };
        let from = checkpoint.stored(&name).ok_or_else(missing)?;
        let dtype = conversion.of(&name, from, from_fp8, checkpoint.config());
        if let (SaveDtype::F8E4M3(_), SaveDtype::F8E4M3(scales)) = (from, dtype)
            && scales != ScaleFormat::F32
            && !scales.holds(&checkpoint.scales(&name)?)
        {
            source.requantised.insert(name.clone());
            done.requantised += 1;
        }
        for alias in aliases {
            tensors.push(SaveTensor { name: alias.clone(), shape: shape.clone(), dtype });
            source.origin.insert(alias, name.clone());
        }
        let tensor = SaveTensor { name, shape, dtype };
        done.tensors += 1;
        done.copied += usize::from(source.copies(&tensor));
        done.narrowed += usize::from(is_narrower(dtype, from));
        tensors.push(tensor);
    }
    let quantization_config = conversion.quantization(from_fp8, checkpoint.config());
    let config = ModelConfig { quantization_config, ..checkpoint.config().clone() };
    write_into(dir, &config, &tensors, options, source)?;
    Ok(done)
}

/// Whether values may be rounded by the conversion. This is also true from FP8 to BF16, because a value is the product
/// of code and scale.
fn is_narrower(to: SaveDtype, from: SaveDtype) -> bool {
    to.size() < from.size() || (to, from) == (SaveDtype::Bf16, SaveDtype::F16)
}

impl Conversion {
    /// The new format of a tensor that is stored as `from`.
    fn of(self, name: &str, from: SaveDtype, from_fp8: bool, config: &ModelConfig) -> SaveDtype {
        match (self.format, from) {
            (None | Some(WeightFormat::Fp8(_)), SaveDtype::F8E4M3(scales)) => {
                SaveDtype::F8E4M3(self.scales.unwrap_or(scales))
            }
            (None, other) => other,
            (Some(WeightFormat::Fp8(_)), _) if is_fp8(name) && (from_fp8 || is_left_out(name, config)) => {
                SaveDtype::Bf16
            }
            (Some(format), _) => format.of(name),
        }
    }

    /// The configuration's entry for FP8 weights after the conversion. It does not change unless the scales are new.
    fn quantization(self, from_fp8: bool, config: &ModelConfig) -> Option<serde_json::Value> {
        let kept = config.quantization_config.as_ref();
        let scales = match (self.scales, self.format) {
            (Some(scales), _) => scales,
            (None, Some(WeightFormat::Fp8(scales))) if !from_fp8 => scales,
            (None, _) => return kept.cloned(),
        };
        Some(Quantization::describe(scales, kept))
    }
}

/// A checkpoint as the source of another one.
struct Stored<'a> {
    checkpoint: &'a Checkpoint,
    /// Tensors that are copies, with their originals.
    origin: HashMap<String, String>,
    /// FP8 tensors whose scales cannot be kept.
    requantised: HashSet<String>,
}

impl Stored<'_> {
    fn name<'b>(&'b self, tensor: &'b SaveTensor) -> &'b str {
        self.origin.get(&tensor.name).unwrap_or(&tensor.name)
    }
}

impl TensorSource for Stored<'_> {
    fn values(&mut self, tensor: &SaveTensor, start: usize, out: &mut [f32]) -> Result<(), Error> {
        let name = self.name(tensor);
        self.checkpoint.read_from(name, start, out)?;
        let kept = |v: f32| if tensor.dtype == SaveDtype::Bf16 { bf16::from_f32(v).to_f32() } else { v };
        match out.iter().position(|v| !kept(*v).is_finite()) {
            None => Ok(()),
            Some(i) => Err(no_number(name, out[i], start + i, tensor.shape.last().copied().unwrap_or(1))),
        }
    }

    fn copies(&self, tensor: &SaveTensor) -> bool {
        let name = self.name(tensor);
        match (self.checkpoint.stored(name), tensor.dtype) {
            (Some(SaveDtype::F8E4M3(_)), SaveDtype::F8E4M3(_)) => !self.requantised.contains(name),
            (from, to) => from == Some(to),
        }
    }

    fn bytes(&mut self, tensor: &SaveTensor, start: usize, out: &mut [u8]) -> Result<(), Error> {
        self.checkpoint.stored_bytes(self.name(tensor), start, out)
    }

    fn scales(&mut self, tensor: &SaveTensor) -> Result<Vec<f32>, Error> {
        self.checkpoint.scales(self.name(tensor))
    }
}
