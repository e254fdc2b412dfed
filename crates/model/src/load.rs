//! Weights from and to Hugging Face checkpoints.

use crate::model::Model;
use hadal_ops::{Cx, DType};
use hadal_weights::ModelConfig;
use hadal_weights::precision::Precision;
use hadal_weights::{Checkpoint, Error, Quantization, SaveOptions, SaveTensor, WeightFormat};
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

impl Model {
    /// Builds the model a checkpoint describes and reads its weights (f32, BF16, F16, or FP8, which is de-quantised).
    /// Every tensor that is missing, mis-shaped, of a wrong type or of no use is named in the error, before any memory
    /// is taken for weights.
    pub fn load(cx: &Cx, checkpoint: &Checkpoint) -> Result<Self, Error> {
        Self::load_with(cx, checkpoint, Precision::COMPUTE)
    }

    /// The same with a precision table to train in.
    pub fn load_with(cx: &Cx, checkpoint: &Checkpoint, precision: Precision) -> Result<Self, Error> {
        checkpoint.audit()?.into_result()?;
        let mut model = Self::with_precision(cx, checkpoint.config(), precision);
        let mut result = Ok(());
        model.visit_mut(&mut |p| {
            for part in &p.parts {
                if result.is_ok() {
                    result = checkpoint.read_f32(&part.name, &mut p.value.f32_mut()[part.range()]);
                }
            }
            p.repack(cx);
        });
        result.map(|()| model)
    }

    /// As [`Model::save_into`], as f32 or BF16.
    pub fn write_into<'a>(
        &'a self,
        dir: &Path,
        dtype: DType,
        values: impl Fn(usize) -> Option<&'a [f32]>,
    ) -> Result<(), Error> {
        let format = if dtype == DType::F32 { WeightFormat::F32 } else { WeightFormat::Bf16 };
        self.save_into(dir, format, &SaveOptions::default(), values)
    }

    /// Writes `config.json` and the weights as `format` into a folder that is there
    /// (router biases stay f32, as the released checkpoints have them; MTP modules get their copies of embedding and
    /// head). `values` replaces a parameter's master weights, by slot: averaged weights, say.
    pub fn save_into<'a>(
        &'a self,
        dir: &Path,
        format: WeightFormat,
        options: &SaveOptions<'_>,
        values: impl Fn(usize) -> Option<&'a [f32]>,
    ) -> Result<(), Error> {
        let mut tensors = Vec::new();
        let mut sources: HashMap<String, (&'a [f32], Range<usize>)> = HashMap::new();
        self.visit(&mut |p| {
            let data = values(p.slot).unwrap_or_else(|| p.value.f32());
            for part in &p.parts {
                let dtype = format.of(&part.name);
                for name in std::iter::once(&part.name).chain(&part.aliases) {
                    tensors.push(SaveTensor { name: name.clone(), shape: part.shape.clone(), dtype });
                    sources.insert(name.clone(), (data, part.range()));
                }
            }
        });
        // Which tensors were quantised in the checkpoint the model came from says nothing about these.
        let quantization_config = match format {
            WeightFormat::Fp8(scales) => Some(Quantization::describe(scales, None)),
            WeightFormat::F32 | WeightFormat::Bf16 => None,
        };
        let config = ModelConfig { quantization_config, ..self.config.clone() };
        hadal_weights::write_into(
            dir,
            &config,
            &tensors,
            options,
            |tensor: &SaveTensor, start: usize, out: &mut [f32]| {
                let (data, range) = &sources[&tensor.name];
                out.copy_from_slice(&data[range.start + start..][..out.len()]);
                Ok(())
            },
        )
    }
}
