//! Weights that are E4M3 codes at run time: taken from an FP8 checkpoint as they are, or quantised.
//!
//! A parameter consists of parts, the matrices of the checkpoint. Each has blocks of 128x128 with a scale, counted from
//! its own first row. Quantising reads the values twice: once for the scales, once for the codes. So it needs no memory
//! for them.

use crate::values::{Values, pieces};
use hadal_ops::fp8::{TILE, encode};
use hadal_ops::linear::CodedWeight;
use hadal_ops::{Chunks, Cx, Tensor};
use hadal_weights::list::{Parameter, Part};
use hadal_weights::{Error, block_scales};

/// Fills a weight with the codes and scales of a parameter.
pub(crate) fn fill(cx: &Cx, weight: &mut CodedWeight, values: &dyn Values, spec: &Parameter) -> Result<(), Error> {
    let (k, stored) = (spec.k(), values.coded(spec));
    let scales: Vec<Vec<f32>> = spec
        .parts
        .iter()
        .map(|part| if stored { values.scales(part) } else { measure(cx, values, spec, part) })
        .collect::<Result<_, _>>()?;
    let tiles = k.div_ceil(TILE);
    // The scales of a row, which is counted over all parts.
    let of_row = |row: usize| {
        let number = spec.parts.partition_point(|part| part.range().end <= row * k);
        let row = row - spec.parts[number].start / k;
        &scales[number][row / TILE * tiles..][..tiles]
    };
    let codes = |row: usize, out: &mut Tensor| {
        if stored {
            return pieces(spec, row * k, out.u8_mut(), |part, start, out| values.read_codes(part, start, out));
        }
        let mut floats = vec![0.0; out.len()];
        pieces(spec, row * k, &mut floats, |part, start, out| values.read(spec, part, start, out))?;
        for (i, (row_of, out)) in floats.chunks_exact(k).zip(out.u8_mut().chunks_exact_mut(k)).enumerate() {
            encode(row_of, of_row(row + i), out);
        }
        Ok(())
    };
    weight.fill(cx, &codes, &|row, out| out.copy_from_slice(of_row(row)))
}

/// The scales of a part that is not stored as codes.
fn measure(cx: &Cx, values: &dyn Values, spec: &Parameter, part: &Part) -> Result<Vec<f32>, Error> {
    let (rows, k) = (part.shape[0], spec.k());
    let tiles = k.div_ceil(TILE);
    let mut scales = vec![0.0; rows.div_ceil(TILE) * tiles];
    let bands = Chunks::new(&mut scales, tiles);
    cx.threads().try_each(rows.div_ceil(TILE), |band| {
        let (first, count) = (band * TILE, TILE.min(rows - band * TILE));
        let mut floats = vec![0.0; count * k];
        values.read(spec, part, first * k, &mut floats)?;
        block_scales(&floats, k, bands.take(band)).map_err(|at| {
            let (row, col) = (first + at / k, at % k);
            let reason = format!("is {} at row {row}, column {col}, which FP8 cannot hold", floats[at]);
            Error::Unusable { name: part.name.clone(), reason }
        })
    })?;
    Ok(scales)
}
