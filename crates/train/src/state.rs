//! The training state in a checkpoint: `state/tensors.safetensors`, with names derived from those in the checkpoint.
//!
//! There are `weight/NAME`, `m/NAME`, `v/NAME` and `ema/NAME` for every tensor `NAME` of the model (each expert has its
//! own). Each has that tensor's shape, so any layout of parameters can read it. Masters and averages are f32, moments
//! have the format that the run uses. The file's metadata contains the number of this format. Files without a number
//! have format 2. It stored a parameter of several tensors as one, under the name of the first. Such files can be read
//! as well.
//!
//! Tensors are read from their positions, one piece at a time, so memory does not grow with the file.

use crate::checkpoint::CheckpointError;
use hadal_base::IoError;
use hadal_model::save_parameters;
use hadal_ops::{DType, Tensor};
use hadal_weights::list::{Parameter, Part, parameters};
use hadal_weights::{Dtype, ModelConfig, SaveOptions, TensorFile, WeightFormat};
use safetensors::tensor::{Dtype as Written, View};
use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

/// The path of the file in a checkpoint.
pub const STATE_FILE: &str = "state/tensors.safetensors";

/// Number of the format that this version writes.
const FORMAT: u32 = 3;
/// Number of the format of files without a number.
const OLD: u32 = 2;
/// Key of the number in the file's metadata.
const FORMAT_KEY: &str = "hadal_state";

/// Master weights.
pub const WEIGHT: &str = "weight";
/// AdamW's moments.
pub const MOMENTS: [&str; 2] = ["m", "v"];
/// The moving average.
pub const EMA: &str = "ema";
/// Tensors of the objective.
const OBJECTIVE: &str = "objective";

fn key(what: &str, name: &str) -> String {
    format!("{what}/{name}")
}

/// Whether a key is of the kind `what`.
fn is_of(what: &str, key: &str) -> bool {
    key.strip_prefix(what).is_some_and(|rest| rest.starts_with('/'))
}

/// Some elements of a tensor, in the form that the safetensors writer needs.
struct Slice<'a> {
    tensor: &'a Tensor,
    shape: &'a [usize],
    range: Range<usize>,
}

impl View for Slice<'_> {
    fn dtype(&self) -> Written {
        if self.tensor.dtype() == DType::Bf16 { Written::BF16 } else { Written::F32 }
    }
    fn shape(&self) -> &[usize] {
        self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(match self.tensor.dtype() {
            DType::Bf16 => bytemuck::cast_slice(&self.tensor.bf16()[self.range.clone()]),
            _ => bytemuck::cast_slice(&self.tensor.f32()[self.range.clone()]),
        })
    }
    fn data_len(&self) -> usize {
        self.range.len() * self.tensor.dtype().size()
    }
}

/// Writes tensors of the parameters, each given as (kind, parameter, tensor), and the tensors of the objective.
pub fn write<'a>(
    path: &Path,
    tensors: impl Iterator<Item = (&'static str, &'a Parameter, &'a Tensor)>,
    objective: &[(&str, &'a Tensor)],
) -> Result<(), CheckpointError> {
    let slices = tensors.flat_map(|(what, parameter, tensor)| {
        let slice = move |part: &'a Part| Slice { tensor, shape: &part.shape, range: part.range() };
        parameter.parts.iter().map(move |part| (key(what, &part.name), slice(part)))
    });
    let own = objective
        .iter()
        .map(|(name, tensor)| (key(OBJECTIVE, name), Slice { tensor, shape: tensor.shape(), range: 0..tensor.len() }));
    let slices = slices.chain(own);
    let metadata = HashMap::from([(FORMAT_KEY.to_owned(), FORMAT.to_string())]);
    safetensors::serialize_to_file(slices, Some(metadata), path).map_err(|e| match e {
        safetensors::SafeTensorError::IoError(error) => {
            IoError { action: "write", path: path.to_owned(), error }.into()
        }
        other => bad(path, other.to_string()),
    })
}

fn bad(path: &Path, what: impl Into<String>) -> CheckpointError {
    CheckpointError::Format { path: path.to_owned(), what: what.into() }
}

fn dtype_of(t: &Tensor) -> Dtype {
    if t.dtype() == DType::Bf16 { Dtype::Bf16 } else { Dtype::F32 }
}

/// The bytes of some elements.
fn bytes_of(t: &mut Tensor, range: Range<usize>) -> &mut [u8] {
    match t.dtype() {
        DType::Bf16 => bytemuck::cast_slice_mut(&mut t.bf16_mut()[range]),
        _ => bytemuck::cast_slice_mut(&mut t.f32_mut()[range]),
    }
}

/// An open state file.
pub struct State {
    file: TensorFile,
    format: u32,
}

impl State {
    /// Opens the state of a checkpoint.
    pub fn open(checkpoint: &Path) -> Result<Self, CheckpointError> {
        let path = checkpoint.join(STATE_FILE);
        let file = TensorFile::open(&path)?;
        let format = match file.metadata().get(FORMAT_KEY) {
            None => OLD,
            Some(number) => number.parse().ok().filter(|n| *n == FORMAT).ok_or_else(|| {
                bad(
                    &path,
                    format!("has format {number}, but this program reads {OLD} and {FORMAT}: use a newer program"),
                )
            })?,
        };
        Ok(Self { file, format })
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Writes the tensors of one kind (masters or averages) as a Hugging Face checkpoint into an existing folder.
    /// Selection biases have no averages, so they are taken from the masters.
    pub fn save_into(
        &self,
        dir: &Path,
        config: &ModelConfig,
        what: &str,
        format: WeightFormat,
        options: &SaveOptions<'_>,
    ) -> Result<(), hadal_weights::Error> {
        let list = parameters(config);
        save_parameters(dir, config, format, options, |index, part, start, out| {
            let of = &list[index];
            let what = if of.trainable() { what } else { WEIGHT };
            self.read(what, of, part, start, out)
                .map_err(|e| hadal_weights::Error::Malformed { path: self.path().into(), reason: e.to_string() })
        })
    }

    /// Whether the file has tensors of this kind.
    pub fn has(&self, what: &str) -> bool {
        self.file.names().any(|name| is_of(what, name))
    }

    /// The name of the tensor that holds a part, and the index of the part's first element in it.
    fn find(&self, what: &str, of: &Parameter, part: &Part, dtype: &Dtype) -> Result<(String, usize), CheckpointError> {
        let (name, start, shape) = match self.format {
            OLD => (key(what, of.name()), part.start, &of.shape),
            _ => (key(what, &part.name), 0, &part.shape),
        };
        match self.file.info(&name) {
            Some(found) if found == (dtype, shape) => Ok((name, start)),
            Some((found, size)) => {
                let what = format!("`{name}` is {found} {size:?}, this run needs {dtype} {shape:?}");
                Err(bad(self.path(), what))
            }
            None => Err(bad(self.path(), format!("lacks the tensor `{name}`: it was written with other settings"))),
        }
    }

    /// Reads f32 elements of a part, starting at its element `start`.
    pub fn read(
        &self,
        what: &str,
        of: &Parameter,
        part: &Part,
        start: usize,
        out: &mut [f32],
    ) -> Result<(), CheckpointError> {
        let (name, first) = self.find(what, of, part, &Dtype::F32)?;
        Ok(self.file.read(&name, 4 * (first + start), bytemuck::cast_slice_mut(out))?)
    }

    /// Reads the tensor of one kind for a whole parameter.
    pub fn fill(&self, what: &str, of: &Parameter, into: &mut Tensor) -> Result<(), CheckpointError> {
        let dtype = dtype_of(into);
        for part in &of.parts {
            let (name, first) = self.find(what, of, part, &dtype)?;
            let at = into.dtype().size() * first;
            self.file.read(&name, at, bytes_of(into, part.range()))?;
        }
        Ok(())
    }

    /// Fills a tensor of the objective.
    pub fn fill_own(&self, name: &str, into: &mut Tensor) -> Result<(), CheckpointError> {
        let (name, dtype) = (key(OBJECTIVE, name), dtype_of(into));
        if self.file.info(&name) != Some((&dtype, into.shape())) {
            let what =
                format!("lacks the tensor `{name}` of {dtype} {:?}: it was written by another objective", into.shape());
            return Err(bad(self.path(), what));
        }
        Ok(self.file.read(&name, 0, bytes_of(into, 0..into.len()))?)
    }

    /// Fails if the file has a tensor that belongs to none of these kinds and parameters.
    pub fn check_all_known<'a>(
        &self,
        known: impl Iterator<Item = (&'static str, &'a Parameter)>,
    ) -> Result<(), CheckpointError> {
        let mut left: Vec<&str> = self.file.names().collect();
        let mut names = std::collections::HashSet::new();
        for (what, parameter) in known {
            match self.format {
                OLD => drop(names.insert(key(what, parameter.name()))),
                _ => names.extend(parameter.parts.iter().map(|part| key(what, &part.name))),
            }
        }
        left.retain(|name| !names.contains(*name) && !is_of(OBJECTIVE, name));
        match left.into_iter().min() {
            Some(name) => {
                Err(bad(self.path(), format!("has a tensor `{name}` that does not belong to this run's settings")))
            }
            None => Ok(()),
        }
    }
}
