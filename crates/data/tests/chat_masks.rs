//! The trained tokens of conversations are those of `transformers` (`oracle/make_masks.py`).

use std::path::{Path, PathBuf};

use hadal_data::Tokenizer;
use hadal_data::chat::samples::{Sample, read_samples};
use hadal_data::chat::{ChatTemplate, Learned, Turns};
use serde::Deserialize;

#[derive(Deserialize)]
struct Reference {
    now: u64,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Case {
    Error(String),
    Sequences(Vec<(Vec<u32>, String)>),
}

/// What a template gives for the samples: numbers of equal samples, of those in several sequences, of refused ones,
/// of those that only we can write, and of those with tools that the template leaves out.
fn compare(template: &Path, expected: &Path, special: &[(&str, &str)]) -> [usize; 5] {
    let masks = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/masks");
    let tokenizer = Tokenizer::load(&masks.join("tokenizer.json")).unwrap();
    let source = std::fs::read_to_string(template).unwrap();
    let chat = ChatTemplate::from_source(&source, special).unwrap();
    let reference: Reference = serde_json::from_str(&std::fs::read_to_string(expected).unwrap()).unwrap();
    let turns = Turns { template: &chat, tokenizer: &tokenizer, now: reference.now };
    let (path, mut samples) = (masks.join("samples.jsonl"), Vec::<Sample>::new());
    read_samples(&path, |sample| {
        samples.push(sample);
        Ok(())
    })
    .unwrap();
    assert_eq!(samples.len(), reference.cases.len());
    let (mut equal, mut several, mut refused, mut only_here, mut without_tools) = (0, 0, 0, 0, 0);
    for (sample, case) in samples.iter().zip(&reference.cases) {
        let name = format!("{}, line {}", template.display(), sample.line);
        // A template that has no place for tools leaves them out for `transformers`, and is an error here.
        let mut learned = turns.learn(&path, sample);
        if learned.as_ref().is_err_and(|error| error.to_string().contains("no place for `tools`")) {
            let mut without = sample.clone();
            without.request.tools.clear();
            learned = turns.learn(&path, &without);
            without_tools += 1;
        }
        match (learned, case) {
            (Ok(got), Case::Sequences(want)) => {
                let show = |ids: &[u32]| tokenizer.decode_with_special(ids);
                let shown = |all: &[Learned]| all.iter().map(|of| (show(&of.ids), mask(of))).collect::<Vec<_>>();
                let got_pairs: Vec<_> = got.iter().map(|of| (of.ids.clone(), mask(of))).collect();
                let want_shown: Vec<_> = want.iter().map(|(ids, mask)| (show(ids), mask)).collect();
                assert!(got_pairs == *want, "{name}:\n{:?}\n{want_shown:?}", shown(&got));
                equal += 1;
                several += usize::from(want.len() > 1);
            }
            (Err(error), Case::Error(_)) => {
                let shown = error.to_string();
                assert!(shown.contains(&format!("samples.jsonl:{}: `messages", sample.line)), "{name}: {shown}");
                refused += 1;
            }
            (Ok(_), Case::Error(why)) => {
                println!("{name}: only here; there: {why}");
                only_here += 1;
            }
            (Err(error), Case::Sequences(_)) => panic!("{name}: only there; here: {error}"),
        }
    }
    [equal, several, refused, only_here, without_tools]
}

/// 1 for each trained token, 0 for each other one.
fn mask(of: &Learned) -> String {
    (0..of.ids.len()).map(|at| if of.trained.iter().any(|of| of.contains(&at)) { '1' } else { '0' }).collect()
}

#[test]
fn trained_tokens_are_those_of_transformers() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let special = [("bos_token", "<BOS>"), ("eos_token", "<EOS>"), ("pad_token", "<PAD>")];
    let mut all = [0; 5];
    let v3 = compare(&fixtures.join("masks/v3.jinja"), &fixtures.join("masks/v3.json"), &special);
    assert_eq!(v3, [11, 0, 6, 0, 3]);
    for name in ["plain", "deepseek_v3", "deepseek_v31", "kimi", "glm", "qwen3", "llama3", "gigachat3"] {
        let template = fixtures.join(format!("chat/templates/{name}.jinja"));
        let found = compare(&template, &fixtures.join(format!("masks/{name}.json")), &special);
        all.iter_mut().zip(found).for_each(|(sum, n)| *sum += n);
    }
    assert_eq!(all, [106, 11, 30, 0, 4]);
}

/// Other templates: `HADAL_MASKS=TEMPLATES:OUT`, the two folders of `oracle/make_masks.py`.
#[test]
fn trained_tokens_of_given_templates_are_those_of_transformers() {
    let Ok(folders) = std::env::var("HADAL_MASKS") else { return };
    let (templates, expected) = folders.split_once(':').expect("two folders");
    let special = [("bos_token", "<BOS>"), ("eos_token", "<EOS>"), ("pad_token", "<PAD>")];
    let mut files: Vec<PathBuf> = std::fs::read_dir(expected).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for expected in files {
        let name = expected.file_stem().unwrap().to_string_lossy().into_owned();
        let found = compare(&Path::new(templates).join(format!("{name}.jinja")), &expected, &special);
        println!("{name}: {found:?}");
    }
}
