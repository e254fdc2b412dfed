//! Forward is a copy. Backward sums in the order of the tokens, so a plain loop in f32 gives the same bits.

use super::*;
use crate::testing::*;
use crate::{Purpose, Rng};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn rows_are_looked_up_and_gradients_summed_in_token_order(
        v in 1usize..20, t in 0usize..30, d in 1usize..300, bf16: bool, add: bool, seed in 0u64..1000,
    ) {
        let dtype = if bf16 { DType::Bf16 } else { DType::F32 };
        for cx in contexts() {
            let table = random(&cx, &[v, d], DType::F32, 1.0, seed);
            let rng = Rng::new(seed, Purpose::Test, 1);
            let ids: Vec<i32> = (0..t).map(|i| rng.below(i as u64, v as u64) as i32).collect();
            let ids_t = cx.indices(&[t], &ids);
            let mut x = cx.empty(&[t, d], dtype);
            forward(&cx, &table, &ids_t, &mut x);
            let want: Vec<f32> = ids.iter().flat_map(|id| table.f32()[*id as usize * d..][..d].to_vec()).collect();
            prop_assert_eq!(bits(&x), bits(&cx.tensor(&[t, d], &want, dtype)));

            let dx = random(&cx, &[t, d], dtype, 1.0, seed + 1);
            let mut dtable = random(&cx, &[v, d], DType::F32, 1.0, seed + 2);
            let mut want = if add { dtable.to_vec_f32() } else { vec![0.0; v * d] };
            backward(&cx, &dx, &ids_t, &mut dtable, if add { Acc::Add } else { Acc::Write });
            for (i, g) in dx.to_vec_f32().into_iter().enumerate() {
                want[ids[i / d] as usize * d + i % d] += g;
            }
            prop_assert_eq!(dtable.f32(), want);
        }
    }
}

#[test]
#[should_panic(expected = "embedding forward: row -1 of 4")]
fn an_id_outside_the_table_is_named() {
    let cx = Cx::cpu(1, DType::F32);
    forward(&cx, &cx.zeros(&[4, 2], DType::F32), &cx.indices(&[1], &[-1]), &mut cx.zeros(&[1, 2], DType::F32));
}

#[test]
fn bits_do_not_depend_on_threads() {
    same_bits_for_any_threads(|cx| {
        let (v, t, d) = (50, 300, 700);
        let rng = Rng::new(1, Purpose::Test, 1);
        let ids = cx.indices(&[t], &(0..t).map(|i| rng.below(i as u64, v as u64) as i32).collect::<Vec<_>>());
        let mut dtable = cx.empty(&[v, d], DType::F32);
        backward(cx, &random(cx, &[t, d], DType::Bf16, 1.0, 1), &ids, &mut dtable, Acc::Write);
        vec![dtable]
    });
}
