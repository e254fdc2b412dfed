//! Folders of checkpoints at random: whole ones with values of their JSON files changed, bytes changed, and files cut or
//! missing. `fuzz_folders [SECONDS] [SEED]`. Each must load and answer, or be refused with an error. A folder that ends
//! the process is left behind under its printed name.

#[path = "fuzz/changes.rs"]
mod changes;
#[path = "fuzz/files.rs"]
mod files;
#[path = "soak/numbers.rs"]
mod numbers;
#[path = "../src/tests/tiny.rs"]
mod tiny;
#[path = "fuzz/watch.rs"]
mod watch;

use files::{Files, changed, read, write};
use hadal_data::chat::ChatTemplate;
use hadal_infer::{Engine, EngineOptions, Loaded, SampleParams, generate};
use hadal_model::write_packed;
use hadal_ops::{Cx, DType};
use hadal_weights::precision::RunFormats;
use hadal_weights::{Checkpoint, SaveOptions, ScaleFormat, WeightFormat};
use numbers::Numbers;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};
use watch::watch;

const TEMPLATE: &str = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}";

fn main() {
    let mut arguments = std::env::args().skip(1).map(|a| a.parse().expect("a number"));
    let time = Duration::from_secs(arguments.next().unwrap_or(60));
    let mut numbers = Numbers(arguments.next().unwrap_or(1));
    let seeds = seeds();
    let place = tempfile::tempdir().expect("a folder").keep();
    println!("folders are written to {}", place.display());
    let done = watch();
    let (start, mut ends, mut slowest) = (Instant::now(), BTreeMap::<&str, usize>::new(), Duration::ZERO);
    while start.elapsed() < time {
        let files = changed(&seeds[numbers.below(seeds.len())], &mut numbers);
        write(&place, &files);
        let began = Instant::now();
        *ends.entry(try_out(&place)).or_default() += 1;
        slowest = slowest.max(began.elapsed());
        done.send(()).expect("the watch lives");
    }
    std::fs::remove_dir_all(&place).expect("the folder can be removed");
    println!("{ends:?}, the slowest took {slowest:?}");
}

/// Loads the folder as a server does, writes a prompt, and generates two tokens. Returns how far it came.
fn try_out(folder: &Path) -> &'static str {
    let Ok(loaded) = Loaded::open(folder, None, RunFormats::default(), Cx::cpu(1, DType::F32)) else {
        return "not loaded";
    };
    let Ok(template) = ChatTemplate::load(folder, &loaded.tokenizer) else {
        return "no template";
    };
    let request = json!({"messages": [{"role": "user", "content": "1, 2"}], "add_generation_prompt": true});
    let Ok(prompt) = template.render(&serde_json::from_value(request).expect("a request")) else {
        return "not rendered";
    };
    let ids = loaded.prompt(&prompt.text, false);
    if loaded.check_prompt(&ids).is_err() {
        return "too long";
    }
    let options = EngineOptions { cache_tokens: ids.len() + 2, rows: 64, sequences: 1, ..EngineOptions::default() };
    let mut engine = Engine::new(&loaded.cx, &loaded.model, options);
    let (params, stop) = (SampleParams::default(), loaded.stop_tokens());
    match generate(&loaded.cx, &loaded.model, &mut engine, &ids, params, &stop, 2, &mut |_| true) {
        Ok(_) => "generated",
        Err(_) => "refused",
    }
}

/// Whole folders: f32 in one file, FP8 in several, and packed weights.
fn seeds() -> Vec<Files> {
    let (folder, cx) = (tempfile::tempdir().expect("a folder"), Cx::cpu(1, DType::F32));
    let path = |name: &str| folder.path().join(name);
    let plain = path("plain");
    std::fs::create_dir(&plain).expect("a folder");
    tiny::write(&plain);
    let mut seeds = vec![read(&plain)];
    let checkpoint = Checkpoint::open(&plain).expect("a checkpoint");
    let model = hadal_model::Model::load(&cx, &checkpoint).expect("a model");
    for (name, format) in [("fp8", WeightFormat::Fp8(ScaleFormat::F32)), ("bf16", WeightFormat::Bf16)] {
        let options = SaveOptions { shard_bytes: 40_000, ..SaveOptions::default() };
        std::fs::create_dir(path(name)).expect("a folder");
        model.save_into(&path(name), format, &options).expect("a checkpoint");
        seeds.push(read(&path(name)));
    }
    let formats = RunFormats::default();
    std::fs::create_dir(path("packed")).expect("a folder");
    write_packed(&cx, &checkpoint, formats, &path("packed"), None, &mut |_, _| {}).expect("packed weights");
    seeds.push(read(&path("packed")));
    let rest = seeds[0].clone();
    for files in &mut seeds {
        for (name, bytes) in rest.iter().filter(|(name, _)| !name.starts_with("model")) {
            files.entry(name.clone()).or_insert_with(|| bytes.clone());
        }
        files.insert("chat_template.jinja".into(), TEMPLATE.into());
        files.insert("tokenizer_config.json".into(), json!({"bos_token": "<|bos_token|>"}).to_string().into());
        files.insert(
            "generation_config.json".into(),
            json!({"eos_token_id": [1], "temperature": 0.6}).to_string().into(),
        );
    }
    seeds
}
