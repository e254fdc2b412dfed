//! Sources of a model's values: a seed, or a checkpoint.

use crate::adapter::LORA_B;
use hadal_base::{Purpose, Rng, name_key};
use hadal_ops::{Chunks, Cx, DType, Tensor, bf16};
use hadal_weights::list::{Kind, Parameter, Part, Role};
use hadal_weights::{Checkpoint, Dtype, Error};

/// Values of parameters by part. Several threads may call it at the same time.
pub trait Values: Sync {
    /// Reads the elements of a part, starting at its element `start`.
    fn read(&self, of: &Parameter, part: &Part, start: usize, out: &mut [f32]) -> Result<(), Error>;

    /// Whether a parameter's values are all bf16, so that [`Values::read_bf16`] gives them exactly.
    fn halves(&self, _of: &Parameter) -> bool {
        false
    }

    /// Like [`Values::read`], for values that are bf16.
    fn read_bf16(&self, of: &Parameter, part: &Part, start: usize, out: &mut [bf16]) -> Result<(), Error> {
        let mut values = vec![0.0; out.len()];
        self.read(of, part, start, &mut values)?;
        out.iter_mut().zip(values).for_each(|(o, v)| *o = bf16::from_f32(v));
        Ok(())
    }

    /// Whether a parameter's values are all stored as E4M3 codes with scales, which [`Values::read_codes`] and
    /// [`Values::scales`] give.
    fn coded(&self, _of: &Parameter) -> bool {
        false
    }

    /// Reads codes of a part, starting at its element `start`.
    fn read_codes(&self, part: &Part, _start: usize, _out: &mut [u8]) -> Result<(), Error> {
        unreachable!("`{}` is not stored as codes", part.name)
    }

    /// The scales of a part that is stored as codes, in rows of blocks.
    fn scales(&self, part: &Part) -> Result<Vec<f32>, Error> {
        unreachable!("`{}` is not stored as codes", part.name)
    }
}

/// Number of elements that a task reads at a time.
const PIECE: usize = 1 << 16;

/// Reads the elements of a parameter from `start` on, across its parts.
pub(crate) fn pieces<T>(
    spec: &Parameter,
    start: usize,
    out: &mut [T],
    read: impl Fn(&Part, usize, &mut [T]) -> Result<(), Error>,
) -> Result<(), Error> {
    let end = start + out.len();
    // Parts lie in order.
    let first = spec.parts.partition_point(|p| p.range().end <= start);
    for part in spec.parts[first..].iter().take_while(|p| p.start < end) {
        let (from, to) = (start.max(part.start), end.min(part.range().end));
        read(part, from - part.start, &mut out[from - start..to - start])?;
    }
    Ok(())
}

/// Reads the elements of a parameter from `start` on into a tensor of f32 or bf16.
pub(crate) fn read_from(values: &dyn Values, spec: &Parameter, start: usize, out: &mut Tensor) -> Result<(), Error> {
    match out.dtype() {
        DType::Bf16 => pieces(spec, start, out.bf16_mut(), |part, at, out| values.read_bf16(spec, part, at, out)),
        _ => pieces(spec, start, out.f32_mut(), |part, at, out| values.read(spec, part, at, out)),
    }
}

/// Reads a whole parameter into a tensor of f32 or bf16, with all threads.
pub fn read_all(cx: &Cx, values: &dyn Values, spec: &Parameter, out: &mut Tensor) -> Result<(), Error> {
    match out.dtype() {
        DType::Bf16 => by_threads(cx, spec, out.bf16_mut(), &|part, at, out| values.read_bf16(spec, part, at, out)),
        _ => by_threads(cx, spec, out.f32_mut(), &|part, at, out| values.read(spec, part, at, out)),
    }
}

fn by_threads<T: Send>(
    cx: &Cx,
    spec: &Parameter,
    out: &mut [T],
    read: &(impl Fn(&Part, usize, &mut [T]) -> Result<(), Error> + Sync),
) -> Result<(), Error> {
    let count = out.len().div_ceil(PIECE);
    let all = Chunks::new(out, PIECE);
    cx.threads().try_each(count, |i| pieces(spec, i * PIECE, all.take(i), read))
}

/// Initial weights: normal(0, std) for matrices, one for norms, zero for biases. Of an adapter, A is normal(0, 1 / sqrt(k))
/// and B is zero. A value depends only on seed, name and index.
#[derive(Clone, Copy, Debug)]
pub struct Fresh {
    /// Seed of the run.
    pub seed: u64,
    /// Standard deviation of matrices that are not an adapter's.
    pub std: f64,
}

impl Values for Fresh {
    fn read(&self, of: &Parameter, part: &Part, start: usize, out: &mut [f32]) -> Result<(), Error> {
        match of.kind() {
            Kind::Norm => out.fill(1.0),
            Kind::Bias => out.fill(0.0),
            Kind::Matrix if of.role == Role::Adapter && part.name.ends_with(LORA_B) => out.fill(0.0),
            Kind::Matrix => {
                let std = if of.role == Role::Adapter { 1.0 / (of.k() as f64).sqrt() } else { self.std };
                let rng = Rng::new(self.seed, Purpose::Init, name_key(&part.name));
                for (i, v) in out.iter_mut().enumerate() {
                    *v = (rng.normal((start + i) as u64) * std) as f32;
                }
            }
        }
        Ok(())
    }
}

impl Values for Checkpoint {
    fn read(&self, _of: &Parameter, part: &Part, start: usize, out: &mut [f32]) -> Result<(), Error> {
        self.read_from(&part.name, start, out)
    }

    fn halves(&self, of: &Parameter) -> bool {
        of.parts.iter().all(|part| self.info(&part.name).is_some_and(|i| *i.dtype == Dtype::Bf16))
    }

    fn read_bf16(&self, _of: &Parameter, part: &Part, start: usize, out: &mut [bf16]) -> Result<(), Error> {
        self.read_from(&part.name, start, out)
    }

    fn coded(&self, of: &Parameter) -> bool {
        of.parts.iter().all(|part| self.info(&part.name).is_some_and(|i| *i.dtype == Dtype::F8E4M3))
    }

    fn read_codes(&self, part: &Part, start: usize, out: &mut [u8]) -> Result<(), Error> {
        self.stored_bytes(&part.name, start, out)
    }

    fn scales(&self, part: &Part) -> Result<Vec<f32>, Error> {
        Self::scales(self, &part.name)
    }
}
