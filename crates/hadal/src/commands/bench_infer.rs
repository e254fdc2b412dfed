//! `hadal bench infer`: measures how fast a model reads and generates.

use super::common::{accepted, load};
use crate::cli::{BenchInferArgs, Speculate};
use anyhow::{Result, ensure};
use hadal_infer::Acceptance;
use hadal_infer::bench::{InferRates, InferSettings, bench};
use hadal_train::bench::{peak_rss_bytes, profile_table};
use serde_json::json;
use std::time::Instant;

/// How often the rate of memory is measured.
const READS: usize = 3;

fn of_memory(weights: f64, reading: f64) -> String {
    let share = 100.0 * weights / reading;
    format!(", {:.1} GB/s of weights ({share:.0}% of reading memory at {:.1} GB/s)", weights / 1e9, reading / 1e9)
}

pub(crate) fn run(args: &BenchInferArgs) -> Result<()> {
    ensure!(
        args.acceptance.is_none() || args.speculation != Speculate::Off,
        "--acceptance is the share of drafts to accept, and --speculation off makes none: leave out one of the two"
    );
    let loaded = load(&args.model, None)?;
    loaded.prepare();
    let longest = loaded.model.config.max_position_embeddings;
    let (threads, isa) = (loaded.cx.threads().count(), loaded.cx.isa().name());
    ensure!(
        args.acceptance.is_none() || !loaded.model.mtp.is_empty(),
        "the model has no MTP module that could draft: leave out --acceptance"
    );
    let mut lines = Vec::new();
    for (depth, batch) in args.depth.iter().flat_map(|d| args.batch.iter().map(move |b| (*d, *b))) {
        let settings = InferSettings {
            depth,
            prompt: args.prompt,
            generate: args.generate,
            batch,
            rows: args.rows,
            speculation: args.speculation.speculation(),
            acceptance: args.acceptance.map(f64::from),
        };
        let tokens = [depth, args.prompt, args.generate, 1].into_iter().fold(0, usize::saturating_add);
        ensure!(tokens <= longest, "{tokens} tokens are more than the model's context of {longest}: ask for fewer");
        let cx = if args.profile { loaded.cx.clone().with_profile() } else { loaded.cx.clone() };
        let reading = loaded.model.read_rate(&loaded.cx, READS);
        let start = Instant::now();
        let rates = (0..args.repeat).map(|seed| bench(&cx, &loaded.model, settings, seed as u64));
        let rates: Vec<InferRates> = rates.collect::<Result<_, _>>()?;
        if args.profile {
            say!("{}", profile_table(&cx.profile(), args.repeat, start.elapsed().as_secs_f64()));
        }
        // The rate of memory changes on a shared machine, so it is measured before and after.
        let reading = reading.max(loaded.model.read_rate(&loaded.cx, READS));
        let middle = |of: fn(&InferRates) -> f64| {
            let mut all: Vec<f64> = rates.iter().map(of).collect();
            all.sort_by(f64::total_cmp);
            all[all.len() / 2]
        };
        let weights = rates.iter().all(|r| r.weight_rate.is_some()).then(|| middle(|r| r.weight_rate.unwrap_or(0.0)));
        let (prefill, decode) = (middle(|r| r.prefill), middle(|r| r.decode));
        let mut drafts = Acceptance::default();
        rates.iter().for_each(|r| drafts += r.drafts);
        if args.json {
            lines.push(json!({
                "settings": settings, "prefill": prefill, "decode": decode, "acceptance": drafts.rate(),
                "weight_bytes_per_second": weights, "memory_bytes_per_second": reading, "all": rates,
            }));
        } else {
            say!(
                "depth {depth}, batch {batch}: reads {} tokens at {prefill:.1} tokens/s, generates {} at {decode:.1} tokens/s{}{}",
                args.prompt,
                args.generate,
                accepted(drafts),
                weights.map(|w| of_memory(w, reading)).unwrap_or_default()
            );
        }
    }
    if args.json {
        let line = json!({
            "model": args.model.model, "weight_bytes": loaded.model.bytes(), "peak_rss_bytes": peak_rss_bytes(),
            "threads": threads, "isa": isa, "results": lines,
        });
        say!("{line}");
    } else {
        say!(
            "weights {:.2} GB, peak memory {:.2} GB; {threads} threads, {isa}",
            loaded.model.bytes() as f64 / 1e9,
            peak_rss_bytes() as f64 / 1e9
        );
    }
    Ok(())
}
