//! Speed of decode attention over latents, `cargo bench -p hadal-ops --bench latent -- [DEPTH] [ROWS] [THREADS]`.
//!
//! The shape is V2-Lite's: 16 heads, latents of 512 + 64. Several pools take turns, so that latents come from memory,
//! as they do in a model. Bytes of latents per second are beside the rate at which memory can be read, measured between
//! the calls. Times are first quartiles.

use hadal_ops::bandwidth::read_seconds;
use hadal_ops::latent::{self, PAGE, PagedRows, pages_for};
use hadal_ops::{Cx, DType, Purpose, Rng, Tensor};
use std::time::Instant;

const HEADS: usize = 16;
const DC: usize = 512;
const DR: usize = 64;
/// Bytes of all pools: more than any cache has.
const BYTES: usize = 1 << 29;
const CALLS: usize = 200;

fn quartile(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 4]
}

fn main() {
    let numbers: Vec<usize> = std::env::args().filter_map(|a| a.parse().ok()).collect();
    let number = |i: usize, default: usize| numbers.get(i).copied().unwrap_or(default);
    let (depth, rows, threads) = (number(0, 8000), number(1, 1), number(2, 2));
    let cx = Cx::cpu(threads, DType::Bf16);
    let rng = Rng::new(1, Purpose::Test, 0);
    let values: Vec<half::bf16> = (0..1 << 16).map(|i| half::bf16::from_f64(rng.normal(i))).collect();
    let filled = |shape: &[usize]| {
        let mut tensor = cx.fixed(shape, DType::Bf16);
        tensor.bf16_mut().iter_mut().zip(values.iter().cycle()).for_each(|(to, v)| *to = *v);
        tensor
    };
    let pages = pages_for(depth + rows);
    let bytes = (depth + rows) * (DC + DR) * 2;
    let pools: Vec<Tensor> = (0..BYTES.div_ceil(bytes)).map(|_| filled(&[pages * PAGE, DC + DR])).collect();
    let mut memory = cx.fixed(&[BYTES], DType::U8);
    memory.u8_mut().fill(1);
    let q = filled(&[rows, HEADS * (DC + DR)]);
    let mut o = cx.empty(&[rows, HEADS * DC], DType::Bf16);
    let table: Vec<u32> = (0..pages as u32).collect();
    let mut paged = PagedRows::new(&cx);
    paged.set(HEADS, 0, std::iter::once(&table[..]), (0..rows).map(|r| (0, depth + r + 1)));
    let (mut times, mut reading) = (Vec::new(), Vec::new());
    for call in 0..CALLS {
        let start = Instant::now();
        latent::decode(&cx, &q, &pools[call % pools.len()], &paged, HEADS, DC, DR, 0.1, &mut o);
        times.push(start.elapsed().as_secs_f64());
        let at = call * bytes % (BYTES - bytes) / 64 * 64;
        reading.push(read_seconds(&cx, &memory.u8()[at..at + bytes], 4));
    }
    let (time, read) = (quartile(times), quartile(reading));
    let flops = 2.0 * (rows * HEADS * depth * (2 * DC + DR)) as f64;
    println!(
        "{rows} rows of {HEADS} heads after {depth} tokens, {threads} threads, {}: {:.3} ms, {:.1} GB/s of latents \
         ({:.0}% of reading), {:.0} GFLOP/s",
        cx.isa().name(),
        1e3 * time,
        bytes as f64 / time / 1e9,
        100.0 * read / time,
        flops / time / 1e9
    );
}
