//! Compares the memory traffic of the pointwise operations with that of a copy: `cargo bench --bench pointwise --
//! [THREADS]`. `HADAL_ISA` forces an instruction path. Traffic counts each operand once, as read or written. The best
//! of many runs counts. Small operands stay in the caches and show the arithmetic; large ones do not and show the
//! memory.

use hadal_ops::adamw::{self, AdamW};
use hadal_ops::{Acc, Cx, DType, Purpose, Rng, Tensor};
use hadal_ops::{elementwise, embedding, reduce, rmsnorm, rope, swiglu};
use std::time::Instant;

const COLS: usize = 1024;
const RUNS: usize = 100;

fn measure(name: &str, bytes: usize, mut f: impl FnMut()) {
    let seconds = (0..RUNS).fold(f64::INFINITY, |best, _| {
        let start = Instant::now();
        f();
        best.min(start.elapsed().as_secs_f64())
    });
    println!("{name:<40} {:>7.2} ms {:>7.1} GB/s", seconds * 1e3, bytes as f64 / seconds * 1e-9);
}

fn random(cx: &Cx, shape: &[usize], dtype: DType) -> Tensor {
    let rng = Rng::new(1, Purpose::Test, 0);
    let pattern: Vec<f32> = (0..4096).map(|i| rng.normal(i) as f32).collect();
    let n = shape.iter().product();
    cx.tensor(shape, &pattern.iter().copied().cycle().take(n).collect::<Vec<_>>(), dtype)
}

fn main() {
    let threads = std::env::args().filter_map(|a| a.parse().ok()).next_back().unwrap_or(0);
    let cx = Cx::cpu(threads, DType::Bf16);
    for rows in [256, 16384] {
        println!("{} threads, {}, {rows} x {COLS}", cx.threads().count(), cx.isa().name());
        all(&cx, rows);
    }
}

fn all(cx: &Cx, rows: usize) {
    let (f32_t, bf16_t) = (random(cx, &[rows, COLS], DType::F32), random(cx, &[rows, COLS], DType::Bf16));
    let (mut f32_o, mut bf16_o) = (cx.copy(&f32_t), cx.copy(&bf16_t));
    let n = rows * COLS;
    measure("copy f32", 8 * n, || elementwise::cast(cx, &f32_t, &mut f32_o));
    measure("cast f32 to bf16", 6 * n, || elementwise::cast(cx, &f32_t, &mut bf16_o));
    measure("cast bf16 to f32", 6 * n, || elementwise::cast(cx, &bf16_t, &mut f32_o));
    measure("add bf16 to f32", 10 * n, || elementwise::add(cx, &bf16_t, &mut f32_o));

    let w = random(cx, &[COLS], DType::F32);
    let (mut dw, mut rstd) = (cx.copy(&w), cx.empty(&[rows], DType::F32));
    measure("rmsnorm f32 to bf16", 6 * n, || {
        rmsnorm::forward(cx, &f32_t, &w, 1e-6, &mut bf16_o, &mut rstd);
    });
    measure("rmsnorm backward bf16, f32 += f32", 14 * n, || {
        rmsnorm::backward(cx, &bf16_t, &f32_t, &w, &rstd, &mut f32_o, Acc::Add, &mut dw, Acc::Add);
    });
    measure("rmsnorm backward all bf16", 6 * n, || {
        rmsnorm::backward(cx, &bf16_t, &bf16_t, &w, &rstd, &mut bf16_o, Acc::Write, &mut dw, Acc::Add);
    });

    let table = rope::RopeTable::new(cx, &[0.5; 32], 4096, 1.0);
    let positions = cx.indices(&[rows], &(0..rows as i32).map(|t| t % 4096).collect::<Vec<_>>());
    measure("rope bf16, every element", 4 * n, || {
        rope::apply(cx, &mut bf16_o, COLS / 64, 64, 0, &positions, &table, false);
    });
    measure("rope f32, every element", 8 * n, || {
        rope::apply(cx, &mut f32_o, COLS / 64, 64, 0, &positions, &table, false);
    });

    let half = COLS / 2;
    let (dh, scale) = (random(cx, &[rows, half], DType::Bf16), random(cx, &[rows], DType::F32));
    let (mut h, mut d_scale) = (cx.copy(&dh), cx.copy(&scale));
    measure("swiglu bf16", 3 * n, || swiglu::forward(cx, &bf16_t, Some(&scale), &mut h));
    measure("swiglu backward bf16", 6 * n, || {
        swiglu::backward(cx, &dh, &bf16_t, Some(&scale), &mut bf16_o, &mut h, Some(&mut d_scale));
    });
    let (dh32, mut h32) = (random(cx, &[rows, half], DType::F32), random(cx, &[rows, half], DType::F32));
    measure("swiglu f32", 6 * n, || swiglu::forward(cx, &f32_t, Some(&scale), &mut h32));
    measure("swiglu backward f32", 12 * n, || {
        swiglu::backward(cx, &dh32, &f32_t, Some(&scale), &mut f32_o, &mut h32, Some(&mut d_scale));
    });

    let ids: Vec<i32> = (0..rows).map(|t| (t * 7919 % 8192) as i32).collect();
    let ids = cx.indices(&[rows], &ids);
    let (vocab, mut d_vocab) = (random(cx, &[8192, COLS], DType::F32), random(cx, &[8192, COLS], DType::F32));
    measure("embedding f32 to bf16", 6 * n, || embedding::forward(cx, &vocab, &ids, &mut bf16_o));
    measure("embedding backward, bf16, add", 10 * n, || {
        embedding::backward(cx, &bf16_t, &ids, &mut d_vocab, Acc::Add);
    });

    let mut total = 0.0;
    measure("sum of squares", 4 * n, || total += reduce::sum_squares(cx, &f32_t));
    measure("all finite", 4 * n, || total += f64::from(reduce::all_finite(cx, &f32_t)));
    assert!(total > 0.0);

    let (mut m16, mut v16) = (cx.zeros(&[rows, COLS], DType::Bf16), cx.zeros(&[rows, COLS], DType::Bf16));
    let (mut m32, mut v32) = (cx.zeros(&[rows, COLS], DType::F32), cx.zeros(&[rows, COLS], DType::F32));
    let mut hp = AdamW { lr: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, grad_scale: 1.0, step: 1 };
    measure("adamw, bf16 moments", 20 * n, || {
        adamw::step(cx, &mut f32_o, &f32_t, &mut m16, &mut v16, &hp);
        hp.step += 1;
    });
    measure("adamw, f32 moments", 28 * n, || adamw::step(cx, &mut f32_o, &f32_t, &mut m32, &mut v32, &hp));
    measure("moving average", 12 * n, || adamw::ema(cx, &mut f32_o, &f32_t, 0.999));
}
