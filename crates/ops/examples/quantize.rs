//! Measures the rates of the extra work for FP8 products: `cargo run --release -p hadal-ops --example quantize
//! [threads]`.

use hadal_ops::fp8::{E5M6, Quantized, Style};
use hadal_ops::linear::{self, PackedWeight};
use hadal_ops::{Acc, Cx, DType, Purpose, Rng, Tensor};
use std::time::Instant;

fn random(cx: &Cx, shape: &[usize], dtype: DType) -> Tensor {
    let rng = Rng::new(1, Purpose::Test, 0);
    let values: Vec<f32> = (0..shape.iter().product::<usize>() as u64).map(|i| rng.uniform(i) as f32 - 0.5).collect();
    cx.tensor(shape, &values, dtype)
}

/// Prints the best of some runs in elements per second.
fn rate(what: &str, elements: usize, mut f: impl FnMut()) {
    let mut best = f64::INFINITY;
    for _ in 0..std::env::var("N").ok().and_then(|n| n.parse().ok()).unwrap_or(40) {
        let start = Instant::now();
        f();
        best = best.min(start.elapsed().as_secs_f64());
    }
    println!("{what:<44} {:>7.2} G/s  {:>7.3} ms", elements as f64 / best / 1e9, best * 1e3);
}

fn main() {
    let threads = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(0);
    let cx = Cx::cpu(threads, DType::Bf16);
    let (t, d) = (2048, 512);
    let x = random(&cx, &[t, d], DType::Bf16);
    let wide = random(&cx, &[t, d], DType::F32);
    rate("tiles of 1x128 from bf16", t * d, || drop(Quantized::new(&cx, &x, Style::TILES)));
    rate("tiles of 1x128 from f32", t * d, || drop(Quantized::new(&cx, &wide, Style::TILES)));
    let e5m6 = Style { format: E5M6, power_of_two: true, ..Style::TILES };
    rate("E5M6 from bf16", t * d, || drop(Quantized::new(&cx, &x, e5m6)));
    let q = Quantized::new(&cx, &x, Style::TILES);
    rate("E4M3 to bf16", t * d, || drop(q.dequantize(&cx, DType::Bf16)));
    let q6 = Quantized::new(&cx, &x, e5m6);
    rate("E5M6 to bf16", t * d, || drop(q6.dequantize(&cx, DType::Bf16)));
    let mut dw = cx.zeros(&[d, d], DType::F32);
    for (what, dtype) in [("weight gradient in bf16 (multiply-adds)", DType::Bf16), ("in E4M3", DType::U8)] {
        rate(what, t * d * d, || linear::backward_weight(&cx, &x, &x, dtype, &mut dw, Acc::Write));
        rate("  from tiles", t * d * d, || linear::backward_weight(&cx, &x, &q, dtype, &mut dw, Acc::Write));
    }
    let master = random(&cx, &[d * 8, d], DType::F32);
    for (what, dtype) in [("packing a weight in bf16", DType::Bf16), ("in E4M3", DType::U8)] {
        let mut w = PackedWeight::new(&cx, 1, d * 8, d, dtype, true);
        rate(what, d * d * 8, || w.pack(&cx, &master));
        let (wide, mut y) = (random(&cx, &[t, d * 8], DType::Bf16), cx.zeros(&[t, d * 8], DType::Bf16));
        rate("  forward (multiply-adds)", t * d * d * 8, || linear::forward(&cx, &x, &w, &mut y, Acc::Write));
        if dtype == DType::U8 {
            rate("  forward from tiles", t * d * d * 8, || linear::forward(&cx, &q, &w, &mut y, Acc::Write));
        }
        let mut dx = cx.zeros(&[t, d], DType::Bf16);
        rate("  input gradient", t * d * d * 8, || linear::backward_input(&cx, &wide, &w, &mut dx, Acc::Write));
    }
}
