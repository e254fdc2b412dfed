//! The results and the files of the commands.

use crate::setup::{Tiny, fails, fixture, ok, ok_with, run_with};
use hadal_data::{Packed, Tokenizer};
use hadal_model::dump::{Array, dump};
use hadal_model::{Model, count};
use hadal_ops::{Cx, DType};
use hadal_weights::precision::Formats;
use hadal_weights::precision::{Keep, Precision, Product};
use hadal_weights::{Checkpoint, ModelConfig};
use safetensors::{Dtype, SafeTensors};
use std::path::Path;

/// Name, format, shape and bytes.
type Stored = (String, Dtype, Vec<usize>, Vec<u8>);

/// The tensors of a file, by name.
fn tensors(path: impl AsRef<Path>) -> Vec<Stored> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let copy =
        |(n, t): (String, safetensors::tensor::TensorView<'_>)| (n, t.dtype(), t.shape().to_vec(), t.data().to_vec());
    let mut all: Vec<_> = file.tensors().into_iter().map(copy).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

/// `|a - b| / |b|` for numbers. For choices it is 0 or infinite.
fn distance(a: &Stored, b: &Stored) -> f64 {
    if a.1 != Dtype::F32 {
        return if a == b { 0.0 } else { f64::INFINITY };
    }
    let numbers = |t: &Stored| t.3.as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect();
    let (x, y): (Vec<f64>, Vec<f64>) = (numbers(a), numbers(b));
    let apart: f64 = x.iter().zip(&y).map(|(x, y)| (x - y).powi(2)).sum();
    if apart == 0.0 { 0.0 } else { (apart / y.iter().map(|y| y * y).sum::<f64>()).sqrt() }
}

#[test]
fn a_dump_holds_what_the_library_computes() {
    let dir = tempfile::tempdir().unwrap();
    let (ids, out) = (dir.path().join("ids.json"), dir.path().join("dump.safetensors"));
    let sequences: Vec<Vec<i32>> = (0..2).map(|s| (0..11).map(|i| (s * 31 + i * 7) % 72).collect()).collect();
    std::fs::write(&ids, serde_json::to_string(&sequences).unwrap()).unwrap();
    let model_dir = fixture("yarn");
    let [model_arg, ids, out_arg] = [&model_dir, &ids, &out].map(|p| p.to_str().unwrap());
    ok(["dump", model_arg, "--ids", ids, "--out", out_arg, "--grads", "--threads", "2"]);

    let cx = Cx::cpu(1, DType::F32);
    let model = Model::load_to_train(&cx, &Checkpoint::open(&model_dir).unwrap(), Precision::COMPUTE).unwrap();
    let slices: Vec<&[i32]> = sequences.iter().map(Vec::as_slice).collect();
    let expect = dump(&cx, &model, &slices, true, None);
    let got = tensors(&out);
    assert_eq!(got.iter().map(|t| &t.0).collect::<Vec<_>>(), expect.keys().collect::<Vec<_>>());
    for ((name, _, shape, bytes), array) in got.iter().zip(expect.values()) {
        let (want_shape, want): (_, &[u8]) = match array {
            Array::F32(shape, v) => (shape, bytemuck::cast_slice(v)),
            Array::I64(shape, v) => (shape, bytemuck::cast_slice(v)),
        };
        assert!(shape == want_shape && bytes == want, "{name}");
    }
    // Its own choices are replayed in the order of the experts, so only the rounding of their sum differs.
    let again = dir.path().join("again.safetensors");
    ok(["dump", model_arg, "--ids", ids, "--out", again.to_str().unwrap(), "--grads", "--replay", out_arg]);
    let replayed = tensors(&again);
    assert_eq!(replayed.len(), got.len());
    for (a, b) in replayed.iter().zip(&got) {
        assert!(a.0 == b.0 && distance(a, b) < 1e-5, "{}: {}", a.0, distance(a, b));
    }
}

#[test]
fn sequences_shorter_than_the_prediction_depth_can_be_dumped() {
    let dir = tempfile::tempdir().unwrap();
    let (ids, out) = (dir.path().join("ids.json"), dir.path().join("dump.safetensors"));
    std::fs::write(&ids, "[3, 5]").unwrap();
    let [ids, out] = [&ids, &out].map(|p| p.to_str().unwrap());
    ok(["dump", fixture("mtp2").to_str().unwrap(), "--ids", ids, "--out", out, "--grads"]);
}

#[test]
fn inspect_counts_as_the_library_does() {
    let config = ModelConfig::named("deepseek-v3").unwrap();
    let counts = count::count(&config);
    let json: serde_json::Value = serde_json::from_str(&ok(["inspect", "deepseek-v3", "--json"])).unwrap();
    assert_eq!(json["parameters"]["main"], counts.main);
    assert!(ok(["inspect", "deepseek-v3"]).contains("PARAMETERS"));
    // A recipe, a file and a folder.
    assert!(ok(["inspect", "quickstart"]).contains("(512 tokens per sequence)"));
    let folder = fixture("tied");
    let table = ok(["inspect", folder.to_str().unwrap()]);
    assert_eq!(table, ok(["inspect", folder.join("config.json").to_str().unwrap()]));
}

/// The formats of a recipe decide its memory: `run.precision` and every row of its table.
#[test]
fn inspect_counts_in_the_formats_of_a_recipe() {
    let config = ModelConfig::named("small").unwrap();
    let found = |sets: &[&str]| -> serde_json::Value {
        let sets = sets.iter().flat_map(|s| ["--set", s]);
        serde_json::from_str(&ok(["inspect", "small", "--json"].into_iter().chain(sets))).unwrap()
    };
    let memory =
        |compute, table| serde_json::to_value(count::training_memory(&config, &Formats { compute, table })).unwrap();
    let (bf16, fp8) = (memory(DType::Bf16, Precision::COMPUTE), memory(DType::Bf16, Precision::FP8));
    let cases = [
        (&["run.seed=2"][..], bf16.clone()),
        (&["run.precision=fp8"], fp8.clone()),
        (&["run.precision=f32"], memory(DType::F32, Precision::COMPUTE)),
        (&["precision.recompute=true"], memory(DType::Bf16, Precision { recompute: true, ..Precision::COMPUTE })),
        (
            &["run.precision=fp8", "precision.expert_down=f32", "precision.dispatch=compute"],
            memory(DType::Bf16, Precision { expert_down: Product::F32, dispatch: Keep::Compute, ..Precision::FP8 }),
        ),
    ];
    for (sets, want) in cases {
        let found = found(sets);
        assert_eq!(found["training_memory_recipe"], want, "{sets:?}");
        assert!(found["training_memory"] == bf16 && found["training_memory_fp8"] == fp8, "{sets:?}");
    }
    let full = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/deepseek-v3.toml");
    let full: serde_json::Value = serde_json::from_str(&ok(["inspect", full.to_str().unwrap(), "--json"])).unwrap();
    assert_eq!(full["training_memory_recipe"], full["training_memory_fp8"]);
    assert_ne!(full["training_memory_recipe"], full["training_memory"]);
    // A configuration has no formats of its own. A column that already exists is not shown twice.
    assert!(found(&[]).get("training_memory_recipe").is_none());
    let columns = |args: &[&str]| {
        let text = ok(["inspect"].iter().chain(args));
        let header = text.lines().find_map(|l| l.strip_prefix("TRAINING MEMORY")).unwrap();
        header.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(columns(&["small"]), ["BF16", "FP8"]);
    assert_eq!(columns(&["small", "--set", "run.precision=fp8"]), ["BF16", "FP8"]);
    assert_eq!(columns(&["quickstart", "--set", "precision.kv_up=fp8"]), ["BF16", "FP8", "recipe"]);
    let error = fails(["inspect", fixture("tied").to_str().unwrap(), "--set", "precision.recompute=true"]);
    assert!(error.contains("--set changes a recipe"), "{error}");
}

#[test]
fn text_becomes_packed_tokens() {
    let tiny = Tiny::new();
    let (text, model, out) = (tiny.path("text"), tiny.path("model"), tiny.path("packed"));
    ok(["data", "pack", &text, "--tokenizer", &model, "--out", &out, "--validation", "0.3"]);
    let tokenizer = Tokenizer::load(Path::new(&out)).unwrap();
    let open = |name| Packed::open(Path::new(&out), name, &tokenizer).unwrap();
    let (train, validation) = (open("train"), open("validation"));
    assert_eq!(train.documents() + validation.documents(), 4);
    assert!(validation.documents() > 0);
    let bytes: u64 = std::fs::read_dir(&text).unwrap().map(|f| f.unwrap().metadata().unwrap().len()).sum();
    assert_eq!(train.text_bytes() + validation.text_bytes(), bytes);
}

#[test]
fn generation_follows_its_seed() {
    let tiny = Tiny::new();
    let model = tiny.path("model");
    let generate = |prompt: &str, seed: &str, threads: &str| {
        let args = ["generate", &model, prompt, "-n", "24", "--temperature", "1", "--seed", seed, "--threads", threads];
        ok_with(args, "fn add(")
    };
    let one = generate("fn add(", "1", "1");
    assert!(one.starts_with("fn add("));
    assert_eq!(one, generate("fn add(", "1", "2"));
    assert_eq!(one, generate("-", "1", "1"));
    assert_ne!(one, generate("fn add(", "2", "1"));
    // Without a prompt, only the token that begins a text is given.
    assert!(generate("", "1", "1").len() > 1);
}

#[test]
fn speculation_changes_the_speed_and_not_the_text() {
    let tiny = Tiny::new();
    let model = tiny.path("model");
    let generate = |how: &str| {
        let out = run_with(["generate", &model, "fn add(", "-n", "24", "--seed", "1", "--speculation", how], "");
        [out.stdout, out.stderr].map(|text| String::from_utf8(text).unwrap())
    };
    let [off, auto, always] = ["off", "auto", "always"].map(generate);
    assert!(off[0] == auto[0] && off[0] == always[0], "{off:?} {auto:?} {always:?}");
    assert!(!off[1].contains("drafts") && always[1].contains("drafts accepted"), "{off:?} {always:?}");
    // Right drafts only, although the weights are random.
    let args = ["bench", "infer", &model, "--prompt", "16", "--generate", "20", "--batch", "2", "--repeat", "1"];
    let line = ok(args.iter().chain(&["--speculation", "always", "--acceptance", "1", "--json"]));
    let results: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(results["results"][0]["acceptance"], 1.0, "{line}");
    let error = fails(args.iter().chain(&["--speculation", "off", "--acceptance", "1"]));
    assert!(error.contains("--speculation off makes none"), "{error}");
}

#[test]
fn text_ends_where_it_is_told_to_and_has_the_form_that_is_asked_for() {
    let tiny = Tiny::new();
    let model = tiny.path("model");
    let said = |more: &[&str]| {
        let args = ["generate", &model, "fn add(", "-n", "40", "--temperature", "1", "--seed", "1"];
        let out = ok(args.iter().chain(more));
        out.strip_prefix("fn add(").unwrap().strip_suffix('\n').unwrap().to_owned()
    };
    let free = said(&[]);
    let chars: Vec<char> = free.chars().filter(|c| *c != char::REPLACEMENT_CHARACTER).collect();
    let stop = chars[chars.len() / 2].to_string();
    assert_eq!(said(&["--stop", "never to be seen", "--stop", &stop]), free[..free.find(&stop).unwrap()]);
    let date = said(&["--regex", "[0-9]{4}-[0-9]{2}"]);
    assert!(date.len() == 7 && date.split('-').all(|part| part.bytes().all(|b| b.is_ascii_digit())), "{date}");
    let (schema, lark) = (tiny.path("schema.json"), tiny.path("list.lark"));
    let strict = r#"{"enum": ["red", {"green": [1, 2]}], "x-guidance": {"whitespace_flexible": false}}"#;
    std::fs::write(&schema, strict).unwrap();
    let value: serde_json::Value = serde_json::from_str(&said(&["--json-schema", &schema])).unwrap();
    assert!(value == "red" || value["green"] == serde_json::json!([1, 2]), "{value}");
    std::fs::write(&lark, "start: \"a\" b\nb: \"bc\"\n").unwrap();
    assert_eq!(said(&["--grammar", &lark]), "abc");
    let gap = ["complete", &model, "--prefix", "a", "--suffix", "b", "--grammar", &lark];
    assert_eq!(ok(gap), "abc\n");
    std::fs::write(&schema, "{").unwrap();
    let error = |more: &[&str]| fails(["generate", &model, "x"].iter().chain(more));
    assert!(error(&["--json-schema", &schema]).contains("the JSON schema cannot be used: EOF"));
    assert!(error(&["--grammar", &tiny.path("gone")]).contains("gone"));
    assert!(error(&["--regex", "a", "--grammar", &lark]).contains("cannot be used with"));
    assert!(error(&["--stop", ""]).contains("--stop"));
}

#[test]
fn gaps_are_filled_alike_in_every_way_of_asking() {
    let tiny = Tiny::new();
    let (model, file) = (tiny.path("model"), tiny.path("gap.rs"));
    let more = ["-n", "12", "--seed", "3"];
    let direct = ok(["complete", &model, "--prefix", "fn add(\na", "--suffix", "}\n"].iter().chain(&more));
    std::fs::write(&file, "fn add(\na<FILL>}\n").unwrap();
    assert_eq!(direct, ok(["complete", &model, "--file", &file].iter().chain(&more)));
    let asked = ok_with(["complete", &model].iter().chain(&more), "fn add(\na\n.\n}\n\n.\n");
    assert_eq!(direct.trim_end(), asked.trim_end());
    let whole = ok(["complete", &model, "--file", &file, "--whole"].iter().chain(&more));
    assert_eq!(whole, format!("fn add(\na{}}}\n\n", direct.strip_suffix('\n').unwrap()));
}

#[test]
fn names_of_special_tokens_in_a_prompt_are_these_tokens() {
    let tiny = Tiny::new();
    let model = tiny.path("model");
    let tokens = |prompt: &str, more: &[&str]| -> usize {
        let out = run_with(["generate", &model, prompt, "-n", "1"].iter().chain(more), "");
        let said = String::from_utf8(out.stderr).unwrap();
        let count = said.strip_prefix("prompt ").and_then(|rest| rest.split(' ').next()?.parse().ok());
        count.unwrap_or_else(|| panic!("{said}"))
    };
    let prompt = "<|fim_begin|>a<|fim_hole|>b<|fim_end|>";
    // The token that begins a text, three special tokens and two letters.
    assert_eq!(tokens(prompt, &[]), 6);
    assert!(tokens(prompt, &["--literal"]) > 20);
}

#[test]
fn evaluation_is_finite_and_the_same_in_any_number_of_threads() {
    let tiny = Tiny::new();
    let (model, text) = (tiny.path("model"), tiny.path("text"));
    let eval = |more: &[&str]| -> serde_json::Value {
        let out = ok(["eval", &model, &text, "--json"].iter().chain(more));
        serde_json::from_str(out.lines().last().unwrap()).unwrap()
    };
    let all = eval(&["--threads", "1", "--window", "64"]);
    let number = |v: &serde_json::Value, key: &str| v[key].as_f64().unwrap();
    assert!(number(&all, "bits_per_byte") > 0.0 && number(&all, "perplexity").is_finite());
    assert_eq!(all["bits_per_byte"], eval(&["--threads", "2", "--window", "64"])["bits_per_byte"]);
    let some = eval(&["--tokens", "50", "--window", "64"]);
    assert_eq!((&some["documents"], &some["tokens"]), (&1.into(), &51.into()));
    assert!(ok(["eval", &model, &text]).contains("bits per byte"));
}

#[test]
fn a_checkpoint_goes_out_and_comes_in_unchanged() {
    let tiny = Tiny::new();
    let (model, out, back) = (tiny.path("model"), tiny.path("out"), tiny.path("back"));
    ok(["export", &model, "--out", &out, "--dtype", "f32"]);
    ok(["import", &out, "--out", &back]);
    let weights = |folder: &str| tensors(Path::new(folder).join("model.safetensors"));
    assert!(weights(&out) == weights(&model));
    assert!(weights(&back) == weights(&model));
    for file in ["tokenizer.json", "tokenizer_config.json", "config.json"] {
        let read = |folder: &str| std::fs::read(Path::new(folder).join(file)).unwrap();
        assert_eq!(read(&back), read(&model), "{file}");
    }
    // bf16 is rounded once and then does not change.
    let (half, again) = (tiny.path("half"), tiny.path("again"));
    ok(["export", &model, "--out", &half]);
    ok(["import", &half, "--out", &again]);
    assert!(weights(&half) == weights(&again) && weights(&half) != weights(&model));
    assert!(ok(["import", &model]).contains("holds the whole model"));
}

#[test]
fn checkpoints_go_to_fp8_and_keep_what_they_have() {
    let tiny = Tiny::new();
    let model = tiny.path("model");
    let [fp8, copy, saved, power, wide] = ["fp8", "copy", "saved", "power", "wide"].map(|n| tiny.path(n));
    let weights = |folder: &str| tensors(Path::new(folder).join("model.safetensors"));
    ok(["export", &model, "--out", &fp8, "--dtype", "fp8"]);
    assert!(ok(["import", &fp8]).contains("as fp8 with f32 scales"));
    // Without a format option, the checkpoint is copied byte for byte.
    ok(["import", &fp8, "--out", &copy]);
    assert!(weights(&copy) == weights(&fp8));
    // f32 is exact, and converting back gives the same bits.
    ok(["import", &fp8, "--out", &wide, "--dtype", "f32"]);
    ok(["export", &wide, "--out", &saved, "--dtype", "fp8", "--scale-fmt", "f32"]);
    assert!(weights(&saved) == weights(&fp8));
    assert!(ok(["import", &fp8, "--out", &power, "--scale-fmt", "ue8m0-byte"]).contains("ue8m0 scales in bytes"));
    assert!(weights(&power).iter().any(|t| t.1 == Dtype::F8_E8M0));
    // It gives exactly the results of the f32 weights that it stands for.
    let eval = |folder: &str| ok(["eval", folder, &tiny.path("text"), "--json"]).lines().last().unwrap().to_owned();
    let bits = |line: String| serde_json::from_str::<serde_json::Value>(&line).unwrap()["bits_per_byte"].clone();
    assert_eq!(bits(eval(&fp8)), bits(eval(&wide)));

    let shards = tiny.path("shards");
    ok(["export", &model, "--out", &shards, "--shard-size", "20kB"]);
    assert!(Path::new(&shards).join("model.safetensors.index.json").is_file());
    for (more, part) in [
        (&["--dtype", "bf16", "--scale-fmt", "ue8m0"][..], "--dtype fp8"),
        (&["--scale-fmt", "ue8m0"], "--dtype fp8"),
        (&["--shard-size", "5 parsecs"], "as in 5GB"),
        (&["--shard-size", "0GB"], "as in 5GB"),
    ] {
        let error = fails(["import", &model, "--out", &tiny.path("no")].iter().chain(more));
        assert!(error.contains(part), "{error}");
    }
}
