//! Compares the contents of a checkpoint with the needs of a model.

use crate::audit::Audit;
use crate::error::Error;
use crate::fp8::{SCALE_TYPES, powers_of_two, scale_name, scale_shape, scaled_by};
use crate::header::Dtype;
use crate::list::expected;
use crate::reader::{Checkpoint, Info};
use std::collections::HashSet;

/// Why a checkpoint may contain a tensor that is not needed.
enum Known {
    /// It is computed and never loaded.
    Needless,
    /// It is a copy of another tensor.
    CopyOf(&'static str),
}

impl Checkpoint {
    /// Compares with the tensors that the configuration needs ([`expected`]). No model is built.
    pub fn audit(&self) -> Result<Audit, Error> {
        let needed: Vec<_> = expected(self.config()).into_iter().map(|t| (t.name, t.shape)).collect();
        self.check(&needed)
    }

    /// Compares with the tensors that a model needs. For tensors that a checkpoint may store twice, the values are
    /// compared as well. These are MTP's `embed_tokens` and `shared_head.head`, and `lm_head` of a model with tied
    /// embeddings.
    pub fn check(&self, expected: &[(String, Vec<usize>)]) -> Result<Audit, Error> {
        let mut audit = Audit { path: self.dir().into(), mtp: self.mtp(), ..Audit::default() };
        let wanted: HashSet<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();
        for (name, shape) in expected {
            let Some(info) = self.info(name) else {
                audit.missing.push(name.clone());
                continue;
            };
            audit.shape(name, info.shape, shape);
            match info.dtype {
                Dtype::F32 | Dtype::F16 | Dtype::Bf16 => {}
                Dtype::F8E4M3 => self.check_scales(name, info, &mut audit)?,
                other => audit.dtype(name, other, "it cannot be read"),
            }
        }
        for name in self.names().filter(|n| !wanted.contains(n)) {
            // Scales are treated like their tensor: checked, ignored or reported together with it.
            let scaled = scaled_by(name).filter(|n| self.info(n).is_some_and(|i| *i.dtype == Dtype::F8E4M3));
            if scaled.is_some_and(|n| wanted.contains(n)) {
                continue;
            }
            if scaled.is_some_and(|n| self.known_extra(n).is_some()) {
                audit.ignored.push(name.into());
                continue;
            }
            match self.known_extra(name) {
                None => audit.extra.push(name.into()),
                Some(Known::Needless) => audit.ignored.push(name.into()),
                Some(Known::CopyOf(original)) => match self.same(name, original) {
                    Ok(true) => audit.ignored.push(name.into()),
                    Err(e @ Error::Io(_)) => return Err(e),
                    // If a tensor cannot be read, its equality cannot be shown.
                    Ok(false) | Err(_) => audit.differing.push((name.into(), original.into())),
                },
            }
        }
        audit.extra.extend(self.unindexed().iter().cloned());
        audit.repeated.extend(self.repeated().iter().cloned());
        Ok(audit)
    }

    /// Whether an FP8 tensor has everything needed to read it, including valid scales.
    fn check_scales(&self, name: &str, info: Info<'_>, audit: &mut Audit) -> Result<(), Error> {
        let Some(shape) = scale_shape(info.shape) else {
            audit.dtype(name, info.dtype, "only matrices are quantised by blocks");
            return Ok(());
        };
        let quantization = self.quantization();
        if quantization.is_none() {
            audit.dtype(name, info.dtype, "config.json has no `quantization_config` that says how to read it");
        }
        let scale = scale_name(name);
        let Some(found) = self.info(&scale) else {
            audit.missing.push(scale);
            return Ok(());
        };
        audit.shape(&scale, found.shape, &shape);
        if !matches!(found.dtype, Dtype::F32 | Dtype::Bf16 | Dtype::F8E8M0) {
            audit.dtype(&scale, found.dtype, SCALE_TYPES);
        } else if let Some(quantization) = quantization.filter(|_| found.shape == shape) {
            match self.scales(name) {
                Ok(scales) if quantization.ue8m0 && !powers_of_two(&scales) => audit.off_format.push(scale),
                Ok(_) => {}
                Err(Error::Unusable { name, reason }) => audit.unusable.push((name, reason)),
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    /// Reads all values of the tensors that the configuration needs. For each tensor it notes the first value that is
    /// infinite or NaN. The audit must be clean before. `progress` receives the number of bytes read.
    pub fn audit_values(&self, audit: &mut Audit, mut progress: impl FnMut(usize)) -> Result<(), Error> {
        let mut room = Vec::new();
        for tensor in expected(self.config()) {
            match self.check_values(&tensor.name, &mut room, &mut progress) {
                Ok(()) => {}
                Err(Error::Unusable { name, reason }) => audit.unusable.push((name, reason)),
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    /// Why this tensor may be there without being needed, or `None`.
    fn known_extra(&self, name: &str) -> Option<Known> {
        const EMBED: &str = "model.embed_tokens.weight";
        const HEAD: &str = "lm_head.weight";
        let tied = self.config().tie_word_embeddings;
        if name.ends_with("rotary_emb.inv_freq") {
            return Some(Known::Needless);
        }
        if name == HEAD {
            return tied.then_some(Known::CopyOf(EMBED));
        }
        let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
        if layer.parse::<usize>().ok()? < self.config().num_hidden_layers {
            return None;
        }
        let original = match rest {
            "embed_tokens.weight" => EMBED,
            "shared_head.head.weight" if self.info(HEAD).is_none() && tied => EMBED,
            "shared_head.head.weight" => HEAD,
            _ => return None,
        };
        Some(Known::CopyOf(original))
    }
}
