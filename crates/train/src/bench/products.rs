//! Measures only the products of a training step, and compares them with the peak of the multiply instruction.

use super::peak_rss_bytes;
use hadal_ops::gemm::bench::{self, Layer, Orientation, Pair, Row, Spec};
use hadal_ops::{Acc, Cx};
use hadal_weights::ModelConfig;
use hadal_weights::list::{Role, parameters};
use serde::Serialize;

/// Seconds per product in one pass over the list.
const SECONDS: f64 = 0.25;
/// Number of tokens that the output head processes at a time.
const HEAD_CHUNK: usize = 512;
/// Largest width and largest number of experts for which the products fit into the memory of a benchmark.
const LARGEST: usize = 1 << 17;
const MOST_EXPERTS: usize = 64;

/// Whether the products of a model are small enough to be measured on their own.
pub fn fits(config: &ModelConfig) -> bool {
    config.vocab_size.max(config.hidden_size) < LARGEST && config.n_routed_experts <= MOST_EXPERTS
}

/// Rates of a list of products. The names are those in the JSON output.
#[derive(Clone, Debug, Serialize)]
pub struct Rates {
    /// Billions of floating-point operations per second over the whole list.
    pub gflops: f64,
    /// `gflops` divided by the instruction's peak.
    pub share_of_peak: f64,
    /// Time for all products of a step, in seconds.
    pub step_gemm_seconds: f64,
    /// Rate of one product of 512 x 512 x 512, in GFLOP/s.
    pub cube_512_gflops: f64,
    /// `cube_512_gflops` divided by the instruction's peak.
    pub cube_512_share_of_peak: f64,
}

impl Rates {
    fn of(rows: &[Row], cube: &Row) -> Self {
        let seconds = |r: &Row| r.seconds * r.spec.count as f64;
        let work: f64 = rows.iter().map(|r| r.gflops * seconds(r)).sum();
        let spent: f64 = rows.iter().map(seconds).sum();
        Self {
            gflops: work / spent,
            share_of_peak: bench::weighted_share(rows),
            step_gemm_seconds: spent,
            cube_512_gflops: cube.gflops,
            cube_512_share_of_peak: cube.share,
        }
    }
}

/// Products in the compute format.
pub struct Products {
    /// The cube and then each product, as tables.
    pub table: String,
    /// Their rates.
    pub rates: Rates,
    /// Peak of the multiply instruction, in GFLOP/s.
    pub peak_gflops: f64,
    /// Highest resident memory of the process in bytes.
    pub peak_rss_bytes: u64,
}

/// Products in BF16 and in FP8, measured in turn.
pub struct ProductPairs {
    /// The pair for the cube and then each pair, as tables.
    pub table: String,
    /// The rates in BF16 and in FP8.
    pub rates: [Rates; 2],
    /// Time in BF16 over time in FP8.
    pub bf16_time_over_fp8: f64,
    /// Peak of the multiply instruction, in GFLOP/s.
    pub peak_gflops: f64,
    /// Highest resident memory of the process in bytes.
    pub peak_rss_bytes: u64,
}

/// Measures the products of a step with `tokens` tokens in the compute format. With several passes, the median one
/// counts.
pub fn products(cx: &Cx, config: &ModelConfig, tokens: usize, passes: usize) -> Products {
    let one = |specs: &[Spec]| middle(passes, || bench::run(cx, specs, SECONDS), |r| r.share);
    let (cube, rows) = (one(&[cube()]), one(&of_a_step(config, tokens)));
    Products {
        table: format!("{}\n{}", bench::table(&cube), bench::table(&rows).trim_end()),
        rates: Rates::of(&rows, &cube[0]),
        peak_gflops: rows.iter().chain(&cube).map(|r| r.peak).fold(0.0, f64::max),
        peak_rss_bytes: peak_rss_bytes(),
    }
}

/// Like [`products`], in both formats.
pub fn product_pairs(cx: &Cx, config: &ModelConfig, tokens: usize, passes: usize) -> ProductPairs {
    let both = |specs: &[Spec]| middle(passes, || bench::compare(cx, specs, SECONDS), |p| p.ratio);
    let (cube, pairs) = (both(&[cube()]), both(&of_a_step(config, tokens)));
    let rates = [0, 1].map(|i| {
        let rows: Vec<Row> = pairs.iter().map(|p: &Pair| p.rows[i].clone()).collect();
        Rates::of(&rows, &cube[0].rows[i])
    });
    ProductPairs {
        table: format!("{}\n{}", bench::table_of_pairs(&cube), bench::table_of_pairs(&pairs).trim_end()),
        rates,
        bf16_time_over_fp8: bench::weighted_ratio(&pairs),
        peak_gflops: pairs.iter().flat_map(|p| &p.rows).map(|r| r.peak).fold(0.0, f64::max),
        peak_rss_bytes: peak_rss_bytes(),
    }
}

fn cube() -> Spec {
    Spec {
        name: "cube".into(),
        m: 512,
        n: 512,
        k: 512,
        groups: 1,
        orientation: Orientation::Forward,
        acc: Acc::Write,
        count: 1,
        fp8: true,
        sent: [false; 2],
    }
}

fn of_a_step(config: &ModelConfig, tokens: usize) -> Vec<Spec> {
    bench::step_products(&layers(config), tokens, config.num_experts_per_tok, HEAD_CHUNK)
}

/// Runs several passes over a list. For each item, the median pass is returned.
fn middle<T>(passes: usize, pass: impl Fn() -> Vec<T>, by: impl Fn(&T) -> f64) -> Vec<T> {
    let mut all: Vec<Vec<T>> = pass().into_iter().map(|item| vec![item]).collect();
    for _ in 1..passes {
        all.iter_mut().zip(pass()).for_each(|(passes, item)| passes.push(item));
    }
    let middle = |mut passes: Vec<T>| {
        passes.sort_by(|a, b| by(a).total_cmp(&by(b)));
        let at = passes.len() / 2;
        passes.swap_remove(at)
    };
    all.into_iter().map(middle).collect()
}

/// The linear layers of a model as they are multiplied. Matrices with the same input form one product.
fn layers(config: &ModelConfig) -> Vec<Layer<'static>> {
    let mut layers: Vec<Layer<'static>> = Vec::new();
    for parameter in parameters(config) {
        let name = match parameter.role {
            Role::AttentionDown => "attention down",
            Role::Query => "q",
            Role::QueryUp => "q_b",
            Role::KeyValueUp => "kv_b",
            Role::AttentionOut => "o",
            Role::DenseGateUp => "dense gate+up",
            Role::DenseDown => "dense down",
            Role::SharedGateUp => "shared gate+up",
            Role::SharedDown => "shared down",
            Role::ExpertGateUp => "experts gate+up",
            Role::ExpertDown => "experts down",
            Role::MtpProjection => "eh_proj",
            Role::Head => "head",
            Role::Embedding if parameter.tied => "head",
            Role::Embedding | Role::Norm | Role::Router | Role::RouterBias | Role::Adapter => continue,
        };
        // The MTP modules use the same head as the main model.
        let times = if name == "head" { 1 + config.num_nextn_predict_layers } else { 1 };
        match layers.iter_mut().find(|layer| layer.0 == name) {
            Some(layer) => layer.3 += times,
            None => layers.push((name, parameter.n(), parameter.k(), times, parameter.groups)),
        }
    }
    layers
}
