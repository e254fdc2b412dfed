//! Adapters: PEFT's files are read and written, merged models compute what PEFT's do, and only adapters are trained.

use crate::{distance, fixture};
use hadal_model::{Input, Model};
use hadal_ops::{Cx, DType};
use hadal_recipe::trained::{Lora, Trained};
use hadal_train::adapters::Adapters;
use hadal_train::checkpoint::write_weights;
use hadal_train::optim::OptimConfig;
use hadal_train::step::{StepBatch, StepSettings, Trainer};
use hadal_weights::precision::Precision;
use hadal_weights::{Checkpoint, TensorFile, WeightFormat};

const OPTIM: OptimConfig = OptimConfig { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, moments: DType::F32 };

fn ids() -> Vec<i32> {
    let text = std::fs::read_to_string(fixture().join("trl.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&text).unwrap();
    record["ids"].as_array().unwrap().iter().map(|id| id.as_i64().unwrap() as i32).collect()
}

fn trainer(trained: &Trained) -> Trainer {
    let start = Checkpoint::open(fixture()).unwrap();
    let cx = Cx::cpu(2, DType::F32);
    Trainer::of_parts(cx, start.config(), Precision::COMPUTE, &start, OPTIM, 0.0, trained, 3).unwrap()
}

/// A copy of PEFT's files, to be changed.
fn copied() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(fixture().join("adapter").join(name), dir.path().join(name)).unwrap();
    }
    dir
}

/// Logits of all rows.
fn logits(cx: &Cx, model: &Model, ids: &[i32]) -> Vec<f32> {
    let input = Input::of(cx, &[ids], 0);
    model.logits(cx, &input, None, None).0.to_vec_f32()
}

#[test]
fn a_merged_adapter_computes_what_it_does_in_peft() {
    let start = Checkpoint::open(fixture()).unwrap();
    let adapters = Adapters::read(&fixture().join("adapter"), start.config()).unwrap();
    let cx = Cx::cpu(2, DType::F32);
    let merged = adapters.merged(&start);
    let t = Trainer::new(cx.clone(), start.config(), Precision::COMPUTE, &merged, OPTIM, 0.0).unwrap();
    let ids = &ids()[..24];
    let found = logits(&cx, &t.model, ids);
    let mut expected = vec![0.0f32; found.len()];
    let file = TensorFile::open(&fixture().join("peft.safetensors")).unwrap();
    file.read("logits", 0, bytemuck::cast_slice_mut(&mut expected)).unwrap();
    assert!(distance(&found, &expected) < 1e-5, "{}", distance(&found, &expected));
    let plain = Trainer::new(cx.clone(), start.config(), Precision::COMPUTE, &start, OPTIM, 0.0).unwrap();
    assert!(distance(&logits(&cx, &plain.model, ids), &expected) > 0.1);
    // Written again, it is the same.
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("adapter");
    adapters.write(&folder, "base").unwrap();
    let open = |folder: &std::path::Path| TensorFile::open(&folder.join("adapter_model.safetensors")).unwrap();
    let (ours, theirs) = (open(&folder), open(&fixture().join("adapter")));
    let sorted = |file: &TensorFile| {
        let mut names: Vec<String> = file.names().map(str::to_owned).collect();
        names.sort();
        names
    };
    assert_eq!(sorted(&ours), sorted(&theirs));
    for name in sorted(&ours) {
        assert_eq!(ours.info(&name), theirs.info(&name), "{name}");
    }
}

#[test]
fn only_adapters_are_trained_and_the_checkpoint_has_them_merged() {
    let layers = ["o_proj", "kv_a_proj_with_mqa", "q_a_proj", "gate_proj", "down_proj"];
    let lora = Lora { rank: 3, alpha: 6.0, layers: layers.iter().map(|name| (*name).to_owned()).collect() };
    let mut t = trainer(&Trained { mtp: true, lora: Some(lora) });
    let batch = StepBatch::uniform(ids()[..129].to_vec(), 128);
    let settings = StepSettings { lr: 1e-2, clip: 1.0, gamma: 0.0, mtp_lambda: 0.0, balance: None, micro_batch: 1 };
    let mut losses = Vec::new();
    for _ in 0..4 {
        t.gradients(&batch, &settings);
        losses.push(t.losses().main);
        let norm = t.grad_norm();
        t.update(&settings, norm);
    }
    assert!(losses[3] < losses[0] - 0.05, "{losses:?}");
    // Weights that are not adapted are those of the start.
    let dir = tempfile::tempdir().unwrap();
    write_weights(&t, dir.path(), WeightFormat::F32).unwrap();
    let (start, end) = (Checkpoint::open(fixture()).unwrap(), Checkpoint::open(dir.path()).unwrap());
    let params = t.model.params();
    let mut changed = 0;
    for part in params.iter().flat_map(|p| &p.spec.parts).filter(|part| !part.name.contains("lora_")) {
        let read = |checkpoint: &Checkpoint| {
            let mut values = vec![0.0f32; part.len()];
            checkpoint.read_from(&part.name, 0, &mut values).unwrap();
            values
        };
        let adapted = layers.iter().any(|name| part.name.ends_with(&format!(".{name}.weight")));
        assert_eq!(read(&start) != read(&end), adapted, "{}", part.name);
        changed += usize::from(adapted);
    }
    assert!(changed > 20);
    // The merged model computes what the model with adapters computes, and so does PEFT's file.
    let cx = t.cx.clone();
    let expected = logits(&cx, &t.model, &ids()[..24]);
    let folder = dir.path().join("adapter");
    Adapters::of(&t).write(&folder, "base").unwrap();
    let adapters = Adapters::read(&folder, start.config()).unwrap();
    let merged = adapters.merged(&start);
    for values in [&end as &dyn hadal_model::Values, &merged] {
        let whole = Trainer::new(cx.clone(), start.config(), Precision::COMPUTE, values, OPTIM, 0.0).unwrap();
        let found = logits(&cx, &whole.model, &ids()[..24]);
        assert!(distance(&found, &expected) < 1e-5, "{}", distance(&found, &expected));
    }
}

#[test]
fn fresh_adapters_change_nothing() {
    let cx = Cx::cpu(2, DType::F32);
    let [with, without] = [Some(Lora::default()), None].map(|lora| trainer(&Trained { mtp: true, lora }));
    assert!(with.model.params().len() > without.model.params().len());
    let ids = &ids()[..24];
    assert!(logits(&cx, &with.model, ids) == logits(&cx, &without.model, ids));
}

/// PEFT's rank-stabilised adapters are scaled by alpha over the root of the rank.
#[test]
fn scales_by_the_root_of_the_rank_are_read() {
    let start = Checkpoint::open(fixture()).unwrap();
    let dir = copied();
    let part = |p: &hadal_weights::list::Parameter| {
        p.parts.iter().find(|part| part.name.ends_with("0.self_attn.o_proj.weight")).cloned()
    };
    let part = hadal_weights::list::parameters(start.config()).iter().find_map(part).unwrap();
    let delta = || {
        let mut out = vec![0.0f32; part.len()];
        Adapters::read(dir.path(), start.config()).unwrap().add(&part, 0, &mut out);
        out
    };
    let plain = delta();
    let path = dir.path().join("adapter_config.json");
    let config = std::fs::read_to_string(&path).unwrap();
    assert!(config.contains("\"use_rslora\": false") && config.contains("\"r\": 3"), "{config}");
    std::fs::write(&path, config.replace("\"use_rslora\": false", "\"use_rslora\": true")).unwrap();
    let rooted = delta();
    let scaled: Vec<f32> = plain.iter().map(|d| d * 3.0f32.sqrt()).collect();
    assert!(plain.iter().any(|d| *d != 0.0) && distance(&rooted, &scaled) < 1e-6, "{}", distance(&rooted, &scaled));
}

#[test]
fn other_adapters_are_refused_by_key() {
    let start = Checkpoint::open(fixture()).unwrap();
    let dir = copied();
    let path = dir.path().join("adapter_config.json");
    let config = std::fs::read_to_string(&path).unwrap();
    for (from, to, key) in [
        ("\"LORA\"", "\"LOHA\"", "`peft_type`"),
        ("\"use_dora\": false", "\"use_dora\": true", "`use_dora`"),
        ("\"bias\": \"none\"", "\"bias\": \"all\"", "`bias`"),
        ("\"rank_pattern\": {}", "\"rank_pattern\": {\"o_proj\": 8}", "`rank_pattern`"),
        ("\"modules_to_save\": null", "\"modules_to_save\": [\"lm_head\"]", "`modules_to_save`"),
        ("\"r\": 3", "\"r\": 0", "`r`"),
        ("\"r\": 3", "\"r\": 4", "has the shape"),
        ("\"lora_alpha\": 6.0", "\"lora_alpha\": \"x\"", "`lora_alpha`"),
    ] {
        assert!(config.contains(from), "{from}");
        std::fs::write(&path, config.replace(from, to)).unwrap();
        let error = Adapters::read(dir.path(), start.config()).err().expect(to).to_string();
        assert!(error.contains(key) && error.contains("adapter_"), "{to}: {error}");
    }
}
