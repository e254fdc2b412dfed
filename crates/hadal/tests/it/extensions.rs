//! A longer context after a run: extensions of a recipe, one more with `extend`, a kill and a resume inside an
//! extension, and their measurement.

use crate::setup::{fails, ok};
use hadal_recipe::plan::Plan;
use hadal_watch::metrics;
use hadal_watch::metrics::METRICS_FILE;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// A tiny model on this repository's own sources with hidden facts, and one extension of twice the length.
fn command(out: &Path) -> Command {
    let mut command = crate::kill::command(out);
    for set in [
        "data.seq_len=256",
        "objective.name=needles",
        "objective.rate=0.5",
        "model.max_position_embeddings=256",
        "schedule.total_tokens=1536",
        "checkpoint.every=2 steps",
        "eval.tokens=512",
        "extension=[{seq_len=512, factor=4.0, total_tokens=\"5 steps\", lr=\"50%\", sequences=1}]",
    ] {
        command.args(["--set", set]);
    }
    command
}

/// Steps and losses, and the state at the end.
fn end(run: &Path) -> (Vec<(u64, f64)>, Vec<u8>) {
    let last = hadal_weights::folder::checkpoints(&run.join("checkpoints")).unwrap().pop().unwrap();
    let steps = metrics::read(&run.join(METRICS_FILE)).unwrap();
    (steps.iter().map(|m| (m.step, m.loss)).collect(), std::fs::read(last.join("state/tensors.safetensors")).unwrap())
}

#[test]
fn a_run_is_extended_measured_and_survives_a_kill_in_a_stage() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    assert!(command(&whole).status().unwrap().success());
    let extension = whole.join("extension-1");
    let plan = Plan::load(&extension).unwrap();
    let yarn = plan.model.rope_scaling.as_ref().unwrap();
    assert_eq!((yarn.factor, yarn.original_max_position_embeddings), (4.0, 256));
    let want = end(&extension);
    assert_eq!(want.0.len(), 5);
    // It starts with the given weights. The loss of a new model would be ln 512 = 6.2.
    let before = end(&whole).0.last().unwrap().1;
    assert!((want.0[0].1 - before).abs() < 1.0, "{before}, then {}", want.0[0].1);

    // Killed in the extension after its first checkpoint, and continued.
    let broken = folder.path().join("broken");
    let mut child = command(&broken).spawn().unwrap();
    let (from, first) = (Instant::now(), broken.join("extension-1/checkpoints/step-00000002"));
    while !first.exists() && child.try_wait().unwrap().is_none() {
        assert!(from.elapsed() < Duration::from_mins(2), "the extension has no checkpoint");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(command(&broken).arg("--resume").status().unwrap().success());
    let have = end(&broken.join("extension-1"));
    assert_eq!(have.0, want.0);
    assert!(have.1 == want.1, "state tensors differ");

    // One more extension with twice the length. The factor may change from one extension to the next.
    let run = whole.to_str().unwrap();
    let e = fails(["extend", run, "--to", "1024", "--tokens", "2 steps", "--factor", "3"]);
    assert!(e.contains("--factor") && e.contains("768"), "{e}");
    let e = fails(["extend", run, "--to", "1024"]);
    assert!(e.contains("--tokens 2M"), "{e}");
    ok(["extend", run, "--to", "1024", "--tokens", "2 steps", "--lr", "10%", "--plain"]);
    assert_eq!(end(&whole.join("extension-2")).0.len(), 2);
    // After a stop, the same command continues the extension. A different command says that it is unfinished.
    std::fs::remove_dir_all(whole.join("extension-2/model")).unwrap();
    let e = fails(["extend", run, "--to", "2048", "--tokens", "2 steps", "--plain"]);
    assert!(e.contains("extension 2") && e.contains("hadal extend"), "{e}");
    ok(["extend", run, "--to", "1024", "--tokens", "2 steps", "--lr", "10%", "--plain"]);
    assert!(whole.join("extension-2/model/config.json").is_file() && !whole.join("extension-3").exists());
    // Everything is finished, so nothing is trained again.
    ok(["extend", run, "--plain"]);
    assert_eq!(end(&whole.join("extension-2")).0.len(), 2);

    // The extended model answers (incorrectly) at lengths that the first model rejects.
    let e = fails(["niah", run, "--lengths", "512"]);
    assert!(e.contains("--lengths") && e.contains("256"), "{e}");
    let extension = extension.to_str().unwrap();
    let said = ok(["niah", extension, "--lengths", "256,512", "--depths", "3", "--samples", "2", "--json"]);
    let last: serde_json::Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!(last["cells"].as_array().unwrap().len(), 6);
    assert_eq!(last["cells"][5]["asked"], 2);
    let lines = std::fs::read_to_string(Path::new(extension).join("niah/niah.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), 12);
    assert!(Path::new(extension).join("niah/niah.svg").is_file());

    let out = folder.path().join("places");
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli.rs");
    ok(["eval", extension, text.to_str().unwrap(), "--window", "512", "--by-position", out.to_str().unwrap()]);
    let lines = std::fs::read_to_string(out.join("by_position.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), 32);
    assert!(out.join("by_position.svg").is_file());
}

#[test]
fn a_model_without_experts_trains_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("dense");
    let mut dense = crate::kill::command(&run);
    for set in ["model.first_k_dense_replace=2", "model.num_nextn_predict_layers=0", "schedule.total_tokens=128"] {
        dense.args(["--set", set]);
    }
    assert!(dense.status().unwrap().success());
    assert!(run.join("model/config.json").is_file() && run.join("training.svg").is_file());
    assert!(!run.join("expert_load.svg").exists());
}
