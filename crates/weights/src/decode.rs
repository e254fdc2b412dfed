//! Decodes stored elements to f32 or bf16.

use crate::error::Error;
use crate::fp8;
use crate::header::Dtype;
use hadal_ops::bf16;
use half::f16;
use std::fmt::Display;

/// Element types that tensors can be read into.
pub trait Element: Copy {
    /// Converts from single precision.
    fn from_f32(value: f32) -> Self;
    /// Converts from bfloat16, exactly.
    fn from_bf16(value: bf16) -> Self;
}

impl Element for f32 {
    fn from_f32(value: f32) -> Self {
        value
    }
    fn from_bf16(value: bf16) -> Self {
        value.to_f32()
    }
}

impl Element for bf16 {
    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }
    fn from_bf16(value: bf16) -> Self {
        value
    }
}

/// The scales of a block-quantised matrix.
pub(crate) struct Scales {
    pub(crate) cols: usize,
    pub(crate) values: Vec<f32>,
}

/// Decodes elements, starting at number `start`.
pub(crate) fn decode<T: Element>(
    name: &str,
    dtype: &Dtype,
    bytes: &[u8],
    start: usize,
    scales: Option<&Scales>,
    out: &mut [T],
) -> Result<(), Error> {
    match (dtype, scales) {
        (Dtype::F32, _) => fill(bytes, out, |b| T::from_f32(f32::from_le_bytes(b))),
        (Dtype::Bf16, _) => fill(bytes, out, |b| T::from_bf16(bf16::from_le_bytes(b))),
        (Dtype::F16, _) => fill(bytes, out, |b| T::from_f32(f16::from_le_bytes(b).to_f32())),
        (Dtype::F8E4M3, Some(s)) => {
            fp8::dequantise(bytes, start, s.cols, &s.values, out, T::from_f32)
                .map_err(|i| no_number(name, f32::NAN, start + i, s.cols))?;
        }
        (other, _) => return Err(Error::Unsupported { name: name.into(), dtype: other.to_string() }),
    }
    Ok(())
}

/// The error for an element that is infinite or NaN.
pub(crate) fn no_number(name: &str, value: impl Display, element: usize, cols: usize) -> Error {
    let (row, col) = (element / cols, element % cols);
    let reason = format!("is {value} at row {row}, column {col}; get the checkpoint again");
    Error::Unusable { name: name.into(), reason }
}

/// An error with the index and value of the first element that is infinite or NaN.
pub(crate) fn find_no_number(dtype: &Dtype, bytes: &[u8]) -> Result<(), (usize, f32)> {
    fn first<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f32) -> Result<(), (usize, f32)> {
        let mut values = bytes.as_chunks::<N>().0.iter().map(|b| value(*b)).enumerate();
        values.find(|(_, v)| !v.is_finite()).map_or(Ok(()), Err)
    }
    match dtype {
        Dtype::F32 => first(bytes, f32::from_le_bytes),
        Dtype::Bf16 => first(bytes, |b| bf16::from_le_bytes(b).to_f32()),
        Dtype::F16 => first(bytes, |b| f16::from_le_bytes(b).to_f32()),
        Dtype::F8E4M3 => fp8::find_nan(bytes).map_err(|i| (i, f32::NAN)),
        Dtype::F8E8M0 | Dtype::Other(_) => Ok(()),
    }
}

fn fill<const N: usize, T>(bytes: &[u8], out: &mut [T], convert: impl Fn([u8; N]) -> T) {
    let (elements, _) = bytes.as_chunks::<N>();
    for (value, b) in out.iter_mut().zip(elements) {
        *value = convert(*b);
    }
}
