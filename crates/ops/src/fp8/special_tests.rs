//! NaN, infinities, zeros of either sign and subnormal numbers, in whole vectors and in the rest of a row.

use super::columns::Columns;
use super::definition::Grid;
use super::tests::{ALL, code_of};
use super::*;
use crate::testing::{FLOATS, contexts, random};
use crate::{Cx, DType, Tensor};

const ROWS: usize = 140;
const COLS: usize = 296;

fn matrix(cx: &Cx, dtype: DType) -> Tensor {
    let mut values = random(cx, &[ROWS, COLS], DType::F32, 1.0, 1).to_vec_f32();
    let mut fill = |row: usize, cols: std::ops::Range<usize>, v: f32| values[row * COLS..][cols].fill(v);
    let (inf, tiny) = (f32::INFINITY, 2f32.powi(-130));
    fill(0, 5..6, f32::NAN);
    fill(1, 130..131, inf);
    fill(2, 290..291, -inf);
    fill(3, 295..296, -f32::NAN);
    fill(4, 0..128, 0.0);
    fill(5, 0..296, -0.0);
    fill(6, 60..70, -tiny);
    fill(7, 200..210, -0.0);
    // Several in one tile of a row, and of a column.
    fill(8, 100..103, inf);
    fill(9, 101..104, f32::NAN);
    fill(138, 0..296, f32::NAN);
    fill(139, 256..290, -inf);
    cx.tensor(&[ROWS, COLS], &values, dtype)
}

fn same(format: MiniFloat, a: u16, b: u16) -> bool {
    a == b || format.decode(a).is_nan() && format.decode(b).is_nan()
}

#[test]
fn tiles_and_blocks_of_special_values_are_the_definition() {
    for (cx, dtype) in contexts().iter().flat_map(|cx| FLOATS.map(|dtype| (cx, dtype))) {
        let x = matrix(cx, dtype);
        for (format, shape) in ALL.into_iter().flat_map(|f| [Shape::Tile, Shape::Block].map(|s| (f, s))) {
            for power_of_two in [false, true] {
                let style = Style { format, power_of_two, shape };
                let q = Quantized::new(cx, &x, style);
                let back = q.dequantize(cx, DType::F32);
                let want = Grid::of(style).quantise(&x.to_vec_f32(), COLS, &[0, ROWS]);
                for (i, (code, scale)) in want.into_iter().enumerate() {
                    let (r, c) = (i / COLS, i % COLS);
                    let (got, got_scale) = (code_of(&q, r, c), q.scales().f32()[r * COLS.div_ceil(TILE) + c / TILE]);
                    assert_eq!(got_scale.to_bits(), scale.to_bits(), "{style:?} [{r}, {c}]");
                    assert!(same(format, got, code), "{style:?} [{r}, {c}]: {got:#x} {code:#x}");
                    let (value, want) = (back.f32()[i], format.decode(code) * scale);
                    assert!(
                        value.to_bits() == want.to_bits() || value.is_nan() && want.is_nan(),
                        "{style:?} [{r}, {c}]"
                    );
                }
            }
        }
    }
}

#[test]
fn columns_of_special_values_are_the_definition() {
    let first = [0, 130, 130, ROWS];
    for (cx, dtype) in contexts().iter().flat_map(|cx| FLOATS.map(|dtype| (cx, dtype))) {
        let x = matrix(cx, dtype);
        let columns = Columns::of_floats(cx, &x.mat(), 3, &|g| (first[g], first[g + 1] - first[g]));
        let want = Grid::columns(None).quantise(&x.to_vec_f32(), COLS, &first);
        for (g, r) in (0..3).flat_map(|g| (first[g]..first[g + 1]).map(move |r| (g, r))) {
            for c in 0..COLS {
                let (code, scale) = want[r * COLS + c];
                // SAFETY: the group has a scale for each column and 128 rows.
                let got = unsafe { *columns.scales_of(g).add((r - first[g]) / TILE * COLS + c) };
                assert_eq!(got.to_bits(), scale.to_bits(), "[{r}, {c}]");
                let (value, want) = (columns.grid.bf16()[r * COLS + c].to_f32(), E4M3.decode(code));
                assert!(value.to_bits() == want.to_bits() || value.is_nan() && want.is_nan(), "[{r}, {c}]");
            }
        }
    }
}

/// The same in words: an infinity makes its whole tile NaN, a NaN only itself.
#[test]
fn an_infinity_spoils_its_tile_and_a_nan_itself() {
    for cx in contexts() {
        let x = matrix(&cx, DType::F32);
        for (format, power_of_two) in ALL.into_iter().flat_map(|f| [(f, false), (f, true)]) {
            let q = Quantized::new(&cx, &x, Style { format, power_of_two, ..Style::TILES });
            let back = q.dequantize(&cx, DType::Bf16).to_vec_f32();
            let nans = |r: usize| (0..COLS).filter(|c| back[r * COLS + c].is_nan()).collect::<Vec<_>>();
            assert_eq!([nans(0), nans(3), nans(4), nans(5)], [vec![5], vec![295], vec![], vec![]]);
            assert_eq!([nans(1), nans(2)], [(128..256).collect::<Vec<_>>(), (256..296).collect()]);
            assert!(back[5 * COLS..6 * COLS].iter().all(|v| v.to_bits() == 1 << 31), "zeros keep their sign");
            assert_eq!(q.scales().f32()[4 * 3], 1.0);
        }
    }
}
