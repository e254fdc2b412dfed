//! Comparing what a checkpoint holds with what a model needs.

use super::error::Error;
use super::fp8::{powers_of_two, scale_name, scale_shape, scaled_by};
use super::header::Dtype;
use super::layout::expected;
use super::reader::{Checkpoint, Info};
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
    /// There in a format that cannot be read, or in FP8 without what says how to read it.
    pub mistyped: Vec<Mistyped>,
    /// There but of no use, by name; scales of no FP8 weight among them.
    pub extra: Vec<String>,
    /// Stored a second time with other values than the tensor the model shares: (copy, original).
    pub differing: Vec<(String, String)>,
    /// With a value that cannot be used, and which: scales of every audit, weights of a deep one.
    pub unusable: Vec<(String, String)>,
    /// There twice, in two files or two lines of the index.
    pub repeated: Vec<String>,
    /// There and rightly not needed: exact copies, rotary frequencies.
    pub ignored: Vec<String>,
    /// Scales that are no powers of two though `scale_fmt` says so. No difference: they are read as they are.
    pub off_format: Vec<String>,
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

/// A tensor in a format that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistyped {
    /// Which.
    pub name: String,
    /// What it is stored as, by the format's name.
    pub found: String,
    /// What is wrong about that.
    pub reason: &'static str,
}

impl Checkpoint {
    /// Compares with the tensors that its configuration needs ([`expected`]); no model is built.
    pub fn audit(&self) -> Result<Audit, Error> {
        let needed: Vec<_> = expected(self.config()).into_iter().map(|t| (t.name, t.shape)).collect();
        self.check(&needed)
    }

    /// Compares with the tensors a model needs. Compares the values, too, of tensors that a checkpoint may store twice:
    /// MTP's `embed_tokens` and `shared_head.head`, and `lm_head` of a model with tied embeddings.
    pub fn check(&self, expected: &[(String, Vec<usize>)]) -> Result<Audit, Error> {
        let mut audit = Audit { path: self.dir().into(), layers: self.config().num_hidden_layers, ..Audit::default() };
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
            // Scales go with their tensor: checked with it, ignored with it, of no use with it.
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
                    // What cannot be read cannot be told to be equal.
                    Ok(false) | Err(_) => audit.differing.push((name.into(), original.into())),
                },
            }
        }
        audit.extra.extend(self.unindexed().iter().cloned());
        audit.repeated.extend(self.repeated().iter().cloned());
        Ok(audit)
    }

    /// Whether an FP8 tensor has what it takes to read it, every scale included.
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
        if !matches!(found.dtype, Dtype::F32 | Dtype::F8E8M0) {
            audit.dtype(&scale, found.dtype, "scales are read from F32 and F8_E8M0");
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

    /// Reads every value of the tensors that the configuration needs and notes in each the first that is infinite or NaN.
    /// For a checkpoint whose audit is clean so far. `progress` is told how many bytes came.
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
    fn shape(&mut self, name: &str, found: &[usize], expected: &[usize]) {
        if found != expected {
            let (found, expected) = (found.into(), expected.into());
            self.misshaped.push(Misshaped { name: name.into(), expected, found });
        }
    }

    fn dtype(&mut self, name: &str, found: &Dtype, reason: &'static str) {
        self.mistyped.push(Mistyped { name: name.into(), found: found.to_string(), reason });
    }

    /// Whether the checkpoint holds exactly the model.
    pub fn is_clean(&self) -> bool {
        self.kinds().iter().all(|(_, names)| names.is_empty())
    }

    /// Every difference, a line each.
    pub fn lines(&self) -> Vec<String> {
        let kinds = self.kinds();
        kinds.iter().flat_map(|(kind, names)| names.iter().map(move |name| format!("{kind}: {name}"))).collect()
    }

    /// The kinds of differences, and what there is of each.
    fn kinds(&self) -> [(&'static str, Vec<String>); 7] {
        let misshaped = self.misshaped.iter().map(|m| format!("{} is {:?}, not {:?}", m.name, m.found, m.expected));
        let differing = self.differing.iter().map(|(copy, original)| format!("{copy} is not equal to {original}"));
        let mistyped = self.mistyped.iter().map(|m| format!("{} is {} ({})", m.name, m.found, m.reason));
        let unusable = self.unusable.iter().map(|(name, reason)| format!("{name} {reason}"));
        [
            ("missing", self.missing.clone()),
            ("of the wrong shape", misshaped.collect()),
            ("of the wrong type", mistyped.collect()),
            ("not part of it", self.extra.clone()),
            ("stored or listed twice", self.repeated.clone()),
            ("copies that differ", differing.collect()),
            ("with unusable values", unusable.collect()),
        ]
    }

    /// What to do about some of the differences.
    fn hints(&self) -> Vec<String> {
        let mut hints = Vec::new();
        let beyond = |name: &String| layer_of(name).filter(|l| *l >= self.layers);
        if !self.missing.is_empty() && self.missing.iter().all(|n| beyond(n).is_some()) {
            hints.push("no MTP module is stored: set `num_nextn_predict_layers` to what there is".into());
        }
        if let Some(last) = self.extra.iter().filter(|n| n.ends_with(".eh_proj.weight")).filter_map(beyond).max() {
            let modules = last + 1 - self.layers;
            hints.push(format!("MTP modules are stored: set `num_nextn_predict_layers` in config.json to {modules}"));
        }
        let whole = |name: &str| self.extra.iter().any(|n| n == name);
        if self.extra.iter().any(|n| scaled_by(n).is_some_and(|weight| !whole(weight))) {
            hints.push("scales without FP8 weights of that name".into());
        }
        if !self.differing.is_empty() {
            hints.push("a model has one table for both: leave the copy out, or store the original's values".into());
        }
        if !self.repeated.is_empty() {
            hints.push("which one is meant? leave one of them in files and index".into());
        }
        hints
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

/// Names shown of each kind of difference; [`Audit::lines`] has them all.
const SHOWN: usize = 40;

impl fmt::Display for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (what, names) in self.kinds().iter().filter(|(_, names)| !names.is_empty()) {
            write!(f, "{separator}{} {what}: {}", names.len(), names[..names.len().min(SHOWN)].join(", "))?;
            if names.len() > SHOWN {
                write!(f, " and {} more", names.len() - SHOWN)?;
            }
            separator = "; ";
        }
        self.hints().iter().try_for_each(|hint| write!(f, " ({hint})"))
    }
}
