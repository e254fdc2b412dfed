//! Comparing what a checkpoint holds with what a model needs.

use super::error::Error;
use super::reader::Checkpoint;
use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;

/// Every difference between a checkpoint and a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Needed but not there, in the model's order.
    pub missing: Vec<String>,
    /// There with another shape.
    pub misshaped: Vec<Misshaped>,
    /// There but of no use, by name.
    pub extra: Vec<String>,
    /// Stored a second time with other values than the tensor the model shares: (copy, original).
    pub differing: Vec<(String, String)>,
    /// There and rightly not needed: exact copies, rotary frequencies.
    pub ignored: Vec<String>,
    path: PathBuf,
    layers: usize,
}

/// Why a tensor may be there without being needed.
enum Known {
    /// Computed, never loaded.
    Needless,
    /// Another tensor stored again.
    CopyOf(&'static str),
}

/// A tensor of the wrong shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misshaped {
    /// Which.
    pub name: String,
    /// What the model needs.
    pub expected: Vec<usize>,
    /// What is there.
    pub found: Vec<usize>,
}

impl Checkpoint {
    /// Compares with the tensors a model needs. Compares the values, too, of tensors that a checkpoint may store twice:
    /// MTP's `embed_tokens` and `shared_head.head`, and `lm_head` of a model with tied embeddings.
    pub fn check(&self, expected: &[(String, Vec<usize>)]) -> Result<Audit, Error> {
        let mut audit = Audit { path: self.dir().into(), layers: self.config().num_hidden_layers, ..Audit::default() };
        let wanted: HashSet<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();
        for (name, shape) in expected {
            match self.info(name) {
                None => audit.missing.push(name.clone()),
                Some(info) if info.shape != shape.as_slice() => audit.misshaped.push(Misshaped {
                    name: name.clone(),
                    expected: shape.clone(),
                    found: info.shape.into(),
                }),
                Some(_) => {}
            }
        }
        for name in self.names().filter(|n| !wanted.contains(n)) {
            match self.known_extra(name) {
                None => audit.extra.push(name.into()),
                Some(Known::Needless) => audit.ignored.push(name.into()),
                Some(Known::CopyOf(original)) if self.same(name, original)? => audit.ignored.push(name.into()),
                Some(Known::CopyOf(original)) => audit.differing.push((name.into(), original.into())),
            }
        }
        audit.extra.extend(self.unindexed().iter().cloned());
        Ok(audit)
    }

    /// Why a tensor may be there without being needed, if it may.
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

impl Audit {
    /// Takes the layers from `layer` on as known and left out on purpose (MTP modules that are not wanted).
    pub fn without_layers_from(mut self, layer: usize) -> Self {
        let (left_out, extra) =
            std::mem::take(&mut self.extra).into_iter().partition(|name| layer_of(name).is_some_and(|l| l >= layer));
        self.extra = extra;
        self.ignored.extend::<Vec<String>>(left_out);
        self.differing.retain(|(copy, _)| layer_of(copy).is_none_or(|l| l < layer));
        self
    }

    /// Whether the checkpoint holds exactly the model.
    pub fn is_clean(&self) -> bool {
        self.missing.is_empty() && self.misshaped.is_empty() && self.extra.is_empty() && self.differing.is_empty()
    }

    /// An error unless [`Audit::is_clean`].
    pub fn into_result(self) -> Result<(), Error> {
        if self.is_clean() {
            return Ok(());
        }
        Err(Error::Mismatch { path: self.path.clone(), audit: Box::new(self) })
    }
}

fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("model.layers.")?.split('.').next()?.parse().ok()
}

/// Names shown of each kind of difference; all are in the fields.
const SHOWN: usize = 40;

impl fmt::Display for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let misshaped = self.misshaped.iter().map(|m| format!("{} is {:?}, not {:?}", m.name, m.found, m.expected));
        let differing = self.differing.iter().map(|(copy, original)| format!("{copy} is not equal to {original}"));
        let kinds: [(&str, Vec<String>); 4] = [
            ("missing", self.missing.clone()),
            ("of the wrong shape", misshaped.collect()),
            ("not part of it", self.extra.clone()),
            ("copies that differ", differing.collect()),
        ];
        let mut separator = "";
        for (what, names) in kinds.iter().filter(|(_, names)| !names.is_empty()) {
            write!(f, "{separator}{} {what}: {}", names.len(), names[..names.len().min(SHOWN)].join(", "))?;
            if names.len() > SHOWN {
                write!(f, " and {} more", names.len() - SHOWN)?;
            }
            separator = "; ";
        }
        let beyond = |names: &[String]| names.iter().all(|n| layer_of(n).is_some_and(|l| l >= self.layers));
        if !self.missing.is_empty() && beyond(&self.missing) {
            write!(f, " (no MTP module is stored: set `num_nextn_predict_layers` to what there is)")?;
        }
        if self.extra.iter().any(|n| n.ends_with("_scale_inv")) {
            write!(f, " (these are block-quantised weights, which are not supported yet)")?;
        }
        Ok(())
    }
}
