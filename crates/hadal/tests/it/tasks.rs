//! `hadal eval` on tasks and `hadal task`.

use crate::setup::{fails, ok};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// A file of the tests of tasks.
fn file(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tasks/tests/fixtures").join(name).to_str().unwrap().to_owned()
}

fn results(out: &Path) -> Value {
    let mut results: Value = serde_json::from_slice(&std::fs::read(out.join("results.json")).unwrap()).unwrap();
    results["notes"] = Value::Null;
    results
}

/// The file of answers in a folder.
fn answers(out: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(out).ok()?.map(|entry| entry.unwrap().path());
    entries.into_iter().find(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("answers-")))
}

fn lines(path: &Path) -> usize {
    std::fs::read_to_string(path).unwrap().matches('\n').count()
}

#[test]
fn an_evaluation_that_is_killed_goes_on_to_the_same_results() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
    let (model, task) = (file("model"), file("harness/gsm8k_small.yaml"));
    let args = |out: &Path| -> Vec<String> {
        let more = ["--dtype", "f32", "--temperature", "1", "--repeats", "2", "--log-samples", "--batch", "2", "--out"];
        let words = ["eval", &model, &task].into_iter().chain(more).map(str::to_owned);
        words.chain([out.to_str().unwrap().to_owned()]).collect()
    };
    ok(args(&whole));
    // On a busy machine it may end before it is killed. Then it is started again.
    let stopped = (0..20).any(|_| {
        _ = std::fs::remove_dir_all(&killed);
        let mut command = Command::new(env!("CARGO_BIN_EXE_hadal"));
        let mut child = command.args(args(&killed)).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while child.try_wait().unwrap().is_none() && answers(&killed).is_none_or(|path| lines(&path) < 3) {
            std::thread::sleep(Duration::from_millis(2));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        (3..12).contains(&lines(&answers(&killed).unwrap()))
    });
    assert!(stopped, "it was never killed between its answers");
    let said = ok(args(&killed));
    assert!(
        said.contains("gsm8k_small: 12 questions, 3 examples, 2 answers to each") && said.contains("avg@2"),
        "{said}"
    );
    assert_eq!(results(&killed), results(&whole));
    let samples = |out: &Path| std::fs::read_to_string(out.join("samples_gsm8k_small.jsonl")).unwrap();
    assert_eq!(samples(&killed), samples(&whole));
    assert_eq!(lines(&answers(&killed).unwrap()), 12);
    assert!(killed.join("gsm8k_small.html").exists());
}

#[test]
fn a_word_is_a_task_or_text_and_options_belong_to_one_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let (model, task) = (file("model"), file("harness/letters.yaml"));
    let text = folder.path().join("text.txt");
    std::fs::write(&text, "Some text.\n").unwrap();
    let text = text.to_str().unwrap();
    let refuses = |args: &[&str], words: &[&str]| {
        let error = fails(["eval", &model].iter().chain(args));
        words.iter().for_each(|word| assert!(error.contains(word), "{error}"));
    };
    refuses(&["gsm9k"], &["gsm9k is neither a task nor text", "hadal task list"]);
    refuses(&["sums", text], &["sums is a task", "text.txt is text"]);
    refuses(&["lost.yaml"], &["lost.yaml"]);
    refuses(&["sums", "--window", "64"], &["--window is for text", "sums is a task"]);
    refuses(&[text, "--limit", "3"], &["--limit is for tasks", "text.txt is text"]);
    refuses(&["gsm8k"], &["gsm8k_test.jsonl", "--data"]);
    assert!(ok(["eval", &model, text]).contains("bits per byte"));
    let out = folder.path().join("out");
    let out = out.to_str().unwrap();
    let said = ok(["eval", &model, &task, "--out", out, "--against", &model, "--json"]);
    assert!(said.contains(" difference from model:\n"), "{said}");
    let json: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!(json["against"]["differences"]["letters"][0]["difference"], 0.0);
}

#[test]
fn tasks_are_listed_shown_and_checked() {
    assert!(ok(["task", "list"]).contains("gsm8k_test.jsonl"));
    let folder = tempfile::tempdir().unwrap();
    let mine = folder.path().join("mine.yaml");
    std::fs::write(&mine, ok(["task", "show", "sums"])).unwrap();
    let mine = mine.to_str().unwrap();
    assert!(ok(["task", "check", mine]).contains("task sums: 512 questions"));
    let text = std::fs::read_to_string(mine).unwrap();
    std::fs::write(mine, text.replace("num_fewshot: 2", "num_fewshots: 2")).unwrap();
    let error = fails(["task", "check", mine]);
    assert!(error.contains("mine.yaml:10: `num_fewshots`") && error.contains("`num_fewshot`"), "{error}");
    assert!(fails(["task", "show", "gsm9k"]).contains("hadal task list"));
}
