//! Measures the speed of products as a share of the multiply instruction's peak, which is measured at the same time.

use super::peak_gflops;
use crate::fp8::{Quantized, Style};
use crate::linear::{self, Operand, PackedWeight};
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
    /// `dw = dy^T x` (`+=` for parts of a product, like the head's), dw f32. Both operands are packed during the
    /// product.
    BackwardWeight,
    /// Packs the f32 weights into both forms. This counts no flops.
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
    /// Number of tokens, over all groups.
    pub m: usize,
    /// Outputs.
    pub n: usize,
    /// Inputs.
    pub k: usize,
    /// Number of experts. The tokens are spread over them almost evenly.
    pub groups: usize,
    /// Which product.
    pub orientation: Orientation,
    /// Whether it adds to the result of an earlier part.
    pub acc: Acc,
    /// How often it occurs in a step.
    pub count: usize,
    /// Whether FP8 training computes it in E4M3.
    pub fp8: bool,
    /// Whether x and dy are already quantised in FP8 training, with powers of two: rows that are sent to the experts,
    /// and gradients that come back. Other operands are quantised by the product.
    pub sent: [bool; 2],
}

/// A measurement.
#[derive(Clone, Debug)]
pub struct Row {
    /// The product.
    pub spec: Spec,
    /// Time of one occurrence: the best of a round, in the median round.
    pub seconds: f64,
    /// Its rate.
    pub gflops: f64,
    /// Its rate divided by the instruction's peak, measured next to it.
    pub share: f64,
    /// The instruction's peak around that round.
    pub peak: f64,
}

/// The share for the whole list: the time that the peak would need for its flops, over the measured time, weighted by
/// occurrence.
pub fn weighted_share(rows: &[Row]) -> f64 {
    let spent: f64 = rows.iter().map(|r| r.seconds * r.spec.count as f64).sum();
    let ideal: f64 = rows.iter().map(|r| flops(&r.spec) / (r.peak * 1e9) * r.spec.count as f64).sum();
    ideal / spent
}

/// Measures every product for about `seconds`, in rounds that alternate with the peak.
pub fn run(cx: &Cx, specs: &[Spec], seconds: f64) -> Vec<Row> {
    specs.iter().map(|spec| measure(cx, spec, [false], seconds).0[0].clone()).collect()
}

/// A product in the compute format and in the FP8 format of training.
#[derive(Clone, Debug)]
pub struct Pair {
    /// In the compute format, and in FP8.
    pub rows: [Row; 2],
    /// Time in the compute format over that in FP8, in the median of rounds that have both.
    pub ratio: f64,
}

/// Measures both formats in turn, in the same rounds.
pub fn compare(cx: &Cx, specs: &[Spec], seconds: f64) -> Vec<Pair> {
    let one = |spec| {
        let (rows, rounds) = measure(cx, spec, [false, true], seconds);
        let mut ratios: Vec<f64> = rounds.iter().map(|[(plain, _), (fp8, _)]| plain / fp8).collect();
        ratios.sort_by(f64::total_cmp);
        Pair { rows, ratio: ratios[ratios.len() / 2] }
    };
    specs.iter().map(one).collect()
}

/// Smallest number of rounds of a measurement.
const ROUNDS: usize = 9;

fn flops(s: &Spec) -> f64 {
    if s.orientation == Orientation::Pack { 0.0 } else { 2.0 * s.m as f64 * s.n as f64 * s.k as f64 }
}

fn random(cx: &Cx, shape: &[usize], dtype: DType, seed: u64) -> Tensor {
    let rng = Rng::new(seed, Purpose::Test, 0);
    let values: Vec<f32> = (0..shape.iter().product::<usize>() as u64).map(|i| rng.uniform(i) as f32 - 0.5).collect();
    cx.tensor(shape, &values, dtype)
}

/// A product with its operands and results.
struct Job {
    spec: Spec,
    format: DType,
    offsets: Tensor,
    master: Tensor,
    weight: PackedWeight,
    x: Tensor,
    dy: Tensor,
    sent: [Option<Quantized>; 2],
    y: Tensor,
    dx: Tensor,
    dw: Tensor,
}

impl Job {
    fn new(cx: &Cx, s: &Spec, fp8: bool) -> Self {
        let (compute, fp8) = (cx.compute(), fp8 && s.fp8);
        let format = if fp8 { DType::U8 } else { compute };
        // Every fourth group gets a few more tokens, taken from its neighbour.
        let mean = s.m / s.groups;
        let offsets: Vec<i32> = (0..=s.groups)
            .map(|g| if g == s.groups { s.m } else { g * mean + if g % 4 == 1 { mean / 7 } else { 0 } } as i32)
            .collect();
        let master = random(cx, &[s.groups * s.n, s.k], DType::F32, 1);
        let mut weight = PackedWeight::new(cx, s.groups, s.n, s.k, format, true);
        weight.pack(cx, &master);
        let (x, dy) = (random(cx, &[s.m, s.k], compute, 2), random(cx, &[s.m, s.n], compute, 3));
        let style = Style { power_of_two: true, ..Style::TILES };
        let tiles = |t: &Tensor, sent: bool| (fp8 && sent).then(|| Quantized::new(cx, t, style));
        Self {
            spec: s.clone(),
            format,
            offsets: cx.indices(&[s.groups + 1], &offsets),
            sent: [tiles(&x, s.sent[0]), tiles(&dy, s.sent[1])],
            master,
            weight,
            x,
            dy,
            y: cx.zeros(&[s.m, s.n], compute),
            dx: cx.zeros(&[s.m, s.k], compute),
            dw: cx.zeros(&[s.groups * s.n, s.k], DType::F32),
        }
    }

    fn once(&mut self, cx: &Cx) {
        let Self { spec: s, format, offsets, master, weight, x, dy, sent, y, dx, dw } = self;
        let x = sent[0].as_ref().map_or(Operand::Plain(x.mat()), Operand::Tiles);
        let dy = sent[1].as_ref().map_or(Operand::Plain(dy.mat()), Operand::Tiles);
        let offsets = (s.groups > 1).then_some(&*offsets);
        match s.orientation {
            Orientation::Forward => linear::grouped_forward(cx, x, weight, offsets, y, Acc::Write),
            Orientation::BackwardInput => linear::grouped_backward_input(cx, dy, weight, offsets, dx, Acc::Write),
            Orientation::BackwardWeight => linear::grouped_backward_weight(cx, dy, x, offsets, *format, dw, s.acc),
            Orientation::Pack => weight.pack(cx, master),
        }
    }
}

/// A round of one format: its best time, and the peak around it.
type Round = (f64, f64);

/// Measures the formats in turn. Returns a row for each format, and all rounds.
fn measure<const N: usize>(cx: &Cx, spec: &Spec, fp8: [bool; N], seconds: f64) -> ([Row; N], Vec<[Round; N]>) {
    let mut jobs = fp8.map(|fp8| Job::new(cx, spec, fp8));
    jobs.iter_mut().for_each(|job| job.once(cx));
    // A round consists of some runs between two measurements of the peak. On a shared processor the peak may change by
    // a factor of two.
    let look = || (0..3).map(|_| peak_gflops(cx, 0.0005)).fold(0.0, f64::max);
    let (mut rounds, mut before) = (Vec::new(), look());
    let start = Instant::now();
    while rounds.len() < ROUNDS || start.elapsed().as_secs_f64() < seconds * N as f64 {
        let mut found = [(0.0, 0.0); N];
        for (found, job) in found.iter_mut().zip(&mut jobs) {
            let (mut best, round) = (f64::INFINITY, Instant::now());
            while round.elapsed().as_secs_f64() < 0.004 {
                let t = Instant::now();
                job.once(cx);
                best = best.min(t.elapsed().as_secs_f64());
            }
            let after = look();
            *found = (best, before.max(after));
            before = after;
        }
        rounds.push(found);
    }
    let row = |i: usize| {
        // The median round by its share of its own peak.
        let mut rounds: Vec<Round> = rounds.iter().map(|r| r[i]).collect();
        rounds.sort_by(|x, y| (x.0 * x.1).total_cmp(&(y.0 * y.1)));
        let (seconds, peak) = rounds[rounds.len() / 2];
        let gflops = flops(spec) / seconds / 1e9;
        Row { spec: spec.clone(), seconds, gflops, share: gflops / peak, peak }
    };
    (std::array::from_fn(row), rounds)
}

/// The columns of a table that describe a product, or their headings.
fn described(spec: Option<&Spec>) -> String {
    let Some(s) = spec else {
        return format!("{:<18} {:<8} {:>6} {:>6} {:>6} {:>4} {:>4}", "product", "", "m", "n", "k", "grp", "x");
    };
    let Spec { name, m, n, k, groups, count, .. } = s;
    format!("{name:<18} {:<8} {m:>6} {n:>6} {k:>6} {groups:>4} {count:>4}", s.orientation.name())
}

/// The rows as a table.
pub fn table(rows: &[Row]) -> String {
    let mut out = format!("{} {:>9} {:>8} {:>6}\n", described(None), "ms", "GFLOP/s", "share");
    for Row { spec, seconds, gflops, share, .. } in rows {
        let figures = format!("{:>9.3} {gflops:>8.1} {:>5.1}%", seconds * 1e3, share * 100.0);
        let _ = writeln!(out, "{} {figures}", described(Some(spec)));
    }
    out + &format!("weighted share of the instruction peak: {:.1}%\n", weighted_share(rows) * 100.0)
}

/// A table of products in both formats. Shares are of the compute format's peak, because E4M3 is multiplied with its
/// instructions.
pub fn table_of_pairs(pairs: &[Pair]) -> String {
    let head = format!("{:>9} {:>6} {:>9} {:>6} {:>7}", "bf16 ms", "share", "fp8 ms", "share", "ratio");
    let mut out = format!("{} {head}\n", described(None));
    for Pair { rows: [plain, fp8], ratio } in pairs {
        let [plain_figures, fp8] =
            [plain, fp8].map(|row| format!("{:>9.3} {:>5.1}%", row.seconds * 1e3, row.share * 100.0));
        let _ = writeln!(out, "{} {plain_figures} {fp8} {ratio:>7.3}", described(Some(&plain.spec)));
    }
    let [plain, fp8] = [0, 1].map(|i| pairs.iter().map(|p| p.rows[i].clone()).collect::<Vec<_>>());
    let shares = [&plain, &fp8].map(|rows| 100.0 * weighted_share(rows));
    out + &format!(
        "weighted share of the instruction peak: bf16 {:.1}%, fp8 {:.1}%; bf16's time over fp8's {:.3}\n",
        shares[0],
        shares[1],
        weighted_ratio(pairs)
    )
}

/// The time of the whole list in the compute format over that in FP8, from the ratio of each product.
pub fn weighted_ratio(pairs: &[Pair]) -> f64 {
    let times = pairs.iter().map(|p| (p.rows[0].seconds * p.rows[0].spec.count as f64, p.ratio));
    let (plain, fp8) = times.fold((0.0, 0.0), |(plain, fp8), (time, ratio)| (plain + time, fp8 + time / ratio));
    plain / fp8
}

/// The linear layers of a model, as `(name, outputs, inputs, occurrences, experts)`.
pub type Layer<'a> = (&'a str, usize, usize, usize, usize);

/// All products of a training step over `tokens` tokens: three for each layer, and its packing. A layer with experts
/// processes every token `top_k` times. A layer called `head` is divided into chunks of `chunk` tokens, and its format
/// does not change with FP8. Tokens are sent to the experts' `gate+up`, and their gradients to `down`.
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
        // The first part overwrites. Of many parts, most add.
        let acc = if repeats > 1 { Acc::Add } else { Acc::Write };
        let sent = ["gate+up", "down"].map(|end| groups > 1 && name.ends_with(end));
        let spec = |orientation, count| Spec {
            name: name.to_owned(),
            m,
            n,
            k,
            groups,
            orientation,
            acc,
            count,
            fp8: name != "head",
            sent,
        };
        for orientation in [Orientation::Forward, Orientation::BackwardInput, Orientation::BackwardWeight] {
            out.push(spec(orientation, count * repeats));
        }
        out.push(spec(Orientation::Pack, count));
    }
    out
}
