//! From one stored format to another, tensor by tensor: a checkpoint of any size in a few megabytes of memory.
//!
//! What is to stay what it is, is copied bit for bit, FP8 with its scales. Only where a type is asked for that does not hold
//! its scales are they made anew, by de-quantising and quantising again. A weight that is infinite or NaN, or would become it, is an
//! error with its name and place.

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

/// What a conversion is to change. By default nothing: every tensor stays what it is stored as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conversion {
    /// What weights become. Of a checkpoint in FP8 the very tensors that are FP8 stay it; of any other, those that the
    /// released weights have in FP8 become it, but for what its `modules_to_not_convert` names.
    pub format: Option<WeightFormat>,
    /// What the scales of tensors that are FP8 already become.
    pub scales: Option<ScaleFormat>,
}

impl From<WeightFormat> for Conversion {
    fn from(format: WeightFormat) -> Self {
        let scales = if let WeightFormat::Fp8(scales) = format { Some(scales) } else { None };
        Self { format: Some(format), scales }
    }
}

/// What a conversion did, in tensors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Converted {
    /// All of the model.
    pub tensors: usize,
    /// Copied as they were stored.
    pub copied: usize,
    /// Rounded to a type of fewer bits, FP8 included.
    pub narrowed: usize,
    /// FP8 quantised again because its scales cannot be stored as was asked for.
    pub requantised: usize,
}

impl Converted {
    /// The same in words, as in "as bf16: 3 of 7 tensors copied bit for bit, 4 narrowed".
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

/// Writes a checkpoint that an audit found whole into the folder `dir`, which is there. MTP modules get their copies of
/// embedding and head.
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

/// Whether values may be rounded on the way from one type to the other. (FP8 in BF16 is: the product of code and scale.)
fn is_narrower(to: SaveDtype, from: SaveDtype) -> bool {
    to.size() < from.size() || (to, from) == (SaveDtype::Bf16, SaveDtype::F16)
}

impl Conversion {
    /// What a tensor becomes that is stored as `from`.
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

    /// What the configuration says of FP8 weights afterwards: what it said, unless their scales are new.
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

/// A checkpoint as the source of another.
struct Stored<'a> {
    checkpoint: &'a Checkpoint,
    /// Tensors that are copies, and of what.
    origin: HashMap<String, String>,
    /// FP8 tensors whose scales cannot stay.
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
