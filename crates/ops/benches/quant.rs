//! Speed of products by weights that come from memory, `cargo bench -p hadal-ops --bench quant -- [few] [many] [bf16] [int8] [int4] [THREADS]`.
//!
//! Few rows: bytes of weights per second beside the rate at which memory can be read, measured between the products.
//! Many rows: operations per second beside the rate of the multiply instruction alone, measured likewise. `HADAL_ISA` forces
//! an instruction path. Times of few rows are their first quartile, those of many rows are of the round in the middle by its share.

use hadal_ops::bandwidth::read_seconds;
use hadal_ops::gemm::{peak_gflops, peak_int8_gops};
use hadal_ops::linear::{self, PackedWeight};
use hadal_ops::quant::{self, QuantFormat, QuantWeight};
use hadal_ops::{Acc, Cx, DType, Purpose, Rng, Tensor};
use std::time::Instant;

/// Bytes of all weights of a measurement: more than any cache has.
const BYTES: usize = 1 << 30;
/// Time for each product of many rows.
const SECONDS: f64 = 2.0;
/// Products of few rows that are timed, at least.
const CALLS: usize = 300;

/// A weight of one or the other kind.
enum Weight {
    Floats(PackedWeight),
    Codes(QuantWeight),
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Bf16,
    Codes(QuantFormat),
}

impl Kind {
    const ALL: [Self; 3] = [Self::Bf16, Self::Codes(QuantFormat::Int8), Self::Codes(QuantFormat::Int4)];

    fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::Codes(QuantFormat::Int8) => "int8",
            Self::Codes(QuantFormat::Int4) => "int4",
        }
    }

    /// Matrices that all have the same values.
    fn weight(self, cx: &Cx, groups: usize, n: usize, k: usize) -> Weight {
        let rng = Rng::new(1, Purpose::Test, 0);
        let values: Vec<f32> = (0..1 << 16).map(|i| rng.normal(i) as f32 * 0.02).collect();
        let read = |row: usize, out: &mut Tensor| {
            let from = values.iter().cycle().skip(row * 37 % values.len());
            out.f32_mut().iter_mut().zip(from).for_each(|(to, v)| *to = *v);
            Ok::<(), ()>(())
        };
        match self {
            Self::Bf16 => {
                let mut w = PackedWeight::new(cx, groups, n, k, DType::Bf16, false);
                w.fill(cx, DType::F32, &read).unwrap();
                Weight::Floats(w)
            }
            Self::Codes(format) => {
                let mut w = QuantWeight::new(cx, format, groups, n, k);
                w.fill(cx, DType::F32, &read).unwrap();
                Weight::Codes(w)
            }
        }
    }

    fn bytes(self, n: usize, k: usize) -> usize {
        match self {
            Self::Bf16 => 2 * n.next_multiple_of(16) * k.next_multiple_of(2),
            Self::Codes(format) => format.bytes(1, n, k),
        }
    }
}

impl Weight {
    fn forward(&self, cx: &Cx, x: &Tensor, offsets: &Tensor, y: &mut Tensor) {
        match self {
            Self::Floats(w) => linear::grouped_forward(cx, x, w, offsets, y, Acc::Write),
            Self::Codes(w) => quant::forward(cx, x, w, offsets, y, Acc::Write),
        }
    }
}

fn random(cx: &Cx, shape: &[usize], dtype: DType) -> Tensor {
    let rng = Rng::new(2, Purpose::Test, 0);
    let values: Vec<f32> = (0..shape.iter().product::<usize>() as u64).map(|i| rng.normal(i) as f32).collect();
    cx.tensor(shape, &values, dtype)
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let threads = args.iter().find_map(|a| a.parse().ok()).unwrap_or(0);
    // Of `few`, `many` and of the formats, those that are named, or all.
    let given = |all: &[&str], name: &str| {
        let mut named = args.iter().filter(|a| all.contains(&a.as_str())).peekable();
        named.peek().is_none() || named.any(|a| a == name)
    };
    let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|k| given(&["bf16", "int8", "int4"], k.name())).collect();
    let want = |name: &str| given(&["few", "many"], name);
    let cx = Cx::cpu(threads, DType::Bf16);
    println!("{} threads, {}", cx.threads().count(), cx.isa().name());
    if want("few") {
        let mut memory = cx.fixed(&[BYTES], DType::U8);
        memory.u8_mut().fill(1);
        println!("reading with 1, 2, 4, 8 sequences: {:.1?} GB/s", read_rates(&cx, &memory));
        for (n, k, experts) in [(2816, 2048, 1), (2816, 2048, 6)] {
            for kind in &kinds {
                few(&cx, *kind, (n, k, experts), &memory);
            }
        }
    }
    if want("many") {
        for kind in &kinds {
            for (rows, n, k) in [(32, 2816, 2048), (128, 2816, 2048), (512, 2816, 2048), (512, 2048, 1408)] {
                many(&cx, *kind, rows, n, k);
            }
        }
    }
}

/// Rows that each go to `experts` matrices, all different.
fn few(cx: &Cx, kind: Kind, (n, k, experts): (usize, usize, usize), memory: &Tensor) {
    let bytes = kind.bytes(n, k);
    let groups = BYTES / bytes / experts * experts;
    let weight = kind.weight(cx, groups, n, k);
    for rows in [1, 2, 4, 8, 16] {
        let x = random(cx, &[experts * rows, k], DType::Bf16);
        let mut y = cx.empty(&[experts * rows, n], DType::Bf16);
        let sets: Vec<Tensor> = (0..groups / experts)
            .map(|s| {
                let start = |g: usize| (g.clamp(s * experts, (s + 1) * experts) - s * experts) * rows;
                cx.indices(&[groups + 1], &(0..=groups).map(|g| start(g) as i32).collect::<Vec<_>>())
            })
            .collect();
        // Every product is followed by reading as much other memory.
        let (mut products, mut reads, mut at) = (Vec::new(), [Vec::new(), Vec::new()], 0);
        while products.len() < CALLS {
            for set in &sets {
                let start = Instant::now();
                weight.forward(cx, &x, set, &mut y);
                products.push(start.elapsed().as_secs_f64());
                for (times, sequences) in reads.iter_mut().zip([4, 8]) {
                    at = if at + 2 * bytes * experts > BYTES { 0 } else { at + bytes * experts };
                    times.push(read_seconds(cx, &memory.u8()[at..at + bytes * experts], sequences));
                }
            }
        }
        let read = reads.map(quartile).into_iter().fold(f64::INFINITY, f64::min);
        let seconds = quartile(products);
        let size = (bytes * experts) as f64;
        println!(
            "{} {n} x {k}, {experts} of {groups}, {rows:>2} rows each: {:>6.1} GB/s of weights, {:>5.1}% of {:.1}, {:.0} us",
            kind.name(),
            size / seconds * 1e-9,
            100.0 * read / seconds,
            size / read * 1e-9,
            seconds * 1e6,
        );
    }
}

/// Rates of reading all of it, in GB/s.
fn read_rates(cx: &Cx, memory: &Tensor) -> [f64; 4] {
    let piece = 8 << 20;
    let seconds = |s| quartile(memory.u8().chunks_exact(piece).map(|part| read_seconds(cx, part, s)).collect());
    [1, 2, 4, 8].map(|s| piece as f64 / seconds(s) * 1e-9)
}

/// The time that a quarter of all stay below: of a machine with other work to do, what it can do when it has none.
fn quartile(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 4]
}

fn many(cx: &Cx, kind: Kind, rows: usize, n: usize, k: usize) {
    let weight = kind.weight(cx, 1, n, k);
    let x = random(cx, &[rows, k], DType::Bf16);
    let mut y = cx.empty(&[rows, n], DType::Bf16);
    let all = cx.indices(&[2], &[0, rows as i32]);
    weight.forward(cx, &x, &all, &mut y);
    let look = || {
        let one = |_| if kind == Kind::Bf16 { peak_gflops(cx, 0.0005) } else { peak_int8_gops(cx, 0.0005) };
        (0..3).map(one).fold(0.0, f64::max)
    };
    let (mut rounds, mut before, start) = (Vec::new(), look(), Instant::now());
    while start.elapsed().as_secs_f64() < SECONDS {
        let (mut best, round) = (f64::INFINITY, Instant::now());
        while round.elapsed().as_secs_f64() < 0.01 {
            let start = seconds(cx);
            weight.forward(cx, &x, &all, &mut y);
            best = best.min(seconds(cx) - start);
        }
        let after = look();
        rounds.push((2.0 * (rows * n * k) as f64 / best * 1e-9, before.max(after)));
        before = after;
    }
    let share = |r: &(f64, f64)| r.0 / r.1;
    rounds.sort_by(|a, b| share(a).total_cmp(&share(b)));
    let (rate, peak) = rounds[rounds.len() / 2];
    println!(
        "{} {n} x {k}, {rows:>3} rows: {rate:>7.1} GOP/s, {:>5.1}% of {peak:.0} (of nine tenths of the rounds at most {:.1}%)",
        kind.name(),
        100.0 * rate / peak,
        100.0 * share(&rounds[rounds.len() * 9 / 10]),
    );
}

/// Time since some moment: of one thread, its own, so that what else the machine does counts less.
fn seconds(cx: &Cx) -> f64 {
    let clock = if cx.threads().count() == 1 { libc::CLOCK_THREAD_CPUTIME_ID } else { libc::CLOCK_MONOTONIC };
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists, and the time is written to a place of its own.
    assert_eq!(unsafe { libc::clock_gettime(clock, &raw mut now) }, 0);
    now.tv_sec as f64 + now.tv_nsec as f64 * 1e-9
}
