//! The result of comparing a checkpoint with a model ([`Checkpoint::audit`](crate::Checkpoint::audit)).

use crate::fp8::scaled_by;
use crate::header::Dtype;
use crate::mtp::Mtp;
use std::fmt;
use std::path::PathBuf;

/// Every difference between a checkpoint and a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Tensors that are needed but missing, in the model's order.
    pub missing: Vec<String>,
    /// Tensors with a wrong shape.
    pub misshaped: Vec<Misshaped>,
    /// Tensors in a format that cannot be read, or in FP8 without the information needed to read them.
    pub mistyped: Vec<Mistyped>,
    /// Tensors that are not needed, by name. This includes scales without an FP8 weight.
    pub extra: Vec<String>,
    /// Tensors that are stored a second time with values different from the tensor that the model shares: (copy,
    /// original).
    pub differing: Vec<(String, String)>,
    /// Tensors with a value that cannot be used, and that value. Every audit checks scales, a deep one also weights.
    pub unusable: Vec<(String, String)>,
    /// Tensors that occur twice: in two files, or in two entries of the index.
    pub repeated: Vec<String>,
    /// Tensors that are not needed but may be there: exact copies, rotary frequencies.
    pub ignored: Vec<String>,
    /// Scales that are not powers of two although `scale_fmt` says so. This is not a difference: they are used as they
    /// are.
    pub off_format: Vec<String>,
    pub(crate) path: PathBuf,
    pub(crate) mtp: Mtp,
}

/// A tensor of the wrong shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misshaped {
    /// Its name.
    pub name: String,
    /// The shape that the model needs.
    pub expected: Vec<usize>,
    /// The shape in the file.
    pub found: Vec<usize>,
}

/// A tensor in a format that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistyped {
    /// Its name.
    pub name: String,
    /// The name of its format.
    pub found: String,
    /// Why this format cannot be used.
    pub reason: &'static str,
}

impl Audit {
    pub(crate) fn shape(&mut self, name: &str, found: &[usize], expected: &[usize]) {
        if found != expected {
            let (found, expected) = (found.into(), expected.into());
            self.misshaped.push(Misshaped { name: name.into(), expected, found });
        }
    }

    pub(crate) fn dtype(&mut self, name: &str, found: &Dtype, reason: &'static str) {
        self.mistyped.push(Mistyped { name: name.into(), found: found.to_string(), reason });
    }

    /// Whether the checkpoint holds exactly the model.
    pub fn is_clean(&self) -> bool {
        self.kinds().iter().all(|(_, names)| names.is_empty())
    }

    /// Every difference, one per line.
    pub fn lines(&self) -> Vec<String> {
        let kinds = self.kinds();
        kinds.iter().flat_map(|(kind, names)| names.iter().map(move |name| format!("{kind}: {name}"))).collect()
    }

    /// The kinds of differences, with the differences of each kind.
    fn kinds(&self) -> [(&'static str, Vec<String>); 7] {
        let misshaped = self.misshaped.iter().map(|m| format!("{} is {:?}, not {:?}", m.name, m.found, m.expected));
        let differing = self.differing.iter().map(|(copy, original)| format!("{copy} is not equal to {original}"));
        let mistyped = self.mistyped.iter().map(|m| format!("{} is {} ({})", m.name, m.found, m.reason));
        let unusable = self.unusable.iter().map(|(name, reason)| format!("{name} {reason}"));
        [
            ("missing", self.missing.clone()),
            ("of the wrong shape", misshaped.collect()),
            ("of the wrong type", mistyped.collect()),
            ("not part of the model", self.extra.clone()),
            ("stored or listed twice", self.repeated.clone()),
            ("copies that differ", differing.collect()),
            ("with unusable values", unusable.collect()),
        ]
    }

    /// What to do about some of the differences.
    fn hints(&self) -> Vec<String> {
        let mut hints = Vec::new();
        hints.extend(self.mtp.hint());
        let whole = |name: &str| self.extra.iter().any(|n| n == name);
        if self.extra.iter().any(|n| scaled_by(n).is_some_and(|weight| !whole(weight))) {
            hints.push("scales without FP8 weights of that name".into());
        }
        if !self.differing.is_empty() {
            hints.push("a model has one table for both: leave the copy out, or store the original's values".into());
        }
        if !self.repeated.is_empty() {
            hints.push("keep only one of them in the files and the index".into());
        }
        hints
    }
}

/// Number of names shown for each kind of difference. [`Audit::lines`] has all of them.
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
