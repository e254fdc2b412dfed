//! The effect of splitting a step and of the number of threads: the same loads, and equal or nearly equal numbers.

use crate::{SETTINGS, state, tokens, train, trainer_in};
use hadal_model::Stored;
use hadal_ops::{Cx, DType};
use hadal_train::step::{StepBatch, StepSettings, Trainer};
use hadal_weights::precision::Precision;

const SEQ_LEN: usize = 19;
const FORMATS: [(DType, Precision); 3] =
    [(DType::F32, Precision::COMPUTE), (DType::Bf16, Precision::COMPUTE), (DType::Bf16, Precision::FP8)];

fn batch(t: &Trainer, step: u64, sequences: usize) -> Vec<i32> {
    tokens(&t.model.config, step, sequences * (SEQ_LEN + 1))
}

#[test]
fn threads_do_not_change_a_bit_of_three_steps() {
    for (compute, precision) in FORMATS {
        let run = |threads| {
            let mut t = trainer_in(Cx::cpu(threads, compute), precision, DType::Bf16, 0.9);
            let start = state(&t);
            // Five sequences in micro-batches of two: the last one is smaller.
            let records: Vec<_> = (0..3)
                .map(|step| {
                    let tokens = batch(&t, step, 5);
                    train(&mut t, &tokens, SEQ_LEN, &SETTINGS)
                })
                .collect();
            assert!(start != state(&t), "the steps changed nothing");
            let moved = t.model.moe_blocks().all(|b| {
                let bias = b.moe().unwrap().router.bias.as_ref().unwrap();
                bias.table().f32().iter().any(|v| *v != 0.0)
            });
            assert!(moved, "the biases moved");
            (records, state(&t))
        };
        let one = run(1);
        assert!(one == run(2), "{compute:?} {precision:?}: two threads");
        assert!(one == run(3), "{compute:?} {precision:?}: three threads");
    }
}

/// Loads and gradients of one step over four sequences.
fn gradients(t: &mut Trainer, micro_batch: usize) -> (Vec<Vec<i32>>, Vec<Vec<f32>>) {
    let tokens = batch(t, 0, 4);
    t.gradients(&StepBatch::uniform(tokens, SEQ_LEN), &StepSettings { micro_batch, ..SETTINGS });
    (t.stats.loads.iter().map(|l| l.i32().to_vec()).collect(), t.grads.iter().map(|g| g.f32().to_vec()).collect())
}

/// The size of micro-batches does not change any token's activations or gradients. It changes only the order in which a
/// weight's gradient `g = sum_t d_t x_t` over T tokens is summed in f32. The error of each order is at most `T u sum_t
/// |d_t x_t|` with `u = 2^-24`. So two orders differ by at most `2 T u c |g|`, where c says how much of the sum
/// cancels. c = 8 covers the gradients here. This is also true for BF16 operands, because products are summed in f32.
/// In FP8, the operands of a weight gradient share scales with other tokens of the micro-batch. So each split rounds
/// them to four bits with different scales. The difference is `2 (2^-4 + 2^-4 + 2^-8)` of every term, and its sign
/// varies like the signs of the terms.
/// `2 (2^-4 + 2^-4 + 2^-8)` of every term, whose sign varies as that of the terms does.
#[test]
fn the_size_of_micro_batches_changes_no_load_and_gradients_only_within_rounding() {
    for (compute, precision) in FORMATS {
        let mut t = trainer_in(Cx::cpu(2, compute), precision, DType::F32, 0.0);
        let trained = t.model.params().into_iter().filter(|p| p.spec.trainable());
        let in_codes: Vec<bool> =
            trained.map(|p| matches!(p.stored(), Stored::Packed(w) if w.dtype() == DType::U8)).collect();
        let whole = gradients(&mut t, 4);
        let total: i32 = whole.0[0].iter().sum();
        assert_eq!(total as usize, 4 * SEQ_LEN * t.model.config.num_experts_per_tok, "every token was counted");
        let order = 2.0 * 8.0 * (4 * SEQ_LEN) as f64 * f64::powi(2.0, -24);
        let requantised = 2.0 * (0.125 + 1.0 / 256.0);
        for micro_batch in [1, 2, 3] {
            let parts = gradients(&mut t, micro_batch);
            assert_eq!(whole.0, parts.0, "{compute:?}, {micro_batch}: loads");
            for (i, (a, b)) in whole.1.iter().zip(&parts.1).enumerate() {
                let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
                let off = norm(&mut a.iter().zip(b).map(|(x, y)| f64::from(*x) - f64::from(*y)));
                let size = norm(&mut a.iter().map(|x| f64::from(*x)));
                let bound = if in_codes[i] { requantised } else { order };
                assert!(
                    off <= bound * size,
                    "{compute:?}, micro-batches of {micro_batch}: gradient {i} off by {:.1e}, bound {bound:.1e}",
                    off / size
                );
            }
            // The same grouping gives the same bits, independent of what the trainer did before.
            let mut fresh = trainer_in(Cx::cpu(3, compute), precision, DType::F32, 0.0);
            assert!(parts == gradients(&mut fresh, micro_batch), "{compute:?}, {micro_batch}: equal grouping");
        }
    }
}
