//! In any order, f64 sums of n terms are within n 2^-53 sum|x| of each other. Here the order is fixed, so all paths and
//! threads give the same bits.

use super::*;
use crate::DType;
use crate::testing::*;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn agrees_with_plain_sums(n in 0usize..3000, bf16: bool, seed in 0u64..1000) {
        let dtype = if bf16 { DType::Bf16 } else { DType::F32 };
        for cx in contexts() {
            let x = random(&cx, &[n], dtype, 3.0, seed);
            let values = f64s(&x);
            let (want, size) = (values.iter().sum::<f64>(), values.iter().map(|v| v.abs()).sum::<f64>());
            let squares: f64 = values.iter().map(|v| v * v).sum();
            let eps = n as f64 * f64::EPSILON;
            prop_assert!((sum(&cx, &x) - want).abs() <= eps * size);
            prop_assert!((sum_squares(&cx, &x) - squares).abs() <= eps * squares);
            prop_assert!(all_finite(&cx, &x));
        }
    }
}

#[test]
fn bits_depend_neither_on_threads_nor_on_the_path() {
    let n = 300_001;
    let results = |cx: &Cx| {
        let x = random(cx, &[n], DType::F32, 1.0, 7);
        (sum(cx, &x).to_bits(), sum_squares(cx, &x).to_bits())
    };
    let want = results(&Cx::cpu(1, DType::F32));
    for threads in [2, 3] {
        assert_eq!(results(&Cx::cpu(threads, DType::F32)), want);
    }
    for cx in contexts() {
        assert_eq!(results(&cx), want, "{}", cx.isa().name());
    }
}

#[test]
fn one_bad_element_anywhere_is_found() {
    let n = 200_003;
    for cx in contexts() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 70_000, n - 1] {
                let mut x = cx.zeros(&[n], DType::F32);
                x.f32_mut()[at] = bad;
                assert!(!all_finite(&cx, &x) && !sum_squares(&cx, &x).is_finite());
            }
        }
        let huge = cx.tensor(&[3], &[f32::MAX; 3], DType::F32);
        assert!(all_finite(&cx, &huge) && sum_squares(&cx, &huge).is_finite());
        assert!(all_finite(&cx, &cx.tensor(&[0], &[], DType::Bf16)));
    }
}
