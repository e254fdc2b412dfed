//! Writes a checkpoint: shards, index and `config.json`, in pieces, and whole or not at all.
//!
//! Names, shapes and types are known before the data. So each header is written first, and the data follows in pieces
//! of a few megabytes. A model is never in memory twice. The bytes are those of the format's own writer with PyTorch's
//! metadata.
//!
//! An FP8 tensor is quantised here, some bands of 128 rows at a time. Its scales are elsewhere in the same shard, so
//! data is written at its position and not sequentially. If a source already stores a tensor in the requested format,
//! it is copied, including codes and scales.

use crate::config::ModelConfig;
use crate::error::Error;
use crate::fp8::{self, ScaleFormat, scale_name, scale_shape};
use crate::header;
pub use crate::header::{SaveDtype, SaveTensor};
use hadal_base::atomic::{self, StagedDir};
use hadal_base::{IoContext, place};
use hadal_ops::bf16;
use hadal_ops::fp8::TILE;
use half::f16;
use serde_json::json;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Size of a shard in bytes, unless a single tensor is larger. It is the long-standing limit of transformers.
pub const SHARD_BYTES: usize = 5_000_000_000;

/// Number of elements requested at a time.
const PIECE: usize = 1 << 20;

/// A source of values. Tensors are requested in the order of the files, and with ascending `start` within each.
pub trait TensorSource {
    /// Gives the elements of a tensor in f32, starting at `start`.
    fn values(&mut self, tensor: &SaveTensor, start: usize, out: &mut [f32]) -> Result<(), Error>;

    /// Whether this source stores the tensor in the requested format, so that its bytes can be copied.
    fn copies(&self, _: &SaveTensor) -> bool {
        false
    }

    /// The bytes of a tensor that is copied, starting at element `start`.
    fn bytes(&mut self, tensor: &SaveTensor, _start: usize, _out: &mut [u8]) -> Result<(), Error> {
        unreachable!("`{}` is not copied", tensor.name)
    }

    /// The scales of an FP8 tensor that is copied.
    fn scales(&mut self, tensor: &SaveTensor) -> Result<Vec<f32>, Error> {
        unreachable!("`{}` is not copied", tensor.name)
    }
}

impl<F: FnMut(&SaveTensor, usize, &mut [f32]) -> Result<(), Error>> TensorSource for F {
    fn values(&mut self, tensor: &SaveTensor, start: usize, out: &mut [f32]) -> Result<(), Error> {
        self(tensor, start, out)
    }
}

/// How to save.
#[derive(Clone, Copy, Debug)]
pub struct SaveOptions<'a> {
    /// See [`SHARD_BYTES`].
    pub shard_bytes: usize,
    /// When another thread or a signal sets this, writing ends at the next piece with [`Error::Stopped`].
    pub stop: Option<&'a AtomicBool>,
}

impl Default for SaveOptions<'_> {
    fn default() -> Self {
        Self { shard_bytes: SHARD_BYTES, stop: None }
    }
}

/// Writes a checkpoint folder. On an error, `dir` is left as it was. `beside` adds further files (tokenizer) to the
/// folder under construction and receives its path.
pub fn save(
    dir: &Path,
    config: &ModelConfig,
    tensors: &[SaveTensor],
    options: &SaveOptions<'_>,
    beside: impl FnOnce(&Path) -> Result<(), Error>,
    source: impl TensorSource,
) -> Result<(), Error> {
    // A bad target is found here, before hours of writing. `commit` also checks it.
    let staged = StagedDir::new(&place(dir)?)?;
    write_into(staged.path(), config, tensors, options, source)?;
    beside(staged.path())?;
    Ok(staged.commit()?)
}

/// Writes `config.json` and weights directly into an existing folder. It is for callers that make the folder appear
/// themselves. The entry for quantised weights is written if there are any.
pub fn write_into(
    dir: &Path,
    config: &ModelConfig,
    tensors: &[SaveTensor],
    options: &SaveOptions<'_>,
    mut source: impl TensorSource,
) -> Result<(), Error> {
    let groups: Vec<Group<'_>> = tensors.iter().map(Group::new).collect::<Result<_, _>>()?;
    let mut names = HashSet::with_capacity(tensors.len());
    if let Some(twice) = groups.iter().flat_map(Group::members).find(|t| !names.insert(t.name.as_str())) {
        return Err(Error::Duplicate(twice.name.clone()));
    }
    let shards = split(&groups, options.shard_bytes);
    let count = shards.len();
    let file_name = |i: usize| match count {
        1 => "model.safetensors".to_string(),
        _ => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
    };
    for (i, shard) in shards.iter().enumerate() {
        write_shard(&dir.join(file_name(i)), shard, options.stop, &mut source)?;
    }
    if count > 1 {
        let weight_map: BTreeMap<&str, String> = shards
            .iter()
            .enumerate()
            .flat_map(|(i, s)| s.iter().flat_map(Group::members).map(move |t| (t.name.as_str(), file_name(i))))
            .collect();
        let total_size: usize = groups.iter().map(Group::bytes).sum();
        let index = json!({"metadata": {"total_size": total_size}, "weight_map": weight_map});
        atomic::write_file(&dir.join("model.safetensors.index.json"), format!("{index:#}\n").as_bytes())?;
    }
    let quantised = groups.iter().any(|g| g.scales.is_some());
    let has = |dtype| tensors.iter().any(|t| t.dtype == dtype);
    let dtype = match () {
        () if quantised || has(SaveDtype::Bf16) => "bfloat16",
        () if has(SaveDtype::F16) => "float16",
        () => "float32",
    };
    let quantization_config = config.quantization_config.clone().filter(|_| quantised);
    let config = ModelConfig { dtype: Some(dtype.into()), quantization_config, ..config.clone() };
    atomic::write_file(&dir.join("config.json"), config.to_json().as_bytes())?;
    Ok(())
}

/// A tensor, and its scales if it is FP8. They always stay together.
struct Group<'a> {
    tensor: &'a SaveTensor,
    scales: Option<SaveTensor>,
}

impl<'a> Group<'a> {
    fn new(tensor: &'a SaveTensor) -> Result<Self, Error> {
        let SaveDtype::F8E4M3(format) = tensor.dtype else {
            return Ok(Self { tensor, scales: None });
        };
        let (name, found) = (tensor.name.clone(), tensor.shape.clone());
        let expected = "only matrices are quantised by blocks".into();
        let shape = scale_shape(&tensor.shape).ok_or(Error::Size { name, found, expected })?.into();
        Ok(Self { tensor, scales: Some(SaveTensor { name: scale_name(&tensor.name), shape, dtype: format.stored() }) })
    }

    fn members(&self) -> impl Iterator<Item = &SaveTensor> {
        std::iter::once(self.tensor).chain(&self.scales)
    }

    fn bytes(&self) -> usize {
        self.members().map(SaveTensor::bytes).sum()
    }
}

/// Fills one shard after another in the given order. The first tensor that would make a shard too large starts the next
/// one.
fn split<'a>(groups: &'a [Group<'a>], shard_bytes: usize) -> Vec<&'a [Group<'a>]> {
    let (mut shards, mut first, mut used) = (Vec::new(), 0, 0);
    for (i, group) in groups.iter().enumerate() {
        if used > 0 && used + group.bytes() > shard_bytes {
            shards.push(&groups[first..i]);
            (first, used) = (i, 0);
        }
        used += group.bytes();
    }
    shards.push(&groups[first..]);
    shards
}

/// A file under construction.
struct Output<'a> {
    path: PathBuf,
    file: File,
    stop: Option<&'a AtomicBool>,
}

impl Output<'_> {
    fn write(&mut self, at: usize, bytes: &[u8]) -> Result<(), Error> {
        if self.stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
            return Err(Error::Stopped);
        }
        let place = SeekFrom::Start(at as u64);
        let written = self.file.seek(place).and_then(|_| self.file.write_all(bytes));
        Ok(written.at("write", &self.path)?)
    }
}

fn write_shard(
    path: &Path,
    groups: &[Group<'_>],
    stop: Option<&AtomicBool>,
    source: &mut impl TensorSource,
) -> Result<(), Error> {
    let mut tensors: Vec<&SaveTensor> = groups.iter().flat_map(Group::members).collect();
    let header = header::render(&mut tensors);
    let mut places = HashMap::with_capacity(tensors.len());
    let mut end = header.len();
    for tensor in &tensors {
        places.insert(tensor.name.as_str(), end);
        end += tensor.bytes();
    }
    let mut out = Output { path: path.into(), file: File::create_new(path).at("create", path)?, stop };
    out.write(0, &header)?;
    let scales: HashMap<&str, &SaveTensor> =
        groups.iter().filter_map(|g| Some((g.tensor.name.as_str(), g.scales.as_ref()?))).collect();
    let own: HashSet<&str> = groups.iter().map(|g| g.tensor.name.as_str()).collect();
    let mut room = Room::default();
    for tensor in tensors.into_iter().filter(|t| own.contains(t.name.as_str())) {
        let at = places[tensor.name.as_str()];
        let scales = scales.get(tensor.name.as_str()).map(|s| (*s, places[s.name.as_str()]));
        match (tensor.dtype, scales) {
            _ if source.copies(tensor) => copy(&mut out, tensor, at, scales, source, &mut room)?,
            (SaveDtype::F8E4M3(format), Some(s)) => write_fp8(&mut out, tensor, at, s, format, source, &mut room)?,
            _ => write_plain(&mut out, tensor, at, source, &mut room)?,
        }
    }
    out.file.sync_all().at("sync", path)?;
    Ok(())
}

/// Buffers for a piece. They are reused for every tensor.
#[derive(Default)]
struct Room {
    values: Vec<f32>,
    bytes: Vec<u8>,
}

fn copy(
    out: &mut Output<'_>,
    tensor: &SaveTensor,
    at: usize,
    scales: Option<(&SaveTensor, usize)>,
    source: &mut impl TensorSource,
    room: &mut Room,
) -> Result<(), Error> {
    let (elements, size) = (tensor.elements(), tensor.dtype.size());
    for start in (0..elements).step_by(PIECE) {
        room.bytes.resize(PIECE.min(elements - start) * size, 0);
        source.bytes(tensor, start, &mut room.bytes)?;
        out.write(at + start * size, &room.bytes)?;
    }
    match scales {
        Some(place) => write_scales(out, &source.scales(tensor)?, place, room),
        None => Ok(()),
    }
}

fn write_plain(
    out: &mut Output<'_>,
    tensor: &SaveTensor,
    at: usize,
    source: &mut impl TensorSource,
    room: &mut Room,
) -> Result<(), Error> {
    let (elements, size) = (tensor.elements(), tensor.dtype.size());
    for start in (0..elements).step_by(PIECE) {
        let n = PIECE.min(elements - start);
        room.values.resize(n, 0.0);
        room.bytes.resize(n * size, 0);
        source.values(tensor, start, &mut room.values)?;
        match tensor.dtype {
            SaveDtype::F32 => encode(&room.values, &mut room.bytes, f32::to_le_bytes),
            SaveDtype::F16 => encode(&room.values, &mut room.bytes, |v| f16::from_f32(v).to_le_bytes()),
            SaveDtype::Bf16 => encode(&room.values, &mut room.bytes, |v| bf16::from_f32(v).to_le_bytes()),
            SaveDtype::F8E4M3(_) | SaveDtype::F8E8M0 => unreachable!("FP8 is written with its scales"),
        }
        out.write(at + start * size, &room.bytes)?;
    }
    Ok(())
}

/// Quantises values. Codes are written at `at`, and scales at their own position.
fn write_fp8(
    out: &mut Output<'_>,
    tensor: &SaveTensor,
    at: usize,
    place: (&SaveTensor, usize),
    format: ScaleFormat,
    source: &mut impl TensorSource,
    room: &mut Room,
) -> Result<(), Error> {
    let (elements, cols, across) = (tensor.elements(), tensor.shape[1], place.0.shape[1]);
    let mut scales = vec![0f32; place.0.elements()];
    let bands = (PIECE / (TILE * cols).max(1)).max(1);
    let piece = (bands * TILE * cols).max(1);
    for (i, start) in (0..elements).step_by(piece).enumerate() {
        let n = piece.min(elements - start);
        room.bytes.resize(n, 0);
        room.values.resize(n, 0.0);
        source.values(tensor, start, &mut room.values)?;
        let scales = &mut scales[i * bands * across..];
        fp8::quantise(&room.values, cols, format, &mut room.bytes, scales).map_err(|at| {
            let (row, col) = ((start + at) / cols, (start + at) % cols);
            let value = room.values[at];
            let reason = format!("is {value} at row {row}, column {col}, which FP8 cannot hold");
            Error::Unusable { name: tensor.name.clone(), reason }
        })?;
        out.write(at + start, &room.bytes)?;
    }
    write_scales(out, &scales, place, room)
}

fn write_scales(out: &mut Output<'_>, scales: &[f32], at: (&SaveTensor, usize), room: &mut Room) -> Result<(), Error> {
    room.bytes.resize(at.0.bytes(), 0);
    match at.0.dtype {
        SaveDtype::F8E8M0 => encode(scales, &mut room.bytes, |s| [fp8::scale_byte(s)]),
        SaveDtype::Bf16 => encode(scales, &mut room.bytes, |s| bf16::from_f32(s).to_le_bytes()),
        _ => encode(scales, &mut room.bytes, f32::to_le_bytes),
    }
    out.write(at.1, &room.bytes)
}

fn encode<const N: usize>(values: &[f32], bytes: &mut [u8], convert: impl Fn(f32) -> [u8; N]) {
    for (b, v) in bytes.as_chunks_mut::<N>().0.iter_mut().zip(values) {
        *b = convert(*v);
    }
}
