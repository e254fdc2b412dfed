//! Checkpoints of a trainer: continuing bit for bit, whole or not at all, and errors that name what is wrong.

use crate::{SETTINGS, state, tokens, train, trainer};
use hadal_ops::{Cx, DType};
use hadal_train::checkpoint::{CheckpointError, load, save};
use hadal_train::step::Trainer;
use hadal_weights::folder::checkpoints;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

const SEQ_LEN: usize = 15;

fn steps(t: &mut Trainer, range: std::ops::Range<u64>) {
    for step in range {
        let batch = tokens(&t.model.config, step, 3 * (SEQ_LEN + 1));
        train(t, &batch, SEQ_LEN, &SETTINGS);
    }
}

fn small(compute: DType, moments: DType) -> Trainer {
    trainer(Cx::cpu(2, compute), moments, 0.99)
}

fn names(folder: &Path) -> Vec<String> {
    let mut all: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    all.sort();
    all
}

#[test]
fn a_loaded_trainer_goes_on_bit_for_bit() {
    for (compute, moments) in [(DType::F32, DType::F32), (DType::Bf16, DType::Bf16)] {
        let dir = tempfile::tempdir().unwrap();
        let mut unbroken = small(compute, moments);
        steps(&mut unbroken, 0..3);
        let path = save(&unbroken, &[], 3, &json!({"tokens": 48}), &[], dir.path(), 0).unwrap();
        let saved = state(&unbroken);
        steps(&mut unbroken, 3..6);

        // It is loaded into a trainer with a different state, and nothing of that state may remain.
        let mut resumed = small(compute, moments);
        steps(&mut resumed, 7..9);
        let progress: Value = load(&mut resumed, &path).unwrap();
        assert_eq!(progress, json!({"tokens": 48}));
        assert!(state(&resumed) == saved, "{compute:?}: what was loaded");
        // The number of updates is part of the progress record. AdamW's bias correction needs it.
        resumed.optimizer.updates = 3;
        steps(&mut resumed, 3..6);
        assert!(state(&resumed) == state(&unbroken), "{compute:?}: three steps later");

        // The folder is also a valid plain checkpoint, and its extra files are where tokenizers are expected.
        hadal_weights::Checkpoint::open(&path).unwrap();
    }
}

#[test]
fn saving_removes_leftovers_and_old_checkpoints_and_replaces_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("checkpoints");
    let extra = dir.path().join("tokenizer.json");
    fs::write(&extra, "{}").unwrap();
    let mut t = small(DType::F32, DType::F32);
    assert!(checkpoints(&folder).unwrap().is_empty(), "a folder that is not there has no checkpoint");
    save(&t, &[], 1, &json!(1), &[], &folder, 2).unwrap();
    // A leftover of a killed process, with the number of a process that has certainly ended.
    let mut child = std::process::Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let left = folder.join(format!(".hadal-unfinished-{}-0-step-00000002", child.id()));
    fs::create_dir(&left).unwrap();
    fs::write(left.join("model.safetensors"), "half").unwrap();
    for step in 2..5 {
        save(&t, &[], step, &json!(step), std::slice::from_ref(&extra), &folder, 2).unwrap();
    }
    assert_eq!(names(&folder), ["step-00000003", "step-00000004"]);
    let newest = checkpoints(&folder).unwrap().pop().unwrap();
    assert_eq!(fs::read_to_string(newest.join("tokenizer.json")).unwrap(), "{}");
    // Saving the same step again replaces the first save.
    steps(&mut t, 0..1);
    save(&t, &[], 4, &json!("again"), &[], &folder, 0).unwrap();
    assert_eq!(names(&folder), ["step-00000003", "step-00000004"]);
    let mut other = small(DType::F32, DType::F32);
    assert_eq!(load::<Value>(&mut other, &newest).unwrap(), json!("again"));
    assert!(state(&other) == state(&t));
}

/// The error of loading `path` into `t`, as text.
fn refusal(t: &mut Trainer, path: &Path) -> String {
    load::<Value>(t, path).expect_err("it must not load").to_string()
}

#[test]
fn damaged_and_foreign_states_are_errors_that_name_the_file_and_the_tensor() {
    let dir = tempfile::tempdir().unwrap();
    let t = small(DType::F32, DType::F32);
    let path = save(&t, &[], 1, &json!(1), &[], dir.path(), 0).unwrap();
    let tensors = path.join("state/tensors.safetensors");

    // Different settings: no averages; another format of moments; averages that were not saved.
    let mut plain = trainer(Cx::cpu(1, DType::F32), DType::F32, 0.0);
    let e = refusal(&mut plain, &path);
    assert!(e.contains("tensors.safetensors") && e.contains("`ema/"), "{e}");
    let mut narrow = trainer(Cx::cpu(1, DType::F32), DType::Bf16, 0.99);
    let e = refusal(&mut narrow, &path);
    assert!(e.contains("`m/model.embed_tokens.weight`") && e.contains("BF16") || e.contains("Bf16"), "{e}");
    let without = save(&plain, &[], 2, &json!(2), &[], dir.path(), 0).unwrap();
    let e = refusal(&mut small(DType::F32, DType::F32), &without);
    assert!(e.contains("lacks the tensor `ema/"), "{e}");

    // Damaged files: truncated, garbage, empty.
    let whole = fs::read(&tensors).unwrap();
    let mut fresh = small(DType::F32, DType::F32);
    for damaged in [&whole[..whole.len() - 5], &whole[..100], &b"garbage that is no tensor file"[..], &b""[..]] {
        fs::write(&tensors, damaged).unwrap();
        let e = refusal(&mut fresh, &path);
        assert!(e.contains("tensors.safetensors"), "{} bytes: {e}", damaged.len());
    }
    fs::remove_file(&tensors).unwrap();
    let e = refusal(&mut fresh, &path);
    assert!(e.contains("cannot open") && e.contains("tensors.safetensors"), "{e}");
    fs::write(&tensors, &whole).unwrap();
    let progress = path.join("state/progress.json");
    fs::write(&progress, "{").unwrap();
    let e = refusal(&mut fresh, &path);
    assert!(e.contains("progress.json"), "{e}");
    fs::remove_file(&progress).unwrap();
    let e = refusal(&mut fresh, &path);
    assert!(e.contains("cannot read") && e.contains("progress.json"), "{e}");
}

/// If the newest checkpoint of a run is damaged, the error names an older intact one and says what to do.
#[test]
fn a_damaged_checkpoint_names_an_older_one() {
    let dir = tempfile::tempdir().unwrap();
    let t = small(DType::F32, DType::F32);
    let paths = [1, 2, 3].map(|step| save(&t, &[], step, &json!(step), &[], dir.path(), 0).unwrap());
    let mut fresh = small(DType::F32, DType::F32);
    let cut = |path: &Path, name: &str| {
        let file = path.join(name);
        let bytes = fs::read(&file).unwrap();
        fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
        file.display().to_string()
    };
    for (name, at, older) in [
        ("state/tensors.safetensors", 2, "step-00000002"),
        // The second newest is damaged as well, so the error names the one before it.
        ("state/progress.json", 1, "step-00000001"),
    ] {
        let file = if name.ends_with("json") {
            fs::write(paths[at].join(name), "{").unwrap();
            paths[at].join(name).display().to_string()
        } else {
            cut(&paths[at], name)
        };
        let e = refusal(&mut fresh, &paths[at]);
        let moved = format!("move {} away", paths[at].display());
        for part in [file.as_str(), "an older checkpoint of this run is intact", older, moved.as_str()] {
            assert!(e.contains(part), "{part}: {e}");
        }
    }
    assert!(refusal(&mut fresh, &paths[2]).contains("step-00000001"));
    // An intact checkpoint of other settings must not be moved away.
    let mut plain = trainer(Cx::cpu(1, DType::F32), DType::F32, 0.0);
    let e = refusal(&mut plain, &paths[0]);
    assert!(e.contains("`ema/") && !e.contains("older"), "{e}");
    // If there is no older checkpoint, the error stands alone.
    cut(&paths[0], "state/tensors.safetensors");
    assert!(!refusal(&mut fresh, &paths[0]).contains("older") && !refusal(&mut fresh, &paths[2]).contains("older"));
}

#[test]
fn a_save_that_fails_names_the_path_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("checkpoints");
    let mut t = small(DType::F32, DType::F32);
    let before = save(&t, &[], 1, &json!(1), &[], &folder, 1).unwrap();
    let saved = state(&t);
    steps(&mut t, 0..1);

    // A missing file to copy: the save fails after the weights are written.
    let missing = dir.path().join("no-such-tokenizer.json");
    let e = save(&t, &[], 1, &json!(2), &[missing], &folder, 1).expect_err("nothing to copy");
    assert!(matches!(e, CheckpointError::Io { .. }) && e.to_string().contains("no-such-tokenizer.json"), "{e}");
    // A file where the folder should be.
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let e = save(&t, &[], 2, &json!(2), &[], &file.join("checkpoints"), 1).expect_err("no folder");
    assert!(e.to_string().contains(&file.display().to_string()), "{e}");
    // A folder in which no file may be created.
    if let Some((folder, restore)) = unwritable(&folder) {
        let e = save(&t, &[], 2, &json!(2), &[], &folder, 1).expect_err("not writable").to_string();
        restore();
        assert!(e.contains(&folder.display().to_string()), "{e}");
    }

    assert_eq!(names(&folder), ["step-00000001"]);
    let mut other = small(DType::F32, DType::F32);
    assert_eq!(load::<Value>(&mut other, &before).unwrap(), json!(1));
    assert!(state(&other) == saved, "the checkpoint from before is whole");
}

/// A folder that rejects new files, and a way to undo it. It is the given folder without its write permission. If
/// permissions do not bind the user (root), it is one of the kernel's own folders. `None` if neither is available.
fn unwritable(folder: &Path) -> Option<(PathBuf, impl FnOnce() + use<>)> {
    let path = folder.to_owned();
    let set = |path: &Path, readonly: bool| {
        let mut p = fs::metadata(path).unwrap().permissions();
        p.set_readonly(readonly);
        fs::set_permissions(path, p).unwrap();
    };
    // Restores the owner's permissions, and nothing else.
    let before = fs::metadata(&path).unwrap().permissions();
    set(&path, true);
    let probe = path.join("probe");
    let binds = fs::write(&probe, "").is_err();
    let restore = {
        let path = path.clone();
        move || fs::set_permissions(&path, before).unwrap()
    };
    if binds {
        return Some((path, Box::new(restore) as Box<dyn FnOnce()>));
    }
    fs::remove_file(&probe).unwrap();
    restore();
    let kernel = PathBuf::from("/proc");
    kernel.exists().then(|| (kernel, Box::new(|| ()) as Box<dyn FnOnce()>))
}
