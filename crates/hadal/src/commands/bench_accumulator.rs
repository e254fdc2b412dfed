//! `hadal bench accumulator`: errors of FP8 products of random matrices with different accumulators. The reference sums
//! the same codes in f64.

use crate::cli::BenchAccumulatorArgs;
use hadal_ops::linear::accumulator::{Accumulator, Errors, errors};
use hadal_ops::{Cx, DType};
use serde_json::json;

pub(crate) fn run(args: &BenchAccumulatorArgs) {
    let cx = Cx::cpu(args.threads, DType::Bf16);
    let kinds =
        [("f32", Accumulator::F32), ("14 bits, promoted", Accumulator::Promoted14), ("14 bits", Accumulator::Only14)];
    if !args.json {
        say!("root-mean-square error and largest error of the results, relative to the results' root mean square\n");
        say!("{:>6}  {}", "K", kinds.map(|(name, _)| format!("{name:>25}")).concat());
    }
    let mut lines = Vec::new();
    for &k in &args.k {
        let found = errors(&cx, args.size, k, &kinds.map(|k| k.1));
        if !args.json {
            let percent = |e: f64, digits: usize| format!("{:.digits$}%", 100.0 * e);
            let shown = found.iter().map(|e| format!("{:>14} {:>10}", percent(e.rms, 4), percent(e.most, 3)));
            say!("{k:>6}  {}", shown.collect::<String>());
        }
        let of_kind =
            |(kind, e): (&(&str, _), &Errors)| json!({"accumulator": kind.0, "rms": e.rms, "largest": e.most});
        lines.push(json!({"k": k, "errors": kinds.iter().zip(&found).map(of_kind).collect::<Vec<_>>()}));
    }
    if args.json {
        say!("{}", json!({"size": args.size, "by_k": lines}));
    }
}
