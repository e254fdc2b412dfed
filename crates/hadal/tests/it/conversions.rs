//! `import` and `export` through the program: their output, the folders they write, and what remains when they are
//! killed.

use crate::memory::checkpoint;
use crate::setup::{fails, fixture, ok, run_with};
use safetensors::SafeTensors;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A folder with a small checkpoint in f32 in `source`.
fn folder() -> (TempDir, impl Fn(&str) -> String) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let path = move |name: &str| root.join(name).to_str().unwrap().to_owned();
    fs::create_dir(path("source")).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(fixture("yarn").join(file), path(&format!("source/{file}"))).unwrap();
    }
    (dir, path)
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    names(dir).into_iter().map(|name| (name.clone(), fs::read(dir.join(name)).unwrap())).collect()
}

#[test]
fn what_a_conversion_changes_is_said() {
    let (dir, path) = folder();
    let convert =
        |from: &str, to: &str, more: &[&str]| ok(["import", &path(from), "--out", &path(to)].iter().chain(more));
    let all = |text: &str| text.contains("tensors copied bit for bit\n");
    assert!(convert("source", "same", &[]).contains("as it is stored"));
    let narrow = convert("source", "fp8", &["--dtype", "fp8"]);
    assert!(narrow.contains("as fp8") && narrow.contains(" narrowed"), "{narrow}");
    let copy = convert("fp8", "copy", &[]);
    assert!(all(&copy) && copy.contains("as it is stored"), "{copy}");
    assert!(files(Path::new(&path("copy"))) == files(Path::new(&path("fp8"))));
    assert!(all(&convert("fp8", "fp8 again", &["--dtype", "fp8"])));
    let powers = convert("fp8", "powers", &["--scale-fmt", "ue8m0"]);
    assert!(powers.contains("quantised again because their scales were not powers of two"), "{powers}");
    // A scale that contradicts `scale_fmt` causes a note to the user, not an error.
    let (weights, name) = (path("powers/model.safetensors"), "model.layers.0.self_attn.o_proj.weight_scale_inv");
    patch(&weights, name, |data| data[..4].copy_from_slice(&3e-4f32.to_le_bytes()));
    let said = ok(["import", &path("powers")]);
    assert!(said.contains(name) && said.contains("not powers of two") && said.contains("--deep"), "{said}");
    assert!(ok(["import", &path("powers"), "--all"]).contains(&format!("not powers of two: {name}\n")));
    assert!(all(&convert("powers", "kept", &[])));
    assert!(fs::read(path("kept/model.safetensors")).unwrap() == fs::read(weights).unwrap());
    drop(dir);
}

/// Changes the data of one tensor in a file.
fn patch(file: &str, tensor: &str, change: impl FnOnce(&mut [u8])) {
    let mut bytes = fs::read(file).unwrap();
    let data = SafeTensors::deserialize(&bytes).unwrap().tensor(tensor).unwrap().data().to_vec();
    let at = SafeTensors::deserialize(&bytes).unwrap().tensor(tensor).unwrap().data().as_ptr() as usize;
    let start = at - bytes.as_ptr() as usize;
    change(&mut bytes[start..start + data.len()]);
    fs::write(file, bytes).unwrap();
}

/// The last tensor to be written has a NaN. The check must come before hours of writing, and nothing may remain.
#[test]
fn a_bad_value_is_found_deep_and_leaves_nothing() {
    let (dir, path) = folder();
    ok(["import", &path("source"), "--out", &path("fp8"), "--dtype", "fp8"]);
    let last = "model.layers.2.mlp.shared_experts.down_proj.weight";
    patch(&path("fp8/model.safetensors"), last, |data| *data.last_mut().unwrap() = 0xff);
    let before = names(dir.path());
    for dtype in [&[][..], &["--dtype", "bf16"], &["--scale-fmt", "ue8m0"]] {
        let error = fails(["import", &path("fp8"), "--out", &path("out")].iter().chain(dtype));
        assert!(error.contains(last) && error.contains("is NaN at row"), "{error}");
        assert_eq!(names(dir.path()), before);
    }
    assert!(ok(["import", &path("fp8")]).contains("--deep also reads every value"));
    let error = fails(["import", &path("fp8"), "--deep"]);
    assert!(error.contains("1 with unusable values") && error.contains(last), "{error}");
    assert!(ok(["import", &path("source"), "--deep"]).contains("types and every value"));
}

#[test]
fn every_difference_is_named_when_asked_for() {
    let (_dir, path) = folder();
    let config = fs::read_to_string(path("source/config.json")).unwrap();
    let more = config.replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 12");
    fs::write(path("source/config.json"), more).unwrap();
    let error = fails(["import", &path("source")]);
    assert!(error.contains(" more"), "{error}");
    let out = run_with(["import", &path("source"), "--all"], "");
    let lines = String::from_utf8(out.stdout).unwrap();
    assert!(!out.status.success() && lines.lines().filter(|l| l.starts_with("missing: model.layers.")).count() > 100);
}

#[test]
fn all_but_weights_comes_along() {
    let (_dir, path) = folder();
    let beside = ["tiktoken.model", "tokenization_kimi.py", "vocab.json", "merges.txt", "LICENSE", "tokenizer.json"];
    for name in beside.into_iter().chain([".hidden", "pytorch_model.bin", "model-00001-of-00009.safetensors"]) {
        fs::write(path(&format!("source/{name}")), name).unwrap();
    }
    fs::create_dir(path("source/inference")).unwrap();
    fs::File::create(path("source/huge.dat")).unwrap().set_len(1 << 30).unwrap();
    let said = ok(["import", &path("source"), "--out", &path("out")]);
    assert!(said.contains("not copied: huge.dat, inference/, pytorch_model.bin\n"), "{said}");
    let mut expected: Vec<&str> = beside.into_iter().chain(["config.json", "model.safetensors"]).collect();
    expected.sort_unstable();
    assert_eq!(names(Path::new(&path("out"))), expected);
    assert_eq!(fs::read_to_string(path("out/tiktoken.model")).unwrap(), "tiktoken.model");
}

#[cfg(unix)]
#[test]
fn places_are_found_out_before_the_work() {
    let (dir, path) = folder();
    let import = |out: &str| run_with(["import", &path("source"), "--out", out], "");
    fs::create_dir(path("real")).unwrap();
    std::os::unix::fs::symlink(path("real"), path("link")).unwrap();
    std::os::unix::fs::symlink(path("nowhere"), path("dangling")).unwrap();
    assert!(import(&path("link")).status.success());
    assert_eq!(names(Path::new(&path("real"))), ["config.json", "model.safetensors"]);
    assert!(fs::symlink_metadata(path("link")).unwrap().is_symlink());
    let long = "n".repeat(250);
    assert!(import(&path(&long)).status.success());
    let before = names(dir.path());
    for (out, part) in [
        (path("dangling"), "symbolic link to nothing"),
        (path("link/"), "already exists"),
        (path("source/config.json/below"), "config.json/below"),
        ("/proc".into(), "already exists"),
        (".".into(), "already exists"),
    ] {
        let done = import(&out);
        let error = String::from_utf8(done.stderr).unwrap();
        assert!(!done.status.success() && error.contains(part), "{out}: {error}");
        // Nothing was read, and no cause is reported twice.
        assert!(done.stdout.is_empty() && error.matches("os error").count() < 2, "{error}");
        assert_eq!(names(dir.path()), before);
    }
}

/// A checkpoint with more files than a program may have open.
#[cfg(unix)]
#[test]
fn many_files_are_read_with_few_open() {
    let (_dir, path) = folder();
    ok(["import", &path("source"), "--out", &path("many"), "--shard-size", "2kB"]);
    assert!(names(Path::new(&path("many"))).len() > 40);
    let script = "ulimit -n 32 && exec \"$0\" \"$@\"";
    let args = ["import", &path("many"), "--out", &path("one")];
    let done = Command::new("sh").args(["-c", script, env!("CARGO_BIN_EXE_hadal")]).args(args).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(fs::read(path("one/model.safetensors")).unwrap() == fs::read(path("source/model.safetensors")).unwrap());
}

fn start(source: &Path, out: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hadal"));
    command.arg("import").arg(source).arg("--out").arg(out).args(["--dtype", "fp8", "--shard-size", "3MB"]);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn a_killed_conversion_leaves_no_whole_checkpoint_and_the_next_one_cleans_up() {
    let dir = tempfile::tempdir().unwrap();
    let [source, whole, out] = ["source", "whole", "out"].map(|n| dir.path().join(n));
    checkpoint(&source, 256);
    let begun = Instant::now();
    assert!(start(&source, &whole).wait().unwrap().success());
    let took = begun.elapsed();
    let want = files(&whole);
    let mut leftovers = 0;
    for moment in [0.05, 0.3, 0.5, 0.7, 0.9] {
        let mut child = start(&source, &out);
        std::thread::sleep(took.mul_f64(moment));
        child.kill().unwrap(); // SIGKILL
        child.wait().unwrap();
        for name in names(dir.path()).into_iter().filter(|n| n.starts_with('.')) {
            leftovers += 1;
            let left = dir.path().join(&name);
            // The folder is either complete or absent.
            let complete = files(&left) == want;
            assert_eq!(run_with(["import".as_ref(), left.as_os_str()], "").status.success(), complete, "{name}");
            assert!(complete || !left.join("config.json").exists(), "{name}");
        }
        if out.exists() {
            assert!(files(&out) == want, "it has its name and is not whole");
            fs::remove_dir_all(&out).unwrap();
        }
    }
    assert!(leftovers > 0, "no kill fell into the work");
    assert!(start(&source, &out).wait().unwrap().success());
    assert!(files(&out) == want);
    assert_eq!(names(dir.path()), ["out", "source", "whole"]);
}

#[cfg(unix)]
#[test]
fn a_conversion_that_is_asked_to_stop_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let [source, out] = ["source", "out"].map(|n| dir.path().join(n));
    checkpoint(&source, 1024);
    for signal in ["INT", "TERM"] {
        let child = start(&source, &out);
        let until = Instant::now() + Duration::from_mins(5);
        while !names(dir.path()).iter().any(|n| n.starts_with('.')) {
            assert!(Instant::now() < until, "it never began");
            std::thread::sleep(Duration::from_millis(2));
        }
        assert!(Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap().success());
        let done = child.wait_with_output().unwrap();
        let error = String::from_utf8(done.stderr).unwrap();
        assert!(done.status.code() == Some(1) && error.contains("stopped on request"), "{signal}: {error}");
        assert_eq!(names(dir.path()), ["source"]);
    }
}
