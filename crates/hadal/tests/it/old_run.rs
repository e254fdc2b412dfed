//! A run that an earlier version of this program started continues to that version's bits. `fixtures/old-run` contains
//! a run of format 2 with mixture of experts, multi-token prediction, averaged weights and one extension. It has a
//! checkpoint in its main part and one at the end of it, and the results of that version after them, on the portable
//! instruction path.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Fields that differ between machines or runs.
const TIMES: [&str; 5] = ["elapsed", "tokens_per_second", "mfu", "loader_wait", "memory"];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/old-run").join(name)
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// A copy of the run with only the checkpoint `kept`.
fn run(kept: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy(&fixture("run"), folder.path());
    for entry in std::fs::read_dir(folder.path().join("checkpoints")).unwrap().map(Result::unwrap) {
        if entry.file_name() != kept {
            std::fs::remove_dir_all(entry.path()).unwrap();
        }
    }
    folder
}

fn hadal(args: &[&str]) {
    let done = Command::new(env!("CARGO_BIN_EXE_hadal")).args(args).env("HADAL_ISA", "portable").output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// The lines of a log without their times.
fn steps(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    let one = |line: &str| {
        let mut step: Value = serde_json::from_str(line).unwrap();
        TIMES.iter().for_each(|key| drop(step.as_object_mut().unwrap().remove(*key)));
        step
    };
    text.lines().map(one).collect()
}

/// Checks the exported weights' checksum (FNV-1a) against the entry in `sums.txt` for this part of the run and these
/// options.
fn check_export(run: &Path, part: &str, options: &[&str]) {
    let out = tempfile::tempdir().unwrap();
    let out = out.path().join("out");
    let from = run.join(part);
    hadal(&[&["export", from.to_str().unwrap(), "--out", out.to_str().unwrap()], options].concat());
    let bytes = std::fs::read(out.join("model.safetensors")).unwrap();
    let sum = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
    let line = format!("{} {} {sum:#x}", if part.is_empty() { "run" } else { "run/stage-1" }, options.join(" "));
    let sums = std::fs::read_to_string(fixture("sums.txt")).unwrap();
    assert!(sums.lines().any(|l| l == line), "{line} is none of:\n{sums}");
}

fn resume(run: &Path) {
    let recipe = fixture("recipe.toml");
    let out = format!("run.out={}", run.display());
    hadal(&["pretrain", recipe.to_str().unwrap(), "--plain", "--resume", "--set", &out]);
}

#[test]
fn a_run_of_the_version_before_goes_on_to_its_bits() {
    let run = run("step-00000008");
    resume(run.path());
    assert_eq!(steps(&run.path().join("metrics.jsonl")), steps(&fixture("metrics.jsonl")));
    assert_eq!(steps(&run.path().join("extension-1/metrics.jsonl")), steps(&fixture("stage-1.jsonl")));
    for part in ["", "extension-1"] {
        for options in [&["--dtype", "f32"][..], &["--dtype", "f32", "--ema"], &["--dtype", "bf16"]] {
            check_export(run.path(), part, options);
        }
    }
}

#[test]
fn an_extension_begins_from_a_checkpoint_of_the_version_before() {
    let run = run("step-00000019");
    // A run with a model is finished.
    copy(&run.path().join("checkpoints/step-00000019"), &run.path().join("model"));
    std::fs::remove_dir_all(run.path().join("model/state")).unwrap();
    check_export(run.path(), "", &["--dtype", "f32", "--ema"]);
    resume(run.path());
    assert_eq!(steps(&run.path().join("extension-1/metrics.jsonl")), steps(&fixture("stage-1.jsonl")));
    check_export(run.path(), "extension-1", &["--dtype", "f32"]);
}
