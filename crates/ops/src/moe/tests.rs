//! Permutations are exact; combine is K additions in f32.

use super::*;
use crate::testing::{F32_EPS, FLOATS, assert_close, bits, contexts, f64s, random, same_bits_for_any_threads};
use crate::{Purpose, Rng};
use hadal_testkit::moe as reference;
use proptest::prelude::*;

/// Distinct experts for each token. Some experts are never chosen.
fn choices(seed: u64, t: usize, k: usize, experts: usize) -> Vec<i32> {
    let rng = Rng::new(seed, Purpose::Test, 1);
    let used = (experts / 2).max(k);
    (0..t as u64)
        .flat_map(|t| {
            let mut order: Vec<i32> = (0..used as i32).collect();
            order.sort_by_key(|e| rng.bits(t * experts as u64 + *e as u64));
            order.truncate(k);
            order
        })
        .collect()
}

fn usizes(t: &Tensor) -> Vec<usize> {
    t.i32().iter().map(|i| *i as usize).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_plan_is_a_stable_sort(t in 0usize..70, k in 1usize..9, more in 0usize..40, seed: u64) {
        let (cx, experts) = (&contexts()[0], k + more);
        let idx = choices(seed, t, k, experts);
        let p = plan(cx, &cx.indices(&[t, k], &idx), experts);
        let (slots, offsets) = reference::sort(&idx, experts);
        prop_assert_eq!(usizes(&p.slot_of), slots.clone());
        prop_assert_eq!(usizes(&p.offsets), offsets.clone());
        prop_assert_eq!(usizes(&p.token_of), slots.iter().map(|s| s / k).collect::<Vec<_>>());
        for (row, slot) in slots.iter().enumerate() {
            prop_assert_eq!(p.row_of.i32()[*slot] as usize, row);
        }
        let mut load = cx.empty(&[experts], DType::I32);
        loads(cx, &p, &mut load, Acc::Write);
        loads(cx, &p, &mut load, Acc::Add);
        prop_assert_eq!(usizes(&load), offsets.windows(2).map(|w| 2 * (w[1] - w[0])).collect::<Vec<_>>());
    }

    #[test]
    fn rows_go_out_and_come_back(t in 0usize..40, k in 1usize..9, d in 1usize..200, pad in 0usize..5, seed: u64) {
        let experts = k + 3;
        for cx in contexts() {
            let idx = cx.indices(&[t, k], &choices(seed, t, k, experts));
            let p = plan(&cx, &idx, experts);
            let slots = usizes(&p.slot_of);
            for (from, to) in FLOATS.into_iter().flat_map(|a| FLOATS.map(|b| (a, b))) {
                let x = random(&cx, &[t, d + pad], from, 1.0, seed);
                let view = cx.tensor(&[t, d], &columns(&x, pad, d), to);
                let mut out = cx.empty(&[t * k, d], to);
                permute(&cx, x.columns(pad..pad + d), &p, &mut out);
                prop_assert_eq!(f64s(&out), reference::permute(&f64s(&view), d, k, &slots));
            }
            for dtype in FLOATS {
                let y = random(&cx, &[t * k, d], dtype, 1.0, seed);
                let before = random(&cx, &[t, d + pad], DType::F32, 1.0, seed ^ 1);
                let abs: Vec<f64> = f64s(&y).iter().map(|v| v.abs()).collect();
                let (want, size) = (reference::combine(&f64s(&y), d, k, &slots), reference::combine(&abs, d, k, &slots));
                let mut out = cx.copy(&before);
                combine(&cx, &y, &p, out.columns_mut(pad..pad + d), Acc::Write);
                let (written, before) = (cx.tensor(&[t, d], &columns(&out, pad, d), DType::F32), f64s(&before));
                // K - 1 additions of terms whose absolute values sum to `size`.
                assert_close("written", &written, &want, |i| k as f64 * F32_EPS * size[i]);
                combine(&cx, &y, &p, out.columns_mut(pad..pad + d), Acc::Add);
                let added = cx.tensor(&[t, d], &columns(&out, pad, d), DType::F32);
                let twice: Vec<f64> = want.iter().map(|v| 2.0 * v).collect();
                assert_close("added", &added, &twice, |i| (2 * k + 2) as f64 * F32_EPS * size[i]);
                for r in 0..t {
                    let outside = r * (d + pad)..r * (d + pad) + pad;
                    prop_assert_eq!(&f64s(&out)[outside.clone()], &before[outside]);
                }
            }
        }
    }
}

fn columns(x: &Tensor, from: usize, d: usize) -> Vec<f32> {
    x.to_vec_f32().chunks_exact(x.cols()).flat_map(|row| row[from..from + d].to_vec()).collect()
}

#[test]
fn scales_follow_their_slots() {
    let cx = &contexts()[0];
    let (t, k, experts) = (37, 3, 11);
    let p = plan(cx, &cx.indices(&[t, k], &choices(5, t, k, experts)), experts);
    let w = random(cx, &[t, k], DType::F32, 1.0, 6);
    let (mut rows, mut back) = (cx.empty(&[t * k], DType::F32), cx.empty(&[t, k], DType::F32));
    gather_scale(cx, &w, &p, &mut rows);
    scatter_scale(cx, &rows, &p, &mut back);
    assert_eq!(bits(&back), bits(&w));
    for (row, slot) in p.slot_of.i32().iter().enumerate() {
        assert_eq!(rows.f32()[row], w.f32()[*slot as usize]);
    }
}

#[test]
fn large_batches_are_the_same_for_any_threads() {
    // Several blocks of the sort and several tasks of every loop. The last of each is shorter.
    let (t, k, experts, d) = (4099, 7, 64, 24);
    let idx = choices(9, t, k, experts);
    let (slots, _) = reference::sort(&idx, experts);
    same_bits_for_any_threads(|cx| {
        let p = plan(cx, &cx.indices(&[t, k], &idx), experts);
        assert_eq!(usizes(&p.slot_of), slots);
        let x = random(cx, &[t, d], DType::F32, 1.0, 3);
        let (mut rows, mut out) = (cx.empty(&[t * k, d], DType::Bf16), cx.empty(&[t, d], DType::F32));
        permute(cx, &x, &p, &mut rows);
        combine(cx, &rows, &p, &mut out, Acc::Write);
        vec![rows, out]
    });
}

#[test]
#[should_panic(expected = "moe::plan: token 1 chose expert -1 of 3")]
fn an_expert_out_of_range_is_named() {
    let cx = &contexts()[0];
    plan(cx, &cx.indices(&[2, 2], &[0, 2, -1, 0]), 3);
}
