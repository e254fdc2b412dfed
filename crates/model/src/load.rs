//! Weights from and to Hugging Face checkpoints.

use crate::model::Model;
use crate::param::Purpose;
use crate::values::Values;
use hadal_ops::{Cx, DType};
use hadal_weights::list::{Part, parameters};
use hadal_weights::precision::Precision;
use hadal_weights::{
    Checkpoint, Error, ModelConfig, Quantization, SaveOptions, SaveTensor, TensorSource, WeightFormat, write_into,
};
use std::collections::HashMap;
use std::path::Path;

impl Model {
    /// Reads a model to run: forward forms in the compute format, packed as they stream in, and nothing beside them. Weights
    /// may be f32, BF16, F16, or FP8, which is de-quantised. Every tensor that is missing, mis-shaped, of a wrong type or of
    /// no use is named in the error, before any memory is taken.
    pub fn load(cx: &Cx, checkpoint: &Checkpoint) -> Result<Self, Error> {
        checkpoint.audit()?.into_result()?;
        let config = checkpoint.config();
        // A table in bf16 only where that loses nothing.
        let embedding = &parameters(config)[0];
        let table = if checkpoint.halves(embedding) { DType::Bf16 } else { DType::F32 };
        let mut model = Self::build(cx, config, Precision::COMPUTE, Purpose::Inference, table);
        model.fill(cx, checkpoint)?;
        Ok(model)
    }

    /// Reads a model with the forms that backward reads, for a precision table to train in.
    pub fn load_to_train(cx: &Cx, checkpoint: &Checkpoint, precision: Precision) -> Result<Self, Error> {
        checkpoint.audit()?.into_result()?;
        let mut model = Self::new(cx, checkpoint.config(), precision);
        model.fill(cx, checkpoint)?;
        Ok(model)
    }

    /// Writes `config.json` and the weights as layers read them, as `format`, into a folder that is there.
    pub fn save_into(&self, dir: &Path, format: WeightFormat, options: &SaveOptions<'_>) -> Result<(), Error> {
        let params = self.params();
        save_parameters(dir, &self.config, format, options, |index, part, start, out| {
            params[index].read(part.start + start, out);
            Ok(())
        })
    }
}

/// Writes `config.json` and weights as `format` into a folder that is there. Router biases stay f32, as the released
/// checkpoints have them; MTP modules get their copies of embedding and head. `values(index, part, start, out)` gives the
/// elements of a part of the list's parameter `index`.
pub fn save_parameters(
    dir: &Path,
    config: &ModelConfig,
    format: WeightFormat,
    options: &SaveOptions<'_>,
    mut values: impl FnMut(usize, &Part, usize, &mut [f32]) -> Result<(), Error>,
) -> Result<(), Error> {
    let list = parameters(config);
    let mut tensors = Vec::new();
    let mut of: HashMap<String, (usize, usize)> = HashMap::new();
    for (index, parameter) in list.iter().enumerate() {
        for (number, part) in parameter.parts.iter().enumerate() {
            let dtype = format.of(&part.name);
            for name in std::iter::once(&part.name).chain(&part.aliases) {
                tensors.push(SaveTensor { name: name.clone(), shape: part.shape.clone(), dtype });
                of.insert(name.clone(), (index, number));
            }
        }
    }
    // Which tensors were quantised in the checkpoint the model came from says nothing about these.
    let quantization_config = match format {
        WeightFormat::Fp8(scales) => Some(Quantization::describe(scales, None)),
        WeightFormat::F32 | WeightFormat::Bf16 => None,
    };
    let config = ModelConfig { quantization_config, ..config.clone() };
    let source = |tensor: &SaveTensor, start: usize, out: &mut [f32]| {
        let (index, number) = of[&tensor.name];
        values(index, &list[index].parts[number], start, out)
    };
    write_into(dir, &config, &tensors, options, as_source(source))
}

/// A closure as a source of values to write.
fn as_source(source: impl FnMut(&SaveTensor, usize, &mut [f32]) -> Result<(), Error>) -> impl TensorSource {
    source
}
