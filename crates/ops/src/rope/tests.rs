//! Compared with the f64 reference. A table entry is within 2u of `factor cos` (u = 2^-24). Each of the two products
//! adds u, and so does their sum. The total is 4u of `factor (|a| + |b|)`, plus the rounding of the stored element.

use super::*;
use crate::testing::*;
use hadal_testkit::rope as reference;
use proptest::prelude::*;

const MAX_POS: usize = 4096;

fn freqs(pairs: usize) -> Vec<f64> {
    (0..pairs).map(|i| 10_000f64.powf(-(i as f64) / pairs as f64)).collect()
}

fn positions(cx: &Cx, t: usize, seed: u64) -> Tensor {
    let rng = crate::Rng::new(seed, crate::Purpose::Test, 1);
    cx.indices(&[t], &(0..t).map(|i| rng.below(i as u64, MAX_POS as u64) as i32).collect::<Vec<_>>())
}

fn check(t: usize, heads: usize, pairs: usize, off: usize, dtype: DType, inverse: bool, seed: u64) {
    let (stride, factor, lead) = (off + 2 * pairs + 3, 1.25f32, 2);
    let cols = lead + heads * stride;
    for cx in contexts() {
        let table = RopeTable::new(&cx, &freqs(pairs), MAX_POS, factor);
        let positions = positions(&cx, t, seed);
        let mut x = random(&cx, &[t, cols], dtype, 1.0, seed);
        let before = f64s(&x);
        apply(&cx, x.columns_mut(lead..cols), heads, stride, off, &positions, &table, inverse);
        let mut want = before.clone();
        for (row, p) in want.chunks_exact_mut(cols).zip(positions.i32()) {
            let p = f64::from(*p) * if inverse { -1.0 } else { 1.0 };
            reference::rotate(&mut row[lead..], heads, stride, off, p, &freqs(pairs), f64::from(factor));
        }
        assert_close("rope", &x, &want, |i| {
            // Elements outside the rotated slices keep their bits.
            if want[i] == before[i] {
                return 0.0;
            }
            let pair = (i % cols - lead) % stride - off;
            let other = if pair.is_multiple_of(2) { i + 1 } else { i - 1 };
            let size = f64::from(factor) * (before[i].abs() + before[other].abs());
            size * 4.0 * F32_EPS + want[i].abs() * store_eps(dtype)
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn agrees_with_the_reference(
        t in 0usize..6, heads in 1usize..4, pairs in 1usize..40, off in 0usize..9, bf16: bool, inverse: bool, seed in 0u64..1000,
    ) {
        check(t, heads, pairs, off, if bf16 { DType::Bf16 } else { DType::F32 }, inverse, seed);
    }
}

#[test]
fn position_zero_changes_nothing_and_the_inverse_undoes() {
    let cx = Cx::cpu(1, DType::F32);
    let table = RopeTable::new(&cx, &freqs(8), 100, 1.0);
    assert_eq!((table.max_pos(), table.pairs()), (100, 8));
    let mut x = random(&cx, &[2, 16], DType::F32, 1.0, 1);
    let before = x.to_vec_f32();
    let positions = cx.indices(&[2], &[0, 99]);
    apply(&cx, &mut x, 1, 16, 0, &positions, &table, false);
    assert_eq!(x.f32()[..16], before[..16]);
    assert_ne!(x.f32()[16..], before[16..]);
    apply(&cx, &mut x, 1, 16, 0, &positions, &table, true);
    for (a, b) in x.f32().iter().zip(&before) {
        assert!((a - b).abs() < 1e-6);
    }
}

#[test]
#[should_panic(expected = "rope: position 100 of a table of 100")]
fn a_position_past_the_table_is_named() {
    let cx = Cx::cpu(1, DType::F32);
    let table = RopeTable::new(&cx, &freqs(1), 100, 1.0);
    apply(&cx, &mut cx.zeros(&[1, 2], DType::F32), 1, 2, 0, &cx.indices(&[1], &[100]), &table, false);
}

#[test]
fn bits_do_not_depend_on_threads() {
    same_bits_for_any_threads(|cx| {
        let table = RopeTable::new(cx, &freqs(32), MAX_POS, 1.0);
        let mut x = random(cx, &[400, 8 * 128], DType::Bf16, 1.0, 1);
        apply(cx, &mut x, 8, 128, 64, &positions(cx, 400, 2), &table, false);
        vec![x]
    });
}
