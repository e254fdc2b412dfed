//! A control run of an experiment that differs in one weight: killed, continued, and with a changed description.

use crate::experiments::{TINY, losses, sources};
use crate::setup::{fails, ok};
use std::fs;

#[test]
fn a_nudged_run_goes_on_nudged_and_with_no_other_number() {
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (folder.path().join("nudge.toml"), folder.path().join("out"));
    let describe = |nudge: usize| {
        let text = format!(
            "title = \"A control\"\nsection = \"3.3\"\nrecipe = \"quickstart\"\nset = {TINY}]\nsmooth = 2\nminutes = 1.0\n\
             [[run]]\nname = \"plain\"\n[[run]]\nname = \"nudged\"\nnudge = {nudge}\n\
             [[verdict]]\nclaim = \"It costs.\"\nkind = \"lower-loss\"\nbetter = \"plain\"\nworse = \"nudged\"\n"
        );
        fs::write(&file, text).unwrap();
    };
    let (file, folder) = (file.to_str().unwrap(), out.to_str().unwrap());
    let args = ["experiment", file, "--tokens", "1536", "--plain", "--text", sources(), "--out", folder];
    describe(33);
    assert!(fails(args).contains("run `nudged`: `nudge = 33`, but the last norm has 32 weights"));
    describe(1);
    ok(args);
    let nudged = out.join("nudged");
    let of_first = losses(&nudged);
    assert_ne!(of_first, losses(&out.join("plain")));

    let checkpoints = nudged.join("checkpoints");
    let mut saved: Vec<_> = fs::read_dir(&checkpoints).unwrap().map(|e| e.unwrap().path()).collect();
    saved.sort();
    // Killed after a checkpoint, and before the first one.
    for lost in [saved.last().unwrap(), &checkpoints] {
        fs::remove_dir_all(nudged.join("model")).unwrap();
        fs::remove_dir_all(lost).unwrap();
        ok(args);
        assert_eq!(losses(&nudged), of_first, "without {}", lost.display());
    }

    describe(2);
    let error = fails(args);
    assert!(error.contains("started with `nudge = 1`, but the description has `nudge = 2`"), "{error}");
}
