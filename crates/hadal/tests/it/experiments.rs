//! `hadal experiment` with descriptions of tiny runs: what it trains, measures, draws and prints, that it continues,
//! and what it rejects.

use crate::setup::{fails, ok};
use hadal_data::{Packed, Tokenizer};
use hadal_watch::metrics;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// Settings of a tiny model on this repository's own sources.
pub(crate) const TINY: &str = r#"[
    "data.seq_len=256", "data.validation_share=0.1", "data.shuffle_rows=8", "objective.name=needles", "objective.rate=0.5",
    "batch.sequences=1", "batch.micro_batch=1", "batch.ramp.from=1", "checkpoint.every=50%", "eval.every=50%", "eval.tokens=256", "ema.decay=0",
    "run.threads=1", "model.vocab_size=512", "model.hidden_size=32", "model.num_hidden_layers=2",
    "model.intermediate_size=48", "model.moe_intermediate_size=16", "model.max_position_embeddings=256",
"#;

/// Text to train on.
pub(crate) fn sources() -> &'static str {
    crate::setup::corpus().to_str().unwrap()
}

/// A description in a folder of its own, with the experiment's folder beside it.
struct Pair {
    folder: TempDir,
    file: PathBuf,
    out: PathBuf,
}

impl Pair {
    /// Two runs, with and without balancing, each with `seeds` seeds.
    fn new(seeds: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (file, out) = (folder.path().join("pair.toml"), folder.path().join("out"));
        let text = format!(
            "title = \"A pair\"\nsection = \"4.5\"\nrecipe = \"quickstart\"\nset = {TINY}]\nsmooth = 2\nminutes = 1.0\n\
             seeds = {seeds}\nfidelity = \"free\"\n[[run]]\nname = \"free\"\n[[run]]\nname = \"no balance\"\nset = [\"balance.method=none\"]\n\
             [[verdict]]\nclaim = \"It specialises.\"\nkind = \"more-specialised\"\nmore = \"free\"\nless = \"no balance\"\n\
             [[verdict]]\nclaim = \"It costs.\"\nkind = \"lower-loss\"\nbetter = \"no balance\"\nworse = \"free\"\n"
        );
        std::fs::write(&file, text).unwrap();
        Self { folder, file, out }
    }

    /// The command without an option for the length.
    fn command<'a>(&'a self, out: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
        let fixed = ["experiment", self.file.to_str().unwrap(), "--plain", "--out", out.to_str().unwrap()];
        fixed.iter().chain(more).copied().collect()
    }

    fn measured(&self) -> Value {
        json(&self.out.join("measured.json"))
    }
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Losses of a run, step by step.
pub(crate) fn losses(run: &Path) -> Vec<f64> {
    metrics::read(run).unwrap().iter().map(|m| m.loss).collect()
}

#[test]
fn runs_are_compared_and_watched_by_kind_of_text() {
    let pair = Pair::new(1);
    let out = &pair.out;
    let e = fails(pair.command(out, &["--domain", "maths=/nowhere"]));
    assert!(e.contains("/nowhere") && !out.exists(), "{e}");
    let domains = [
        concat!("code=", env!("CARGO_MANIFEST_DIR"), "/../base/src/rng.rs"),
        concat!("english=", env!("CARGO_MANIFEST_DIR"), "/../../docs/data.md"),
    ];
    let more = ["--tokens", "1536", "--text", sources(), "--domain", domains[0], "--domain", domains[1]];
    let args = pair.command(out, &more);
    let said = ok(args.clone());
    assert!(said.contains("It specialises. **") && said.contains("specialisation free 0."), "{said}");
    assert!(said.contains("(one seed)") && said.contains("it was not checked") && !said.contains('±'), "{said}");
    let found = pair.measured();
    for run in found["runs"].as_array().unwrap() {
        let run = &run["seeds"][0];
        assert!(run["figures"]["specialisation"].as_f64().unwrap() > 0.0);
        assert!(["mtp_own", "mtp_along"].iter().all(|kind| run[kind]["drafts"].as_u64().unwrap() > 0));
        let layers = [0, 1].map(|domain| &run["domains"][domain]["routing"][0]);
        assert_eq!(layers[0]["tokens"], layers[1]["tokens"], "as many tokens of each kind");
        let load: u64 = layers[1]["load"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sum();
        // Four experts per token, in at most two groups.
        assert_eq!(load, 4 * layers[1]["tokens"].as_u64().unwrap());
        assert!(layers[1]["nodes"].as_u64().unwrap() <= 2 * layers[1]["tokens"].as_u64().unwrap());
    }
    // Both runs have the same precision, so the entry is the distance of bf16 from f32.
    let fidelity = found["fidelity"].as_array().unwrap();
    assert!(fidelity.len() == 1 && fidelity[0][0] == "free", "{fidelity:?}");
    let [loss, gradients] = ["loss", "gradients"].map(|key| fidelity[0][1][0][key].as_f64().unwrap().abs());
    assert!(0.0 < loss && loss < 0.01 && 0.0 < gradients && gradients < 0.1, "{loss} {gradients}");
    for plot in ["loss", "difference", "max_vio", "domains"] {
        assert!(out.join(format!("{plot}.svg")).is_file(), "{plot}");
    }
    // The same command again trains nothing and gives the same results, even if a measurement would fail now.
    let files = ["free/metrics.jsonl", "free/measured.json"].map(|f| out.join(f));
    let read = || files.clone().map(|f| std::fs::read(f).unwrap());
    let before = read();
    std::fs::remove_file(out.join("free/model/model.safetensors")).unwrap();
    ok(args);
    assert!(read() == before && pair.measured() == found);
}

#[test]
fn seeds_are_trained_in_turn_and_a_killed_experiment_ends_in_the_same_report() {
    let pair = Pair::new(2);
    let out = &pair.out;
    let more = ["--tokens", "4k", "--text", sources()];
    let said = ok(pair.command(out, &more));
    let turns = ["free, seed 1", "no balance, seed 1", "free, seed 2", "no balance, seed 2"];
    let places = turns.map(|t| said.find(&format!("== {t}\n")).unwrap());
    assert!(places.is_sorted(), "{said}");
    assert!(said.contains("Means over 2 seeds") && said.contains('±') && !said.contains("one seed"), "{said}");
    assert!(said.contains("It specialises. **not measured**") && said.contains("by seed"), "{said}");
    // Runs with the same seed start alike, runs with different seeds do not.
    let first = |run: &str| losses(&out.join(run))[0];
    assert_eq!(first("free/seed-1"), first("no-balance/seed-1"));
    assert_eq!(first("free/seed-2"), first("no-balance/seed-2"));
    assert_ne!(first("free/seed-1"), first("free/seed-2"));
    let found = pair.measured();
    let run = &found["runs"][0]["seeds"];
    assert_eq!((run[0]["seed"].as_u64(), run[1]["seed"].as_u64()), (Some(1), Some(2)));
    assert_eq!(run[1]["tokens"].as_u64(), Some(4096));
    assert!(run[0]["figures"]["loss"] != run[1]["figures"]["loss"]);

    // Killed while the second run trains, and again during the measurements.
    let broken = pair.folder.path().join("broken");
    let begun = |file: &str| std::fs::metadata(broken.join(file)).is_ok_and(|m| m.len() > 0);
    for sign in ["no-balance/seed-1/metrics.jsonl", "free/seed-1/measured.json"] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_hadal"))
            .args(pair.command(&broken, &more))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        while !begun(sign) {
            assert!(child.try_wait().unwrap().is_none(), "it ended before {sign}");
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap(); // SIGKILL
        child.wait().unwrap();
        assert!(!broken.join("report.md").exists(), "killed too late");
    }
    ok(pair.command(&broken, &more));
    for file in ["report.md", "measured.json"] {
        let [whole, broken] = [out, &broken].map(|folder| std::fs::read_to_string(folder.join(file)).unwrap());
        assert_eq!(whole, broken, "{file}");
    }
    // More seeds are added to the existing ones.
    let before = losses(&out.join("free/seed-1"));
    let said = ok(pair.command(out, &[&more[..], &["--seeds", "3"]].concat()));
    assert!(said.contains("Means over 3 seeds") && !said.contains("== free, seed 2"), "{said}");
    assert_eq!(losses(&out.join("free/seed-1")), before);
}

#[test]
fn changed_arguments_are_refused_by_name() {
    let pair = Pair::new(1);
    let same = ["--tokens", "1536", "--text", sources()];
    // A run that never started imposes no settings.
    let e = fails(pair.command(&pair.out, &["--tokens", "512", "--text", sources()]));
    assert!(e.contains("2 steps are too few"), "{e}");
    ok(pair.command(&pair.out, &same));
    for (change, says) in [
        (&["--set", "schedule.peak_lr=1e-3"][..], "schedule.peak_lr: 0.0025 / 0.001"),
        (&["--set", "balance.method=batch-aux"], "run `no balance`"),
        (&["--set", "schedule.total_tokens=5000"], "--tokens or --budget"),
        (&["--text", "elsewhere"], "text: "),
        (&["--seeds", "2"], "--seeds: "),
    ] {
        let e = fails(pair.command(&pair.out, &[&same[..], change].concat()));
        assert!(e.contains(says), "{change:?}: {e}");
    }
    let e = fails(pair.command(&pair.out, &["--tokens", "2k", "--text", sources()]));
    assert!(e.contains("--tokens 1536 gives, not --tokens 2000") && e.contains("another --out"), "{e}");
    let e = fails(pair.command(&pair.out, &["--tokens", "5%", "--text", sources()]));
    assert!(e.contains("--tokens: write a number"), "{e}");
    let twice =
        ["--domain", concat!("a=", env!("CARGO_MANIFEST_DIR")), "--domain", concat!("a=", env!("CARGO_MANIFEST_DIR"))];
    assert!(fails(pair.command(&pair.out, &[&same[..], &twice].concat())).contains("--domain a: two kinds"));
}

#[test]
fn a_budget_gives_all_runs_one_length() {
    let pair = Pair::new(2);
    let more = ["--text", sources(), "--set", "schedule.max_tokens=1536", "--budget"];
    let with = |minutes| pair.command(&pair.out, &[&more[..], &[minutes]].concat());
    let e = fails(with("0.00001"));
    assert!(e.contains("--budget") && !pair.out.join("length.json").exists(), "{e}");
    // On any machine, half an hour is enough for the largest allowed number of tokens.
    let said = ok(with("30"));
    assert!(said.contains("free: ") && said.contains("no balance: ") && said.contains("tokens per second"), "{said}");
    for run in pair.measured()["runs"].as_array().unwrap() {
        for seed in [0, 1] {
            assert_eq!(run["seeds"][seed]["tokens"].as_u64(), Some(1536));
        }
    }
    assert_eq!(json(&pair.out.join("length.json"))["lengths"]["total_tokens"].as_u64(), Some(1536));
    let e = fails(with("60"));
    assert!(e.contains("30 minutes for --seeds 2 gives, not 60 minutes"), "{e}");
}

#[test]
fn kinds_of_text_are_trained_on_in_equal_parts_and_measured_on_what_is_held_out() {
    let pair = Pair::new(1);
    let maths = pair.folder.path().join("maths.jsonl");
    let things = ["apples", "clips", "coins", "pages", "stones", "stamps", "shells"];
    let line = |i: usize| {
        let (a, b, what, who) = (3 + i * 7 % 83, 2 + i * 5 % 41, things[i % 7], ["Ann", "Bo", "Cy", "Di", "Ed"][i % 5]);
        format!(
            "{{\"question\": \"{who} has {a} {what} and {b} more in a box on day {i}. How many {what} are there?\", \
             \"answer\": \"{a} and {b} are {} {what}.\"}}\n",
            a + b
        )
    };
    std::fs::write(&maths, (0..400).map(line).collect::<String>()).unwrap();
    let maths = format!("maths={}", maths.display());
    let code = format!("code={}", sources());
    // A single file is cut into pieces.
    let english = concat!("english=", env!("CARGO_MANIFEST_DIR"), "/../../ARCHITECTURE.md");
    let more = ["--tokens", "1536", "--domain", english, "--domain", &code, "--domain", &maths];
    let said = ok(pair.command(&pair.out, &more));
    assert!(said.contains("held out") && !said.contains("it was not checked"), "{said}");
    let kinds = pair.out.join("kinds");
    let tokenizer = Tokenizer::load(&kinds).unwrap();
    let texts = |side: &str| -> Vec<(String, String)> {
        let packed = Packed::open(&kinds, side, &tokenizer).unwrap();
        let one = |(i, (kind, _)): (usize, (String, String))| {
            let mut ids = Vec::new();
            packed.read(i, &mut ids).unwrap();
            (kind, tokenizer.decode(&ids))
        };
        packed.names().unwrap().into_iter().enumerate().map(one).collect()
    };
    let (train, held_out) = (texts("train"), texts("validation"));
    assert!(held_out.iter().all(|text| !train.contains(text)), "trained on what is held out");
    assert!(held_out.iter().chain(&train).any(|t| t.1.contains("stamps are there?\n")), "question, line, answer");
    let mut bytes: BTreeMap<&str, usize> = BTreeMap::new();
    train.iter().for_each(|(kind, text)| *bytes.entry(kind.as_str()).or_default() += text.len());
    assert_eq!(bytes.keys().copied().collect::<Vec<_>>(), ["code", "english", "maths"]);
    let (least, most) = (bytes.values().min().unwrap(), bytes.values().max().unwrap());
    assert!(*most < least * 3 / 2, "{bytes:?}");
    for run in pair.measured()["runs"].as_array().unwrap() {
        let tokens = |kind: usize| run["seeds"][0]["domains"][kind]["routing"][0]["tokens"].as_u64().unwrap();
        assert!(tokens(0) > 100 && tokens(0) == tokens(1) && tokens(1) == tokens(2));
    }
    let e = fails(pair.command(&pair.out, &more[..6]));
    assert!(e.contains("--domain"), "{e}");
}

#[test]
fn a_context_is_asked_about_before_and_after_its_stages() {
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (folder.path().join("long.toml"), folder.path().join("out"));
    let part = |seq_len: usize, steps: usize, factor: f64| {
        format!(
            "{{seq_len={seq_len}, factor={factor}, total_tokens=\\\"{steps} steps\\\", lr=\\\"50%\\\", sequences=1}}"
        )
    };
    let extension = format!("\"extension=[{}, {}]\"", part(256, 1, 2.0), part(512, 2, 2.0));
    let no_extension = format!("\"extension=[{}]\"", part(256, 4, 1.0));
    let describe = |within: f64| {
        let text = format!(
            "title = \"Longer\"\nsection = \"4.3\"\nrecipe = \"quickstart\"\nset = {TINY} {extension}]\nsmooth = 2\nminutes = 1.0\n\
             [[run]]\nname = \"short\"\n[[run]]\nname = \"as long\"\nset = [{no_extension}]\n[context]\nlengths = [200, 400]\ndepths = 2\nsamples = 1\ntokens = 600\nwindow = 256\n\
             [[verdict]]\nclaim = \"Kept.\"\nkind = \"perplexity-kept\"\nmodel = \"512 tokens\"\nbase = \"256 tokens\"\n\
             within = {within}\n[[verdict]]\nclaim = \"Found.\"\nkind = \"needles-found\"\nmodel = \"512 tokens\"\nshare = 0.0\n\
             [[verdict]]\nclaim = \"As the control.\"\nkind = \"perplexity-kept\"\nmodel = \"512 tokens\"\n\
             base = \"as long\"\nwithin = 100.0\n"
        );
        std::fs::write(&file, text).unwrap();
        let fixed = ["experiment", file.to_str().unwrap(), "--tokens", "1536", "--plain", "--text", sources(), "--out"];
        ok(fixed.iter().copied().chain([out.to_str().unwrap()]))
    };
    let said = describe(100.0);
    assert!(said.contains("Kept. **holds here**") && said.contains("| 512 tokens | 0% | 0% |"), "{said}");
    assert!(said.contains("Found. **does not hold here**") && said.contains("0 of 1, a 95% interval of 0% to 79%"));
    for plot in ["needles-256-tokens", "needles-256-tokens-extension-1", "needles-512-tokens", "by_position", "loss"] {
        assert!(out.join(format!("{plot}.svg")).is_file(), "{plot}");
    }
    let found = json(&out.join("measured.json"));
    // The run's two models, and its control's final model.
    let models: Vec<_> = found["context"].as_array().unwrap().iter().map(|c| c["model"].as_str().unwrap()).collect();
    assert_eq!(models, ["256 tokens", "256 tokens, extension 1", "512 tokens", "as long"]);
    assert!(said.contains("As the control. **holds here**") && !out.join("difference.svg").exists(), "{said}");
    let cells = found["context"][2]["needles"].as_array().unwrap();
    assert!(cells.len() == 4 && cells.iter().all(|c| c["asked"].as_u64() == Some(1)));
    assert!(found["context"][2]["loss_by_place"][0]["tokens"].as_u64().unwrap() > 0);
    // The bound is exact: a slightly larger one holds, a slightly smaller one does not. This needs no new measurement.
    let perplexity = |i: usize| found["context"][i]["perplexity"].as_f64().unwrap();
    let above = perplexity(2) / perplexity(0) - 1.0;
    for model in ["short/extension-2", "as-long/extension-1"] {
        std::fs::remove_file(out.join(format!("{model}/model/model.safetensors"))).unwrap();
    }
    assert!(describe(above + 1e-6).contains("Kept. **holds here**"));
    let said = describe(above - 1e-6);
    assert!(
        said.contains("Kept. **does not hold here**") && said.contains(&format!("{:+.2}%", 100.0 * above)),
        "{said}"
    );
}
