//! `hadal experiment` on descriptions of tiny runs: what it trains, measures, draws and says, and that it goes on.

use crate::setup::{fails, ok};
use serde_json::Value;
use std::path::Path;

/// Settings of a tiny model on this repository's own sources.
const TINY: &str = r#"[
    "data.seq_len=256", "data.validation_share=0.1", "data.shuffle_rows=8", "data.needle_rate=0.5", "batch.sequences=1",
    "batch.micro_batch=1", "batch.ramp.from=1", "checkpoint.every=50%", "eval.every=50%", "eval.tokens=256", "ema.decay=0",
    "run.threads=1", "model.vocab_size=512", "model.hidden_size=32", "model.num_hidden_layers=2",
    "model.intermediate_size=48", "model.moe_intermediate_size=16", "model.max_position_embeddings=256",
"#;

fn run<'a>(description: &'a Path, out: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let text = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/src");
    let (description, out) = (description.to_str().unwrap(), out.to_str().unwrap());
    let fixed = ["experiment", description, "--tokens", "1536", "--plain", "--out", out, "--text", text];
    fixed.iter().chain(more).copied().collect()
}

#[test]
fn runs_are_compared_and_watched_by_kind_of_text() {
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (folder.path().join("pair.toml"), folder.path().join("out"));
    let text = format!(
        "title = \"A pair\"\nsection = \"4.5\"\nrecipe = \"quickstart\"\nset = {TINY}]\nsmooth = 2\nminutes = 1.0\n\
         [[run]]\nname = \"free\"\n[[run]]\nname = \"no balance\"\nset = [\"balance.method=none\"]\n\
         [[verdict]]\nclaim = \"It specialises.\"\nkind = \"more-specialised\"\nmore = \"free\"\nless = \"no balance\"\n"
    );
    std::fs::write(&file, text).unwrap();
    let e = fails(run(&file, &out, &["--domain", "maths=/nowhere"]));
    assert!(e.contains("/nowhere") && !out.exists(), "{e}");
    let domains = [
        concat!("code=", env!("CARGO_MANIFEST_DIR"), "/../data/src/hash.rs"),
        concat!("english=", env!("CARGO_MANIFEST_DIR"), "/../../docs/data.md"),
    ];
    let args = run(&file, &out, &["--domain", domains[0], "--domain", domains[1]]);
    let said = ok(args.clone());
    assert!(said.contains("It specialises. **") && said.contains("specialisation free 0."), "{said}");
    let measured = || -> Value { serde_json::from_slice(&std::fs::read(out.join("measured.json")).unwrap()).unwrap() };
    let found = measured();
    for run in found["runs"].as_array().unwrap() {
        let run = &run["seeds"][0];
        assert!(run["figures"]["specialisation"].as_f64().unwrap() > 0.0 && run["mtp_drafts"].as_u64().unwrap() > 0);
        let layer = &run["domains"][1]["routing"][0];
        let load: u64 = layer["load"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sum();
        // Four experts a token, in at most two groups.
        assert_eq!(load, 4 * layer["tokens"].as_u64().unwrap());
        assert!(layer["nodes"].as_u64().unwrap() <= 2 * layer["tokens"].as_u64().unwrap());
    }
    for plot in ["loss", "difference", "max_vio", "domains"] {
        assert!(out.join(format!("{plot}.svg")).is_file(), "{plot}");
    }
    // The same command again trains nothing and finds the same.
    let metrics = || std::fs::read(out.join("free/metrics.jsonl")).unwrap();
    let before = metrics();
    ok(args);
    assert!(metrics() == before && measured() == found);
}

#[test]
fn a_context_is_asked_about_before_and_after_its_stages() {
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (folder.path().join("long.toml"), folder.path().join("out"));
    let stage = "\"stage=[{seq_len=512, factor=2.0, total_tokens=\\\"2 steps\\\", lr=\\\"50%\\\", sequences=1}]\"";
    let text = format!(
        "title = \"Longer\"\nsection = \"4.3\"\nrecipe = \"quickstart\"\nset = {TINY} {stage}]\nsmooth = 2\nminutes = 1.0\n\
         [[run]]\nname = \"short\"\n[context]\nlengths = [200, 400]\ndepths = 2\nsamples = 1\ntokens = 600\nwindow = 256\n\
         [[verdict]]\nclaim = \"Kept.\"\nkind = \"perplexity-kept\"\nmodel = \"512 tokens\"\nbase = \"256 tokens\"\nwithin = 100\n"
    );
    std::fs::write(&file, text).unwrap();
    let said = ok(run(&file, &out, &[]));
    assert!(said.contains("Kept. **holds here**") && said.contains("| 512 tokens | 0% | 0% |"), "{said}");
    for plot in ["needles-256-tokens", "needles-512-tokens", "by_position", "loss"] {
        assert!(out.join(format!("{plot}.svg")).is_file(), "{plot}");
    }
    let found: Value = serde_json::from_slice(&std::fs::read(out.join("measured.json")).unwrap()).unwrap();
    assert_eq!(found["context"].as_array().unwrap().len(), 2);
    assert_eq!(found["context"][1]["needles"].as_array().unwrap().len(), 4);
}
