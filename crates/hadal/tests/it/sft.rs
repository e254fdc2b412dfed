//! `hadal sft`: a run that is killed at any moment, and a chat with the finished model.

use crate::kill::killed_and_resumed;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A tiny model with a tokenizer and a chat template.
fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../post/tests/fixtures/sft")
}

/// The command for a run in `out`, with conversations beside it.
fn command(out: &Path) -> Command {
    let chats = out.with_file_name("chats.jsonl");
    if !chats.exists() {
        let mut lines = String::new();
        for i in 0..40 {
            _ = writeln!(
                lines,
                "{{\"conversations\": [{{\"from\": \"human\", \"value\": \"{i}+1?\"}}, {{\"from\": \"gpt\", \
                \"value\": \"{}\"}}]}}",
                i + 1
            );
        }
        std::fs::write(&chats, lines).unwrap();
    }
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/sft.toml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_hadal"));
    command.arg("sft").arg(recipe).arg("--plain").stdin(Stdio::null()).stderr(Stdio::inherit());
    for set in [
        format!("start.model={}", model().display()),
        format!("data.train=[\"{}\"]", chats.display()),
        format!("run.out={}", out.display()),
        "data.seq_len=48".into(),
        "data.validation=0.1".into(),
        "batch.sequences=2".into(),
        "schedule.epochs=3".into(),
        "schedule.peak_lr=1e-3".into(),
        "checkpoint.every=2 steps".into(),
        "ema.decay=0.9".into(),
        "run.threads=1".into(),
    ] {
        command.args(["--set", &set]);
    }
    command
}

#[test]
fn a_killed_run_resumes_to_the_bits_of_an_unbroken_one_and_can_be_talked_to() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("first");
    let done = command(&out).output().unwrap();
    let said = String::from_utf8(done.stdout).unwrap();
    assert!(done.status.success(), "{said}");
    for part in ["40 conversations", "plan: 3 epochs", "hadal chat", "hadal serve"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let steps = hadal_watch::metrics::read(&out).unwrap().len();
    killed_and_resumed(steps, &|out, resume| {
        let mut command = command(out);
        if resume {
            command.arg("--resume");
        }
        command.stdout(Stdio::null()).spawn().unwrap()
    });
    let chat = crate::setup::run_with(["chat", out.to_str().unwrap(), "--prompt", "2+1?", "-n", "3"], "");
    assert!(chat.status.success(), "{}", String::from_utf8_lossy(&chat.stderr));
}

/// The adapters of a run, merged into the model that it started from, are the run's model.
#[test]
fn adapters_are_exported_into_the_model_they_belong_to() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let run = |command: &mut Command| {
        let done = command.output().unwrap();
        (
            done.status.success(),
            String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr),
        )
    };
    let sets = ["trained.lora.rank=2", "trained.mtp=false", "schedule.epochs=1"];
    let (done, said) = run(command(&out).args(sets.iter().flat_map(|set| ["--set", set])));
    assert!(done, "{said}");
    let export = |adapter: &Path, to: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hadal"));
        command.arg("export").arg(model()).arg("--adapter").arg(adapter).arg("--out").arg(to);
        run(&mut command)
    };
    let merged = folder.path().join("merged");
    let (done, said) = export(&out.join("adapter"), &merged);
    assert!(done && said.contains("with the adapters in"), "{said}");
    let [start, trained, merged] =
        [&model(), &out.join("model"), &merged].map(|path| hadal_weights::Checkpoint::open(path).unwrap());
    let mut changed = 0;
    for part in hadal_weights::list::parameters(start.config()).iter().flat_map(|p| &p.parts) {
        let read = |of: &hadal_weights::Checkpoint| {
            let mut values = vec![0.0f32; part.len()];
            of.read_from(&part.name, 0, &mut values).unwrap();
            values
        };
        assert_eq!(read(&trained), read(&merged), "{}", part.name);
        changed += usize::from(read(&start) != read(&merged));
    }
    assert!(changed > 3);
    let (done, said) = export(&folder.path().join("nothing"), &folder.path().join("other"));
    assert!(!done && said.contains("adapter_config.json") && !folder.path().join("other").exists(), "{said}");
}
