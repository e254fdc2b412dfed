//! FP8 weights with the conventions of the official inference code, rewritten in PyTorch
//! (`fixtures/fp8/official.safetensors`). Codes, scales and dequantised values are compared bit for bit, through a
//! checkpoint's files. The same code treats the largest value of an activation tile as at least 1e-4 before it divides.
//! This does not affect weights.

use crate::checkpoints::{FP8, Folder, Raw, UE8M0, changed, raw};
use crate::fixtures::{distance, read};
use hadal_model::Model;
use hadal_model::dump::{Array, dump};
use hadal_ops::fp8::E4M3;
use hadal_ops::{Cx, DType};
use hadal_weights::ModelConfig;
use hadal_weights::{Checkpoint, Conversion, ScaleFormat, WeightFormat, expected, scale_name};
use safetensors::SafeTensors;
use safetensors::tensor::Dtype as Stored;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const GATE: &str = "model.layers.0.mlp.gate_proj.weight";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn official() -> BTreeMap<String, Raw> {
    raw(&std::fs::read(fixture("fp8/official.safetensors")).unwrap())
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

#[test]
fn codes_and_values_are_pytorch_s() {
    let all = official();
    let values = floats(&all["e4m3.all_values"].2);
    for (code, value) in values.iter().enumerate() {
        let ours = E4M3.decode(code as u16);
        assert!(ours.to_bits() == value.to_bits() || (ours.is_nan() && value.is_nan()), "{code:#x}: {ours} {value}");
    }
    // Ties go to even. Values beyond the largest one, and infinity, become the largest.
    for (value, code) in floats(&all["e4m3.in"].2).into_iter().zip(&all["e4m3.bits"].2) {
        assert_eq!(E4M3.encode(value) as u8, *code, "{value}");
    }
}

/// The official matrix of 300 x 448 as a projection of a model. Its blocks at the edges are smaller in both directions.
#[test]
fn weights_are_those_of_the_official_code() {
    let all = official();
    let mut config = ModelConfig::from_file(fixture("dense/config.json")).unwrap();
    (config.hidden_size, config.intermediate_size) = (448, 300);
    assert_eq!(all["w.f32"].1, [300, 448]);
    let folder = Folder::new();
    changed(&folder, "f32", "wide", &|tensors, json| {
        *json = config.to_value();
        tensors.clear();
        for t in expected(&config) {
            let elements: usize = t.shape.iter().product();
            tensors.insert(t.name, (Stored::F32, t.shape, 0.5f32.to_le_bytes().repeat(elements)));
        }
        tensors.insert(GATE.into(), all["w.f32"].clone());
    });
    folder.convert("wide", "fp8", FP8);
    let fp8 = folder.tensors("fp8");
    assert!(fp8[GATE].2 == all["w.bits"].2, "codes");
    assert!(fp8[&scale_name(GATE)] == all["w.scale_inv"], "scales");
    folder.convert("fp8", "back", WeightFormat::F32);
    assert!(folder.tensors("back")[GATE] == all["w.deq"], "values");
    // Powers of two: the scales that the definition gives.
    folder.convert("wide", "ue8m0", UE8M0);
    let powers = floats(&folder.tensors("ue8m0")[&scale_name(GATE)].2);
    for (power, scale) in powers.into_iter().zip(floats(&all["w.scale_inv"].2)) {
        assert_eq!(power, scale.log2().ceil().exp2(), "{scale}");
    }
    // Weights already stored in this format are copied, whichever program made them.
    let stored = Conversion { format: None, scales: Some(ScaleFormat::F32) };
    folder.convert("fp8", "again", stored);
    assert!(folder.tensors("again") == fp8);
}

/// A whole FP8 checkpoint gives the logits that the official inference code computes from it
/// (`oracle/make_fp8_model.py`).
#[test]
fn a_checkpoint_in_fp8_gives_the_official_logits() {
    let folder = fixture("fp8/official");
    let cx = Cx::cpu(2, DType::F32);
    let model = Model::load(&cx, &Checkpoint::open(&folder).unwrap()).unwrap();
    let bytes = std::fs::read(folder.join("logits.safetensors")).unwrap();
    let want = read(&SafeTensors::deserialize(&bytes).unwrap());
    let (Array::I64(shape, ids), Array::F32(_, logits)) = (&want["input_ids"], &want["logits"]) else {
        panic!("ids are integers, logits f32")
    };
    let ids: Vec<i32> = ids.iter().map(|id| *id as i32).collect();
    let rows: Vec<&[i32]> = ids.chunks(shape[1]).collect();
    let have = dump(&cx, &model, &rows, false, None);
    let Array::F32(_, ours) = &have["logits"] else { panic!("logits are f32") };
    let apart = distance(ours, logits);
    assert!(apart < 1e-5, "{apart:.1e}");
}
