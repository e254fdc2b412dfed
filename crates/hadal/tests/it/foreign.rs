//! Checkpoints as other programs write them, and incomplete files.

use crate::setup::{Tiny, fails, run_with};
use hadal_weights::{Checkpoint, ModelConfig};
use safetensors::SafeTensors;
use std::fs;

/// Standard error of a run that must succeed.
fn said(args: &[&str]) -> String {
    let out = run_with(args, "");
    let error = String::from_utf8(out.stderr).unwrap();
    assert!(out.status.success(), "{args:?}: {error}");
    error
}

/// A configuration with an MTP module and a model without one: every command reports it, and none fails.
#[test]
fn modules_that_are_not_stored_are_said_to_the_user() {
    let tiny = Tiny::new();
    let (model, ids, out) = (tiny.path("model"), tiny.path("ids.json"), tiny.path("out.safetensors"));
    fs::write(&ids, "[1, 2, 3]").unwrap();
    let commands = |to: &str| {
        [
            vec!["generate", &model, "fn", "-n", "2"],
            vec!["eval", &model, &tiny.path("text"), "--window", "64"],
            vec!["inspect", &model],
            vec!["import", &model],
            vec!["import", &model, "--out", &tiny.path(&format!("import {to}"))],
            vec!["export", &model, "--out", &tiny.path(&format!("export {to}"))],
            vec!["dump", &model, "--ids", &ids, "--out", &out],
        ]
        .map(|args| args.into_iter().map(str::to_owned).collect::<Vec<String>>())
    };
    let notice = "`num_nextn_predict_layers` is 1, but no MTP module is stored: this is a model without MTP";
    let run = |to: &str, wanted: bool| {
        for args in commands(to) {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            assert_eq!(said(&args).contains(notice), wanted, "{args:?}");
        }
    };
    run("whole", false);
    let file = format!("{model}/model.safetensors");
    let bytes = fs::read(&file).unwrap();
    let layers = ModelConfig::from_file(format!("{model}/config.json")).unwrap().num_hidden_layers;
    let module = format!("model.layers.{layers}.");
    let mut tensors = SafeTensors::deserialize(&bytes).unwrap().tensors();
    tensors.retain(|(name, _)| !name.starts_with(&module));
    fs::write(&file, safetensors::serialize(tensors, None).unwrap()).unwrap();
    run("main", true);
    // A checkpoint written from it has a correct configuration.
    for written in ["import main", "export main"] {
        let written = Checkpoint::open(tiny.path(written)).unwrap();
        assert_eq!((written.config().num_nextn_predict_layers, written.notice()), (0, None));
        assert!(written.audit().unwrap().is_clean());
    }
}

#[test]
fn pointers_of_git_lfs_are_told() {
    let tiny = Tiny::new();
    let model = tiny.path("model");
    for name in ["tokenizer.json", "tokenizer_config.json", "config.json", "model.safetensors"] {
        let path = format!("{model}/{name}");
        let whole = fs::read(&path).unwrap();
        fs::write(&path, "version https://git-lfs.github.com/spec/v1\noid sha256:0d7a\nsize 7847602\n").unwrap();
        let error = fails(["generate", &model, "fn"]);
        assert!(
            error.contains(&path) && error.contains("Git LFS pointer") && error.contains("git lfs pull"),
            "{error}"
        );
        fs::write(&path, whole).unwrap();
    }
    said(&["generate", &model, "fn", "-n", "1"]);
}
