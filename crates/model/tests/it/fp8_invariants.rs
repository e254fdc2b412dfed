//! The invariants in FP8 in the hardest case: several tiles along every contraction, and several along the tokens.

use crate::fixtures::{distance, wide};
use crate::invariants::gradients;
use hadal_model::{Input, Stored};
use hadal_ops::{Cx, DType};
use hadal_weights::precision::{Gradients, Precision};

/// Sequences of the given lengths.
fn sequences(lens: &[usize]) -> Vec<Vec<i32>> {
    let token = |s: usize, i: usize| ((s * 31 + i * i + 7 * i) % 61) as i32;
    lens.iter().enumerate().map(|(s, len)| (0..*len).map(|i| token(s, i)).collect()).collect()
}

#[test]
fn a_sequence_has_its_bits_alone_in_a_batch_and_on_any_number_of_threads() {
    let ids = sequences(&[70, 150, 33]);
    let logits = |threads, ids: &[&[i32]]| {
        let cx = Cx::cpu(threads, DType::Bf16);
        let model = wide(&cx, Precision::FP8);
        let (main, mtp) = model.logits(&cx, &Input::of(&cx, ids, 1), None, None);
        [main.to_vec_f32(), mtp[0].to_vec_f32()]
    };
    let all: Vec<&[i32]> = ids.iter().map(Vec::as_slice).collect();
    let together = logits(1, &all);
    assert!(together == logits(2, &all) && together == logits(3, &all), "threads");
    let mut at = [0; 2];
    for part in &all {
        let alone = logits(2, &[part]);
        for depth in 0..2 {
            let n = alone[depth].len();
            assert!(alone[depth] == together[depth][at[depth]..at[depth] + n], "{} tokens, depth {depth}", part.len());
            at[depth] += n;
        }
    }
    assert_eq!(at, together.map(|t| t.len()));
}

#[test]
fn threads_do_not_change_a_bit_of_gradients() {
    let ids = sequences(&[70, 150, 33]);
    for gradients_by in [Gradients::Tile, Gradients::Block] {
        let run = |threads| {
            let cx = Cx::cpu(threads, DType::Bf16);
            let model = wide(&cx, Precision { gradients: gradients_by, ..Precision::FP8 });
            gradients(&cx, &model, &ids, 2)
        };
        let one = run(1);
        assert!(one == run(2) && one == run(3), "{gradients_by:?}");
    }
}

/// A token's activations and their gradients have the same bits however the step is split. f32 sums over tokens (gains,
/// router, embedding, head) differ only by the order of additions, as in `invariants.rs`.
///
/// A weight gradient in FP8 is a sum over tokens, and 128 tokens share a scale. If the split is at whole tiles, the
/// codes are the same. If it is elsewhere, both operands are rounded to E4M3 with different scales. An element of the
/// sum then differs by at most `2 (2^-4 + 2^-4 + 2^-8)` of itself (derived in `ops/src/linear/split_tests.rs`, element
/// by element). Relative to the whole gradient this may be more if terms cancel. But the errors have either sign and
/// cancel like the terms, so the bound is used unchanged.
#[test]
fn micro_batches_change_weight_gradients_in_fp8_by_two_roundings_at_most() {
    // Whole tiles. The MTP module, which has one row less per sequence, and the experts are still split inside tiles.
    for (lens, whole_tiles) in [([128, 128, 256], true), ([100, 77, 150], false)] {
        let (cx, ids) = (Cx::cpu(2, DType::Bf16), sequences(&lens));
        let model = wide(&cx, Precision::FP8);
        let (all, one) = (gradients(&cx, &model, &ids, 3), gradients(&cx, &model, &ids, 1));
        assert_eq!(all.1, one.1, "loads");
        assert!((all.0 - one.0).abs() <= 1e-6 * all.0.abs(), "loss");
        assert!(one == gradients(&cx, &model, &ids, 1), "equal grouping");
        let tokens: usize = lens.iter().sum();
        let order = 16.0 * tokens as f64 * f64::powi(2.0, -24);
        let requantised = 2.0 * (0.125 + 1.0 / 256.0);
        let (mut most, mut moved) = (0f64, 0);
        let trained = model.params().into_iter().filter(|p| p.spec.trainable());
        for (p, (a, b)) in trained.zip(all.2.iter().zip(&one.2)) {
            let name = &p.spec.parts[0].name;
            let codes = matches!(p.stored(), Stored::Packed(w) if w.dtype() == DType::U8);
            let aligned = whole_tiles && !name.contains(".experts.") && !name.contains("layers.2.");
            let far = distance(a, b);
            let bound = if codes && !aligned { requantised } else { order };
            assert!(far <= bound, "{name} of {lens:?}: {far:.1e} > {bound:.1e}");
            if codes && !aligned {
                most = most.max(far);
                moved += usize::from(far > order);
            }
        }
        println!("{lens:?}: up to {most:.1e}, {moved} over {order:.1e}");
        assert!(moved >= if whole_tiles { 3 } else { 10 }, "{lens:?}: {moved} gradients were requantised");
    }
}
