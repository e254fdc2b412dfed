//! Models by the names of their repositories, from a hub on this machine.

#[path = "../../../weights/tests/mock/mod.rs"]
mod mock;

use crate::setup::{Tiny, fixture};
use mock::{COMMIT, Mock, Repository};
use std::path::Path;
use std::process::Command;

/// Runs the program with a cache of its own; its output, or what it complains about.
fn hadal(mock: &Mock, home: &Path, args: &[&str]) -> Result<String, String> {
    let mut program = Command::new(env!("CARGO_BIN_EXE_hadal"));
    program.env("HF_ENDPOINT", &mock.endpoint).env("HF_HOME", home).current_dir(home).args(args);
    for name in ["HF_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE"] {
        program.env_remove(name);
    }
    let out = program.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if out.status.success() { Ok(text(out.stdout)) } else { Err(text(out.stderr)) }
}

fn repository(folder: &Path) -> Repository {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|p| p.is_file());
    let name = |p: &Path| p.file_name().unwrap().to_str().unwrap().to_owned();
    Repository { files: files.map(|p| (name(&p), std::fs::read(&p).unwrap())).collect(), ..Repository::default() }
}

#[test]
fn a_repository_is_generated_from_and_then_at_hand() {
    let tiny = Tiny::new();
    let mock = Mock::start(repository(Path::new(&tiny.path("model"))));
    let home = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| hadal(&mock, home.path(), args);
    let generate = ["generate", "org/name", "fn add", "--max-new", "4", "--temperature", "0"];
    let text = run(&generate).unwrap();
    let model = tiny.path("model");
    let local = run(&[&["generate", &model], &generate[2..]].concat());
    assert_eq!(text, local.unwrap());
    mock.asked();
    assert!(run(&["import", "org/name"]).unwrap().contains("checked: names"));
    let snapshot = home.path().join("hub/models--org--name/snapshots").join(COMMIT);
    assert!(run(&["export", "org/name", "--out", "exported"]).unwrap().contains(snapshot.to_str().unwrap()));
    assert_eq!(mock.asked(), [""; 0]);
    // A folder of that name comes first.
    std::fs::create_dir_all(home.path().join("org/name")).unwrap();
    assert!(run(&generate).unwrap_err().contains("holds no model"));
}

#[test]
fn a_configuration_is_inspected_without_its_weights() {
    let home = tempfile::tempdir().unwrap();
    let glm = Mock::start(repository(&fixture("glm")));
    let text = hadal(&glm, home.path(), &["inspect", "org/name"]).unwrap();
    assert!(text.contains("MTP module"), "{text}");
    assert!(glm.asked().iter().all(|path| !path.contains("safetensors")));
    let mut relative = repository(&fixture("dense"));
    let config = String::from_utf8(relative.files["config.json"].clone()).unwrap();
    let config = config.replace("\"deepseek_v3\"", "\"deepseek_v32\",\n \"index_topk\": 2048");
    relative.files.insert("config.json".into(), config.into_bytes());
    let mock = Mock::start(relative);
    let home = tempfile::tempdir().unwrap();
    let text = hadal(&mock, home.path(), &["inspect", "org/name"]).unwrap();
    assert!(text.contains("deepseek_v32 (DeepSeek-V3.2)") && text.contains("index_topk  is 2048: sparse"), "{text}");
    let json = hadal(&mock, home.path(), &["inspect", "org/name", "--json"]).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["missing"][0]["key"], "index_topk");
    // What cannot be computed does not arrive.
    let error = hadal(&mock, home.path(), &["generate", "org/name", "x"]).unwrap_err();
    assert!(error.contains("`index_topk`: is 2048: sparse attention"), "{error}");
    assert!(mock.asked().iter().all(|path| !path.contains("safetensors")));
    for (name, part) in [("org/other", "answers 404"), ("org/name@v9", "org/name@v9")] {
        let error = hadal(&mock, home.path(), &["inspect", name]).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
}
