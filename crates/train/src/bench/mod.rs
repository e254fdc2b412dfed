//! Times whole training steps on random tokens, and compares the arithmetic rate with the processor's peak.

mod products;

pub use products::{ProductPairs, Products, Rates, fits, product_pairs, products};

use crate::step::{StepBatch, StepSettings, Trainer};
use hadal_base::{Purpose, Rng};
use hadal_model::count::flops;
use hadal_ops::ProfileRow;
use hadal_ops::gemm::peak_gflops;
use serde::Serialize;
use std::fmt::Write as _;
use std::time::Instant;

/// Steps before the measured ones, during which buffers reach their sizes.
const WARM_UP: usize = 2;
/// Seconds for each of the two measurements of the peak.
const PEAK_SECONDS: f64 = 0.5;

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct BenchSettings {
    /// Number of measured steps.
    pub steps: usize,
    /// Sequences per step.
    pub batch: usize,
    /// Tokens per sequence.
    pub seq_len: usize,
    /// All other settings of a step.
    pub step: StepSettings,
}

/// The result. The names are those in the JSON output.
#[derive(Clone, Debug, Serialize)]
pub struct BenchReport {
    /// Tokens per second in the median step.
    pub tok_s_median: f64,
    /// Tokens per second in the slowest step.
    pub tok_s_min: f64,
    /// Tokens per second in the fastest step.
    pub tok_s_max: f64,
    /// Billions of floating-point operations of the model per second in the median step. Recomputation does not count.
    pub model_gflops: f64,
    /// The same for the multiply instruction alone, on registers: the better of a measurement before and one after.
    pub peak_gflops: f64,
    /// `model_gflops / peak_gflops`
    pub share_of_peak: f64,
    /// Highest resident memory of the process in bytes.
    pub peak_rss_bytes: u64,
    /// Model FLOPs per token, forward and backward.
    pub flops_per_token: f64,
    /// Tokens per step.
    pub tokens_per_step: usize,
    /// Number of threads.
    pub threads: usize,
    /// Instruction path.
    pub isa: &'static str,
    /// Seconds of each measured step, for gradients, norm and update.
    pub seconds: Vec<[f64; 3]>,
}

/// Runs `settings.steps` steps on random tokens, after two that are not counted. `each` receives the number and the
/// seconds of every measured step. Afterwards the context's profile, if it has one, contains the measured steps.
pub fn bench(trainer: &mut Trainer, settings: &BenchSettings, mut each: impl FnMut(usize, f64)) -> BenchReport {
    let BenchSettings { steps, batch, seq_len, step } = *settings;
    let cx = &trainer.cx.clone();
    let flops_per_token = flops(&trainer.model.config, seq_len).training;
    let vocab = trainer.model.config.vocab_size;
    let rng = Rng::new(1, Purpose::Test, 0);
    let tokens: Vec<i32> = (0..batch * (seq_len + 1)).map(|i| rng.below(i as u64, vocab as u64) as i32).collect();
    let all = StepBatch::uniform(tokens, seq_len);
    let before = peak_gflops(cx, PEAK_SECONDS);
    let mut seconds = Vec::with_capacity(steps);
    for i in 0..WARM_UP + steps.max(1) {
        if i == WARM_UP {
            cx.clear_profile();
        }
        let start = Instant::now();
        trainer.gradients(&all, &step);
        let gradients = start.elapsed().as_secs_f64();
        let norm = trainer.grad_norm();
        let normed = start.elapsed().as_secs_f64();
        trainer.update(&step, norm);
        let whole = start.elapsed().as_secs_f64();
        if i >= WARM_UP {
            seconds.push([gradients, normed - gradients, whole - normed]);
            each(i - WARM_UP, whole);
        }
    }
    let peak_gflops = before.max(peak_gflops(cx, PEAK_SECONDS));
    let mut sorted: Vec<f64> = seconds.iter().map(|parts| parts.iter().sum()).collect();
    sorted.sort_by(f64::total_cmp);
    let tokens_per_step = batch * seq_len;
    let rate = |seconds: f64| tokens_per_step as f64 / seconds;
    let tok_s_median = rate(sorted[sorted.len() / 2]);
    let model_gflops = tok_s_median * flops_per_token / 1e9;
    BenchReport {
        tok_s_median,
        tok_s_min: rate(sorted[sorted.len() - 1]),
        tok_s_max: rate(sorted[0]),
        model_gflops,
        peak_gflops,
        share_of_peak: model_gflops / peak_gflops,
        peak_rss_bytes: peak_rss_bytes(),
        flops_per_token,
        tokens_per_step,
        threads: cx.threads().count(),
        isa: cx.isa().name(),
        seconds,
    }
}

/// Highest resident memory of this process so far, in bytes. 0 if the system does not report it.
pub fn peak_rss_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.trim().strip_suffix(" kB")).and_then(|n| n.trim().parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// A profile over `steps` steps as a table, with the most expensive operations first. The steps took `seconds` in
/// total.
pub fn profile_table(rows: &[ProfileRow], steps: usize, seconds: f64) -> String {
    let mut rows = rows.to_vec();
    rows.sort_by_key(|r| std::cmp::Reverse(r.time));
    let mut out =
        format!("{:<44} {:>7} {:>10} {:>7} {:>9} {:>8}\n", "operation", "calls", "ms/step", "share", "GFLOP/s", "GB/s");
    let mut named = 0.0;
    for r in &rows {
        let time = r.time.as_secs_f64();
        named += time;
        let name = if r.outer.is_empty() { r.name.to_owned() } else { format!("{} / {}", r.outer, r.name) };
        let rate =
            |n: u64, digits: usize| if n == 0 { String::new() } else { format!("{:.digits$}", n as f64 / time / 1e9) };
        writeln!(
            out,
            "{name:<44} {:>7} {:>10.2} {:>6.1}% {:>9} {:>8}",
            r.calls / steps as u64,
            1e3 * time / steps as f64,
            100.0 * time / seconds,
            rate(r.flops, 0),
            rate(r.bytes, 1),
        )
        .expect("writing to a string");
    }
    let rest = seconds - named;
    out + &format!(
        "{:<44} {:>7} {:>10.2} {:>6.1}%\n",
        "everything else",
        "",
        1e3 * rest / steps as f64,
        100.0 * rest / seconds
    )
}
