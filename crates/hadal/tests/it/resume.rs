//! What a resumed run takes from its command, and what it reports about the rest. Also runs without held-out text.

use crate::kill::command;
use hadal_watch::metrics;
use std::path::Path;

/// The output of a command on a tiny run (standard output or the error), and whether it succeeded.
fn told(out: &Path, sets: &[&str], resume: bool) -> (bool, String) {
    let mut command = command(out);
    for set in sets {
        command.args(["--set", set]);
    }
    if resume {
        command.arg("--resume");
    }
    let done = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (done.status.success(), text(&done.stdout) + &text(&done.stderr))
}

#[test]
fn settings_that_a_resumed_run_does_not_use_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let short = "schedule.total_tokens=256";
    let (ok, said) = told(&out, &[short], false);
    assert!(ok, "{said}");
    // The same command again, another number of threads, and an old key with an empty value do not contradict the plan.
    for sets in [&[short][..], &[short, "run.threads=2"], &[short, "stage=[]"]] {
        let (ok, said) = told(&out, sets, true);
        assert!(ok && !said.contains("settings"), "{sets:?}: {said}");
    }
    for (set, key, values) in [
        ("schedule.peak_lr=1e-4", "schedule.peak_lr", "0.0001"),
        ("schedule.total_tokens=512", "schedule.total_tokens", "256 / 512"),
        ("optimizer.clip=0.25", "optimizer.clip", "0.25"),
        ("data.seq_len=16", "data.seq_len", "32 / 16"),
        ("model.num_hidden_layers=3", "model.num_hidden_layers", "/ 3"),
    ] {
        let (ok, said) = told(&out, &[short, set], true);
        let all = [key, values, "has other settings", "leave these out", out.to_str().unwrap()];
        assert!(!ok && all.iter().all(|part| said.contains(part)), "{set}: {said}");
    }
    // Settings that differ only in the recipe are reported.
    let plan = out.join("plan.json");
    let text = std::fs::read_to_string(&plan).unwrap();
    let (from, to) = ("\"weight_decay\": 0.1", "\"weight_decay\": 0.125");
    assert!(text.contains(from), "{text}");
    std::fs::write(&plan, text.replace(from, to)).unwrap();
    let (ok, said) = told(&out, &[short], true);
    assert!(ok && said.contains("keeps its own settings") && said.contains("weight_decay: 0.125 / 0.1"), "{said}");
}

#[test]
fn nothing_held_out_gives_no_figure_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let (ok, said) = told(&out, &["data.validation_share=0", "schedule.total_tokens=256", "eval.every=2 steps"], false);
    assert!(ok && said.contains("nothing is held out") && !said.contains("bits/byte"), "{said}");
    let steps = metrics::read(&out).unwrap();
    assert!(!steps.is_empty() && steps.iter().all(|m| m.validation.is_none()));
    let text = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    assert!(!text.contains("bits_per_byte"), "{text}");
}
