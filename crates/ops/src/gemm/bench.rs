//! Speed of products, as a share of the multiply instruction's own rate measured in the same seconds.

use super::peak_gflops;
use crate::linear::{self, PackedWeight};
use crate::{Acc, Cx, DType, Purpose, Rng, Tensor};
use std::fmt::Write as _;
use std::time::Instant;

/// Which product of a linear layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Orientation {
    /// `y = x W^T`, y in the compute format.
    Forward,
    /// `dx = dy W`, dx in the compute format.
    BackwardInput,
    /// `dw = dy^T x` (`+=` for parts of a product, like the head's), dw f32, both operands packed on the way.
    BackwardWeight,
    /// The weights from f32 into both forms; counts no flops.
    Pack,
}

impl Orientation {
    /// A short name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::BackwardInput => "dx",
            Self::BackwardWeight => "dw",
            Self::Pack => "pack",
        }
    }
}

/// A product of a training step.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The layer's name.
    pub name: String,
    /// Tokens, over all groups.
    pub m: usize,
    /// Outputs.
    pub n: usize,
    /// Inputs.
    pub k: usize,
    /// Experts; the tokens are spread over them evenly but for a ripple.
    pub groups: usize,
    /// Which product.
    pub orientation: Orientation,
    /// Whether it adds to what a part before it left.
    pub acc: Acc,
    /// How often it occurs in a step.
    pub count: usize,
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct Row {
    /// The product.
    pub spec: Spec,
    /// Time of one occurrence: the best of a round, in the median round.
    pub seconds: f64,
    /// Its rate.
    pub gflops: f64,
    /// Its rate over the instruction's, measured next to it.
    pub share: f64,
    /// The instruction rate around that round.
    pub peak: f64,
}

/// The rate of the whole list: flops over the peak's time for them, weighted by occurrence.
pub fn weighted_share(rows: &[Row]) -> f64 {
    let spent: f64 = rows.iter().map(|r| r.seconds * r.spec.count as f64).sum();
    let ideal: f64 = rows.iter().map(|r| flops(&r.spec) / (r.peak * 1e9) * r.spec.count as f64).sum();
    ideal / spent
}

/// Measures every product for about `seconds`, in rounds that alternate with the peak.
pub fn run(cx: &Cx, specs: &[Spec], seconds: f64) -> Vec<Row> {
    specs.iter().map(|spec| measure(cx, spec, seconds)).collect()
}

/// Fewest rounds of a measurement.
const ROUNDS: usize = 9;

fn flops(s: &Spec) -> f64 {
    if s.orientation == Orientation::Pack { 0.0 } else { 2.0 * s.m as f64 * s.n as f64 * s.k as f64 }
}

fn random(cx: &Cx, shape: &[usize], dtype: DType, seed: u64) -> Tensor {
    let rng = Rng::new(seed, Purpose::Test, 0);
    let values: Vec<f32> = (0..shape.iter().product::<usize>() as u64).map(|i| rng.uniform(i) as f32 - 0.5).collect();
    cx.tensor(shape, &values, dtype)
}

fn measure(cx: &Cx, spec: &Spec, seconds: f64) -> Row {
    let (dtype, s) = (cx.compute(), spec);
    // Every fourth group gets a few tokens more, taken from its neighbour.
    let mean = s.m / s.groups;
    let offsets: Vec<i32> = (0..=s.groups)
        .map(|g| if g == s.groups { s.m } else { g * mean + if g % 4 == 1 { mean / 7 } else { 0 } } as i32)
        .collect();
    let offsets = cx.indices(&[s.groups + 1], &offsets);
    let master = random(cx, &[s.groups * s.n, s.k], DType::F32, 1);
    let mut weight = PackedWeight::new(cx, s.groups, s.n, s.k, dtype, true);
    weight.pack(cx, &master);
    let x = random(cx, &[s.m, s.k], dtype, 2);
    let dy = random(cx, &[s.m, s.n], dtype, 3);
    let mut y = cx.zeros(&[s.m, s.n], dtype);
    let mut dx = cx.zeros(&[s.m, s.k], dtype);
    let mut dw = cx.zeros(&[s.groups * s.n, s.k], DType::F32);
    let mut once = || match (s.orientation, s.groups) {
        (Orientation::Forward, 1) => linear::forward(cx, &x, &weight, &mut y, Acc::Write),
        (Orientation::Forward, _) => linear::grouped_forward(cx, &x, &weight, &offsets, &mut y, Acc::Write),
        (Orientation::BackwardInput, 1) => linear::backward_input(cx, &dy, &weight, &mut dx, Acc::Write),
        (Orientation::BackwardInput, _) => {
            linear::grouped_backward_input(cx, &dy, &weight, &offsets, &mut dx, Acc::Write);
        }
        (Orientation::BackwardWeight, 1) => linear::backward_weight(cx, &dy, &x, dtype, &mut dw, s.acc),
        (Orientation::BackwardWeight, _) => {
            linear::grouped_backward_weight(cx, &dy, &x, &offsets, dtype, &mut dw, s.acc);
        }
        (Orientation::Pack, _) => weight.pack(cx, &master),
    };
    once();
    // Rounds of some runs between two looks at the peak, which may move by a factor of two when the processor is shared.
    let look = || (0..3).map(|_| peak_gflops(cx, 0.0005)).fold(0.0, f64::max);
    let (mut rounds, mut before) = (Vec::new(), look());
    let start = Instant::now();
    while rounds.len() < ROUNDS || start.elapsed().as_secs_f64() < seconds {
        let (mut best, round) = (f64::INFINITY, Instant::now());
        while round.elapsed().as_secs_f64() < 0.004 {
            let t = Instant::now();
            once();
            best = best.min(t.elapsed().as_secs_f64());
        }
        let after = look();
        rounds.push((best, before.max(after)));
        before = after;
    }
    // The round in the middle by its share of its own peak.
    rounds.sort_by(|x, y| (x.0 * x.1).total_cmp(&(y.0 * y.1)));
    let (seconds, peak) = rounds[rounds.len() / 2];
    let gflops = flops(s) / seconds / 1e9;
    Row { spec: spec.clone(), seconds, gflops, share: gflops / peak, peak }
}

/// The rows as a table.
pub fn table(rows: &[Row]) -> String {
    let mut out = format!(
        "{:<18} {:<8} {:>6} {:>6} {:>6} {:>4} {:>4} {:>9} {:>8} {:>6}\n",
        "product", "", "m", "n", "k", "grp", "x", "ms", "GFLOP/s", "share"
    );
    for Row { spec: s, seconds, gflops, share, .. } in rows {
        let _ = writeln!(
            out,
            "{:<18} {:<8} {:>6} {:>6} {:>6} {:>4} {:>4} {:>9.3} {:>8.1} {:>5.1}%",
            s.name,
            s.orientation.name(),
            s.m,
            s.n,
            s.k,
            s.groups,
            s.count,
            seconds * 1e3,
            gflops,
            share * 100.0
        );
    }
    out + &format!("weighted share of the instruction peak: {:.1}%\n", weighted_share(rows) * 100.0)
}

/// The linear layers of a model, as `(name, outputs, inputs, occurrences, experts)`.
pub type Layer<'a> = (&'a str, usize, usize, usize, usize);

/// All products of a training step over `tokens` tokens: three for each layer and its packing. A layer with experts sees
/// every token `top_k` times; a layer called `head` is cut into chunks of `chunk` tokens.
pub fn step_products(layers: &[Layer<'_>], tokens: usize, top_k: usize, chunk: usize) -> Vec<Spec> {
    let mut out = Vec::new();
    for &(name, n, k, count, groups) in layers {
        let (m, repeats) = if name == "head" {
            (chunk.min(tokens), tokens.div_ceil(chunk))
        } else if groups > 1 {
            (tokens * top_k, 1)
        } else {
            (tokens, 1)
        };
        // The first part writes; of many, most add.
        let acc = if repeats > 1 { Acc::Add } else { Acc::Write };
        for orientation in [Orientation::Forward, Orientation::BackwardInput, Orientation::BackwardWeight] {
            out.push(Spec { name: name.to_owned(), m, n, k, groups, orientation, acc, count: count * repeats });
        }
        out.push(Spec { name: name.to_owned(), m, n, k, groups, orientation: Orientation::Pack, acc, count });
    }
    out
}
