//! Runs the program, and prepares data for it.

use hadal_base::{Purpose, Rng};
use hadal_model::{Fresh, Model};
use hadal_ops::{Cx, DType};
use hadal_weights::precision::Precision;
use hadal_weights::{ModelConfig, SaveOptions, WeightFormat};
use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use tempfile::TempDir;

/// A checkpoint from the model crate's tests.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/fixtures").join(name)
}

/// A folder with text to train on: lines of code with varying words and numbers. It is the same in every run of the
/// tests.
pub(crate) fn corpus() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let words = "row key value head layer expert token step norm gate loss rank batch weight scale shard".split(' ');
        let words: Vec<&str> = words.collect();
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("corpus");
        std::fs::create_dir_all(&folder).unwrap();
        for file in 0..25u64 {
            let rng = Rng::new(7, Purpose::Test, file);
            let word = |i: u64| words[rng.below(i, words.len() as u64) as usize];
            let function = |i: u64| {
                let (at, n) = (16 * i, rng.below(16 * i + 9, 900));
                let [name, a, b, c] = [at, at + 1, at + 2, at + 3].map(word);
                format!(
                    "/// The {c} of a {a} with its {b}.\npub fn {name}_{c}_{i}({a}: usize, {b}: &[f32]) -> f32 {{\n    \
                     let {c} = {b}[{a} % {n}] + {n}.0;\n    if {c} > {}.5 {{ {c} * 2.0 }} else {{ {name}({a}, {n}) }}\n}}\n\n",
                    n * 3 % 71
                )
            };
            let text: String = (0..16).map(function).collect();
            std::fs::write(folder.join(format!("part_{file}.rs")), text).unwrap();
        }
        folder
    })
}

/// Runs the program with `input` on its standard input.
pub(crate) fn run_with<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>, input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_hadal"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that fails early does not read its input.
    drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
    child.wait_with_output().unwrap()
}

/// Standard output of a run that must succeed.
pub(crate) fn ok<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> String {
    ok_with(args, "")
}

/// Like [`ok`], with `input` on the program's standard input.
pub(crate) fn ok_with<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>, input: &str) -> String {
    let out = run_with(args, input);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// Standard error of a run that must fail without a panic.
pub(crate) fn fails<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> String {
    let out = run_with(args, "");
    let error = String::from_utf8(out.stderr).unwrap();
    assert!(!out.status.success(), "succeeded: {}", String::from_utf8_lossy(&out.stdout));
    assert!(!error.contains("panicked"), "{error}");
    error
}

/// A folder with text (`text/`), and a new model with a tokenizer trained on that text (`model/`).
pub(crate) struct Tiny {
    dir: TempDir,
}

impl Tiny {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let text = dir.path().join("text");
        std::fs::create_dir(&text).unwrap();
        for (i, name) in ["add", "sub", "mul", "div"].iter().enumerate() {
            let body = format!("fn {name}(a: u32, b: u32) -> u32 {{\n    a.wrapping_{name}(b)\n}}\n");
            std::fs::write(text.join(format!("{name}.rs")), body.repeat(8 + i)).unwrap();
        }
        let fixture = ModelConfig::from_file(fixture("yarn").join("config.json")).unwrap();
        let config = ModelConfig { vocab_size: 320, ..fixture };
        let cx = Cx::cpu(1, DType::F32);
        let model = Model::fresh(&cx, &config, Precision::COMPUTE, Fresh { seed: 7, std: 0.2 });
        let folder = dir.path().join("model");
        std::fs::create_dir(&folder).unwrap();
        model.save_into(&folder, WeightFormat::F32, &SaveOptions::default()).unwrap();
        let tiny = Self { dir };
        ok(["tokenizer", "train", &tiny.path("text"), "--vocab", "300", "--out", &tiny.path("model")]);
        tiny
    }

    /// A path inside the folder, as an argument.
    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }
}
