//! Block-quantised weights (report 3.3.2): `w = code * scale`, with E4M3 codes and one scale for each block of 128 rows
//! and 128 columns. Blocks at the edges are smaller. A checkpoint calls the scales `NAME_scale_inv`.
//!
//! Quantisation: `scale = amax / 448`, or the next power of two (UE8M0) or BF16 above it, and `code = E4M3(w / scale)`,
//! rounded to nearest with ties to even. A block of zeros has scale 1. No scale is smaller than the smallest normal
//! number, because below it a quotient would lose bits. Both directions compute in f32, as the scripts of the released
//! weights do.

use crate::header::{Dtype, SaveDtype};
use hadal_ops::bf16;
use hadal_ops::fp8::{self, E4M3, TILE, encode, scale_from_ue8m0, ue8m0_from_scale};
use std::sync::LazyLock;

/// How the scales of FP8 weights are chosen and stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleFormat {
    /// Any f32, as in DeepSeek-V3.
    F32,
    /// Powers of two, stored as f32, as in DeepSeek-V3.1.
    Ue8m0,
    /// Powers of two, stored as their exponents (`F8_E8M0`, one byte).
    Ue8m0Byte,
    /// BF16, as some programs store them.
    Bf16,
}

impl ScaleFormat {
    /// Whether every scale is a power of two.
    pub fn powers_of_two(self) -> bool {
        matches!(self, Self::Ue8m0 | Self::Ue8m0Byte)
    }

    /// The type in which scales are stored.
    pub(crate) fn stored(self) -> SaveDtype {
        match self {
            Self::F32 | Self::Ue8m0 => SaveDtype::F32,
            Self::Ue8m0Byte => SaveDtype::F8E8M0,
            Self::Bf16 => SaveDtype::Bf16,
        }
    }

    /// Whether scales can be stored in this format without change.
    pub(crate) fn holds(self, scales: &[f32]) -> bool {
        match self {
            Self::F32 => true,
            Self::Ue8m0 | Self::Ue8m0Byte => powers_of_two(scales),
            Self::Bf16 => scales.iter().all(|s| bf16::from_f32(*s).to_f32() == *s),
        }
    }
}

/// The name of the scales of a quantised tensor.
pub fn scale_name(weight: &str) -> String {
    format!("{weight}_scale_inv")
}

/// The name of the tensor that these scales belong to.
pub(crate) fn scaled_by(name: &str) -> Option<&str> {
    name.strip_suffix("_scale_inv").filter(|weight| weight.ends_with(".weight"))
}

/// The shape of a matrix's scales. `None` if the tensor is not a matrix.
pub fn scale_shape(shape: &[usize]) -> Option<[usize; 2]> {
    let [rows, cols] = shape else { return None };
    Some([rows.div_ceil(TILE), cols.div_ceil(TILE)])
}

/// The value of each code.
static VALUES: LazyLock<[f32; 256]> = LazyLock::new(|| std::array::from_fn(|code| E4M3.decode(code as u16)));

/// The code of NaN, without its sign bit. All other codes are finite.
const NAN: u8 = 0x7f;

/// The scale of a block whose largest magnitude is `amax`: the rule of training, or the next BF16 above it.
fn scale_of(amax: f32, format: ScaleFormat) -> f32 {
    let scale = fp8::scale_of(amax.to_bits(), E4M3.max(), format.powers_of_two());
    match format {
        ScaleFormat::Bf16 => f32::from_bits((scale.to_bits() + 0xffff) & !0xffff),
        _ => scale,
    }
}

/// Quantises whole rows of a matrix, starting at a multiple of 128. `codes` has the layout of `values`. `scales` has
/// one entry per block, in rows of blocks. The error is the index of a value that is not finite, or too large for a
/// scale.
pub(crate) fn quantise(
    values: &[f32],
    cols: usize,
    format: ScaleFormat,
    codes: &mut [u8],
    scales: &mut [f32],
) -> Result<(), usize> {
    if values.is_empty() {
        return Ok(());
    }
    let across = cols.div_ceil(TILE);
    let bands = values.chunks(TILE * cols).zip(codes.chunks_mut(TILE * cols)).zip(scales.chunks_mut(across));
    for (band, ((values, codes), scales)) in bands.enumerate() {
        band_scales(values, cols, format, scales).map_err(|at| band * TILE * cols + at)?;
        for (row, out) in values.chunks_exact(cols).zip(codes.chunks_exact_mut(cols)) {
            encode(row, scales, out);
        }
    }
    Ok(())
}

/// The scales of a band of at most 128 rows of a matrix, one for every 128 columns, as f32. The error is the index of a
/// value that is not finite, or too large for a scale.
pub fn block_scales(values: &[f32], cols: usize, scales: &mut [f32]) -> Result<(), usize> {
    band_scales(values, cols, ScaleFormat::F32, scales)
}

fn band_scales(values: &[f32], cols: usize, format: ScaleFormat, scales: &mut [f32]) -> Result<(), usize> {
    // Ordered magnitudes have ordered bit patterns. Infinity and NaN come after every number.
    scales.fill(0.0);
    for row in values.chunks_exact(cols) {
        for (block, amax) in row.chunks(TILE).zip(scales.iter_mut()) {
            let most = block.iter().fold(amax.to_bits(), |m, v| m.max(v.to_bits() & 0x7fff_ffff));
            *amax = f32::from_bits(most);
        }
    }
    // Comparisons with NaN are false, which is the desired result here.
    let fits = |amax: f32| amax.is_finite() && scale_of(amax, format) <= MAX_SCALE;
    if scales.iter().any(|amax| !fits(*amax)) {
        let at = values.iter().position(|v| !fits(v.abs()));
        return Err(at.expect("a maximum that does not fit is one of the values"));
    }
    scales.iter_mut().for_each(|s| *s = scale_of(*s, format));
    Ok(())
}

/// The values of a matrix's codes, starting at element `start`. All its scales must be given. The error is the index of
/// a NaN in `codes`.
pub(crate) fn dequantise<T>(
    codes: &[u8],
    start: usize,
    cols: usize,
    scales: &[f32],
    out: &mut [T],
    convert: impl Fn(f32) -> T,
) -> Result<(), usize> {
    find_nan(codes)?;
    let (values, across) = (&*VALUES, cols.div_ceil(TILE));
    let mut done = 0;
    while done < codes.len() {
        let (row, col) = ((start + done) / cols, (start + done) % cols);
        let scale = scales[row / TILE * across + col / TILE];
        // Up to the end of the block, of the row, or of the requested range.
        let n = (TILE - col % TILE).min(cols - col).min(codes.len() - done);
        for (v, code) in out[done..done + n].iter_mut().zip(&codes[done..done + n]) {
            *v = convert(values[usize::from(*code)] * scale);
        }
        done += n;
    }
    Ok(())
}

/// An error with the index of the first NaN among the codes.
pub(crate) fn find_nan(codes: &[u8]) -> Result<(), usize> {
    codes.iter().position(|c| c & NAN == NAN).map_or(Ok(()), Err)
}

/// The largest scale for which the weight is finite with any code.
const MAX_SCALE: f32 = f32::MAX / 448.0;

/// Why a value cannot be a scale, or `None` if it can.
pub(crate) fn wrong_scale(scale: f32) -> Option<&'static str> {
    match () {
        () if !scale.is_finite() || scale <= 0.0 => Some("a scale must be a positive finite number"),
        () if scale > MAX_SCALE => Some("the weights would be infinite"),
        () => None,
    }
}

/// Whether every scale is a power of two.
pub(crate) fn powers_of_two(scales: &[f32]) -> bool {
    scales.iter().all(|s| ue8m0_from_scale(*s).is_some())
}

/// The types in which scales may be stored.
pub(crate) const SCALE_TYPES: &str = "scales are read from F32, BF16 and F8_E8M0";

/// The scales from their stored bytes. `None` if scales cannot be stored in this type.
pub(crate) fn scales_from_bytes(dtype: &Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    Some(match dtype {
        Dtype::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Dtype::Bf16 => bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        Dtype::F8E8M0 => bytes.iter().map(|code| scale_from_ue8m0(*code)).collect(),
        _ => return None,
    })
}

/// The code of a scale. [`ScaleFormat::powers_of_two`] guarantees that there is one.
pub(crate) fn scale_byte(scale: f32) -> u8 {
    ue8m0_from_scale(scale).expect("the scale is a power of two")
}

#[cfg(test)]
mod tests;
