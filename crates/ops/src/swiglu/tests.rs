//! Compared with the f64 reference. Bounds: a sigmoid is within 3 * 2^-23 = 6u (u = 2^-24, see `math`). Every further
//! f32 operation adds u, and the stored element adds its own rounding.

use super::*;
use crate::testing::*;
use hadal_testkit::swiglu as reference;
use proptest::prelude::*;

fn check(r: usize, i: usize, dtype: DType, scaled: bool, seed: u64) {
    for cx in contexts() {
        let gu = random(&cx, &[r, 2 * i], dtype, 3.0, seed);
        let dh = random(&cx, &[r, i], dtype, 1.0, seed + 1);
        let scale = scaled.then(|| random(&cx, &[r], DType::F32, 1.0, seed + 2));
        let (gu64, dh64) = (f64s(&gu), f64s(&dh));
        let scale64 = scale.as_ref().map_or(vec![1.0; r], f64s);

        let mut h = cx.empty(&[r, i], dtype);
        forward(&cx, &gu, scale.as_ref(), &mut h);
        let want = reference::forward(&gu64, &scale64, i);
        let stored = store_eps(dtype);
        assert_close("h", &h, &want, |e| want[e].abs() * (10.0 * F32_EPS + stored) + 1e-36);

        let (mut dgu, mut h_out) = (cx.empty(&[r, 2 * i], dtype), cx.empty(&[r, i], dtype));
        let mut d_scale = cx.empty(&[r], DType::F32);
        backward(&cx, &dh, &gu, scale.as_ref(), &mut dgu, &mut h_out, Some(&mut d_scale));
        assert_eq!(bits(&h), bits(&h_out), "h again");
        let (want, want_scale) = reference::backward(&dh64, &gu64, &scale64, i);
        assert_close("dgu", &dgu, &want, |e| {
            let (row, col) = (e / (2 * i), e % (2 * i));
            let (g, u) = (gu64[row * 2 * i + col % i], gu64[row * 2 * i + i + col % i]);
            let d = dh64[row * i + col % i] * scale64[row];
            let s = 1.0 / (1.0 + (-g).exp());
            // 1 - s has the absolute error of s, 6u s. It is multiplied by |g|.
            let inner = if col < i { (d * u * s).abs() * (1.0 + 2.0 * g.abs()) } else { (d * g * s).abs() };
            inner * 16.0 * F32_EPS + want[e].abs() * stored + 1e-36
        });
        assert_close("d_scale", &d_scale, &want_scale, |row| {
            // A lane adds at most i / LANES + 1 products, followed by 5 halvings. Each product has an error of 10u.
            let sum: f64 = (0..i)
                .map(|c| {
                    let (g, u) = (gu64[row * 2 * i + c], gu64[row * 2 * i + i + c]);
                    (dh64[row * i + c] * u * g / (1.0 + (-g).exp())).abs()
                })
                .sum();
            sum * (16.0 + i as f64 / 32.0) * F32_EPS + 1e-36
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn agrees_with_the_reference(r in 0usize..6, i in 1usize..1100, bf16: bool, scaled: bool, seed in 0u64..1000) {
        check(r, i, if bf16 { DType::Bf16 } else { DType::F32 }, scaled, seed);
    }
}

#[test]
fn one_row_and_no_row() {
    for dtype in FLOATS {
        check(1, 1, dtype, true, 1);
        check(0, 7, dtype, false, 2);
    }
}

#[test]
fn bits_do_not_depend_on_threads_or_on_the_row() {
    let (r, i) = (150, 1000);
    for dtype in FLOATS {
        let run = |cx: &Cx, gu: &Tensor, dh: &Tensor, r| {
            let (mut dgu, mut h) = (cx.empty(&[r, 2 * i], dtype), cx.empty(&[r, i], dtype));
            let mut d_scale = cx.empty(&[r], DType::F32);
            let scale = cx.tensor(&[r], &vec![0.7; r], DType::F32);
            backward(cx, dh, gu, Some(&scale), &mut dgu, &mut h, Some(&mut d_scale));
            vec![dgu, h, d_scale]
        };
        let inputs = |cx: &Cx| (random(cx, &[r, 2 * i], dtype, 2.0, 5), random(cx, &[r, i], dtype, 1.0, 6));
        same_bits_for_any_threads(|cx| {
            let (gu, dh) = inputs(cx);
            run(cx, &gu, &dh, r)
        });
        let cx = Cx::cpu(1, dtype);
        let (gu, dh) = inputs(&cx);
        let all = run(&cx, &gu, &dh, r);
        let last = |t: &Tensor| cx.tensor(&[1, t.cols()], &t.to_vec_f32()[(r - 1) * t.cols()..], dtype);
        let alone = run(&cx, &last(&gu), &last(&dh), 1);
        for (all, alone) in all.iter().zip(&alone) {
            assert!(bits(all).ends_with(&bits(alone)));
        }
    }
}
