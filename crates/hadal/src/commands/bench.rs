//! `hadal bench`: measures the speed of this machine.

use crate::cli::{BenchArgs, BenchCommand, BenchGemmArgs, ProductFormat};
use anyhow::{Result, ensure};
use hadal_ops::{Cx, DType};
use hadal_recipe::plan::Plan;
use hadal_recipe::recipe::Recipe;
use hadal_train::bench::{fits, product_pairs, products};
use serde_json::{Value, json};

pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    match &args.command {
        BenchCommand::Gemm(args) => gemm(args),
        BenchCommand::Train(args) => super::bench_train::run(args),
        BenchCommand::Infer(args) => super::bench_infer::run(args),
        BenchCommand::Accumulator(args) => {
            super::bench_accumulator::run(args);
            Ok(())
        }
    }
}

/// Measures the products of a step, and one cube of 512, against the peak of the multiply instruction.
fn gemm(args: &BenchGemmArgs) -> Result<()> {
    let config = Plan::draft(&Recipe::load(&args.recipe, &[])?)?.model;
    ensure!(fits(&config), "the products of {} are too large for a benchmark: choose a smaller recipe", args.recipe);
    let cx = Cx::cpu(args.threads, DType::Bf16);
    let (threads, isa) = (cx.threads().count(), cx.isa().name());
    let mut line = json!({"recipe": args.recipe, "tokens": args.tokens, "threads": threads, "isa": isa});
    let (text, figures) = if args.precision == ProductFormat::Fp8 {
        let found = product_pairs(&cx, &config, args.tokens, args.steps);
        let [bf16, fp8] = &found.rates;
        let text = format!("{}\n{threads} threads, {isa}; packing makes both forms of the weights", found.table);
        (
            text,
            json!({
                "bf16": bf16, "fp8": fp8, "bf16_time_over_fp8": found.bf16_time_over_fp8,
                "peak_gflops": found.peak_gflops, "peak_rss_bytes": found.peak_rss_bytes,
            }),
        )
    } else {
        let found = products(&cx, &config, args.tokens, args.steps);
        let (seconds, peak) = (found.rates.step_gemm_seconds, found.peak_gflops);
        let text = format!(
            "{}\n{threads} threads, {isa}: all products of a step in {seconds:.3} s; instruction peak {peak:.0} GFLOP/s",
            found.table
        );
        let mut figures = serde_json::to_value(&found.rates)?;
        merge(&mut figures, json!({"peak_gflops": peak, "peak_rss_bytes": found.peak_rss_bytes}));
        (text, figures)
    };
    merge(&mut line, figures);
    if args.json {
        say!("{line}");
    } else {
        say!("{text}");
    }
    Ok(())
}

/// Adds the keys of one JSON object to another.
fn merge(into: &mut Value, more: Value) {
    if let (Value::Object(into), Value::Object(more)) = (into, more) {
        into.extend(more);
    }
}
