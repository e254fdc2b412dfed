//! Turns weights into codes and scales. A panel's lanes are processed together, so every inner loop runs over lanes.
//!
//! Nothing here uses fused multiply-add, so the codes are the same on every path.

use super::format::{BLOCK, BOOK, GROUP, LINE, OFFSET, QuantFormat, STEP, ZERO};
use crate::gemm::LANES;
use crate::kernel::{Elem, Pointwise};
use crate::math::{bf16_bits, bf16_value};
use crate::{DType, MatRef};

/// A value of each lane.
type Lanes = [f32; LANES];
/// A group of each lane.
type Group = [Lanes; GROUP];

/// Magnitudes below this count as zero, so that scales and their inverses stay in f32's normal range.
pub(super) const TINY: f32 = 1.0 / (1u128 << 100) as f32;

/// Where a group's largest weight lies before least squares, as a multiple of one end of the code book. Above 1 the
/// largest weight is clipped, and the others are spread over more codes. Below 1 no weight is clipped.
const SPREADS: [f32; 7] = [0.78, 0.85, 0.91, 0.96, 1.0, 1.06, 1.14];

/// Quantises some rows (at most 16), from row `row` of `from` on, into a panel.
pub(super) struct FitPanel<'a, 'b> {
    pub(super) format: QuantFormat,
    pub(super) from: MatRef<'a>,
    pub(super) row: usize,
    pub(super) rows: usize,
    pub(super) panel: &'b mut [u8],
}

impl Pointwise for FitPanel<'_, '_> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { format, from, row, rows, panel } = self;
        for (b, block) in panel.chunks_exact_mut(format.block_bytes()).enumerate() {
            for g in 0..2 {
                let mut values: Group = [[0.0; LANES]; GROUP];
                gather(&from, row, rows, b * BLOCK + g * GROUP, &mut values);
                let (scales, codes) = match format {
                    QuantFormat::Int8 => even(&values),
                    QuantFormat::Int4 => uneven(&values),
                };
                write(format, block, g, &scales, &codes);
            }
        }
    }
}

/// Columns `col..` of the rows, as far as there are any.
#[inline(always)]
fn gather(from: &MatRef<'_>, row: usize, rows: usize, col: usize, to: &mut Group) {
    let count = from.cols().saturating_sub(col).min(GROUP);
    if count == 0 {
        return;
    }
    for lane in 0..rows {
        let at = (row + lane) * from.stride() + col;
        match from.dtype() {
            DType::F32 => lanes(&from.f32()[at..at + count], lane, to),
            _ => lanes(&from.bf16()[at..at + count], lane, to),
        }
    }
}

/// Values of one lane.
#[inline(always)]
fn lanes<E: Elem>(from: &[E], lane: usize, to: &mut Group) {
    for (v, to) in from.iter().zip(to) {
        to[lane] = v.get();
    }
}

/// Writes scales and codes to their places.
#[inline(always)]
fn write(format: QuantFormat, block: &mut [u8], group: usize, scales: &[u16; LANES], codes: &[[u8; LANES]; GROUP]) {
    for (lane, scale) in scales.iter().enumerate() {
        let at = 4 * lane + 2 * group;
        block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
    }
    for (i, codes) in codes.iter().enumerate() {
        let step = (group * GROUP + i) / STEP;
        for (lane, code) in codes.iter().enumerate() {
            let byte = lane * STEP + i % STEP;
            match format {
                QuantFormat::Int8 => block[LINE + step * LINE + byte] = *code,
                QuantFormat::Int4 => {
                    let pair = &mut block[LINE + step / 2 * LINE + byte];
                    // The first of two steps comes first.
                    *pair = if step.is_multiple_of(2) { *code } else { *pair | *code << 4 };
                }
            }
        }
    }
}

/// The largest magnitude of each lane: NaN if a value is not finite, zero if it is tiny.
#[inline(always)]
fn largest(values: &Group) -> Lanes {
    let mut top = [0u32; LANES];
    for v in values {
        for l in 0..LANES {
            top[l] = top[l].max(v[l].to_bits() & 0x7fff_ffff);
        }
    }
    top.map(magnitude)
}

/// A magnitude from its bits (the larger the bits, the larger the magnitude): NaN if it is not finite, zero if it is
/// tiny.
#[inline(always)]
pub(super) fn magnitude(bits: u32) -> f32 {
    let value = f32::from_bits(bits);
    let value = if value < TINY { 0.0 } else { value };
    if bits >= 0x7f80_0000 { f32::NAN } else { value }
}

/// One over a scale, or zero if the scale is zero or NaN.
#[inline(always)]
fn inverse(scale: f32) -> f32 {
    // A comparison with NaN is false.
    if scale.abs() > 0.0 { 1.0 / scale } else { 0.0 }
}

#[inline(always)]
fn bf16_of(v: f32) -> f32 {
    bf16_value(bf16_bits(v))
}

/// Int8: whole numbers, the largest near 127.
#[inline(always)]
fn even(values: &Group) -> ([u16; LANES], [[u8; LANES]; GROUP]) {
    let scales = largest(values).map(|top| bf16_of(top / 127.0));
    let inverses = scales.map(inverse);
    let mut codes = [[0; LANES]; GROUP];
    for (codes, v) in codes.iter_mut().zip(values) {
        for l in 0..LANES {
            codes[l] = (whole(finite(v[l]) * inverses[l]).clamp(-127, 127) + OFFSET) as u8;
        }
    }
    (scales.map(bf16_bits), codes)
}

/// A value, or zero if it is not finite.
#[inline(always)]
fn finite(v: f32) -> f32 {
    if v.abs() < f32::INFINITY { v } else { 0.0 }
}

/// The nearest whole number of a value of less than 2^22, ties to even.
#[inline(always)]
pub(super) fn whole(v: f32) -> i32 {
    // Adding 1.5 * 2^23 rounds to a whole number, and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    (v + ROUND).to_bits() as i32 - ROUND.to_bits() as i32
}

/// The number of the nearest value of the code book, and the value.
#[inline(always)]
fn nearest(v: f32) -> (u32, f32) {
    let (mut code, mut value) = (0, f32::from(BOOK[0]));
    for i in 0..15 {
        let (low, high) = (f32::from(BOOK[i]), f32::from(BOOK[i + 1]));
        let above = v > (low + high) * 0.5;
        code += u32::from(above);
        value += if above { high - low } else { 0.0 };
    }
    (code, value)
}

/// Int4: of several scales that map the largest weight near one or the other end of the code book, the one whose codes
/// leave the least squared error under their best scale, `sum w c / sum c^2`.
#[inline(always)]
fn uneven(values: &Group) -> ([u16; LANES], [[u8; LANES]; GROUP]) {
    let top = largest(values);
    // The sign of the first weight of the largest magnitude.
    let mut signed = [0.0; LANES];
    for v in values.iter().rev() {
        for l in 0..LANES {
            signed[l] = if v[l].abs() == top[l] { v[l] } else { signed[l] };
        }
    }
    // In units of the largest weight, so that nothing overflows.
    let unit = signed.map(inverse);
    let mut parts: Group = [[0.0; LANES]; GROUP];
    for (part, v) in parts.iter_mut().zip(values) {
        for l in 0..LANES {
            part[l] = finite(v[l]) * unit[l];
        }
    }
    let (mut best, mut scales) = ([-1.0f32; LANES], [0.0f32; LANES]);
    for end in [f32::from(BOOK[0]), f32::from(BOOK[15])] {
        for spread in SPREADS {
            let (mut wc, mut cc) = ([0.0f32; LANES], [0.0f32; LANES]);
            for part in &parts {
                for l in 0..LANES {
                    let (_, c) = nearest(part[l] * (end * spread));
                    wc[l] += part[l] * c;
                    cc[l] += c * c;
                }
            }
            for l in 0..LANES {
                let scale = wc[l] / cc[l].max(1.0);
                // What the codes explain of the sum of squares.
                let gain = wc[l] * scale;
                scales[l] = if gain > best[l] { scale } else { scales[l] };
                best[l] = if gain > best[l] { gain } else { best[l] };
            }
        }
    }
    for l in 0..LANES {
        // NaN where the largest magnitude is.
        scales[l] = if top[l] > 0.0 { bf16_of(scales[l] * signed[l]) } else { top[l] };
    }
    let inverses = scales.map(inverse);
    let mut codes = [[ZERO; LANES]; GROUP];
    for (codes, v) in codes.iter_mut().zip(values) {
        for l in 0..LANES {
            codes[l] = nearest(finite(v[l]) * inverses[l]).0 as u8;
        }
    }
    (scales.map(bf16_bits), codes)
}
