//! Weight gradients in E4M3 for a step that is split into micro-batches differently (invariant 5): 128 tokens share a
//! scale.

use super::*;
use crate::fp8::{Quantized, Style};
use crate::testing::{F32_EPS, contexts, random};

const ROWS: usize = 700;
const N: usize = 150;
const K: usize = 140;

/// Rows of tokens for either operand, with outliers in some channels, and tokens of very different magnitudes.
fn operand(cx: &Cx, cols: usize, scale: f64, seed: u64) -> Tensor {
    let mut x = random(cx, &[ROWS, cols], DType::F32, scale, seed);
    for (i, v) in x.f32_mut().iter_mut().enumerate() {
        let (r, c) = (i / cols, i % cols);
        *v *= 2f32.powi((r * 11 % 9) as i32 - 4) * if c % 17 == 0 { 8.0 } else { 1.0 };
    }
    x
}

/// Rows `from..to`.
fn part(cx: &Cx, x: &Tensor, from: usize, to: usize) -> Tensor {
    cx.tensor(&[to - from, x.cols()], &x.f32()[from * x.cols()..to * x.cols()], DType::F32)
}

/// The gradient with splits before the given rows. `kept` is the format in which x is kept, if in tiles.
fn gradient(cx: &Cx, dy: &Tensor, x: &Tensor, kept: Option<Style>, cuts: &[usize]) -> Vec<f32> {
    let mut dw = cx.zeros(&[N, K], DType::F32);
    for (i, from) in cuts.iter().enumerate() {
        let to = *cuts.get(i + 1).unwrap_or(&ROWS);
        let (dy, x) = (part(cx, dy, *from, to), part(cx, x, *from, to));
        let acc = if i == 0 { Acc::Write } else { Acc::Add };
        match kept {
            Some(style) => backward_weight(cx, &dy, &Quantized::new(cx, &x, style), DType::U8, &mut dw, acc),
            None => backward_weight(cx, &dy, &x, DType::U8, &mut dw, acc),
        }
    }
    dw.f32().to_vec()
}

/// Quantities that do not depend on the split. For each element, `sum |dy| |x|` over the rows that are multiplied, and
/// `sum (A |x| + |dy| B + A B)`. A and B are the rows' bounds on an operand's absolute error below the normal numbers.
struct Sizes {
    product: Vec<f64>,
    subnormal: Vec<f64>,
}

/// The sizes for `x` and `dy` as they are multiplied, before they are rounded to columns.
fn sizes(dy: &Tensor, x: &Tensor) -> Sizes {
    // A scale is amax / 448 or the next power of two, for any 128 rows of a column. It is at most that of the whole
    // column.
    let step = |m: &Tensor| -> Vec<f64> {
        let amax = |c: usize| (0..ROWS).fold(0f32, |most, r| most.max(m.f32()[r * m.cols() + c].abs()));
        (0..m.cols()).map(|c| f64::from(amax(c)) / 448.0 * 2.0 / 1024.0).collect()
    };
    let (a, b) = (step(dy), step(x));
    let mut all = Sizes { product: vec![0.0; N * K], subnormal: vec![0.0; N * K] };
    for r in 0..ROWS {
        for j in 0..N {
            for c in 0..K {
                let (d, v) = (f64::from(dy.f32()[r * N + j].abs()), f64::from(x.f32()[r * K + c].abs()));
                all.product[j * K + c] += d * v;
                all.subnormal[j * K + c] += a[j] * v + d * b[c] + a[j] * b[c];
            }
        }
    }
    all
}

const KEPT: [Option<Style>; 3] = [None, Some(Style::TILES), Some(Style { power_of_two: true, ..Style::TILES })];

/// Calls `check` for each format in which x may be kept and for each path. It receives a name for messages, the sizes
/// of the operands, and a function that gives the gradient for a set of splits.
fn each(check: impl Fn(&str, &Sizes, &dyn Fn(&[usize]) -> Vec<f32>)) {
    for cx in contexts() {
        let (dy, x) = (operand(&cx, N, 1e-3, 1), operand(&cx, K, 1.0, 2));
        for kept in KEPT {
            let x_tiles = kept.map_or_else(|| cx.copy(&x), |s| Quantized::new(&cx, &x, s).dequantize(&cx, DType::F32));
            let name = format!("{} {kept:?}", cx.isa().name());
            check(&name, &sizes(&dy, &x_tiles), &|cuts| gradient(&cx, &dy, &x, kept, cuts));
        }
    }
}

/// With splits at whole tiles, every tile has the same codes and scales, and their products are added in another order.
/// In either order the error of a sum of n terms is at most `n u sum |terms|` with `u = 2^-24`. The terms are products
/// of the rounded operands, at most `(1 + 2^-4)^2` times as large as before rounding. Scales and promotion add three
/// roundings per term. The bound is `2 (n + 3) u (1 + 2^-4)^2 sum |dy x|`.
#[test]
fn cuts_at_whole_tiles_change_the_order_of_sums_only() {
    each(|kept, sizes, gradient| {
        let whole = gradient(&[0]);
        // The kernel itself adds 512 rows at a time. The order is the same, so equal bits show that the codes are
        // equal.
        assert!(gradient(&[0, 512]) == whole, "{kept}");
        for cuts in [vec![0, 128], vec![0, 256, 640], vec![0, 128, 256, 384, 512, 640]] {
            for (i, (a, b)) in gradient(&cuts).iter().zip(&whole).enumerate() {
                let bound = 2.0
                    * (ROWS + 3) as f64
                    * F32_EPS
                    * (1.0 + 1.0 / 16.0f64).powi(2)
                    * (sizes.product[i] + sizes.subnormal[i]);
                let far = (f64::from(*a) - f64::from(*b)).abs();
                assert!(far <= bound, "{kept} {cuts:?} [{i}]: {far:e} over {bound:e}");
            }
        }
    });
}

/// With other splits, a row is in a tile with different rows. That tile has another scale, so the row's code is rounded
/// from another quotient.
///
/// Let `p` be an element of dy and `q` one of x (as kept). With either split they become `p + e` and `q + f`. Above the
/// grid's normal numbers, `|e| <= 2^-4 |p|` (four significant bits). Below them, `|e| <= A`, where A is half of the step,
/// which is 2^-9 times the scale. The same holds for f with B. So `(p + e)(q + f) - p q` is at most
/// `(2^-4 + 2^-4 + 2^-8) |p q| + A |q| + |p| B + A B`. The mixed terms of relative and absolute errors add `2^-4 A |q|`
/// and similar terms. To cover them, the last three terms are multiplied by 1 + 2^-4. The two splits differ by at most
/// twice the sum of this over the rows, plus the f32 rounding of both sums as above.
#[test]
fn cuts_elsewhere_stay_within_two_roundings_of_either_operand() {
    each(|kept, sizes, gradient| {
        let whole = gradient(&[0]);
        for cuts in [vec![0, 1], vec![0, 100, 333], (0..ROWS).step_by(50).collect()] {
            let (mut differ, mut most) = (0, 0f64);
            for (i, (a, b)) in gradient(&cuts).iter().zip(&whole).enumerate() {
                let (product, subnormal) = (sizes.product[i], (1.0 + 1.0 / 16.0) * sizes.subnormal[i]);
                let rounding = 2.0 * (ROWS + 3) as f64 * F32_EPS * 1.13 * (product + subnormal);
                let bound = 2.0 * ((0.125 + 1.0 / 256.0) * product + subnormal) + rounding;
                let far = (f64::from(*a) - f64::from(*b)).abs();
                assert!(far <= bound, "{kept} {cuts:?} [{i}]: {far:e} over {bound:e}");
                differ += usize::from(far > rounding);
                most = most.max(far / product);
            }
            // The tiles do differ. The errors have either sign, so the sum of 700 is far inside the bound.
            assert!(differ > N * K / 20 && most < 0.1, "{kept} {cuts:?}: {differ}, {most:e}");
        }
    });
}
