//! `hadal bench`: how fast this machine does the work.

use crate::cli::{BenchAccumulatorArgs, BenchArgs, BenchCommand, BenchGemmArgs, ProductFormat};
use anyhow::{Result, ensure};
use hadal_ops::gemm::bench::{self, Layer, Orientation, Pair, Row, Spec};
use hadal_ops::linear::accumulator::{self, Accumulator};
use hadal_ops::{Acc, Cx, DType};
use hadal_recipe::plan::Plan;
use hadal_recipe::recipe::Recipe;
use hadal_train::bench::peak_rss_bytes;
use hadal_weights::ModelConfig;
use hadal_weights::list::{Role, parameters};
use serde_json::json;

/// Seconds for each product in one pass over the list.
const SECONDS: f64 = 0.25;
/// Tokens the output head takes at a time.
const HEAD_CHUNK: usize = 512;

pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    match &args.command {
        BenchCommand::Gemm(args) => gemm(args),
        BenchCommand::Train(args) => super::bench_train::run(args),
        BenchCommand::Accumulator(args) => {
            accumulator(args);
            Ok(())
        }
    }
}

/// Errors of FP8 products of random matrices by accumulator, against the same codes summed in f64.
fn accumulator(args: &BenchAccumulatorArgs) {
    let cx = Cx::cpu(args.threads, DType::Bf16);
    let kinds =
        [("f32", Accumulator::F32), ("14 bits, promoted", Accumulator::Promoted14), ("14 bits", Accumulator::Only14)];
    let mut lines = Vec::new();
    if !args.json {
        say!("error relative to the results' size (root mean square), and the largest over all results\n");
        say!("{:>6}  {}", "K", kinds.map(|(name, _)| format!("{name:>25}")).concat());
    }
    for &k in &args.k {
        let found = cx.threads().run(|| accumulator::errors(&cx, args.size, k, &kinds.map(|k| k.1)));
        let shown = found
            .iter()
            .map(|e| format!("{:>14} {:>10}", format!("{:.4}%", 100.0 * e.rms), format!("{:.3}%", 100.0 * e.most)));
        if !args.json {
            say!("{k:>6}  {}", shown.collect::<String>());
        }
        let kinds =
            kinds.iter().zip(&found).map(|(kind, e)| json!({"accumulator": kind.0, "rms": e.rms, "largest": e.most}));
        lines.push(json!({"k": k, "errors": kinds.collect::<Vec<_>>()}));
    }
    if args.json {
        say!("{}", json!({"size": args.size, "by_k": lines}));
    }
}

/// The products of a step, and one cube of 512, against the multiply instruction's own rate.
fn gemm(args: &BenchGemmArgs) -> Result<()> {
    let config = Plan::draft(&Recipe::load(&args.recipe, &[])?)?.model;
    let layers = layers(&config);
    ensure!(
        config.vocab_size.max(config.hidden_size) < 1 << 17 && config.n_routed_experts <= 64,
        "the products of {} do not fit a benchmark: take a smaller recipe",
        args.recipe
    );
    let cx = Cx::cpu(args.threads, DType::Bf16);
    let cube = Spec {
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
    };
    let products = bench::step_products(&layers, args.tokens, config.num_experts_per_tok, HEAD_CHUNK);
    if args.precision == ProductFormat::Fp8 {
        pairs(args, &cx, &cube, &products);
        return Ok(());
    }
    let one = |specs: &[Spec]| middle(args.steps, || cx.threads().run(|| bench::run(&cx, specs, SECONDS)), |r| r.share);
    let (cube, rows) = (one(&[cube]), one(&products));
    if !args.json {
        say!("{}\n{}", bench::table(&cube), bench::table(&rows).trim_end());
    }
    let peak = rows.iter().chain(&cube).map(|r| r.peak).fold(0.0, f64::max);
    let (work, seconds) = work_and_seconds(&rows);
    if args.json {
        let line = json!({
            "recipe": args.recipe, "tokens": args.tokens, "threads": cx.threads().count(), "isa": cx.isa().name(),
            "gflops": work / seconds, "share_of_peak": bench::weighted_share(&rows), "peak_gflops": peak, "step_gemm_seconds": seconds,
            "peak_rss_bytes": peak_rss_bytes(), "cube_512_gflops": cube[0].gflops, "cube_512_share_of_peak": cube[0].share,
        });
        say!("{line}");
    } else {
        say!(
            "{} threads, {}: all products of a step in {seconds:.3} s; instruction peak {peak:.0} GFLOP/s",
            cx.threads().count(),
            cx.isa().name()
        );
    }
    Ok(())
}

/// GFLOP of all rows' products in a step, and the time they take.
fn work_and_seconds(rows: &[Row]) -> (f64, f64) {
    let seconds = |r: &Row| r.seconds * r.spec.count as f64;
    (rows.iter().map(|r| r.gflops * seconds(r)).sum(), rows.iter().map(seconds).sum())
}

/// The same in BF16 and FP8, in turn.
fn pairs(args: &BenchGemmArgs, cx: &Cx, cube: &Spec, products: &[Spec]) {
    let both =
        |specs: &[Spec]| middle(args.steps, || cx.threads().run(|| bench::compare(cx, specs, SECONDS)), |p| p.ratio);
    let (cube, pairs) = (both(std::slice::from_ref(cube)), both(products));
    if !args.json {
        say!("{}\n{}", bench::table_of_pairs(&cube), bench::table_of_pairs(&pairs).trim_end());
        say!("{} threads, {}; packing makes the weights of both forms", cx.threads().count(), cx.isa().name());
        return;
    }
    let rows = |i: usize| pairs.iter().map(|p: &Pair| p.rows[i].clone()).collect::<Vec<_>>();
    let line = |rows: Vec<Row>, cube: &Row| {
        let (work, seconds) = work_and_seconds(&rows);
        json!({
            "gflops": work / seconds, "share_of_peak": bench::weighted_share(&rows), "step_gemm_seconds": seconds,
            "cube_512_gflops": cube.gflops, "cube_512_share_of_peak": cube.share,
        })
    };
    let peak = pairs.iter().flat_map(|p| &p.rows).map(|r| r.peak).fold(0.0, f64::max);
    let line = json!({
        "recipe": args.recipe, "tokens": args.tokens, "threads": cx.threads().count(), "isa": cx.isa().name(),
        "peak_gflops": peak, "bf16": line(rows(0), &cube[0].rows[0]), "fp8": line(rows(1), &cube[0].rows[1]),
        "bf16_time_over_fp8": bench::weighted_ratio(&pairs), "peak_rss_bytes": peak_rss_bytes(),
    });
    say!("{line}");
}

/// Several passes over a list; of each of its items the pass in the middle.
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

/// The linear layers of a model as they are multiplied: matrices that share an input are one product.
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
        // MTP modules use the same head.
        let times = if name == "head" { 1 + config.num_nextn_predict_layers } else { 1 };
        match layers.iter_mut().find(|layer| layer.0 == name) {
            Some(layer) => layer.3 += times,
            None => layers.push((name, parameter.n(), parameter.k(), times, parameter.groups)),
        }
    }
    layers
}
