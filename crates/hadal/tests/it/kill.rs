//! A run that is killed at any moment (SIGKILL), even while saving, resumes with the same bits as an unbroken run.

use hadal_watch::metrics;
use hadal_watch::metrics::METRICS_FILE;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// `hadal pretrain` of a tiny model on the tests' own text: 40 steps, with a checkpoint after every second one.
fn pretrain(out: &Path, resume: bool, precision: &str) -> Child {
    let mut command = command(out);
    command.args(["--set", &format!("run.precision={precision}")]);
    if resume {
        command.arg("--resume");
    }
    command.stderr(Stdio::inherit()).spawn().unwrap()
}

/// The same as a command to which options can be added.
pub(crate) fn command(out: &Path) -> Command {
    let text = crate::setup::corpus();
    let sets = [
        format!("run.out={}", out.display()),
        format!("data.text=[\"{}\"]", text.display()),
        "data.seq_len=32".into(),
        "data.validation_share=0.1".into(),
        "data.fim_span=24".into(),
        "data.shuffle_rows=8".into(),
        "schedule.total_tokens=2560".into(),
        "batch.sequences=2".into(),
        "batch.micro_batch=1".into(),
        "batch.ramp.from=2".into(),
        "checkpoint.every=2 steps".into(),
        "eval.every=20 steps".into(),
        "eval.tokens=256".into(),
        "ema.decay=0.9".into(),
        "run.threads=1".into(),
        "model.vocab_size=512".into(),
        "model.hidden_size=32".into(),
        "model.num_hidden_layers=2".into(),
        "model.intermediate_size=48".into(),
        "model.moe_intermediate_size=16".into(),
        "model.max_position_embeddings=128".into(),
    ];
    let mut command = Command::new(env!("CARGO_BIN_EXE_hadal"));
    command.args(["pretrain", "quickstart", "--plain"]).stdin(Stdio::null()).stdout(Stdio::null());
    sets.iter().for_each(|s| {
        command.args(["--set", s]);
    });
    command
}

/// Everything that must be the same after a run.
struct End {
    /// Masters, biases, moments, averages.
    state: Vec<u8>,
    /// The progress record without its times.
    progress: serde_json::Value,
    weights: Vec<u8>,
    /// Step and loss of every line of the metrics.
    steps: Vec<(u64, f64)>,
}

fn end(out: &Path) -> End {
    let last = hadal_weights::folder::checkpoints(&out.join("checkpoints")).unwrap().pop().unwrap();
    let read = |name: &str| std::fs::read(last.join(name)).unwrap();
    let mut progress: serde_json::Value = serde_json::from_slice(&read("state/progress.json")).unwrap();
    progress["elapsed"] = 0.into();
    let steps = metrics::read(&out.join(METRICS_FILE)).unwrap();
    let steps = steps.iter().map(|m| (m.step, m.loss)).collect();
    End { state: read("state/tensors.safetensors"), progress, weights: read("model.safetensors"), steps }
}

#[test]
fn a_killed_run_resumes_to_the_bits_of_an_unbroken_one() {
    killed_and_resumed(40, &|out, resume| pretrain(out, resume, "bf16"));
}

#[test]
fn a_killed_run_in_fp8_resumes_to_the_same_bits() {
    killed_and_resumed(40, &|out, resume| pretrain(out, resume, "fp8"));
}

/// A run of so many steps that is killed and resumed ends as one that is not. `begin` starts or resumes it in a folder.
pub(crate) fn killed_and_resumed(steps: usize, begin: &dyn Fn(&Path, bool) -> Child) {
    let folder = tempfile::tempdir().unwrap();
    let unbroken = folder.path().join("unbroken");
    let start = Instant::now();
    assert!(begin(&unbroken, false).wait().unwrap().success());
    let whole = start.elapsed();
    let want = end(&unbroken);
    assert_eq!(want.steps.len(), steps);
    assert!(want.steps.iter().enumerate().all(|(i, (step, _))| *step == i as u64 + 1));

    // The run is killed again and again. Each time it runs a little longer. So the kills happen during start-up, steps
    // and saves, until the run finishes.
    let broken = folder.path().join("broken");
    let mut kills = 0;
    for life in 1.. {
        let plan = broken.join("plan.json").exists();
        let mut child = begin(&broken, plan);
        let until = Instant::now() + whole.mul_f64(0.23) + Duration::from_millis(life * 17);
        let done = loop {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success());
                break true;
            }
            if Instant::now() >= until {
                child.kill().unwrap(); // SIGKILL
                child.wait().unwrap();
                break false;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        if done {
            break;
        }
        kills += 1;
        assert!(kills < 200, "the run never reaches its end");
    }
    assert!(kills >= 2, "only {kills} kills");
    let have = end(&broken);
    assert!(have.state == want.state, "state tensors differ after {kills} kills");
    assert_eq!(have.progress, want.progress);
    assert!(have.weights == want.weights, "exported weights differ");
    assert_eq!(have.steps, want.steps, "metrics: each step once, with the same loss");
}
