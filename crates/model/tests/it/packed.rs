//! Models in mapped files have the bits of models that are packed while they are loaded.

use crate::cached::Cached;
use crate::fixtures::Fixture;
use hadal_model::{Input, Model, write_packed};
use hadal_ops::{Cx, DType};
use hadal_weights::precision::{RunFormat, RunFormats};
use hadal_weights::{Checkpoint, ModelConfig, PackedFile};
use std::path::Path;

/// Head inputs, logits and losses of given tokens, and head inputs of generated ones.
fn results(cx: &Cx, model: &Model, f: &Fixture) -> Vec<Vec<f32>> {
    let ids = f.ids();
    let all: Vec<&[i32]> = ids.iter().map(Vec::as_slice).collect();
    let input = Input::of(cx, &all, model.mtp.len());
    let (logits, drafts) = model.logits(cx, &input, None, None);
    let (losses, _) = model.losses(cx, &input, None, false, None);
    let mut cached = Cached::new(cx, model, 1);
    let given = cached.given(cx, model, &ids[0][..4], 0, &[0]);
    let generated = cached.generated(cx, model, &ids[0][4..8], 4, &[0]);
    [logits, losses, given, generated].into_iter().chain(drafts).map(|t| t.to_vec_f32()).collect()
}

fn pack(cx: &Cx, from: &Path, formats: RunFormats, to: &Path) {
    let mut steps = Vec::new();
    let checkpoint = Checkpoint::open(from).unwrap();
    let bytes = write_packed(cx, &checkpoint, formats, to, None, &mut |done, total| steps.push((done, total))).unwrap();
    assert!(steps.is_sorted() && steps.last().is_some_and(|(done, total)| done == total && *total as u64 <= bytes));
}

#[test]
fn a_mapped_model_has_the_bits_of_a_loaded_one() {
    let mixed = RunFormats { attention: RunFormat::Int8, experts: RunFormat::Int4, head: RunFormat::Int8 };
    let bf16 = [RunFormats::STORED, RunFormats::all(RunFormat::Fp8), RunFormats::all(RunFormat::Int8), mixed];
    let cases = bf16
        .map(|formats| (DType::Bf16, formats))
        .into_iter()
        .chain([(DType::F32, RunFormats::COMPUTE), (DType::F32, mixed)]);
    for (dtype, formats) in cases {
        for name in ["yarn", "moonlight", "mtp2", "tied"] {
            let (f, cx, dir) = (Fixture::named(name), Cx::cpu(2, dtype), tempfile::tempdir().unwrap());
            let loaded = Model::load_as(&cx, &Checkpoint::open(&f.path).unwrap(), formats).unwrap();
            pack(&cx, &f.path, formats, dir.path());
            let file = PackedFile::open(dir.path()).unwrap();
            file.verify(|_| {}).unwrap();
            let mapped = Model::map(&cx, &file).unwrap();
            assert_eq!(mapped.bytes(), loaded.bytes(), "{name} {formats:?}");
            assert!(results(&cx, &mapped, &f) == results(&cx, &loaded, &f), "{name} {dtype:?} {formats:?}");
        }
    }
}

#[test]
fn a_file_of_another_model_or_format_is_refused() {
    let (f, cx, dir) = (Fixture::named("mtp2"), Cx::cpu(1, DType::Bf16), tempfile::tempdir().unwrap());
    pack(&cx, &f.path, RunFormats::STORED, dir.path());
    let refused = |cx: &Cx, change: &dyn Fn(&mut ModelConfig)| {
        let path = dir.path().join("config.json");
        let mut config = ModelConfig::from_file(&path).unwrap();
        let text = std::fs::read(&path).unwrap();
        change(&mut config);
        std::fs::write(&path, config.to_json()).unwrap();
        let error =
            Model::map(cx, &PackedFile::open(dir.path()).unwrap()).err().map(|e| e.to_string()).unwrap_or_default();
        std::fs::write(&path, text).unwrap();
        assert!(error.contains("packed.safetensors") && error.contains("hadal quantize"), "{error}");
        error
    };
    let f32 = Cx::cpu(1, DType::F32);
    assert!(refused(&f32, &|_| ()).contains("packed for computing in bf16, not in f32"));
    assert!(refused(&cx, &|c| c.num_hidden_layers += 1).contains("has no weights for `model.layers."));
    assert!(
        refused(&cx, &|c| c.num_nextn_predict_layers = 0)
            .contains("has weights that the model in config.json does not have")
    );
    assert!(refused(&cx, &|c| c.kv_lora_rank *= 2).contains("but the model in config.json needs"));
}
