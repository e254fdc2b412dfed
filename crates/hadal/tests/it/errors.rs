//! Bad input causes errors that name it.

use crate::setup::{Tiny, fails, fixture};
use std::fs;

/// Checks that the program's error about `args` contains every one of `words`.
fn refuses(args: &[&str], words: &[&str]) {
    let error = fails(args);
    for word in words {
        assert!(error.contains(word), "{args:?}: no `{word}` in: {error}");
    }
}

#[test]
fn models_that_are_none_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().to_str().unwrap();
    refuses(&["generate", "/nowhere", "x"], &["/nowhere does not exist"]);
    refuses(&["generate", empty, "x"], &[empty, "no config.json"]);
    let config = fixture("tied").join("config.json");
    let text = dir.path().join("text.txt");
    fs::write(&text, "A line.\n").unwrap();
    refuses(&["eval", config.to_str().unwrap(), text.to_str().unwrap()], &["is a file", "folder"]);
    refuses(&["generate", fixture("tied").to_str().unwrap(), "x"], &["tokenizer.json", "copy"]);
    refuses(&["inspect", "nonsense"], &["nonsense", "deepseek-v3"]);
    fs::write(dir.path().join("config.json"), "{").unwrap();
    refuses(&["inspect", empty], &["config.json", "not valid JSON"]);
    fs::copy(config, dir.path().join("config.json")).unwrap();
    refuses(&["import", empty], &["no weights", "model.safetensors"]);
}

#[test]
fn prompts_that_do_not_fit_are_refused() {
    let tiny = Tiny::new();
    let model = tiny.path("model");
    refuses(&["generate", &model, &"{ 7 x".repeat(3000)], &["tokens", "context of 2560"]);
    refuses(&["generate", &model, "x", "--temperature=-1"], &["temperature", "0 or more"]);
    refuses(&["generate", &model, "x", "--top-p", "2"], &["top-p", "from 0 to 1"]);
    let file = tiny.path("no_gap.rs");
    fs::write(&file, "fn main() {}").unwrap();
    refuses(&["complete", &model, "--file", &file], &["no_gap.rs", "<FILL>"]);
    refuses(&["eval", &model, &tiny.path("text"), "--window", "9999"], &["9999", "2560"]);
    fs::write(tiny.path("empty.txt"), "").unwrap();
    refuses(&["eval", &model, &tiny.path("empty.txt")], &["empty"]);
    // A tokenizer of another model.
    fs::copy(fixture("tied").join("config.json"), tiny.path("model/config.json")).unwrap();
    refuses(&["generate", &model, "x"], &["the tokenizer has", "do not belong together"]);
}

#[test]
fn ids_that_are_none_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (ids, out) = (dir.path().join("ids.json"), dir.path().join("out.safetensors"));
    let [ids_arg, out_arg] = [&ids, &out].map(|p| p.to_str().unwrap());
    let model = fixture("dense");
    let args = ["dump", model.to_str().unwrap(), "--ids", ids_arg, "--out", out_arg];
    refuses(&args, &["cannot read", "ids.json"]);
    let long = format!("{:?}", vec![1; 100_000]);
    let cases = [
        ("[1, 2", "not JSON"),
        ("{\"a\": 1}", "list of token ids"),
        ("[]", "at least 2"),
        ("[[1, 2], [3]]", "the same length"),
        ("[1, 100000]", "token 100000"),
        ("[1, -1]", "token -1"),
        (long.as_str(), "context"),
    ];
    for (text, word) in cases {
        fs::write(&ids, text).unwrap();
        refuses(&args, &["ids.json", word]);
        assert!(!out.exists());
    }
    fs::write(&ids, "[1, 2]").unwrap();
    let nowhere = ["dump", args[1], "--ids", ids_arg, "--out", "/nowhere/out.safetensors"];
    refuses(&nowhere, &["/nowhere"]);
    let moe = fixture("yarn");
    refuses(&["dump", moe.to_str().unwrap(), "--ids", ids_arg, "--out", out_arg, "--replay", ids_arg], &["ids.json"]);
}

#[test]
fn nothing_is_overwritten() {
    let tiny = Tiny::new();
    let (model, text, packed) = (tiny.path("model"), tiny.path("text"), tiny.path("packed"));
    refuses(&["export", &model, "--out", &text], &["already exists"]);
    refuses(&["export", &model, "--out", &tiny.path("x"), "--ema"], &["averaged weights"]);
    refuses(&["import", &model, "--out", &text], &["already exists"]);
    let args = ["data", "pack", &text, "--tokenizer", &model, "--out", &packed];
    crate::setup::ok(args);
    refuses(&args, &["train.json already exists"]);
    refuses(&["data", "pack", "/nowhere", "--tokenizer", &model, "--out", &tiny.path("y")], &["/nowhere"]);
    refuses(&["data", "pack", &text, "--tokenizer", "/nowhere", "--out", &tiny.path("y")], &["/nowhere"]);
    refuses(&["tokenizer", "train", &text, "--vocab", "10", "--out", &tiny.path("y")], &["vocab_size", "262"]);
}

#[test]
fn checkpoints_are_audited_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let source = fixture("yarn");
    let config = fs::read_to_string(source.join("config.json")).unwrap();
    let more = config.replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3");
    assert_ne!(config, more);
    fs::write(dir.path().join("config.json"), more).unwrap();
    fs::copy(source.join("model.safetensors"), dir.path().join("model.safetensors")).unwrap();
    refuses(
        &["import", dir.path().to_str().unwrap()],
        &["missing", "model.layers.3.", "found in layers 2, but the first should be in layer 3"],
    );
}
