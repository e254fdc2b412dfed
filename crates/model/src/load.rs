//! Weights from and to Hugging Face checkpoints.

use crate::hf::{self, Audit, Checkpoint, Error, SaveDtype, SaveTensor};
use crate::model::Model;
use hadal_ops::{Cx, DType};
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

impl Model {
    /// Builds the model a checkpoint describes and reads its weights (f32, BF16 or F16). Every tensor that is missing,
    /// mis-shaped or of no use is named in the error.
    pub fn load(cx: &Cx, checkpoint: &Checkpoint) -> Result<Self, Error> {
        let mut model = Self::new(cx, checkpoint.config());
        model.audit(checkpoint)?.into_result()?;
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

    /// Compares the checkpoint's tensors with what this model needs.
    pub fn audit(&self, checkpoint: &Checkpoint) -> Result<Audit, Error> {
        let mut expected = Vec::new();
        self.visit(&mut |p| expected.extend(p.parts.iter().map(|part| (part.name.clone(), part.shape.clone()))));
        checkpoint.check(&expected)
    }

    /// Writes `config.json` and the weights as `dtype` into a folder that is there (router biases stay f32, as the
    /// released checkpoints have them; MTP modules get their copies of embedding and head). `values` replaces a
    /// parameter's master weights, by slot: averaged weights, say.
    pub fn write_into<'a>(
        &'a self,
        dir: &Path,
        dtype: DType,
        values: impl Fn(usize) -> Option<&'a [f32]>,
    ) -> Result<(), Error> {
        let save = if dtype == DType::F32 { SaveDtype::F32 } else { SaveDtype::Bf16 };
        let mut tensors = Vec::new();
        let mut sources: HashMap<String, (&'a [f32], Range<usize>)> = HashMap::new();
        self.visit(&mut |p| {
            let dtype = if p.trainable() { save } else { SaveDtype::F32 };
            let data = values(p.slot).unwrap_or_else(|| p.value.f32());
            for part in &p.parts {
                for name in std::iter::once(&part.name).chain(&part.aliases) {
                    tensors.push(SaveTensor { name: name.clone(), shape: part.shape.clone(), dtype });
                    sources.insert(name.clone(), (data, part.range()));
                }
            }
        });
        hf::write_into(dir, &self.config, &tensors, hf::SHARD_BYTES, |tensor, start, out| {
            let (data, range) = &sources[&tensor.name];
            out.copy_from_slice(&data[range.start + start..][..out.len()]);
            Ok(())
        })
    }
}
