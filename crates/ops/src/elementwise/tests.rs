//! Every result here is one rounding of an exact value, or a sum of a few such values, so its exact bits are known.

use super::*;
use crate::testing::*;
use crate::{Purpose, Rng, bf16};
use proptest::prelude::*;

fn stored(v: f32, dtype: DType) -> f32 {
    if dtype == DType::Bf16 { bf16::from_f32(v).to_f32() } else { v }
}

fn float() -> impl Strategy<Value = DType> {
    prop_oneof![Just(DType::F32), Just(DType::Bf16)]
}

fn indices(cx: &Cx, n: usize, limit: usize, seed: u64) -> Tensor {
    let rng = Rng::new(seed, Purpose::Test, 1);
    cx.indices(&[n], &(0..n).map(|i| rng.below(i as u64, limit as u64) as i32).collect::<Vec<_>>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn cast_and_add_are_exact_up_to_one_rounding(
        rows in 0usize..6, cols in 1usize..300, pad in 0usize..4, from in float(), to in float(), seed in 0u64..1000,
    ) {
        for cx in contexts() {
            let src = random(&cx, &[rows, cols + pad], from, 1.0, seed);
            let mut dst = random(&cx, &[rows, pad + cols], to, 1.0, seed + 1);
            let (s, old) = (src.to_vec_f32(), dst.to_vec_f32());
            let place = |i: usize| (i % (cols + pad)).checked_sub(pad).map(|c| i / (cols + pad) * (cols + pad) + c);
            add(&cx, src.columns(0..cols), dst.columns_mut(pad..pad + cols));
            for (i, got) in dst.to_vec_f32().into_iter().enumerate() {
                let want = place(i).map_or(old[i], |at| stored(old[i] + s[at], to));
                prop_assert_eq!(got, want);
            }
            cast(&cx, src.columns(0..cols), dst.columns_mut(pad..pad + cols));
            for (i, got) in dst.to_vec_f32().into_iter().enumerate() {
                let want = place(i).map_or(old[i], |at| stored(s[at], to));
                prop_assert_eq!(got, want);
            }
        }
    }

    #[test]
    fn rows_move_and_add_up(
        t in 1usize..9, r in 0usize..12, cols in 1usize..300, from in float(), to in float(), seed in 0u64..1000,
    ) {
        for cx in contexts() {
            let rows = indices(&cx, r, t, seed);
            let x = random(&cx, &[t, cols], from, 1.0, seed);
            let mut out = cx.empty(&[r, cols], to);
            gather_rows(&cx, &x, &rows, &mut out);
            let (x, got) = (x.to_vec_f32(), out.to_vec_f32());
            for i in 0..r * cols {
                prop_assert_eq!(got[i], stored(x[rows.i32()[i / cols] as usize * cols + i % cols], to));
            }
            let mut dst = random(&cx, &[t, cols], DType::F32, 1.0, seed + 1);
            let mut want = dst.to_vec_f32();
            scatter_add_rows(&cx, &out, &rows, &mut dst);
            for i in 0..r * cols {
                want[rows.i32()[i / cols] as usize * cols + i % cols] += got[i];
            }
            prop_assert_eq!(dst.f32(), want);
        }
    }
}

#[test]
fn cast_keeps_infinities_and_nan() {
    let special = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MAX, -0.0, 1e-40];
    for cx in contexts() {
        let src = cx.tensor(&[6, 7], &special.repeat(7), DType::F32);
        let mut dst = cx.empty(&[6, 7], DType::Bf16);
        cast(&cx, &src, &mut dst);
        for (s, d) in src.f32().iter().zip(dst.bf16()) {
            assert!(bf16::from_f32(*s).to_bits() == d.to_bits(), "{s}");
        }
    }
}

#[test]
#[should_panic(expected = "gather_rows: row 3 of 3")]
fn a_row_past_the_end_is_named() {
    let cx = Cx::cpu(1, DType::F32);
    gather_rows(&cx, &cx.zeros(&[3, 2], DType::F32), &cx.indices(&[1], &[3]), &mut cx.zeros(&[1, 2], DType::F32));
}

#[test]
fn bits_do_not_depend_on_threads() {
    same_bits_for_any_threads(|cx| {
        let (t, r, cols) = (200, 500, 900);
        let (x, rows) = (random(cx, &[t, cols], DType::F32, 1.0, 1), indices(cx, r, t, 2));
        let (mut out, mut sum) = (cx.empty(&[r, cols], DType::Bf16), cx.zeros(&[t, cols], DType::F32));
        gather_rows(cx, &x, &rows, &mut out);
        // Rows occur repeatedly, so that the order of the additions matters.
        scatter_add_rows(cx, &out, &rows, &mut sum);
        add(cx, &x, &mut sum);
        vec![out, sum]
    });
}
