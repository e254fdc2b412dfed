//! The ends of the range of f32: a finite number never becomes NaN, and infinities and NaN remain visible.

use super::columns::Columns;
use super::columns_tests::values;
use super::tests::{code_of, reference};
use super::*;
use crate::linear::{self, PackedWeight};
use crate::testing::contexts;
use crate::{Acc, Cx, DType, Tensor};

/// Largest magnitudes: normal with a subnormal scale, subnormal, the smallest possible, near the smallest scale, the
/// largest.
const MOST: [f32; 6] = [1e-37, 1e-40, 1e-45, 448.0 * f32::MIN_POSITIVE, 3e38, f32::MAX];
const ROWS: usize = 140;
const COLS: usize = 150;

/// Zeros, and numbers up to `most` in a fifth of the places. Row 3, column 7 and the last tile of each kind contain
/// only zeros.
fn sparse(cx: &Cx, most: f32) -> Tensor {
    let mut x = cx.zeros(&[ROWS, COLS], DType::F32);
    for (i, v) in x.f32_mut().iter_mut().enumerate() {
        let (r, c) = (i / COLS, i % COLS);
        if (r * 31 + c * 17) % 5 == 0 && r != 3 && c != 7 && r < TILE && c < TILE {
            *v = [most, -most, most * 0.7, most * 0.01][(r + c) % 4];
        }
    }
    x
}

fn styles() -> impl Iterator<Item = Style> {
    [E4M3, E5M2, E5M6].into_iter().flat_map(|format| {
        [Shape::Tile, Shape::Block]
            .into_iter()
            .flat_map(move |shape| [false, true].map(|power_of_two| Style { format, power_of_two, shape }))
    })
}

/// Whether `got` is `x` rounded to `bits` significant bits, or to whole multiples of `step` if that is coarser. Just
/// below 2^128, rounding up gives infinity.
fn rounded(got: f32, x: f32, bits: i32, step: f64) -> bool {
    let size = f64::from(x.abs());
    let bound = (size * 2f64.powi(-bits) * (1.0 + 1e-6)).max(step / 2.0) + 2f64.powi(-149);
    let far = if got.is_infinite() { 2f64.powi(128) - size } else { (f64::from(got) - f64::from(x)).abs() };
    far <= bound && (got.is_finite() || size > 3e38)
}

#[test]
fn tiles_and_blocks_hold_the_smallest_and_the_largest_numbers() {
    for (cx, style, most) in contexts().iter().flat_map(|cx| styles().flat_map(move |s| MOST.map(|m| (cx, s, m)))) {
        let x = sparse(cx, most);
        let q = Quantized::new(cx, &x, style);
        let (codes, scales) = reference(&x, style);
        assert_eq!(q.scales().f32(), scales, "{style:?} {most:e}");
        let back = q.dequantize(cx, DType::F32);
        let bits = style.format.mantissa_bits as i32 + 1;
        let least = f64::from(style.format.decode(1));
        for (i, (got, x)) in back.f32().iter().zip(x.f32()).enumerate() {
            let (r, c) = (i / COLS, i % COLS);
            assert_eq!(code_of(&q, r, c), codes[i], "{style:?} {most:e}");
            let step = least * f64::from(scales[r * q.scales().cols() + c / TILE]);
            assert!(rounded(*got, *x, bits, step), "{style:?} {most:e}: {got:e} for {x:e}");
        }
    }
}

#[test]
fn columns_hold_the_smallest_and_the_largest_numbers() {
    let range = |_| (0, ROWS);
    for (cx, most) in contexts().iter().flat_map(|cx| MOST.map(|m| (cx, m))) {
        let x = sparse(cx, most);
        let check = |what: &str, columns: &Columns, from: &[f32]| {
            let (got, scales) = values(columns, &[0, ROWS]);
            for ((got, x), scale) in got.iter().zip(from).zip(&scales) {
                assert!(scale.is_normal(), "{what} {most:e}: scale {scale:e}");
                assert!(rounded(*got, *x, 4, f64::from(*scale) / 512.0), "{what} {most:e}: {got:e} for {x:e}");
            }
        };
        check("floats", &Columns::of_floats(cx, &x.mat(), 1, &range), x.f32());
        for style in styles() {
            let tiles = Quantized::new(cx, &x, style);
            let from = tiles.dequantize(cx, DType::F32);
            // A value that was rounded to 2^128 is already infinite.
            if from.f32().iter().all(|v| v.is_finite()) {
                check(&format!("{style:?}"), &Columns::of_tiles(cx, &tiles, 1, &range), from.f32());
            }
        }
    }
}

fn transposed(cx: &Cx, x: &Tensor) -> Tensor {
    let (rows, cols) = (x.rows(), x.cols());
    let values: Vec<f32> = (0..rows * cols).map(|i| x.f32()[i % rows * cols + i / rows]).collect();
    cx.tensor(&[cols, rows], &values, DType::F32)
}

/// `got = a b^T` within two roundings to four bits per term, half a step of the smallest scale, and the losses of sums
/// and of the scales' product below the normal numbers.
fn close(what: &str, got: &Tensor, a: &Tensor, b: &Tensor) {
    let (n, k) = (b.rows(), a.cols());
    for (i, got) in got.f32().iter().enumerate().step_by(7) {
        let (a, b) = (&a.f32()[i / n * k..][..k], &b.f32()[i % n * k..][..k]);
        let terms = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
        let (want, size) = terms.fold((0.0, 0.0), |(s, m), t| (s + t, m + t.abs()));
        let bound = 0.14 * size + k as f64 * (2f64.powi(-136) + 448.0 * 448.0 * 2f64.powi(-149));
        assert!((f64::from(*got) - want).abs() <= bound, "{what} [{i}]: {got:e} for {want:e}");
    }
}

/// One operand at one of the ends, and the other of moderate size.
#[test]
fn products_of_the_smallest_and_the_largest_numbers_are_numbers() {
    for (cx, most) in contexts().iter().flat_map(|cx| MOST.map(|m| (cx, m))) {
        // This keeps the sums finite.
        let far = sparse(cx, most.min(1e36));
        let near = cx.tensor(&[ROWS, COLS], &vec![0.3; ROWS * COLS], DType::F32);
        for (x, w) in [(&far, &near), (&near, &far)] {
            let mut packed = PackedWeight::new(cx, 1, ROWS, COLS, DType::U8, true);
            packed.pack(cx, w);
            let mut y = cx.zeros(&[ROWS, ROWS], DType::F32);
            linear::forward(cx, x, &packed, &mut y, Acc::Write);
            close(&format!("forward {most:e}"), &y, x, w);
            let (turned, w_turned) = (transposed(cx, x), transposed(cx, w));
            let mut d = cx.zeros(&[COLS, COLS], DType::F32);
            linear::backward_input(cx, &turned, &packed, &mut d, Acc::Write);
            close(&format!("backward_input {most:e}"), &d, &turned, &w_turned);
            linear::backward_weight(cx, x, w, DType::U8, &mut d, Acc::Write);
            close(&format!("backward_weight {most:e}"), &d, &turned, &w_turned);
        }
    }
}

#[test]
fn infinity_and_nan_stay_visible() {
    for (cx, style) in contexts().iter().flat_map(|cx| styles().map(move |s| (cx, s))) {
        let mut x = cx.tensor(&[ROWS, COLS], &vec![0.5; ROWS * COLS], DType::F32);
        x.f32_mut()[5 * COLS + 9] = f32::NAN;
        x.f32_mut()[130 * COLS + 140] = f32::NEG_INFINITY;
        let q = Quantized::new(cx, &x, style);
        let back = q.dequantize(cx, DType::F32);
        let high = if style.shape == Shape::Block { TILE } else { 1 };
        for (i, v) in back.f32().iter().enumerate() {
            let (r, c) = (i / COLS, i % COLS);
            let infinite = r / high == 130 / high && c >= TILE;
            assert_eq!(v.is_nan(), (r, c) == (5, 9) || infinite, "{style:?} [{r}, {c}]");
            assert!(infinite || v.is_nan() || *v == 0.5, "{style:?} [{r}, {c}]: {v}");
        }
        let got = values(&Columns::of_floats(cx, &x.mat(), 1, &|_| (0, ROWS)), &[0, ROWS]).0;
        for (i, v) in got.iter().enumerate() {
            let (r, c) = (i / COLS, i % COLS);
            assert_eq!(v.is_nan(), (r, c) == (5, 9) || r >= TILE && c == 140, "[{r}, {c}]");
        }
    }
}
