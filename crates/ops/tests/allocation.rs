//! After a first call, pointwise operations and quantised layers allocate nothing on the heap: scratch comes from the
//! pool. This test is a separate binary, because it replaces the allocator to count the requests of every thread.

mod counting;

use hadal_ops::adamw::{self, AdamW};
use hadal_ops::quant::{self, QuantFormat, QuantWeight};
use hadal_ops::{Acc, Cx, DType, Purpose, Rng, Tensor};
use hadal_ops::{elementwise, embedding, reduce, rmsnorm, rope, swiglu};

/// Operands of every operation, large enough for several tasks each.
struct Operands {
    x: Tensor,
    y: Tensor,
    wide: Tensor,
    d_wide: Tensor,
    weight: Tensor,
    d_weight: Tensor,
    rstd: Tensor,
    d_scale: Tensor,
    rows: Tensor,
    table: Tensor,
    d_table: Tensor,
    m: Tensor,
    v: Tensor,
    rope: rope::RopeTable,
    quant: [QuantWeight; 2],
    groups: Tensor,
}

const ROWS: usize = 300;
const COLS: usize = 512;
const VOCAB: usize = 400;

impl Operands {
    fn new(cx: &Cx, dtype: DType) -> Self {
        let rng = Rng::new(1, Purpose::Test, 0);
        let random = |shape: &[usize], dtype| {
            let n = shape.iter().product::<usize>() as u64;
            cx.tensor(shape, &(0..n).map(|i| rng.normal(i) as f32).collect::<Vec<_>>(), dtype)
        };
        Self {
            x: random(&[ROWS, COLS], dtype),
            y: random(&[ROWS, COLS], dtype),
            wide: random(&[ROWS, 2 * COLS], dtype),
            d_wide: random(&[ROWS, 2 * COLS], dtype),
            weight: random(&[COLS], DType::F32),
            d_weight: random(&[COLS], DType::F32),
            rstd: random(&[ROWS], DType::F32),
            d_scale: random(&[ROWS], DType::F32),
            rows: cx.indices(&[ROWS], &(0..ROWS as i32).collect::<Vec<_>>()),
            table: random(&[VOCAB, COLS], DType::F32),
            d_table: random(&[VOCAB, COLS], DType::F32),
            m: cx.zeros(&[VOCAB, COLS], DType::Bf16),
            v: cx.zeros(&[VOCAB, COLS], DType::Bf16),
            rope: rope::RopeTable::new(cx, &[1.0; 32], ROWS, 1.0),
            quant: [QuantFormat::Int8, QuantFormat::Int4].map(|format| {
                let mut w = QuantWeight::new(cx, format, 3, 2 * COLS, COLS);
                w.pack(cx, &random(&[3 * 2 * COLS, COLS], DType::F32));
                w
            }),
            groups: cx.indices(&[4], &[0, 1, 9, ROWS as i32]),
        }
    }

    fn run_all(&mut self, cx: &Cx) {
        let s = self;
        embedding::forward(cx, &s.table, &s.rows, &mut s.x);
        rmsnorm::forward(cx, &s.x, &s.weight, 1e-6, &mut s.y, &mut s.rstd);
        rope::apply(cx, &mut s.y, 4, 128, 64, &s.rows, &s.rope, false);
        swiglu::forward(cx, &s.wide, Some(&s.rstd), &mut s.y);
        swiglu::backward(cx, &s.x, &s.wide, Some(&s.rstd), &mut s.d_wide, &mut s.y, Some(&mut s.d_scale));
        elementwise::cast(cx, &s.x, s.d_wide.columns_mut(0..COLS));
        elementwise::add(cx, &s.x, s.d_wide.columns_mut(COLS..2 * COLS));
        elementwise::gather_rows(cx, &s.table, &s.rows, &mut s.x);
        elementwise::scatter_add_rows(cx, &s.x, &s.rows, &mut s.d_table);
        let dx = s.d_wide.columns_mut(0..COLS);
        rmsnorm::backward(cx, &s.y, &s.x, &s.weight, &s.rstd, dx, Acc::Add, &mut s.d_weight, Acc::Write);
        embedding::backward(cx, &s.y, &s.rows, &mut s.d_table, Acc::Write);
        assert!(reduce::all_finite(cx, &s.d_table) && reduce::sum_squares(cx, &s.d_table) > 0.0);
        assert!(reduce::sum(cx, &s.d_table).is_finite());
        let (lr, weight_decay, grad_scale) = (1e-3, 0.1, 1.0);
        let hp = AdamW { lr, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay, grad_scale, step: 1 };
        adamw::step(cx, &mut s.table, &s.d_table, &mut s.m, &mut s.v, &hp);
        adamw::ema(cx, &mut s.d_table, &s.table, 0.9);
        for w in &s.quant {
            quant::forward(cx, &s.x, w, &s.groups, &mut s.wide, Acc::Write);
        }
    }
}

#[test]
fn no_operation_allocates_once_warm() {
    for (threads, dtype) in [(1, DType::F32), (2, DType::F32), (2, DType::Bf16)] {
        let cx = Cx::cpu(threads, dtype);
        let mut operands = Operands::new(&cx, dtype);
        // Inside the pool, as in a training step. Entering it from outside may allocate in the thread library.
        let calls = {
            // Several rounds, so that every thread has taken part before the counting starts.
            for _ in 0..10 {
                operands.run_all(&cx);
            }
            let before = counting::calls();
            assert!(before > 0, "the counter counts");
            for _ in 0..5 {
                operands.run_all(&cx);
            }
            counting::calls() - before
        };
        assert_eq!(calls, 0, "{threads} threads, {dtype:?}");
    }
}
