//! Compared with the f64 reference. u = 2^-24. A sum of d products has d / 32 + 1 additions in its lane and 5 halvings.
//! With the rounding of the product, these are k = d / 32 + 8 roundings. `rstd` has half the relative error of its sum
//! (all terms are positive), plus 4u for mean, eps, root and quotient.

use super::*;
use crate::testing::*;
use hadal_testkit::rmsnorm as reference;
use proptest::prelude::*;

const EPS: f32 = 1e-6;

fn check(t: usize, d: usize, types: [DType; 3], pad: usize, add: bool, seed: u64) {
    let [x_type, y_type, g_type] = types;
    let acc = if add { Acc::Add } else { Acc::Write };
    for cx in contexts() {
        // Views: x is the last columns of a wider matrix, dx the first.
        let x = random(&cx, &[t, pad + d], x_type, 2.0, seed);
        let (w, dy) = (random(&cx, &[d], DType::F32, 1.0, seed + 1), random(&cx, &[t, d], y_type, 1.0, seed + 2));
        let x64: Vec<f64> = f64s(&x).chunks_exact(pad + d).flat_map(|row| row[pad..].to_vec()).collect();
        let (w64, dy64) = (f64s(&w), f64s(&dy));

        let (mut y, mut rstd) = (cx.empty(&[t, d], y_type), cx.empty(&[t], DType::F32));
        forward(&cx, x.columns(pad..pad + d), &w, EPS, &mut y, &mut rstd);
        let (want, want_rstd) = reference::forward(&x64, &w64, f64::from(EPS));
        let k = d as f64 / 32.0 + 8.0;
        let rstd_eps = (k / 2.0 + 4.0) * F32_EPS;
        assert_close("rstd", &rstd, &want_rstd, |i| want_rstd[i] * rstd_eps);
        assert_close("y", &y, &want, |i| want[i].abs() * (rstd_eps + 2.0 * F32_EPS + store_eps(y_type)));

        let mut dx = random(&cx, &[t, d + pad], g_type, 1.0, seed + 3);
        let mut dw = random(&cx, &[d], DType::F32, 1.0, seed + 4);
        let (dx_old, dw_old) = (f64s(&dx), f64s(&dw));
        let view = x.columns(pad..pad + d);
        backward(&cx, &dy, view, &w, &rstd, dx.columns_mut(0..d), acc, &mut dw, acc);
        let (want_dx, want_dw) = reference::backward(&dy64, &x64, &w64, f64::from(EPS));
        let want: Vec<f64> = (0..t * (d + pad))
            .map(|i| match (i / (d + pad), i % (d + pad)) {
                (r, c) if c < d => want_dx[r * d + c] + if add { dx_old[i] } else { 0.0 },
                _ => dx_old[i],
            })
            .collect();
        assert_close("dx", &dx, &want, |i| {
            let (r, c) = (i / (d + pad), i % (d + pad));
            if c >= d {
                return 0.0;
            }
            let mean = (0..d).map(|j| (dy64[r * d + j] * w64[j] * x64[r * d + j]).abs()).sum::<f64>() / d as f64;
            let (rstd, e) = (want_rstd[r], r * d + c);
            let size = rstd * (dy64[e] * w64[c]).abs() + rstd.powi(3) * mean * x64[e].abs();
            size * (k + 3.0 * (k / 2.0 + 4.0) + 6.0) * F32_EPS + want[i].abs() * store_eps(g_type)
        });
        let want: Vec<f64> = (0..d).map(|c| want_dw[c] + if add { dw_old[c] } else { 0.0 }).collect();
        assert_close("dw", &dw, &want, |c| {
            // One addition per row, one per block, and one for the old value.
            let sum: f64 = (0..t).map(|r| (dy64[r * d + c] * x64[r * d + c] * want_rstd[r]).abs()).sum();
            (sum + dw_old[c].abs()) * ((t + 4) as f64 * F32_EPS + rstd_eps)
        });
    }
}

fn float() -> impl Strategy<Value = DType> {
    prop_oneof![Just(DType::F32), Just(DType::Bf16)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn agrees_with_the_reference(
        t in 0usize..9, d in 1usize..600, x in float(), y in float(), g in float(), pad in 0usize..5, add: bool, seed in 0u64..1000,
    ) {
        check(t, d, [x, y, g], pad, add, seed);
    }
}

#[test]
fn one_row_no_row_and_many_blocks() {
    for dtype in FLOATS {
        check(1, 1, [dtype; 3], 0, false, 1);
        check(0, 3, [dtype; 3], 1, false, 2);
        check(70, 2048, [dtype; 3], 0, true, 3);
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    let (t, d) = (300, 700);
    same_bits_for_any_threads(|cx| {
        let (x, dy) = (random(cx, &[t, d], DType::Bf16, 1.0, 1), random(cx, &[t, d], DType::Bf16, 1.0, 2));
        let w = random(cx, &[d], DType::F32, 1.0, 3);
        let (mut y, mut dx) = (cx.empty(&[t, d], DType::Bf16), cx.empty(&[t, d], DType::F32));
        let (mut rstd, mut dw) = (cx.empty(&[t], DType::F32), cx.empty(&[d], DType::F32));
        forward(cx, &x, &w, EPS, &mut y, &mut rstd);
        backward(cx, &dy, &x, &w, &rstd, &mut dx, Acc::Write, &mut dw, Acc::Write);
        vec![y, rstd, dx, dw]
    });
}

#[test]
fn a_row_has_the_same_bits_alone() {
    let (cx, t, d) = (Cx::cpu(1, DType::F32), 5, 129);
    let x = random(&cx, &[t, d], DType::F32, 1.0, 1);
    let w = random(&cx, &[d], DType::F32, 1.0, 2);
    let run = |x: &Tensor| {
        let (mut y, mut rstd) = (cx.empty(x.shape(), DType::F32), cx.empty(&[x.rows()], DType::F32));
        forward(&cx, x, &w, EPS, &mut y, &mut rstd);
        bits(&y)
    };
    let alone = cx.tensor(&[1, d], &x.f32()[3 * d..4 * d], DType::F32);
    assert_eq!(run(&x)[3 * d..4 * d], run(&alone));
}
