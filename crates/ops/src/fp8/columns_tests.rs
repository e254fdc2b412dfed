//! Tiles of 1x128 converted to tiles of 128x1.

use super::columns::Columns;
use super::*;
use crate::testing::{contexts, random};
use crate::{Cx, DType, Tensor};

/// Groups of rows: a number that is not a multiple of a tile, none, several tiles.
const FIRST: [usize; 4] = [0, 130, 130, 420];

/// The values of columns, and the scale of each.
pub(super) fn values(columns: &Columns, first: &[usize]) -> (Vec<f32>, Vec<f32>) {
    let cols = columns.grid.cols();
    let grid = columns.grid.to_vec_f32();
    let mut scales = vec![f32::NAN; grid.len()];
    for g in 0..first.len() - 1 {
        for r in first[g]..first[g + 1] {
            let tile = (r - first[g]) / TILE;
            for c in 0..cols {
                // SAFETY: the group has a tile for each 128 of its rows.
                scales[r * cols + c] = unsafe { *columns.scales_of(g).add(tile * cols + c) };
            }
        }
    }
    (grid.iter().zip(&scales).map(|(g, s)| g * s).collect(), scales)
}

fn range(g: usize) -> (usize, usize) {
    (FIRST[g], FIRST[g + 1] - FIRST[g])
}

/// Rows of different magnitudes, like those of tokens.
fn rows(cx: &Cx, cols: usize) -> Tensor {
    let mut x = random(cx, &[FIRST[3], cols], DType::F32, 1.0, 5);
    for (r, row) in x.f32_mut().chunks_exact_mut(cols).enumerate() {
        let size = 2f32.powi((r * 7 % 13) as i32 - 6) * if r % 3 == 0 { 1.0 } else { 1.37 };
        row.iter_mut().for_each(|v| *v *= size);
    }
    x
}

#[test]
fn powers_of_two_keep_every_bit_that_does_not_underflow() {
    for cx in contexts() {
        let style = Style { power_of_two: true, ..Style::TILES };
        let tiles = Quantized::new(&cx, &rows(&cx, 260), style);
        let want = tiles.dequantize(&cx, DType::F32);
        let (got, scales) = values(&Columns::of_tiles(&cx, &tiles, 3, &range), &FIRST);
        let (mut whole, mut cut) = (0, 0);
        for ((got, want), scale) in got.iter().zip(want.f32()).zip(&scales) {
            assert!(ue8m0_from_scale(*scale).is_some(), "{scale:e} is no power of two");
            // The number in units of the grid's smallest step.
            let steps = f64::from(*want) / f64::from(*scale) * 512.0;
            if steps.abs() >= 8.0 || steps.fract() == 0.0 {
                assert_eq!(got.to_bits(), want.to_bits());
                whole += 1;
            } else {
                let nearest = steps.round_ties_even() / 512.0 * f64::from(*scale);
                assert_eq!(f64::from(*got), nearest);
                cut += 1;
            }
        }
        assert!(whole > 20 * cut && cut > 0, "{whole} whole, {cut} cut");
    }
}

/// Scales are the smallest that can hold the column's largest number. Everything except E4M3 with powers of two is
/// rounded again.
#[test]
fn scales_are_of_the_kind_that_the_tiles_have() {
    let styles = [
        (Style::TILES, 4),
        (Style { power_of_two: true, ..Style::TILES }, 4),
        (Style { format: E5M6, power_of_two: true, ..Style::TILES }, 4),
        (Style { format: E5M2, ..Style::TILES }, 4),
    ];
    for (cx, (style, bits)) in contexts().iter().flat_map(|cx| styles.map(|s| (cx, s))) {
        let cols = 260;
        let tiles = Quantized::new(cx, &rows(cx, cols), style);
        let from = tiles.dequantize(cx, DType::F32);
        let (got, scales) = values(&Columns::of_tiles(cx, &tiles, 3, &range), &FIRST);
        for g in 0..3 {
            for first in (FIRST[g]..FIRST[g + 1]).step_by(TILE) {
                let rows = first..(first + TILE).min(FIRST[g + 1]);
                for c in 0..cols {
                    let amax = rows.clone().fold(0f32, |m, r| m.max(from.f32()[r * cols + c].abs()));
                    let mut want = amax / 448.0;
                    if style.power_of_two {
                        want = f64::from(want).log2().ceil().exp2() as f32;
                    }
                    for i in rows.clone().map(|r| r * cols + c) {
                        assert_eq!(scales[i], want, "{style:?} {i}");
                        let far = f64::from(got[i] - from.f32()[i]).abs();
                        let unit = f64::from(from.f32()[i].abs()) * 2f64.powi(-bits) * (1.0 + 1e-6);
                        assert!(far <= unit.max(f64::from(want) / 1024.0), "{style:?} {i}: off by {far:e}");
                    }
                }
            }
        }
    }
}
