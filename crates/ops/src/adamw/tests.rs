//! Compared with the published algorithm in f64 over several steps.
//!
//! Error bound, with u = 2^-24: a step computes m and v within 4u of the sum of their terms' magnitudes, and the
//! quotient and the rest within 16u. The update itself is at most `lr * (1 - beta1) / sqrt(1 - beta2) < lr` times a
//! small constant. So after n steps the error of a weight is at most n (u |w| + 64 u lr), if gradients do not cancel in
//! m. If they cancel, m is off by 4u of the largest |g|. At most n steps later sqrt(v) is at least `|g| sqrt(1 -
//! beta2)`, hence 64. A Bf16 moment is stored within 2^-8, so each moment changes the next update by 2^-8 of itself.
//! The bound for both is 4 * 2^-8 lr.

use super::*;
use crate::testing::*;
use hadal_testkit::adamw as reference;
use proptest::prelude::*;

const LR: f32 = 3e-3;

fn hp(step: u64, weight_decay: f32) -> AdamW {
    AdamW { lr: LR, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay, grad_scale: 0.37, step }
}

fn check(n: usize, m_type: DType, v_type: DType, weight_decay: f32, steps: u64, seed: u64) {
    for cx in contexts() {
        let mut w = random(&cx, &[n], DType::F32, 1.0, seed);
        let (mut m, mut v) = (cx.zeros(&[n], m_type), cx.zeros(&[n], v_type));
        let (mut w64, mut m64, mut v64) = (f64s(&w), vec![0.0; n], vec![0.0; n]);
        for i in 1..=steps {
            let g = random(&cx, &[n], DType::F32, 0.1, seed + i);
            let hp = hp(i, weight_decay);
            step(&cx, &mut w, &g, &mut m, &mut v, &hp);
            let g64: Vec<f64> = f64s(&g).iter().map(|g| g * f64::from(hp.grad_scale)).collect();
            let [lr, beta1, beta2, eps, weight_decay] =
                [hp.lr, hp.beta1, hp.beta2, hp.eps, hp.weight_decay].map(f64::from);
            let s = reference::Step { lr, beta1, beta2, eps, weight_decay, step: i as u32 };
            reference::step(&mut w64, &g64, &mut m64, &mut v64, &s);
            let stored = if m_type == DType::F32 && v_type == DType::F32 { 0.0 } else { 4.0 / 256.0 };
            assert_close("w", &w, &w64, |e| {
                i as f64 * (2.0 * F32_EPS * (w64[e].abs() + 0.1) + lr * (64.0 * F32_EPS + stored))
            });
            if stored == 0.0 {
                assert_close("m", &m, &m64, |_| 8.0 * F32_EPS * i as f64 * 0.2);
                assert_close("v", &v, &v64, |e| 8.0 * F32_EPS * i as f64 * v64[e]);
            }
        }
    }
}

fn float() -> impl Strategy<Value = DType> {
    prop_oneof![Just(DType::F32), Just(DType::Bf16)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn agrees_with_the_reference_over_several_steps(
        n in 0usize..700, m in float(), v in float(), decay: bool, seed in 0u64..1000,
    ) {
        check(n, m, v, if decay { 0.1 } else { 0.0 }, 8, seed * 10);
    }
}

#[test]
fn late_steps_have_no_bias_correction() {
    let cx = Cx::cpu(1, DType::F32);
    let f = hp(1 << 40, 0.1).factors();
    assert_eq!((f.rate, f.root), (LR, 1.0));
    // With a constant gradient the step is its sign times the learning rate.
    let (mut w, g) = (cx.zeros(&[1], DType::F32), cx.tensor(&[1], &[-2.0], DType::F32));
    let (mut m, mut v) = (cx.tensor(&[1], &[-0.74], DType::F32), cx.tensor(&[1], &[0.74 * 0.74], DType::F32));
    step(&cx, &mut w, &g, &mut m, &mut v, &hp(1 << 40, 0.0));
    assert!((w.f32()[0] - LR).abs() < 1e-6 * LR);
}

#[test]
fn bits_do_not_depend_on_threads() {
    let n = 250_007;
    same_bits_for_any_threads(|cx| {
        let (mut w, g) = (random(cx, &[n], DType::F32, 1.0, 1), random(cx, &[n], DType::F32, 1.0, 2));
        let (mut m, mut v) = (cx.zeros(&[n], DType::Bf16), cx.zeros(&[n], DType::Bf16));
        let mut average = cx.copy(&w);
        for i in 1..3 {
            step(cx, &mut w, &g, &mut m, &mut v, &hp(i, 0.1));
            ema(cx, &mut average, &w, 0.9);
        }
        vec![w, m, v, average]
    });
}

#[test]
fn a_zero_gradient_only_decays_and_the_average_follows() {
    for cx in contexts() {
        let (mut w, g) = (random(&cx, &[100], DType::F32, 1.0, 1), cx.zeros(&[100], DType::F32));
        let before = w.to_vec_f32();
        let (mut m, mut v) = (cx.zeros(&[100], DType::F32), cx.zeros(&[100], DType::F32));
        step(&cx, &mut w, &g, &mut m, &mut v, &hp(1, 0.1));
        let keep = (1.0 - f64::from(LR) * f64::from(0.1f32)) as f32;
        for (a, b) in w.f32().iter().zip(&before) {
            assert_eq!(*a, b * keep);
        }
        let mut average = cx.tensor(&[100], &before, DType::F32);
        ema(&cx, &mut average, &w, 0.75);
        let want: Vec<f64> =
            before.iter().zip(w.f32()).map(|(b, w)| 0.75 * f64::from(*b) + 0.25 * f64::from(*w)).collect();
        assert_close("ema", &average, &want, |i| 3.0 * F32_EPS * f64::from(before[i]).abs());
    }
}

#[test]
fn packing_on_the_way_gives_the_same_bits() {
    for cx in contexts() {
        let sizes =
            [(1, 33, 40, DType::Bf16), (3, 32, 17, DType::Bf16), (2, 20, 9, DType::F32), (2, 150, 140, DType::U8)];
        for (groups, n, k, dtype) in sizes {
            let len = groups * n * k;
            let g = random(&cx, &[len], DType::F32, 0.1, 2);
            let run = |fused: bool| {
                let mut w = random(&cx, &[len], DType::F32, 1.0, 1);
                let (mut m, mut v) = (cx.zeros(&[len], DType::Bf16), cx.zeros(&[len], DType::Bf16));
                let mut packed = PackedWeight::new(&cx, groups, n, k, dtype, true);
                for i in 1..3 {
                    if fused {
                        step_packed(&cx, &mut w, &g, &mut m, &mut v, &hp(i, 0.1), &mut packed);
                    } else {
                        step(&cx, &mut w, &g, &mut m, &mut v, &hp(i, 0.1));
                        packed.pack(&cx, &w);
                    }
                }
                // Products show the contents of the packed forms.
                let float = if dtype == DType::F32 { DType::F32 } else { DType::Bf16 };
                let (x, dy) = (random(&cx, &[groups, k], float, 1.0, 3), random(&cx, &[groups, n], float, 1.0, 4));
                let offsets = cx.indices(&[groups + 1], &(0..=groups as i32).collect::<Vec<_>>());
                let (mut y, mut dx) = (cx.empty(&[groups, n], DType::F32), cx.empty(&[groups, k], DType::F32));
                crate::linear::grouped_forward(&cx, &x, &packed, &offsets, &mut y, crate::Acc::Write);
                crate::linear::grouped_backward_input(&cx, &dy, &packed, &offsets, &mut dx, crate::Acc::Write);
                [w, m, v, y, dx].map(|t| t.to_vec_f32().into_iter().map(f32::to_bits).collect::<Vec<_>>())
            };
            assert_eq!(run(true), run(false), "{groups} x {n} x {k} {dtype:?}");
        }
    }
}
