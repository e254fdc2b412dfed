//! What a conversion does not change: everything that it is not asked to change.

use crate::checkpoints::{FP8, Folder, UE8M0, UE8M0_BYTE, changed, values};
use hadal_weights::ModelConfig;
use hadal_weights::{Conversion, Converted, Quantization, ScaleFormat, WeightFormat, is_fp8, scale_name};
use safetensors::tensor::Dtype as Stored;

const O_PROJ: &str = "model.layers.0.self_attn.o_proj.weight";
const UP: &str = "model.layers.1.mlp.experts.3.up_proj.weight";
const STORED: Conversion = Conversion { format: None, scales: None };

/// DeepSeek-V3.1 says `scale_fmt: ue8m0`, but stores scales of `o_proj` that are not powers of two.
#[test]
fn scales_that_differ_from_their_format_are_named_and_kept() {
    let folder = Folder::new();
    folder.convert("f32", "ue8m0", UE8M0);
    let scale = scale_name(O_PROJ);
    changed(&folder, "ue8m0", "v3.1", &|tensors, _| {
        tensors.get_mut(&scale).unwrap().2[..4].copy_from_slice(&8.074_192e-5f32.to_le_bytes());
    });
    let checkpoint = folder.open("v3.1");
    assert_eq!(checkpoint.quantization(), Some(&Quantization { ue8m0: true }));
    let audit = checkpoint.audit().unwrap();
    assert!(audit.is_clean() && audit.off_format == [scale.as_str()], "{audit}");
    assert!(folder.open("ue8m0").audit().unwrap().off_format.is_empty());
    // The same bits, including the configuration. This is also so if the format is named.
    let fp8 = Conversion { format: Some(FP8), scales: None };
    for (to, conversion) in [("same", STORED), ("fp8", fp8)] {
        let done = folder.converted("v3.1", to, conversion);
        assert_eq!((done.copied, done.requantised), (done.tensors, 0));
        assert!(folder.tensors(to) == folder.tensors("v3.1"), "{to}");
        assert_eq!(folder.open(to).config(), checkpoint.config(), "{to}");
    }
    // Dequantised values are the products of code and scale.
    let wide = folder.convert("v3.1", "wide", WeightFormat::F32);
    assert!(values(&wide, O_PROJ) == values(&checkpoint, O_PROJ));
    // Powers of two are made if they are asked for, and only for this tensor.
    for (to, scales) in [("powers", ScaleFormat::Ue8m0), ("bytes", ScaleFormat::Ue8m0Byte)] {
        let done = folder.converted("v3.1", to, Conversion { format: None, scales: Some(scales) });
        assert_eq!((done.requantised, done.copied), (1, done.tensors - 1), "{to}");
        assert!(folder.open(to).audit().unwrap().off_format.is_empty());
        let (before, after) = (folder.tensors("v3.1"), folder.tensors(to));
        let same = |name: &str| before[name].2 == after[name].2;
        assert!(before.keys().filter(|n| !n.ends_with("_scale_inv")).all(|n| same(n) == (n != O_PROJ)), "{to}");
    }
}

#[test]
fn every_type_stays_without_a_format() {
    let folder = Folder::new();
    folder.convert("f32", "fp8", FP8);
    let f32s = folder.tensors("f32");
    let half = |bytes: &[u8]| {
        let floats = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
        floats.flat_map(|v| half::f16::from_f32(v).to_le_bytes()).collect::<Vec<u8>>()
    };
    let norm = "model.layers.0.input_layernorm.weight";
    let gate = "model.layers.1.mlp.gate.weight";
    let bias = "model.layers.1.mlp.gate.e_score_correction_bias";
    changed(&folder, "fp8", "mixed", &|tensors, _| {
        for name in [norm, gate, O_PROJ] {
            tensors.insert(name.into(), f32s[name].clone());
        }
        tensors.remove(&scale_name(O_PROJ));
        let (_, shape, bytes) = &f32s[UP];
        tensors.insert(UP.into(), (Stored::F16, shape.clone(), half(bytes)));
        tensors.remove(&scale_name(UP));
        let (_, shape, bytes) = &f32s[bias];
        let top: Vec<u8> = bytes.chunks(4).flat_map(|b| [b[2], b[3]]).collect();
        tensors.insert(bias.into(), (Stored::BF16, shape.clone(), top));
    });
    let done = folder.converted("mixed", "same", STORED);
    assert_eq!(done, Converted { tensors: done.tensors, copied: done.tensors, narrowed: 0, requantised: 0 });
    assert!(folder.tensors("same") == folder.tensors("mixed"));
    // If FP8 is asked for, the same codes and scales are copied. Wider tensors become BF16, and they are counted.
    let done = folder.converted("mixed", "fp8 again", Conversion { format: Some(FP8), scales: None });
    assert_eq!((done.narrowed, done.requantised), (4, 0));
    assert!(folder.tensors("fp8 again").iter().all(|(n, t)| t.0 != Stored::F16 && (t.0 != Stored::F32 || !is_fp8(n))));
    let done = folder.converted("f32", "bf16", WeightFormat::Bf16.into());
    assert_eq!((done.narrowed, done.copied), (done.tensors - 2, 2), "all but two router biases");
    let done = folder.converted("bf16", "wide", WeightFormat::F32.into());
    assert_eq!((done.narrowed, done.copied), (0, 2));
}

#[test]
fn scales_of_two_types_stay_side_by_side() {
    let folder = Folder::new();
    folder.convert("f32", "fp8", FP8);
    changed(&folder, "fp8", "mixed", &|tensors, _| {
        let scales = tensors.get_mut(&scale_name(O_PROJ)).unwrap();
        let blocks = scales.1.iter().product();
        *scales = (Stored::F8_E8M0, scales.1.clone(), vec![118; blocks]);
    });
    let done = folder.converted("mixed", "same", STORED);
    assert_eq!((done.copied, done.requantised), (done.tensors, 0));
    assert!(folder.tensors("same") == folder.tensors("mixed"));
    assert_eq!(folder.open("same").config(), folder.open("mixed").config());
    // In f32 all scales have the same type, and no code changes.
    let done = folder.converted("mixed", "wide", Conversion { format: None, scales: Some(ScaleFormat::F32) });
    assert_eq!((done.copied, done.requantised), (done.tensors, 0));
    assert!(folder.tensors("wide")[&scale_name(O_PROJ)].2.starts_with(&2f32.powi(118 - 127).to_le_bytes()));
    // With byte scales, all other tensors are quantised again.
    let fp8 = folder.tensors("fp8").keys().filter(|n| n.ends_with("_scale_inv")).count();
    assert_eq!(folder.converted("mixed", "bytes", UE8M0_BYTE.into()).requantised, fp8 - 1);
}

#[test]
fn what_a_configuration_leaves_out_is_not_quantised() {
    let folder = Folder::new();
    folder.convert("f32", "bf16", WeightFormat::Bf16);
    changed(&folder, "bf16", "listed", &|_, config| {
        config["quantization_config"] = serde_json::json!({
            "quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128],
            "modules_to_not_convert": ["lm_head", "model.layers.0.self_attn.o_proj", "shared_experts.up_proj"],
        });
    });
    let fp8 = folder.convert("listed", "fp8", FP8);
    let plain = |n: &&str| is_fp8(n) && fp8.info(&scale_name(n)).is_none();
    let left: Vec<&str> = fp8.names().filter(plain).collect();
    let up = |l: usize| format!("model.layers.{l}.mlp.shared_experts.up_proj.weight");
    assert_eq!(left, [O_PROJ, up(1).as_str(), up(2).as_str()]);
    assert!(folder.tensors("fp8")[O_PROJ] == folder.tensors("bf16")[O_PROJ]);
    let list = |config: &ModelConfig| config.quantization_config.as_ref().unwrap()["modules_to_not_convert"].clone();
    assert_eq!(list(fp8.config()), list(folder.open("listed").config()));
}
