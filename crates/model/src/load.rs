//! Reads weights from Hugging Face checkpoints and writes them.

use crate::model::Model;
use crate::param::Param;
use crate::stored::StoredForm;
use crate::values::Values;
use hadal_ops::Cx;
use hadal_weights::list::{Parameter, Part, parameters};
use hadal_weights::precision::{Precision, RunFormats};
use hadal_weights::{
    Checkpoint, Error, ModelConfig, Quantization, SaveOptions, SaveTensor, TensorSource, WeightFormat, write_into,
};
use std::collections::HashMap;
use std::path::Path;

impl Model {
    /// Reads a model for inference. It has only the forward forms in the compute format. They are packed while they are
    /// read, and nothing else is kept. Weights may be f32, BF16, F16 or FP8, which is dequantised. The error names
    /// every tensor that is missing, not needed, or of a wrong shape or type. It comes before memory is allocated.
    pub fn load(cx: &Cx, checkpoint: &Checkpoint) -> Result<Self, Error> {
        Self::load_as(cx, checkpoint, RunFormats::COMPUTE)
    }

    /// Reads a model that only runs, with its weights stored in `formats`. They are packed while they are read.
    pub fn load_as(cx: &Cx, checkpoint: &Checkpoint, formats: RunFormats) -> Result<Self, Error> {
        checkpoint.audit()?.into_result()?;
        let config = checkpoint.config();
        let param = |(index, spec): (usize, Parameter)| {
            let form = StoredForm::of(&spec, cx.compute(), formats, checkpoint.halves(&spec), checkpoint.coded(&spec));
            let Ok(param) = Param::to_run(spec, index, form, &mut cx.room());
            param
        };
        let params = parameters(config).into_iter().enumerate().map(param).collect();
        let mut model = Self::of_params(cx, config, Precision::COMPUTE, params);
        model.fill(cx, checkpoint)?;
        Ok(model)
    }

    /// Reads a model for training with this precision table, including the forms that backward reads.
    pub fn load_to_train(cx: &Cx, checkpoint: &Checkpoint, precision: Precision) -> Result<Self, Error> {
        checkpoint.audit()?.into_result()?;
        let mut model = Self::new(cx, checkpoint.config(), precision);
        model.fill(cx, checkpoint)?;
        Ok(model)
    }

    /// Writes `config.json` and the weights that layers read, in `format`, into an existing folder.
    pub fn save_into(&self, dir: &Path, format: WeightFormat, options: &SaveOptions<'_>) -> Result<(), Error> {
        let params = self.params();
        save_parameters(dir, &self.config, format, options, |index, part, start, out| {
            params[index].read(part.start + start, out);
            Ok(())
        })
    }
}

/// Writes `config.json` and weights in `format` into an existing folder. Router biases stay f32, as in the released
/// checkpoints. MTP modules get their copies of embedding and head. `values(index, part, start, out)` gives the
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
    // The source checkpoint's list of quantised tensors does not apply to these.
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

/// Makes a source of values from a closure.
fn as_source(source: impl FnMut(&SaveTensor, usize, &mut [f32]) -> Result<(), Error>) -> impl TensorSource {
    source
}
