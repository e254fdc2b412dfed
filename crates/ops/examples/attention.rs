//! Measures the rate of attention, forward and backward, and compares it with a loop of the same instruction on
//! registers. Only causal products count: `cargo run --release -p hadal-ops --example attention [THREADS]`.

use hadal_ops::attention::{AttnShape, Segments, backward, forward};
use hadal_ops::gemm::peak_gflops;
use hadal_ops::{Cx, DType, Purpose, Rng, Tensor};
use std::time::Instant;

fn main() {
    let threads = std::env::args().nth(1).map_or(2, |n| n.parse().expect("a number of threads"));
    for dtype in [DType::Bf16, DType::F32] {
        let cx = Cx::cpu(threads, dtype);
        let peak = peak_gflops(&cx, 0.5);
        println!("{dtype:?} on {} x {}: register-only peak {peak:.0} GFLOP/s", cx.threads().count(), cx.isa().name());
        let small = AttnShape { heads: 8, d_nope: 64, d_rope: 32, d_v: 64, scale: 0.1 };
        let full = AttnShape { heads: 2, d_nope: 128, d_rope: 64, d_v: 128, scale: 0.07 };
        measure(&cx, peak, 4, 512, &small, 30);
        measure(&cx, peak, 1, 512, &small, 60);
        measure(&cx, peak, 1, 8192, &small, 2);
        measure(&cx, peak, 1, 8192, &full, 3);
    }
}

/// Best of `n` runs.
fn measure(cx: &Cx, peak: f64, segments: usize, len: usize, s: &AttnShape, n: usize) {
    let (t, dtype) = (segments * len, cx.compute());
    let random = |cols: usize, stream: u64| -> Tensor {
        let rng = Rng::new(1, Purpose::Test, stream);
        let values: Vec<f32> = (0..(t * cols) as u64).map(|i| rng.normal(i) as f32).collect();
        cx.tensor(&[t, cols], &values, dtype)
    };
    let seg = Segments::uniform(cx, segments, len);
    let q = random(s.heads * s.d_qk(), 1);
    let kv = random(s.heads * (s.d_nope + s.d_v), 2);
    let k_rope = random(s.d_rope, 3);
    let d_o = random(s.heads * s.d_v, 4);
    let mut o = cx.empty(&[t, s.heads * s.d_v], dtype);
    let mut lse = cx.empty(&[s.heads, t], DType::F32);
    let (mut dq, mut dkv) = (cx.empty(q.shape(), dtype), cx.empty(kv.shape(), dtype));
    let mut dk_rope = cx.empty(k_rope.shape(), dtype);
    let (mut fwd, mut bwd) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..n {
        let start = Instant::now();
        forward(cx, &q, &kv, &k_rope, &seg, s, &mut o, &mut lse);
        fwd = fwd.min(start.elapsed().as_secs_f64());
        let start = Instant::now();
        backward(cx, &d_o, &q, &kv, &k_rope, &o, &lse, &seg, s, &mut dq, &mut dkv, &mut dk_rope);
        bwd = bwd.min(start.elapsed().as_secs_f64());
    }
    // For each (query, key) pair: two products forward, five backward.
    let pairs = (segments * s.heads * len * (len + 1) / 2) as f64;
    let forward_flop = pairs * 2.0 * (s.d_qk() + s.d_v) as f64;
    let backward_flop = pairs * 2.0 * (3 * s.d_qk() + 2 * s.d_v) as f64;
    let show = |name: &str, flop: f64, seconds: f64| {
        let rate = flop / seconds / 1e9;
        print!("  {name} {:8.2} ms {rate:5.0} GFLOP/s {:3.0}%", seconds * 1e3, 100.0 * rate / peak);
    };
    print!("{segments} x {len:5}, {} heads {}+{}/{}:", s.heads, s.d_nope, s.d_rope, s.d_v);
    show("forward", forward_flop, fwd);
    show("backward", backward_flop, bwd);
    show("both", forward_flop + backward_flop, fwd + bwd);
    println!();
}
