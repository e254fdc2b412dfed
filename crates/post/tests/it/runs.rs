//! Whole runs: from a recipe to the finished model, stopped and resumed, and recipes whose data do not fit.

use crate::fixture;
use hadal_data::Tokenizer;
use hadal_data::chat::ChatTemplate;
use hadal_post::SftSession;
use hadal_recipe::sft::SftRecipe;
use hadal_train::adapters::Adapters;
use hadal_train::run;
use hadal_train::state::State;
use hadal_train::step::Trainer;
use hadal_watch::metrics::{self, StepMetrics};
use hadal_weights::Checkpoint;
use serde_json::json;
use std::cell::RefCell;
use std::path::{Path, PathBuf};

/// A model and conversations in a folder.
struct Setup {
    dir: tempfile::TempDir,
}

impl Setup {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let chat = |i: usize, answer: &str| {
            let question = format!("{i}+{i}?");
            json!({"id": i, "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]})
                .to_string()
        };
        let sums: Vec<String> = (0..60).map(|i| chat(i, &format!("{}", 2 * i))).collect();
        let other: Vec<String> = (0..20)
            .map(|i| chat(i, &format!("Hello, I do not know that number, and I will not say.{}", " No.".repeat(i % 4))))
            .collect();
        std::fs::write(dir.path().join("sums.jsonl"), sums.join("\n")).unwrap();
        std::fs::write(dir.path().join("other.jsonl"), other.join("\n")).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn recipe(&self, sets: &[&str]) -> SftRecipe {
        let all = [
            format!("start.model={}", fixture().display()),
            format!(
                "data.train=[\"{}\", {{path = \"{}\", weight = 0.5}}]",
                self.path("sums.jsonl").display(),
                self.path("other.jsonl").display()
            ),
            format!("run.out={}", self.path("run").display()),
            "data.seq_len=96".into(),
            "data.validation=0.1".into(),
            "batch.sequences=4".into(),
            "batch.micro_batch=2".into(),
            "schedule.peak_lr=1e-2".into(),
            "schedule.lr_end=1e-3".into(),
            "checkpoint.every=3 steps".into(),
            "checkpoint.keep_last=0".into(),
            "ema.decay=0.5".into(),
            "run.threads=2".into(),
        ];
        let all: Vec<String> = all.into_iter().chain(sets.iter().map(|set| (*set).to_owned())).collect();
        SftRecipe::parse("sft.toml", hadal_recipe::sft::EXAMPLE, &all).unwrap()
    }

    /// Begins a run and returns what it said.
    fn begin(&self, sets: &[&str]) -> (Result<SftSession, hadal_post::SftError>, String) {
        let said = RefCell::new(String::new());
        let session = SftSession::begin(&self.recipe(sets), &|line| said.borrow_mut().extend([line, "\n"]));
        (session, said.into_inner())
    }

    fn error(&self, sets: &[&str]) -> String {
        self.begin(sets).0.err().expect("an error").to_string()
    }
}

fn bits(steps: &[StepMetrics]) -> Vec<(u64, u64, u64, String)> {
    let of = |m: &StepMetrics| (m.step, m.loss.to_bits(), m.grad_norm.to_bits(), format!("{:?}", m.figures));
    steps.iter().map(of).collect()
}

#[test]
fn a_run_learns_and_one_stopped_in_an_epoch_resumes_to_the_bit() {
    let setup = Setup::new();
    // Which half of the second file an epoch takes depends on the seed, and so does the plan's number of tokens.
    let (session, said) = setup.begin(&["run.seed=5"]);
    let session = session.unwrap();
    assert!(said.contains("80 conversations") && said.contains("held out") && said.contains("`id` (80)"), "{said}");
    session.train(true, &|_| ()).unwrap();
    let folder = setup.path("run");
    let whole = metrics::read(&folder).unwrap();
    let (first, last) = (&whole[0], &whole[whole.len() - 1]);
    assert!(last.loss < 0.7 * first.loss, "{} {}", first.loss, last.loss);
    let held_out = last.validation.as_ref().unwrap();
    assert!(held_out.loss < first.loss && held_out.bits_per_byte > 0.0 && held_out.ema_loss.is_some());
    // Two epochs of 54 and 9 conversations or so, each once.
    assert_eq!(last.tokens, session.plan.schedule.total_tokens);
    assert_eq!(last.figures["epoch"], 2.0);
    let samples: f64 = whole.iter().map(|m| m.figures["samples"]).sum();
    assert!((100.0..140.0).contains(&samples), "{samples}");
    assert!(whole.iter().all(|m| m.balance_loss == 0.0 && m.gamma == 0.0 && !m.layers.is_empty()));
    // The model can be used: with its template, and the token that ends answers.
    let model = folder.join("model");
    let tokenizer = Tokenizer::load(&model).unwrap();
    let template = ChatTemplate::load(&model, &tokenizer).unwrap();
    assert!(template.is_of_checkpoint());
    let end = tokenizer.id_of("<|im_end|>").unwrap();
    let checkpoint = Checkpoint::open(&model).unwrap();
    assert!(checkpoint.config().eos_token_id.contains(&end));
    let biases = |folder: &Path| {
        let mut bias = vec![0.0f32; 8];
        Checkpoint::open(folder)
            .unwrap()
            .read_from("model.layers.1.mlp.gate.e_score_correction_bias", 0, &mut bias)
            .unwrap();
        bias
    };
    assert_eq!(biases(&model), biases(&fixture()));

    // As if it was killed in its first epoch.
    let state = |step: u64| folder.join(format!("checkpoints/step-{step:08}/state/tensors.safetensors"));
    let end = std::fs::read(state(last.step)).unwrap();
    for step in 4..=last.step {
        let checkpoint = folder.join(format!("checkpoints/step-{step:08}"));
        if checkpoint.exists() {
            std::fs::remove_dir_all(checkpoint).unwrap();
        }
    }
    assert!(whole[2].figures["epoch"] < 1.0, "{:?}", whole[2].figures);
    // The conversations are no longer needed.
    std::fs::remove_file(setup.path("sums.jsonl")).unwrap();
    let resumed = SftSession::resume(&setup.recipe(&["run.threads=1", "run.seed=5"]), &|_| ()).unwrap();
    resumed.train(true, &|_| ()).unwrap();
    assert!(bits(&metrics::read(&folder).unwrap()) == bits(&whole));
    assert!(std::fs::read(state(last.step)).unwrap() == end);
    // Other settings are refused.
    let error =
        SftSession::resume(&setup.recipe(&["schedule.epochs=3", "run.seed=5"]), &|_| ()).err().unwrap().to_string();
    assert!(error.contains("other settings") && error.contains("epochs: 2 / 3"), "{error}");
    let error = setup.error(&[]);
    assert!(error.contains("already holds a run"), "{error}");
}

#[test]
fn adapters_and_frozen_modules_are_part_of_a_run() {
    let setup = Setup::new();
    let (session, _) = setup.begin(&["trained.lora.rank=2", "trained.mtp=false", "schedule.epochs=1"]);
    session.unwrap().train(true, &|_| ()).unwrap();
    let folder = setup.path("run");
    assert!(folder.join("adapter/adapter_model.safetensors").is_file());
    let whole = metrics::read(&folder).unwrap();
    let last = folder.join(format!("checkpoints/step-{:08}", whole.len()));
    assert!(State::open(&last).unwrap().has("m"));
    let end = std::fs::read(last.join("state/tensors.safetensors")).unwrap();
    std::fs::remove_dir_all(&last).unwrap();
    let sets = ["trained.lora.rank=2", "trained.mtp=false", "schedule.epochs=1"];
    SftSession::resume(&setup.recipe(&sets), &|_| ()).unwrap().train(true, &|_| ()).unwrap();
    assert!(std::fs::read(last.join("state/tensors.safetensors")).unwrap() == end);
    assert!(bits(&metrics::read(&folder).unwrap()) == bits(&whole));
}

#[test]
fn long_conversations_are_refused_skipped_or_cut_and_counted() {
    let setup = Setup::new();
    let error = setup.error(&["data.seq_len=40"]);
    assert!(error.contains("other.jsonl:1: ") && error.contains("`data.longer`") && error.contains("41"), "{error}");
    let (session, said) = setup.begin(&["data.seq_len=40", "data.longer=skip"]);
    assert!(session.is_ok() && said.contains("20 sequences are longer") && said.contains("left out"), "{said}");
    std::fs::remove_dir_all(setup.path("run")).unwrap();
    let (session, said) = setup.begin(&["data.seq_len=40", "data.longer=cut"]);
    assert!(session.is_ok() && said.contains("20 sequences are longer") && said.contains("are cut"), "{said}");
    std::fs::remove_dir_all(setup.path("run")).unwrap();
    let error = setup.error(&["data.seq_len=2", "data.longer=skip"]);
    assert!(error.contains("no conversation is left") && error.contains("80 are too long"), "{error}");
}

#[test]
fn a_model_without_a_template_gets_a_plain_one() {
    let setup = Setup::new();
    let start = setup.path("start");
    std::fs::create_dir(&start).unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(fixture().join(name), start.join(name)).unwrap();
    }
    let set = format!("start.model={}", start.display());
    let (session, said) = setup.begin(&[&set]);
    session.unwrap();
    assert!(said.contains("the checkpoint has none"), "{said}");
    let written = std::fs::read_to_string(setup.path("run/tokenizer/chat_template.jinja")).unwrap();
    assert!(written.contains("{% generation %}"), "{written}");
    // A template that is given comes before the model's own.
    std::fs::remove_dir_all(setup.path("run")).unwrap();
    let own = "{% for m in messages %}{{ m.role + ':' + m.content + '<EOS>' }}{% endfor %}{% if add_generation_prompt %}\
        {{ 'assistant:' }}{% endif %}";
    std::fs::write(setup.path("own.jinja"), own).unwrap();
    let set = format!("data.template={}", setup.path("own.jinja").display());
    setup.begin(&[&set]).0.unwrap();
    assert_eq!(std::fs::read_to_string(setup.path("run/tokenizer/chat_template.jinja")).unwrap(), own);
}

/// A run that starts from an adapter starts where one from the merged model does.
#[test]
fn a_run_may_start_from_an_adapter() {
    let setup = Setup::new();
    let adapter = format!("start.adapter={}", fixture().join("adapter").display());
    let session = setup.begin(&[&adapter]).0.unwrap();
    let start = Checkpoint::open(fixture()).unwrap();
    let adapters = Adapters::read(&fixture().join("adapter"), start.config()).unwrap();
    let expected = run::trainer_of(&session.plan, &adapters.merged(&start)).unwrap();
    let plain = run::trainer_of(&session.plan, &start).unwrap();
    let found = session.trainer().unwrap();
    let all = |t: &Trainer| -> Vec<u32> {
        t.model.params().iter().flat_map(|p| t.masters.of(p).to_vec_f32()).map(f32::to_bits).collect()
    };
    assert!(all(&found) == all(&expected) && all(&found) != all(&plain));
    let error = setup.error(&["start.adapter=/nowhere", &format!("run.out={}", setup.path("other").display())]);
    assert!(error.contains("/nowhere/adapter_config.json"), "{error}");
}

#[test]
fn what_is_missing_or_damaged_is_named() {
    let setup = Setup::new();
    std::fs::write(setup.path("bad.jsonl"), "{\"messages\": [{\"role\": \"robot\", \"content\": \"a\"}]}\n").unwrap();
    let train = |name: &str| format!("data.train=[\"{}\"]", setup.path(name).display());
    let error = setup.error(&[&train("bad.jsonl")]);
    assert!(error.contains("bad.jsonl:1: `messages[0].role`") && error.contains("robot"), "{error}");
    assert!(setup.error(&[&train("none.jsonl")]).contains("none.jsonl"));
    assert!(setup.error(&["start.model=/nowhere"]).contains("/nowhere"));
    assert!(setup.error(&["data.template=/nowhere.jinja"]).contains("/nowhere.jinja"));
    let error = setup.error(&["data.seq_len=100000"]);
    assert!(error.contains("`data.seq_len`") && error.contains("max_position_embeddings"), "{error}");
    // Stored sequences that were damaged.
    let session = setup.begin(&[]).0.unwrap();
    let path = setup.path("run/data/train.trained.tok");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    let error = session.objective().err().unwrap().to_string();
    assert!(error.contains("train.trained.tok"), "{error}");
    std::fs::copy(setup.path("run/data/validation.trained.tok"), &path).unwrap();
    let error = session.objective().err().unwrap().to_string();
    assert!(error.contains("train.trained.tok") && error.contains("another number of sequences"), "{error}");
}
