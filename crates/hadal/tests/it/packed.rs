//! `hadal quantize`, and every command on the folder that it writes.

use crate::memory::{RESIDENT, checkpoint, limited, run_limited};
use crate::setup::{Tiny, fails, ok};
use std::fs;
use std::path::Path;

/// Options of a generation that needs no luck.
const GREEDY: [&str; 6] = ["--temperature", "0", "-n", "12", "--threads", "2"];

fn generated(model: &str, more: &[&str]) -> String {
    ok(["generate", model, "fn add(a"].iter().chain(&GREEDY).chain(more))
}

#[test]
fn a_packed_model_generates_what_its_checkpoint_generates() {
    let tiny = Tiny::new();
    let model = tiny.path("model");
    fs::write(Path::new(&model).join("chat_template.jinja"), "{{ messages }}").unwrap();
    for (name, more) in [
        ("stored", &[][..]),
        ("fp8", &["--weights", "fp8"]),
        ("int8", &["--weights", "int8"]),
        ("int4", &["--weights", "int4", "--attention-weights", "int4"]),
        ("single", &["--dtype", "f32"]),
    ] {
        let out = tiny.path(name);
        let said = ok(["quantize", &model, "--out", &out].iter().chain(more));
        assert!(said.contains("packed weights for --dtype"), "{said}");
        let dtype = if name == "single" { more } else { &[] };
        assert_eq!(generated(&out, dtype), generated(&model, more), "{name}");
        for file in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json"] {
            assert!(Path::new(&out).join(file).is_file(), "{name}: {file}");
        }
        assert!(!Path::new(&out).join("model.safetensors").exists());
    }
    // Commands that measure.
    let int4 = tiny.path("int4");
    let eval = |model: &str, more: &[&str]| -> serde_json::Value {
        let out =
            ok(["eval", model, &tiny.path("text"), "--json", "--window", "64", "--tokens", "200"].iter().chain(more));
        serde_json::from_str(out.lines().last().unwrap()).unwrap()
    };
    let packed = eval(&int4, &["--against", &model]);
    let loaded = eval(&model, &["--weights", "int4", "--attention-weights", "int4", "--against", &model]);
    let plain = eval(&model, &["--against", &model]);
    assert_eq!((&packed["loss"], &packed["against"]), (&loaded["loss"], &loaded["against"]));
    let number = |v: &serde_json::Value, key: &str| v["against"][key].as_f64().unwrap();
    assert!(number(&packed, "kl") > 0.0 && number(&packed, "reference_loss") == number(&plain, "loss"));
    assert_eq!((number(&plain, "kl"), number(&plain, "same_top")), (0.0, 1.0));
    assert!(ok(["bench", "infer", &int4, "--prompt", "8", "--generate", "2", "--repeat", "1"]).contains("weights"));
    // What it is.
    let said = ok(["inspect", &int4, "--deep"]);
    assert!(said.contains("packed weights for --dtype bf16") && said.contains("int4"), "{said}");
    let json: serde_json::Value = serde_json::from_str(&ok(["inspect", &int4, "--json"])).unwrap();
    assert!(json["packed"]["bytes"]["int4"].as_u64().unwrap() > 0 && json["packed"]["layout"] == 1, "{json}");
}

#[test]
fn what_a_packed_folder_cannot_do_is_said() {
    let tiny = Tiny::new();
    let (model, out, no) = (tiny.path("model"), tiny.path("out"), tiny.path("no"));
    ok(["quantize", &model, "--out", &out, "--weights", "int8"]);
    let run = format!("run.out=\"{no}\"");
    for (args, part) in [
        (&["export", &out, "--out", &no][..], "use the checkpoint that it was made from"),
        (&["import", &out], "packed by `hadal quantize`"),
        (&["quantize", &out, "--out", &no], "packed by `hadal quantize`"),
        (&["pretrain", "small", "--init", &out, "--set", &run], "packed by `hadal quantize`"),
        (&["generate", &out, "a", "--weights", "int4"], "are packed already: leave out --weights"),
        (&["generate", &out, "a", "--dtype", "f32"], "was packed for computing in bf16"),
        (&["generate", &model, "a", "--weights", "fp8", "--dtype", "f32"], "leave out --dtype f32"),
        (&["quantize", &model, "--out", &out], "already exists"),
        (&["inspect", &model, "--deep"], "--deep reads weights that `hadal quantize` packed"),
    ] {
        let error = fails(args);
        assert!(error.contains(part), "{args:?}: {error}");
        assert!(!Path::new(&no).exists(), "{args:?}");
    }
    // Files that are cut off or changed.
    let file = Path::new(&out).join("packed.safetensors");
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() - 1000]).unwrap();
    let error = fails(["generate", &out, "a"]);
    assert!(error.contains("packed.safetensors") && error.contains("cut off"), "{error}");
    let mut changed = whole.clone();
    let last = changed.len() - 100;
    changed[last] ^= 1;
    fs::write(&file, changed).unwrap();
    let error = fails(["inspect", &out, "--deep"]);
    assert!(error.contains("packed.safetensors") && error.contains("checksum"), "{error}");
}

/// A checkpoint of about 70 MB in BF16 with a tokenizer, and what `quantize` makes of it.
fn large(tiny: &Tiny, more: &[&str]) -> (String, usize, String, usize) {
    let (model, out) = (tiny.path("large"), tiny.path("packed"));
    let bytes = checkpoint(Path::new(&model), 1024);
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(Path::new(&tiny.path("model")).join(file), Path::new(&model).join(file)).unwrap();
    }
    ok(["quantize", &model, "--out", &out].iter().chain(more));
    let packed = fs::metadata(Path::new(&out).join("packed.safetensors")).unwrap().len() as usize;
    (model, bytes, out, packed)
}

/// A model in BF16 takes little more memory than its file.
#[test]
fn loaded_weights_take_the_memory_of_their_file() {
    let tiny = Tiny::new();
    let (model, bytes, out, _) = large(&tiny, &["--weights", "int4"]);
    let most = |model: &str| run_limited(1 << 40, &["generate", model, "fn a", "-n", "4", "--threads", "1"]);
    let (loaded, mapped) = (most(&model), most(&out));
    // A second copy, or f32 in place of BF16, would be 70 MB more.
    assert!(loaded < bytes * 105 / 100 + RESIDENT, "{loaded} bytes for weights of {bytes}");
    assert!(mapped < bytes * 35 / 100 + RESIDENT, "{mapped} bytes for int4 weights of {bytes}");
}

/// Weights that are mapped take no private memory: a model runs with a limit far below its size.
#[test]
fn mapped_weights_take_no_private_memory() {
    let tiny = Tiny::new();
    let (model, bytes, out, packed) = large(&tiny, &[]);
    assert!(packed > bytes * 95 / 100 && packed < bytes * 104 / 100, "{packed} bytes of {bytes}");
    let runs = |model: &str| {
        let args = ["generate", model, "fn a", "-n", "4", "--threads", "1"];
        limited(40_000_000, &args).wait_with_output().unwrap().status.success()
    };
    assert!(runs(&out));
    assert!(!runs(&model), "the limit is above what a copy of the weights needs");
}
