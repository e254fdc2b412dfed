//! Checkpoints damaged in all parts: headers, data, types, shapes, names, index, configuration. A conversion either
//! names the problem and leaves nothing behind, or writes a checkpoint in which every value is right. It needs no more
//! memory than for an intact checkpoint. This is a separate binary, because it measures the allocator.

#[path = "../../ops/tests/counting/peak.rs"]
mod measuring;

use hadal_base::atomic::StagedDir;
use hadal_weights::{Checkpoint, Conversion, Error, SaveOptions, ScaleFormat, WeightFormat, convert_into};
use proptest::prelude::*;
use proptest::sample::Index;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

/// Largest memory of any case in bytes. An intact checkpoint needs most of it for the pieces that are copied.
const MOST_MEMORY: usize = 24_000_000;
const INDEX: &str = "model.safetensors.index.json";

type Files = BTreeMap<String, Vec<u8>>;

const FP8: WeightFormat = WeightFormat::Fp8(ScaleFormat::F32);
const FORMATS: [WeightFormat; 5] = [
    WeightFormat::F32,
    WeightFormat::Bf16,
    FP8,
    WeightFormat::Fp8(ScaleFormat::Ue8m0),
    WeightFormat::Fp8(ScaleFormat::Ue8m0Byte),
];

fn read(dir: &Path) -> Files {
    let file = |e: fs::DirEntry| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap());
    fs::read_dir(dir).unwrap().map(|e| file(e.unwrap())).collect()
}

fn convert(from: &Path, out: &Path, conversion: Conversion, shard_bytes: usize) -> Result<(), Error> {
    let checkpoint = Checkpoint::open(from)?;
    checkpoint.audit()?.into_result()?;
    let staged = StagedDir::new(out)?;
    convert_into(&checkpoint, staged.path(), conversion, &SaveOptions { shard_bytes, stop: None })?;
    Ok(staged.commit()?)
}

/// Intact checkpoints: FP8 in one file and in several, with scales of two types; BF16 in several files.
static SOUND: LazyLock<[Files; 3]> = LazyLock::new(|| {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/yarn");
    let dir = tempfile::tempdir().unwrap();
    [(FP8, usize::MAX), (FORMATS[4], 40_000), (WeightFormat::Bf16, 100_000)].map(|(format, shard_bytes)| {
        let out = dir.path().join(shard_bytes.to_string());
        convert(&source, &out, format.into(), shard_bytes).unwrap();
        read(&out)
    })
});

/// Keys that a configuration may leave out, with all their names.
const CONFIG: [&str; 27] = [
    "num_nextn_predict_layers",
    "num_mtp_layers",
    "n_shared_experts",
    "n_routed_experts",
    "num_local_experts",
    "num_experts",
    "num_experts_per_tok",
    "first_k_dense_replace",
    "moe_layer_freq",
    "q_lora_rank",
    "n_group",
    "topk_group",
    "scoring_func",
    "topk_method",
    "norm_topk_prob",
    "routed_scaling_factor",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "rope_interleave",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
    "torch_dtype",
    "dtype",
    "quantization_config",
    "num_key_value_heads",
];
const QUANTIZATION: [&str; 6] =
    ["quant_method", "fmt", "weight_block_size", "activation_scheme", "scale_fmt", "modules_to_not_convert"];

/// One change to a checkpoint: the kind, three positions, and a byte.
type Damage = (u8, Index, Index, Index, u8);

const NUMBERS: [&str; 10] =
    ["0", "1", "128", "129", "18446744073709551615", "9223372036854775807", "-1", "1e9", "[]", "null"];

fn values() -> [Value; 14] {
    let list = json!([128, 128]);
    [json!(0), json!(1), json!(-1), json!(3), json!(127), json!(u64::MAX), json!(1e300), json!(0.5), Value::Null]
        .into_iter()
        .chain([json!(true), json!("ue8m0"), json!([]), json!({}), list])
        .collect::<Vec<_>>()
        .try_into()
        .unwrap()
}

fn damage(files: &mut Files, (kind, a, b, c, byte): &Damage) {
    let names: Vec<String> = files.keys().cloned().collect();
    let weights: Vec<&String> = names.iter().filter(|n| n.ends_with(".safetensors")).collect();
    let Some(weight) = (!weights.is_empty()).then(|| a.get(&weights).as_str()) else { return };
    match kind {
        0..=3 => bytes(files.get_mut(weight).unwrap(), *kind, *b, *c, *byte),
        4 | 5 => tensor(files.get_mut(weight).unwrap(), *b, *c, *byte),
        6 | 7 => edit(files, "config.json", |config| {
            let config = if *kind == 7 { &mut config["quantization_config"] } else { config };
            let Some(map) = config.as_object_mut().filter(|m| !m.is_empty()) else { return };
            let key = b.get(&map.keys().cloned().collect::<Vec<_>>()).clone();
            map.insert(key, c.get(&values()).clone());
        }),
        8 => edit(files, INDEX, |index| {
            let Some(map) = index["weight_map"].as_object_mut().filter(|m| !m.is_empty()) else { return };
            let key = b.get(&map.keys().cloned().collect::<Vec<_>>()).clone();
            match byte % 4 {
                0 => drop(map.remove(&key)),
                1 => drop(map.insert("surplus".into(), json!(weight))),
                2 => drop(map.insert(key, c.get(&values()).clone())),
                _ => drop(map.insert(key, json!(c.get(&names)))),
            }
        }),
        9 => drop(files.remove(a.get(&names))),
        11 => edit(files, "config.json", |config| optional(config, &CONFIG, *b, *c, *byte)),
        12 => edit(files, "config.json", |config| {
            optional(&mut config["quantization_config"], &QUANTIZATION, *b, *c, *byte);
        }),
        13 => edit(files, INDEX, |index| optional(index, &["metadata", "weight_map", "note"], *b, *c, *byte)),
        14 => header(files.get_mut(weight).unwrap(), |map| {
            let names: Vec<String> = map.as_object().into_iter().flat_map(|map| map.keys().cloned()).collect();
            let name = b.get(&names);
            match byte % 3 {
                0 => optional(map, &["__metadata__"], *b, *c, byte / 3),
                1 => optional(&mut map[name], &["dtype", "shape", "data_offsets", "note"], *b, *c, byte / 3),
                _ => optional(map, &[name.as_str()], *b, *c, byte / 3),
            }
        }),
        _ => {
            // The text or the data of any file.
            let file = files.get_mut(a.get(&names)).unwrap();
            if !file.is_empty() {
                let i = b.index(file.len());
                file[i] = *byte;
            }
        }
    }
}

/// Removes a key, sets it to null, or gives it a value of any type.
fn optional(object: &mut Value, keys: &[&str], b: Index, c: Index, byte: u8) {
    let Some(map) = object.as_object_mut() else { return };
    let key = *b.get(keys);
    match byte % 3 {
        0 => drop(map.remove(key)),
        1 => drop(map.insert(key.into(), Value::Null)),
        _ => drop(map.insert(key.into(), c.get(&values()).clone())),
    }
}

/// Changes a header's JSON and adjusts its length.
fn header(file: &mut Vec<u8>, change: impl FnOnce(&mut Value)) {
    let Some(length) = file.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes)) else { return };
    let Some(json) = file.get(8..8usize.saturating_add(length as usize)) else { return };
    let Ok(mut value) = serde_json::from_slice::<Value>(json) else { return };
    if value.as_object().is_none_or(serde_json::Map::is_empty) {
        return;
    }
    change(&mut value);
    let json = value.to_string().into_bytes();
    let data = file.split_off(8 + length as usize);
    *file = [&(json.len() as u64).to_le_bytes()[..], &json, &data].concat();
}

fn edit(files: &mut Files, name: &str, change: impl FnOnce(&mut Value)) {
    let Some(file) = files.get_mut(name) else { return };
    let Ok(mut value) = serde_json::from_slice(file) else { return };
    change(&mut value);
    *file = value.to_string().into_bytes();
}

/// Blind damage: truncation, flipped bits, NaN in the data, other digits in the header.
fn bytes(file: &mut Vec<u8>, kind: u8, b: Index, c: Index, byte: u8) {
    if file.len() < 9 {
        return;
    }
    let header = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()).min(file.len() as u64 - 8) as usize;
    let i = b.index(file.len());
    match kind {
        0 => file.truncate(i.max(8)),
        1 => file[i] ^= 1 << (byte % 8),
        2 if header < file.len() => {
            let at = header + b.index(file.len() - header);
            file[at] = byte | 0x7f;
        }
        _ => {
            let Some(start) = (i.min(header).max(8)..header).find(|j| file[*j].is_ascii_digit()) else { return };
            let end = (start..header).find(|j| !file[*j].is_ascii_digit()).unwrap_or(header);
            let number = c.get(&NUMBERS);
            file.splice(start..end, number.bytes());
            let length = (header - 8 + number.len() - (end - start)) as u64;
            file[..8].copy_from_slice(&length.to_le_bytes());
        }
    }
}

/// A tensor that is missing, renamed, or of another type or shape, in an otherwise intact file.
fn tensor(file: &mut Vec<u8>, b: Index, c: Index, byte: u8) {
    let Ok(read) = SafeTensors::deserialize(file) else { return };
    let mut all: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> =
        read.tensors().into_iter().map(|(n, t)| (n, (t.dtype(), t.shape().to_vec(), t.data().to_vec()))).collect();
    if all.is_empty() {
        return;
    }
    let name = b.get(&all.keys().cloned().collect::<Vec<_>>()).clone();
    let (dtype, shape, data) = all.remove(&name).unwrap();
    match byte % 5 {
        0 => {}
        1 => drop(all.insert(format!("{name}_scale_inv"), (dtype, shape, data))),
        2 => {
            let types = [Dtype::F32, Dtype::BF16, Dtype::F16, Dtype::F8_E4M3, Dtype::F8_E8M0, Dtype::I32, Dtype::U8];
            let dtype = *c.get(&types);
            let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
            all.insert(name, (dtype, shape, [0x3c, byte, 0x7f, 0, 1].iter().copied().cycle().take(bytes).collect()));
        }
        3 => drop(all.insert(name, (dtype, shape.into_iter().rev().collect(), data))),
        _ => {
            let shape = [vec![shape.iter().product()], vec![1].into_iter().chain(shape).collect()];
            all.insert(name, (dtype, c.get(&shape).clone(), data));
        }
    }
    let views = all.iter().map(|(n, (d, s, b))| (n, TensorView::new(*d, s.clone(), b).unwrap()));
    *file = safetensors::serialize(views, None).unwrap();
}

fn entries(dir: &Path) -> Vec<String> {
    read_names(dir).into_iter().filter(|n| n != "source").collect()
}

fn read_names(dir: &Path) -> Vec<String> {
    fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn damaged_checkpoints_are_refused_by_name_or_converted_whole(
        sound in any::<Index>(),
        damages in prop::collection::vec((0u8..15, any::<Index>(), any::<Index>(), any::<Index>(), any::<u8>()), 0..4),
        format in any::<Index>(),
        kind in 0u8..3,
    ) {
        let mut files = sound.get(&*SOUND).clone();
        damages.iter().for_each(|d| damage(&mut files, d));
        let dir = tempfile::tempdir().unwrap();
        let (source, out) = (dir.path().join("source"), dir.path().join("out"));
        fs::create_dir(&source).unwrap();
        files.iter().for_each(|(name, bytes)| fs::write(source.join(name), bytes).unwrap());
        let format = *format.get(&FORMATS);
        let conversion = match kind {
            0 => Conversion::default(),
            1 => format.into(),
            _ => Conversion { format: Some(format), scales: None },
        };
        let (done, peak) = measuring::peak(|| convert(&source, &out, conversion, 50_000));
        prop_assert!(peak < MOST_MEMORY, "{peak} bytes");
        if let Err(error) = done {
            let text = error.to_string();
            let parts = [".safetensors", "config.json", "tensor `", "does not hold"];
            prop_assert!(parts.iter().any(|part| text.contains(part)), "{text}");
            prop_assert!(text.len() < 20_000, "{} bytes", text.len());
            prop_assert_eq!(entries(dir.path()), Vec::<String>::new(), "{}", text);
            prop_assert!(!damages.is_empty(), "{}", text);
        } else {
            prop_assert_eq!(entries(dir.path()), ["out"]);
            let written = Checkpoint::open(&out).unwrap();
            let mut audit = written.audit().unwrap();
            written.audit_values(&mut audit, |_| {}).unwrap();
            prop_assert!(audit.is_clean(), "{}", audit);
        }
    }
}
