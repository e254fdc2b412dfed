//! Weights that stay FP8 while a model runs. Results have the bits of dequantised weights.

use crate::cached::Cached;
use crate::checkpoints::{FP8, Folder, UE8M0, UE8M0_BYTE, changed};
use hadal_model::{Input, Model, Stored};
use hadal_ops::{Cx, DType, Isa};
use hadal_weights::list::Role;
use hadal_weights::precision::{RunFormat, RunFormats};
use hadal_weights::{Checkpoint, Dtype, ScaleFormat, WeightFormat, is_fp8};

/// Logits of given tokens and MTP's, and head inputs of generated ones.
fn results(cx: &Cx, model: &Model) -> Vec<Vec<f32>> {
    let vocab = model.config.vocab_size as i32;
    let ids: Vec<i32> = (0..23).map(|i| (i * i * 7 + 3 * i + 1) % vocab).collect();
    let (logits, drafts) = model.logits(cx, &Input::of(cx, &[&ids], model.mtp.len()), None, None);
    let mut cached = Cached::new(cx, model, 1);
    let given = cached.given(cx, model, &ids[..15], 0, &[0]);
    let generated = cached.generated(cx, model, &ids[15..19], 15, &[0]);
    [logits, given, generated].into_iter().chain(drafts).map(|t| t.to_vec_f32()).collect()
}

fn coded(model: &Model) -> Vec<&str> {
    model.params().into_iter().filter(|p| matches!(p.stored(), Stored::Coded(_))).map(|p| p.spec.name()).collect()
}

#[test]
fn codes_of_every_kind_of_scale_have_the_bits_of_dequantised_weights() {
    let folder = Folder::new();
    for (name, format) in
        [("f32 scales", FP8), ("bf16", WeightFormat::Fp8(ScaleFormat::Bf16)), ("powers", UE8M0), ("bytes", UE8M0_BYTE)]
    {
        let checkpoint = folder.convert("f32", name, format);
        for isa in Isa::available() {
            let cx = Cx::cpu(2, DType::Bf16).with_isa(isa);
            let kept = Model::load_as(&cx, &checkpoint, RunFormats::STORED).unwrap();
            let plain = Model::load_as(&cx, &checkpoint, RunFormats::COMPUTE).unwrap();
            let stored_as = |name: &str| checkpoint.info(name).unwrap().dtype == &Dtype::F8E4M3;
            let codes = coded(&kept);
            for p in kept.params() {
                assert_eq!(codes.contains(&p.spec.name()), stored_as(p.spec.name()), "{}", p.spec.name());
            }
            assert!(codes.len() > 8 && coded(&plain).is_empty() && kept.bytes() < plain.bytes());
            assert!(results(&cx, &kept) == results(&cx, &plain), "{name} {isa:?}");
        }
    }
}

/// Quantising while loading is what `export --dtype fp8` does, and nothing that is not FP8 there changes.
#[test]
fn a_checkpoint_is_quantised_like_an_exported_one() {
    let folder = Folder::new();
    let (plain, fp8) = (folder.open("f32"), folder.convert("f32", "fp8", FP8));
    let cx = Cx::cpu(2, DType::Bf16);
    let formats = RunFormats::all(RunFormat::Fp8);
    let load = |checkpoint: &Checkpoint, formats| Model::load_as(&cx, checkpoint, formats).unwrap();
    let (made, kept) = (load(&plain, formats), load(&fp8, RunFormats::STORED));
    assert_eq!(coded(&made), coded(&kept));
    for (a, b) in made.params().into_iter().zip(kept.params()).filter(|(a, _)| is_fp8(a.spec.name())) {
        assert!(a.to_f32() == b.to_f32(), "{}", a.spec.name());
    }
    // A checkpoint that has them already is not quantised again.
    assert!(results(&cx, &load(&fp8, formats)) == results(&cx, &kept));
    // Only attention, or only experts.
    let some = load(&plain, RunFormats { experts: RunFormat::Compute, ..formats });
    let in_attention =
        |role: Role| matches!(role, Role::AttentionDown | Role::QueryUp | Role::KeyValueUp | Role::AttentionOut);
    let count = some.params().iter().filter(|p| in_attention(p.spec.role)).count();
    assert_eq!(coded(&some).len(), count);
    // Codes are only for BF16. In f32, weights are f32.
    let cx = Cx::cpu(1, DType::F32);
    assert!(coded(&Model::load_as(&cx, &plain, formats).unwrap()).is_empty());
}

#[test]
fn a_value_that_fp8_cannot_hold_is_named() {
    let folder = Folder::new();
    let name = "model.layers.0.self_attn.o_proj.weight";
    changed(&folder, "f32", "broken", &|tensors, _| {
        tensors.get_mut(name).unwrap().2[4..8].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    let checkpoint = Checkpoint::open(folder.0.path().join("broken")).unwrap();
    let cx = Cx::cpu(2, DType::Bf16);
    let error = Model::load_as(&cx, &checkpoint, RunFormats::all(RunFormat::Fp8)).err().unwrap().to_string();
    assert!(error.contains(name) && error.contains("NaN at row 0, column 1, which FP8 cannot hold"), "{error}");
}
