//! Weight gradients in E4M3 of a step that is cut into micro-batches elsewhere (invariant 5): 128 tokens share a scale.

use super::*;
use crate::fp8::{Quantized, Style};
use crate::testing::{F32_EPS, contexts, random};

const ROWS: usize = 700;
const N: usize = 150;
const K: usize = 140;

/// A token's row of either operand: outliers in some channels, tokens of sizes far apart.
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

/// The gradient with cuts before the given rows. `kept`: how x waits, if in tiles.
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

/// What every cut has in common: for each element `sum |dy| |x|` over the rows that are multiplied, and
/// `sum (A |x| + |dy| B + A B)`, where A and B are the rows' bounds of an operand's absolute error below the normal numbers.
struct Sizes {
    product: Vec<f64>,
    subnormal: Vec<f64>,
}

/// `x` and `dy` as they are multiplied but for the rounding to columns.
fn sizes(dy: &Tensor, x: &Tensor) -> Sizes {
    // A scale is amax / 448 or the next power of two, of any 128 rows of a column: at most that of the whole column.
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

/// Hands `check` each way to keep x on every path: a name for messages, what sizes its operands have, and the gradient by
/// the step's cuts.
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

/// Cuts at whole tiles leave every tile as it is: the same codes and scales, whose products are added in another order. A
/// sum of n terms is off by at most `n u sum |terms|` with `u = 2^-24`, in either order; the terms are those of the rounded
/// operands, at most `(1 + 2^-4)^2` times as large as before, and there are three roundings more a term for scales and
/// promotion: `2 (n + 3) u (1 + 2^-4)^2 sum |dy x|`.
#[test]
fn cuts_at_whole_tiles_change_the_order_of_sums_only() {
    each(|kept, sizes, gradient| {
        let whole = gradient(&[0]);
        // The kernel itself adds 512 rows at a time: the same order, so that equal bits say that codes are equal.
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

/// Cuts elsewhere put a row into a tile with other mates, which has another scale, so that its code is rounded from another
/// quotient.
///
/// Let `p` be an element of dy and `q` one of x (as kept). Under either cut they become `p + e` and `q + f` with
/// `|e| <= 2^-4 |p|` above the grid's normal numbers (four significant bits) and `|e| <= A` below, A being half of the step
/// 2^-9 times the scale; the same with B for f. So `(p + e)(q + f) - p q` is at most
/// `(2^-4 + 2^-4 + 2^-8) |p q| + A |q| + |p| B + A B` (the mixed terms of relative and absolute errors add `2^-4 A |q|` and
/// the like, for which the last three are taken 1 + 2^-4 times), and the two cuts differ by at most twice the sum of this
/// over the rows, and by the f32 rounding of both sums as above.
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
            // Tiles are others indeed, and errors have either sign: the sum of 700 is far inside of the bound.
            assert!(differ > N * K / 20 && most < 0.1, "{kept} {cuts:?}: {differ}, {most:e}");
        }
    });
}
