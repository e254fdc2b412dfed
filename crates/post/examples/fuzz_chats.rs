//! What fine-tuning reads, damaged at random: `fuzz_chats [SECONDS] [SEED]`.
//!
//! - Lines of conversations with values or bytes changed, written with the templates of all families.
//! - The sequences in a run's folder.
//! - Folders of adapters.
//!
//! Each must be read, or refused with an error. What is learned of a conversation must fit its tokens. A panic ends the
//! program, and so does a case that takes too long. Its files are then left in the printed folder.

#[path = "../../serve/examples/fuzz/changes.rs"]
mod changes;
#[path = "../../serve/examples/fuzz/files.rs"]
mod files;
#[path = "../../serve/examples/soak/numbers.rs"]
mod numbers;
#[path = "../../serve/examples/fuzz/watch.rs"]
mod watch;

use changes::{change, change_bytes};
use files::{Files, changed, read, write};
use hadal_data::Tokenizer;
use hadal_data::chat::samples::{Sample, read_samples};
use hadal_data::chat::{ChatTemplate, Learned, Turns};
use hadal_post::store::{Store, StoreWriter};
use hadal_train::adapters::Adapters;
use hadal_weights::{Checkpoint, ModelConfig};
use numbers::Numbers;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use watch::watch;

/// The name of the stored sequences.
const NAME: &str = "train";

fn main() {
    let mut arguments = std::env::args().skip(1).map(|a| a.parse().expect("a number"));
    let time = Duration::from_secs(arguments.next().unwrap_or(60));
    let mut numbers = Numbers(arguments.next().unwrap_or(1));
    let seeds = Seeds::new();
    let place = tempfile::tempdir().expect("a folder").keep();
    println!("files are written to {}", place.display());
    let done = watch();
    let (start, mut ends) = (Instant::now(), BTreeMap::<&str, usize>::new());
    while start.elapsed() < time {
        let end = match numbers.below(8) {
            0 => seeds.store(&place, &mut numbers),
            1 => seeds.adapter(&place, &mut numbers),
            _ => seeds.chats(&place, &mut numbers),
        };
        *ends.entry(end).or_default() += 1;
        done.send(()).expect("the watch lives");
    }
    std::fs::remove_dir_all(&place).expect("the folder can be removed");
    println!("{ends:?}");
}

/// What is damaged.
struct Seeds {
    tokenizer: Tokenizer,
    lines: Vec<Value>,
    templates: Vec<ChatTemplate>,
    store: Files,
    adapter: Files,
    model: ModelConfig,
}

fn fixtures(of: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(of).join("tests/fixtures")
}

impl Seeds {
    fn new() -> Self {
        let masks = fixtures("data").join("masks");
        let text = std::fs::read_to_string(masks.join("samples.jsonl")).expect("the samples");
        let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        lines.push(json!({
            "system": "S", "tools": "[{\"name\": \"f\", \"parameters\": {}}]", "conversations": [
                {"from": "human", "value": "a"},
                {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {\"x\": 1}}"},
                {"from": "observation", "value": "2"}, {"from": "gpt", "value": "b", "weight": 1},
            ]
        }));
        let entries = std::fs::read_dir(fixtures("data").join("chat/templates")).expect("the templates");
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
        paths.sort();
        let special = [("bos_token", "<BOS>"), ("eos_token", "<EOS>"), ("pad_token", "<PAD>")];
        let template = |path: &PathBuf| {
            let source = std::fs::read_to_string(path).expect("a template");
            ChatTemplate::from_source(&source, &special).expect("a template")
        };
        let templates = paths.iter().map(template).collect();
        let tokenizer = Tokenizer::load(&masks.join("tokenizer.json")).expect("the tokenizer");
        let folder = tempfile::tempdir().expect("a folder");
        let mut writer = StoreWriter::create(folder.path(), NAME, &tokenizer).expect("a store");
        for n in 3..9 {
            let learned = Learned { ids: (0..n as u32 * 3).collect(), trained: vec![1..2, n..2 * n] };
            writer.push(&learned, n, n % 2, "a").expect("a sequence");
        }
        writer.finish().expect("a store");
        let sft = fixtures("post").join("sft");
        let model = Checkpoint::open(&sft).expect("the model").config().clone();
        Self { tokenizer, lines, templates, store: read(folder.path()), adapter: read(&sft.join("adapter")), model }
    }

    /// Damages lines, and learns from what is read.
    fn chats(&self, place: &Path, numbers: &mut Numbers) -> &'static str {
        let mut file = Vec::new();
        for _ in 0..=numbers.below(3) {
            let mut line = self.lines[numbers.below(self.lines.len())].clone();
            let other = &self.lines[numbers.below(self.lines.len())];
            for _ in 0..numbers.below(3) {
                change(&mut line, other, numbers);
            }
            let mut line = line.to_string().into_bytes();
            if numbers.below(8) == 0 {
                change_bytes(&mut line, numbers);
            }
            file.extend([&line[..], b"\n"].concat());
        }
        write(place, &Files::from([("chats.jsonl".to_owned(), file)]));
        let path = place.join("chats.jsonl");
        let mut samples: Vec<Sample> = Vec::new();
        let read = read_samples(&path, |sample| {
            samples.push(sample);
            Ok(())
        });
        let template = &self.templates[numbers.below(self.templates.len())];
        let turns = Turns { template, tokenizer: &self.tokenizer, now: 0 };
        let mut end = if read.is_ok() { "refused by a template" } else { "lines refused" };
        for sample in &samples {
            let Ok(all) = turns.learn(&path, sample) else { continue };
            assert!(!all.is_empty(), "nothing was learned");
            for Learned { ids, trained } in all {
                let some = trained.iter().all(|of| of.start < of.end);
                let rises = trained.windows(2).all(|pair| pair[0].end < pair[1].start);
                let ends = trained.last().is_some_and(|last| last.end == ids.len());
                assert!(some && rises && ends, "{trained:?} of {} tokens", ids.len());
            }
            end = "conversations learned";
        }
        end
    }

    /// Damages the files of a store, and reads all of them.
    fn store(&self, place: &Path, numbers: &mut Numbers) -> &'static str {
        write(place, &changed(&self.store, numbers));
        let Ok(store) = Store::open(place, NAME, &self.tokenizer) else { return "stores refused" };
        let whole = (0..store.len()).all(|of| store.read(of).is_ok()) && store.sets().is_ok();
        if whole { "stores read" } else { "sequences refused" }
    }

    /// Damages an adapter's folder, and reads it.
    fn adapter(&self, place: &Path, numbers: &mut Numbers) -> &'static str {
        write(place, &changed(&self.adapter, numbers));
        if Adapters::read(place, &self.model).is_ok() { "adapters read" } else { "adapters refused" }
    }
}
