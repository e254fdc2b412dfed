//! The head compared with the f64 reference, which reads the same rounded inputs. With u = 2^-24 and r the rounding of
//! the head's format (2^-8 for bf16, u for f32), the errors are:
//!
//! * a logit, a sum of D products: off by `gamma = (D + 4) u sum |h w|`; let D_t be the largest of a row's;
//! * a probability, `exp(z - max) / sum`: relatively by `e_t = 2 D_t + 2 u (max z - min z) + (V/64 + 20) u`, the terms
//!   being the logits, the rounding of the difference, and exp, the lanes of the sum and the division;
//! * dz: by `scale (p e_t + 3 u)`, then rounded by r;
//! * dh and dw: by that error times |w| or |h| summed up, plus the rounding of the sum itself.

use super::*;
use crate::testing::{
    F32_EPS, FLOATS, assert_close, bits, contexts, f64s, random, same_bits_for_any_threads, store_eps,
};
use crate::{Purpose, Rng};
use hadal_testkit::head as reference;
use proptest::prelude::*;

struct Case {
    h: Tensor,
    w: Tensor,
    packed: PackedWeight,
    targets: Vec<i32>,
    scale: f32,
}

fn case(cx: &Cx, (t, d, v): (usize, usize, usize), dtype: DType, ignored: usize, seed: u64) -> Case {
    let w = random(cx, &[v, d], dtype, 0.5, seed);
    let mut packed = PackedWeight::new(cx, 1, v, d, dtype, true);
    packed.pack(cx, &w);
    let rng = Rng::new(seed, Purpose::Test, 9);
    let target =
        |i: u64| if rng.below(2 * i, 100) < ignored as u64 { -1 } else { rng.below(2 * i + 1, v as u64) as i32 };
    let targets = (0..t as u64).map(target).collect();
    Case { h: random(cx, &[t, d], dtype, 1.0, seed ^ 1), w, packed, targets, scale: 0.37 }
}

struct Out {
    losses: Tensor,
    pred: Tensor,
    dh: Tensor,
    dw: Tensor,
}

/// The gradients are added to the contents of `dh` and `dw`, or overwrite them.
fn run(cx: &Cx, c: &Case, mut dh: Tensor, mut dw: Tensor, acc: Acc) -> Out {
    let t = c.targets.len();
    let (mut losses, mut pred) = (cx.empty(&[t], DType::F32), cx.empty(&[t], DType::I32));
    let targets = cx.indices(&[t], &c.targets);
    let grad = HeadGrad { dh: &mut dh, dh_acc: acc, dw: Some((&mut dw, acc)) };
    loss(cx, &c.h, &c.packed, &targets, c.scale, None, &mut losses, Some(grad), Some(&mut pred));
    // The losses are the same without the prediction (then chunks of ignored targets are skipped) and without
    // gradients.
    let mut alone = cx.empty(&[t], DType::F32);
    loss(cx, &c.h, &c.packed, &targets, c.scale, None, &mut alone, None, None);
    assert_eq!(bits(&alone), bits(&losses));
    Out { losses, pred, dh, dw }
}

/// `|a| [m, k]` times `|b| [n, k]` transposed.
fn absolute_product(a: &[f64], b: &[f64], k: usize) -> Vec<f64> {
    let row =
        |a: &[f64]| b.chunks_exact(k).map(|b| a.iter().zip(b).map(|(a, b)| (a * b).abs()).sum()).collect::<Vec<_>>();
    a.chunks_exact(k).flat_map(row).collect()
}

fn transposed(a: &[f64], cols: usize) -> Vec<f64> {
    (0..cols).flat_map(|c| a.chunks_exact(cols).map(move |row| row[c])).collect()
}

fn check(cx: &Cx, c: &Case, dh_dtype: DType, acc: Acc) {
    const U: f64 = F32_EPS;
    let (t, d, v) = (c.h.rows(), c.h.cols(), c.w.rows());
    let (h, w, scale) = (f64s(&c.h), f64s(&c.w), f64::from(c.scale));
    let want = reference::head(&h, &w, &c.targets, d, scale);
    let [dh, dw] = [(t, dh_dtype, 11), (v, DType::F32, 12)].map(|(n, dtype, seed)| match acc {
        Acc::Write => cx.empty(&[n, d], dtype),
        Acc::Add => random(cx, &[n, d], dtype, 0.1, seed),
    });
    let before = |x: &Tensor| if acc == Acc::Add { f64s(x) } else { vec![0.0; x.len()] };
    let (dh_before, dw_before) = (before(&dh), before(&dw));
    let out = run(cx, c, dh, dw, acc);

    let z_error: Vec<f64> = absolute_product(&h, &w, d).iter().map(|s| (d + 4) as f64 * U * s).collect();
    let rows =
        |x: &[f64]| -> Vec<f64> { x.chunks(v).map(|r| r.iter().copied().fold(f64::NEG_INFINITY, f64::max)).collect() };
    let (worst, max) = (rows(&z_error), rows(&want.logits));
    let min: Vec<f64> = rows(&want.logits.iter().map(|z| -z).collect::<Vec<_>>()).iter().map(|z| -z).collect();
    let error = |t: usize| 2.0 * worst[t] + 2.0 * U * (max[t] - min[t]) + (v as f64 / 64.0 + 20.0) * U;
    let loss_error = |t: usize| error(t) + 4.0 * U * (max[t] - min[t] + (v as f64).ln() + want.losses[t]);
    assert_close("losses", &out.losses, &want.losses, |t| if c.targets[t] < 0 { 0.0 } else { loss_error(t) });
    for t in 0..t {
        let z = |i: usize| want.logits[t * v + i];
        assert!(z(out.pred.i32()[t] as usize) >= max[t] - 2.0 * worst[t]);
    }

    let rounding = store_eps(c.packed.dtype());
    let dz_error: Vec<f64> = (0..t * v)
        .map(|i| {
            let exact = scale * (want.p[i] * error(i / v) + 3.0 * U);
            if c.targets[i / v] < 0 { 0.0 } else { exact + rounding * (want.dz[i].abs() + exact) }
        })
        .collect();
    let dz_size: Vec<f64> = want.dz.iter().zip(&dz_error).map(|(d, e)| d.abs() + e).collect();
    let bound = |error: &[f64], size: &[f64], other: &[f64], terms: usize| -> Vec<f64> {
        let (passed, sums) = (absolute_product(error, other, terms), absolute_product(size, other, terms));
        passed.iter().zip(&sums).map(|(p, s)| p + (terms + 4) as f64 * U * s).collect()
    };
    let dh_bound = bound(&dz_error, &dz_size, &transposed(&w, d), v);
    let sum = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a + b).collect::<Vec<_>>();
    let dh_want = sum(&want.dh, &dh_before);
    // It is rounded when it is stored: once, or twice (the product, then the sum with the old value).
    let stored = |i: usize| 2.0 * store_eps(dh_dtype) * (want.dh[i].abs() + dh_bound[i] + dh_before[i].abs());
    assert_close("dh", &out.dh, &dh_want, |i| dh_bound[i] + stored(i));
    if t > 0 {
        let dw_bound = bound(&transposed(&dz_error, v), &transposed(&dz_size, v), &transposed(&h, d), t);
        let chunks = t.div_ceil(CHUNK) as f64 + 1.0;
        let dw_want = sum(&want.dw, &dw_before);
        assert_close("dw", &out.dw, &dw_want, |i| dw_bound[i] + chunks * U * (dw_before[i].abs() + want.dw[i].abs()));
    } else {
        assert_eq!(f64s(&out.dw), dw_before);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn matches_the_reference(t in 0usize..40, d in 1usize..50, v in 1usize..300, ignored in 0usize..120, add: bool, seed: u64) {
        for (cx, dtype) in contexts().iter().flat_map(|cx| FLOATS.map(|dtype| (cx, dtype))) {
            let c = case(cx, (t, d, v), dtype, ignored, seed);
            check(cx, &c, DType::F32, if add { Acc::Add } else { Acc::Write });
            check(cx, &c, dtype, if add { Acc::Write } else { Acc::Add });
        }
    }
}

/// Three chunks, of which the second has no target.
fn three_chunks(cx: &Cx, dtype: DType) -> Case {
    let mut c = case(cx, (2 * CHUNK + 77, 9, 101), dtype, 10, 5);
    c.targets[CHUNK..2 * CHUNK].fill(-1);
    c
}

#[test]
fn chunks_add_up() {
    for (cx, dtype) in contexts().iter().flat_map(|cx| FLOATS.map(|dtype| (cx, dtype))) {
        let mut c = three_chunks(cx, dtype);
        check(cx, &c, DType::F32, Acc::Write);
        check(cx, &c, DType::F32, Acc::Add);
        c.targets[..CHUNK].fill(-1);
        check(cx, &c, dtype, Acc::Write);
        c.targets.fill(-1);
        check(cx, &c, dtype, Acc::Write);
        check(cx, &c, dtype, Acc::Add);
    }
}

#[test]
fn silent_chunks_are_zero_without_a_prediction() {
    let cx = &contexts()[0];
    let c = three_chunks(cx, DType::F32);
    for silent in [false, true] {
        let mut targets = c.targets.clone();
        if silent {
            targets.fill(-1);
        }
        let targets = cx.indices(&[targets.len()], &targets);
        let gradients = |pred: Option<&mut Tensor>| {
            let (mut dh, mut dw) = (cx.empty(c.h.shape(), DType::F32), cx.empty(c.w.shape(), DType::F32));
            let mut losses = cx.empty(&[c.h.rows()], DType::F32);
            let grad = HeadGrad { dh: &mut dh, dh_acc: Acc::Write, dw: Some((&mut dw, Acc::Write)) };
            loss(cx, &c.h, &c.packed, &targets, c.scale, None, &mut losses, Some(grad), pred);
            [losses, dh, dw].map(|t| t.to_vec_f32())
        };
        assert_eq!(gradients(None), gradients(Some(&mut cx.empty(&[c.h.rows()], DType::I32))));
    }
}

#[test]
fn any_number_of_threads_and_any_batch_mates_give_the_same_bits() {
    for dtype in FLOATS {
        same_bits_for_any_threads(|cx| {
            let c = three_chunks(cx, dtype);
            let out = run(cx, &c, cx.empty(c.h.shape(), dtype), cx.empty(c.w.shape(), DType::F32), Acc::Write);
            vec![out.losses, out.dh, out.dw]
        });
        for cx in contexts() {
            let c = three_chunks(&cx, dtype);
            let all = run(&cx, &c, cx.empty(c.h.shape(), dtype), cx.empty(c.w.shape(), DType::F32), Acc::Write);
            for t in [0, 131, CHUNK - 1, 2 * CHUNK + 40] {
                let one = Case {
                    h: super::cpu::rows(&cx, &c.h, t, 1),
                    w: cx.copy(&c.w),
                    packed: case(&cx, (0, 9, 101), dtype, 0, 5).packed,
                    targets: vec![c.targets[t]],
                    scale: c.scale,
                };
                let alone = run(&cx, &one, cx.empty(&[1, 9], dtype), cx.empty(c.w.shape(), DType::F32), Acc::Write);
                assert_eq!(bits(&alone.losses)[0], bits(&all.losses)[t]);
                assert_eq!(bits(&alone.dh), bits(&all.dh)[t * 9..][..9]);
                assert_eq!(alone.pred.i32()[0], all.pred.i32()[t]);
            }
        }
    }
}

#[test]
fn the_prediction_is_the_first_of_the_largest() {
    for cx in contexts() {
        let (d, v) = (2, 150);
        let mut rows = vec![0.0; v * d];
        for i in [70, 71, 149] {
            rows[i * d] = 1.0;
        }
        let mut packed = PackedWeight::new(&cx, 1, v, d, DType::F32, false);
        packed.pack(&cx, &cx.tensor(&[v, d], &rows, DType::F32));
        let h = cx.tensor(&[4, d], &[1.0, 0.0, 0.0, 0.0, f32::NAN, 0.0, -1.0, 0.0], DType::F32);
        let (mut losses, mut pred) = (cx.empty(&[4], DType::F32), cx.empty(&[4], DType::I32));
        let targets = cx.indices(&[4], &[-1, 3, 3, -1]);
        loss(&cx, &h, &packed, &targets, 1.0, None, &mut losses, None, Some(&mut pred));
        assert_eq!(pred.i32(), [70, 0, 0, 0]);
        let losses = losses.f32();
        assert!(losses[0] == 0.0 && (losses[1] - 150f32.ln()).abs() < 1e-5 && losses[2].is_nan() && losses[3] == 0.0);
    }
}

#[test]
#[should_panic(expected = "head::loss: target 5 of token 1 is neither -1 nor one of 5 tokens")]
fn a_target_outside_the_vocabulary_is_named() {
    let cx = &contexts()[0];
    let mut c = case(cx, (2, 3, 5), DType::F32, 0, 1);
    c.targets[1] = 5;
    run(cx, &c, cx.empty(&[2, 3], DType::F32), cx.empty(&[5, 3], DType::F32), Acc::Write);
}
