//! Checkpoints with block-quantised weights: conversions, audits, and files with wrong contents.

use crate::checkpoints::{FP8, Folder, Raw, UE8M0, UE8M0_BYTE, changed, config, options, serialize, values};
use hadal_model::Model;
use hadal_ops::{Cx, DType};
use hadal_weights::{
    Checkpoint, Conversion, Dtype, Error, Quantization, WeightFormat, convert_into, expected, is_fp8, is_router_bias,
    scale_name, scale_shape,
};
use proptest::prelude::*;
use safetensors::tensor::Dtype as Stored;
use std::collections::BTreeMap;
use std::fs;

#[test]
fn fp8_holds_what_the_released_weights_hold_in_fp8() {
    let folder = Folder::new();
    let (plain, fp8) = (folder.open("f32"), folder.convert("f32", "fp8", FP8));
    assert!(folder.files("fp8").len() > 3, "it is in several files");
    assert_eq!((plain.format(), fp8.format()), (WeightFormat::F32, FP8));
    let written = fp8.config().quantization_config.clone().unwrap();
    let released = r#"{"activation_scheme":"dynamic","fmt":"e4m3","quant_method":"fp8","weight_block_size":[128,128]}"#;
    assert_eq!(written.to_string(), released);
    let mut names = 0;
    for t in expected(&config()) {
        for name in std::iter::once(&t.name).chain(&t.aliases) {
            names += 1;
            let (info, before) = (fp8.info(name).unwrap(), values(&plain, name));
            match () {
                () if is_fp8(name) => {
                    names += 1;
                    assert_eq!(info.dtype, &Dtype::F8E4M3, "{name}");
                    let scale = fp8.info(&scale_name(name)).unwrap();
                    assert_eq!((scale.dtype, scale.shape), (&Dtype::F32, &scale_shape(&t.shape).unwrap()[..]));
                    // Half a step of the largest binade is a sixteenth of the value.
                    for (a, b) in values(&fp8, name).into_iter().zip(before) {
                        let (a, b) = (f32::from_bits(a), f32::from_bits(b));
                        assert!((a - b).abs() <= b.abs() * 0.0626 + 1e-4, "{name}: {a} {b}");
                    }
                }
                () if is_router_bias(name) => {
                    assert_eq!((info.dtype, values(&fp8, name)), (&Dtype::F32, before), "{name}");
                }
                () => assert_eq!(info.dtype, &Dtype::Bf16, "{name}"),
            }
        }
    }
    assert_eq!(fp8.names().count(), names);
    assert!(fp8.info("model.layers.2.shared_head.head.weight").is_some() && !is_fp8("model.layers.2.eh_proj.weight"));
}

#[test]
fn round_trips_are_exact() {
    let folder = Folder::new();
    folder.convert("f32", "fp8", FP8);
    // Saving a model gives the same as the conversion.
    let cx = Cx::cpu(1, DType::F32);
    let model = Model::load(&cx, &folder.open("f32")).unwrap();
    model.save_into(&folder.make("saved"), FP8, &options()).unwrap();
    assert!(folder.files("saved") == folder.files("fp8"));
    // Codes and scales are copied.
    folder.convert("fp8", "copy", FP8);
    assert!(folder.files("copy") == folder.files("fp8"));
    // Dequantised weights are exact, and quantise to the same bits.
    let (fp8, wide) = (folder.open("fp8"), folder.convert("fp8", "wide", WeightFormat::F32));
    assert!(wide.config().quantization_config.is_none() && wide.names().all(|n| !n.ends_with("_scale_inv")));
    assert!(wide.names().all(|n| values(&wide, n) == values(&fp8, n)));
    folder.convert("wide", "again", FP8);
    assert!(folder.files("again") == folder.files("fp8"));
    // Through BF16 the codes do not change.
    folder.convert("fp8", "half", WeightFormat::Bf16);
    folder.convert("half", "through", FP8);
    let (before, after) = (folder.tensors("fp8"), folder.tensors("through"));
    assert!(before.keys().eq(after.keys()));
    assert!(before.iter().all(|(n, t)| n.ends_with("_scale_inv") || after[n] == *t));
    // A loaded model has the dequantised weights.
    Model::load(&cx, &fp8).unwrap().visit(&mut |p| {
        for part in &p.spec.parts {
            let mut got = vec![0.0; part.len()];
            p.read(part.start, &mut got);
            let got: Vec<u32> = got.iter().map(|v| v.to_bits()).collect();
            assert!(got == values(&wide, &part.name), "{}", part.name);
        }
    });
}

/// Tied embeddings, no query latent, two MTP modules, V2's router: all variants in the fixtures.
#[test]
fn conversions_write_what_models_write() {
    let cx = Cx::cpu(1, DType::F32);
    for source in crate::fixtures::folders() {
        let checkpoint = Checkpoint::open(&source).unwrap();
        let folder = Folder(tempfile::tempdir().unwrap());
        for (i, format) in [WeightFormat::F32, WeightFormat::Bf16, FP8, UE8M0_BYTE].into_iter().enumerate() {
            let (converted, saved) = (format!("converted {i}"), format!("saved {i}"));
            convert_into(&checkpoint, &folder.make(&converted), format.into(), &options()).unwrap();
            let model = Model::load(&cx, &checkpoint).unwrap();
            model.save_into(&folder.make(&saved), format, &options()).unwrap();
            assert!(folder.files(&converted) == folder.files(&saved), "{} {format:?}", source.display());
            assert_eq!(folder.open(&converted).format(), format);
        }
    }
}

#[test]
fn powers_of_two_are_kept_widened_and_made() {
    let folder = Folder::new();
    folder.convert("f32", "fp8", FP8);
    let made = folder.convert("f32", "ue8m0", UE8M0);
    assert_eq!((made.format(), made.quantization()), (UE8M0, Some(&Quantization { ue8m0: true })));
    for name in made.names().filter(|n| n.ends_with("_scale_inv")) {
        assert!(values(&made, name).iter().all(|bits| bits.trailing_zeros() >= 23), "{name}");
    }
    let bytes = folder.convert("ue8m0", "bytes", UE8M0_BYTE);
    assert_eq!(bytes.format(), UE8M0_BYTE);
    folder.convert("bytes", "back", UE8M0);
    assert!(folder.files("back") == folder.files("ue8m0"));
    folder.convert("bytes", "copy", UE8M0_BYTE);
    assert!(folder.files("copy") == folder.files("bytes"));
    // Powers of two are valid f32 scales, so only the configuration changes.
    folder.convert("bytes", "any", FP8);
    assert!(folder.tensors("any") == folder.tensors("ue8m0"));
    assert!(folder.open("any").config().quantization_config.as_ref().unwrap().get("scale_fmt").is_none());
    // In the other direction, the weights are quantised again.
    folder.convert("fp8", "requantised", UE8M0);
    folder.convert("fp8", "wide", WeightFormat::F32);
    folder.convert("wide", "expected", UE8M0);
    assert!(folder.files("requantised") == folder.files("expected"));
    // Exact in every wider format, and values do not change afterwards.
    for (name, format) in [("to f32", WeightFormat::F32), ("to bf16", WeightFormat::Bf16)] {
        let wide = folder.convert("ue8m0", name, format);
        assert!(wide.names().filter(|n| is_fp8(n)).all(|n| values(&wide, n) == values(&made, n)), "{name}");
    }
    let again = folder.convert("to f32", "values", UE8M0);
    assert!(again.names().filter(|n| is_fp8(n)).all(|n| values(&again, n) == values(&made, n)));
}

const PROJ: &str = "model.layers.1.mlp.experts.3.down_proj.weight";
const UP: &str = "model.layers.2.mlp.shared_experts.up_proj.weight";
const O_PROJ: &str = "model.layers.0.self_attn.o_proj.weight";
const DENSE: &str = "model.layers.0.mlp.up_proj.weight";

#[test]
fn what_a_checkpoint_leaves_unquantised_stays_so() {
    let folder = Folder::new();
    let half = folder.convert("f32", "bf16", WeightFormat::Bf16);
    folder.convert("f32", "fp8", FP8);
    let mixed = folder.tensors("bf16")[O_PROJ].clone();
    changed(&folder, "fp8", "mixed", &|tensors, config| {
        tensors.remove(&scale_name(O_PROJ));
        tensors.insert(O_PROJ.into(), mixed.clone());
        config["quantization_config"]["modules_to_not_convert"] = ["model.layers.0.self_attn.o_proj"].into();
    });
    let kept = folder.convert("mixed", "kept", FP8);
    assert_eq!(kept.info(O_PROJ).unwrap(), half.info(O_PROJ).unwrap());
    assert!(kept.config().quantization_config == folder.open("mixed").config().quantization_config);
    assert!(folder.tensors("kept") == folder.tensors("mixed"));
}

#[test]
fn audits_name_scales_and_types() {
    let folder = Folder::new();
    folder.convert("f32", "fp8", FP8);
    changed(&folder, "fp8", "wrong", &|tensors, _| {
        tensors.remove(&scale_name(PROJ));
        let scales = tensors.get_mut(&scale_name(UP)).unwrap();
        scales.1 = vec![2, 1];
        let scales = tensors.get_mut(&scale_name(O_PROJ)).unwrap();
        scales.0 = Stored::I32;
        tensors.insert("model.norm.weight_scale_inv".into(), (Stored::F32, vec![1, 1], vec![0; 4]));
        let norm = tensors.get_mut("model.layers.0.input_layernorm.weight").unwrap();
        *norm = (Stored::F8_E4M3, vec![136], vec![0; 136]);
        let head = tensors.get_mut("lm_head.weight").unwrap();
        head.0 = Stored::I16;
        tensors.insert("model.layers.0.self_attn.o_proj.input_scale".into(), (Stored::F32, vec![], vec![0; 4]));
    });
    let audit = Checkpoint::open(folder.0.path().join("wrong")).unwrap().audit().unwrap();
    assert_eq!(audit.missing, [scale_name(PROJ)]);
    let shapes: Vec<_> =
        audit.misshaped.iter().map(|m| (m.name.clone(), m.expected.clone(), m.found.clone())).collect();
    assert_eq!(shapes, [(scale_name(UP), vec![1, 2], vec![2, 1])]);
    let types: Vec<_> = audit.mistyped.iter().map(|m| (m.name.as_str(), m.found.as_str())).collect();
    let scale = scale_name(O_PROJ);
    let norm = "model.layers.0.input_layernorm.weight";
    assert_eq!(types, [(norm, "F8_E4M3"), (scale.as_str(), "I32"), ("lm_head.weight", "I16")]);
    assert_eq!(audit.extra, ["model.layers.0.self_attn.o_proj.input_scale", "model.norm.weight_scale_inv"]);
    let text = audit.into_result().unwrap_err().to_string();
    for part in [PROJ, "is [2, 1], not [1, 2]", "scales are read from F32, BF16 and F8_E8M0", "without FP8 weights"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    changed(&folder, "fp8", "unsaid", &|_, config| config["quantization_config"] = serde_json::Value::Null);
    let audit = Checkpoint::open(folder.0.path().join("unsaid")).unwrap().audit().unwrap();
    assert_eq!(audit.mistyped.len(), expected(&config()).iter().filter(|t| is_fp8(&t.name)).count());
    assert!(audit.to_string().contains("has no `quantization_config`"), "{audit}");
}

#[test]
fn scales_and_codes_that_are_no_numbers_are_named() {
    let folder = Folder::new();
    folder.convert("f32", "fp8", FP8);
    let cx = Cx::cpu(1, DType::F32);
    let scale = scale_name(DENSE);
    let mut case = 0;
    let mut check = |name: &str, parts: &[&str], change: &dyn Fn(&mut Raw)| {
        case += 1;
        let (bad, out) = (format!("bad {case}"), format!("out {case}"));
        changed(&folder, "fp8", &bad, &|tensors, _| change(tensors.get_mut(name).unwrap()));
        let checkpoint = Checkpoint::open(folder.0.path().join(&bad)).unwrap();
        let mut audit = checkpoint.audit().unwrap();
        // Scales are checked in every audit, codes in a deep one.
        assert_eq!(audit.is_clean(), !name.ends_with("_scale_inv"), "{audit}");
        if audit.is_clean() {
            let mut bytes = 0;
            checkpoint.audit_values(&mut audit, |n| bytes += n).unwrap();
            assert!(bytes > 300_000);
        }
        let audited = audit.into_result().unwrap_err().to_string();
        assert!(audited.contains("1 with unusable values") && audited.contains(name), "{audited}");
        let loaded = Model::load(&cx, &checkpoint).err().expect("loaded").to_string();
        let copied = convert_into(&checkpoint, &folder.make(&out), FP8.into(), &options()).unwrap_err().to_string();
        assert!(copied.contains(&format!("tensor `{name}`")), "{copied}");
        for error in [audited, loaded, copied] {
            assert!(parts.iter().all(|p| error.contains(p)), "{error}");
        }
    };
    for (value, text) in
        [(f32::NAN, "is NaN"), (f32::INFINITY, "is inf"), (0.0, "is 0"), (-0.5, "is -0.5"), (3e38, "is 3e38")]
    {
        // Row 1, column 1 of 3 x 2 blocks.
        let reason = if value == 3e38 { "would be infinite" } else { "positive finite" };
        check(&scale, &[text, "row 1, column 1", reason, "again"], &|t| {
            t.2[12..16].copy_from_slice(&value.to_le_bytes());
        });
    }
    for (byte, text) in [(255, "is NaN"), (254, "is 1.7014118e38")] {
        check(&scale, &[text, "row 2, column 0"], &|t| {
            *t = (Stored::F8_E8M0, vec![3, 2], vec![120, 121, 122, 123, byte, 124]);
        });
    }
    for code in [0x7f, 0xff] {
        check(DENSE, &["is NaN at row 130, column 5"], &|t| t.2[130 * 136 + 5] = code);
    }
}

#[test]
fn weights_that_are_no_numbers_are_named() {
    let folder = Folder::new();
    folder.convert("f32", "bf16", WeightFormat::Bf16);
    let mut case = 0;
    let mut check = |from: &str, size: usize, value: f32, to: Conversion| {
        case += 1;
        let (bad, out) = (format!("bad {case}"), format!("out {case}"));
        changed(&folder, from, &bad, &|tensors, _| {
            let at = size * (200 * 136 + 135);
            let bytes = value.to_le_bytes();
            tensors.get_mut(DENSE).unwrap().2[at..][..size].copy_from_slice(&bytes[4 - size..]);
        });
        let error = convert_into(&folder.open(&bad), &folder.make(&out), to, &options()).unwrap_err().to_string();
        assert!(error.contains(DENSE) && error.contains(&format!("is {value} at row 200, column 135")), "{error}");
    };
    for value in [f32::NAN, f32::NEG_INFINITY] {
        for to in [Conversion::default(), FP8.into(), WeightFormat::F32.into(), WeightFormat::Bf16.into()] {
            check("f32", 4, value, to);
            check("bf16", 2, value, to);
        }
    }
    // Numbers that become infinite through the conversion.
    check("f32", 4, f32::MAX, WeightFormat::Bf16.into());
    check("f32", 4, f32::MAX, UE8M0.into());
}

#[test]
fn other_ways_of_quantising_are_refused_by_key() {
    let folder = Folder::new();
    folder.convert("f32", "fp8", FP8);
    for (i, (key, value)) in [
        ("quant_method", "\"awq\""),
        ("quant_method", "null"),
        ("fmt", "\"e5m2\""),
        ("weight_block_size", "[64, 128]"),
        ("weight_block_size", "null"),
        ("activation_scheme", "\"static\""),
        ("scale_fmt", "\"ue4m3\""),
        ("scale_fmt", "7"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("case {i}");
        changed(&folder, "fp8", &name, &|_, config| {
            config["quantization_config"][key] = serde_json::from_str(value).unwrap();
        });
        let error = Checkpoint::open(folder.0.path().join(name)).err().expect("accepted").to_string();
        assert!(error.contains(&format!("`quantization_config.{key}`: must be")), "{error}");
        assert!(
            error.contains("config.json") && (value == "null" || error.contains(&value.replace(' ', ""))),
            "{error}"
        );
    }
    changed(&folder, "fp8", "text", &|_, config| config["quantization_config"] = "fp8".into());
    assert!(Checkpoint::open(folder.0.path().join("text")).is_err());
}

/// A small file with a norm and two FP8 matrices, one with f32 scales and one with byte scales.
fn small_file() -> BTreeMap<String, Raw> {
    let codes = |n: usize| (0..n).map(|i| (i * 37 % 251) as u8).map(|c| if c & 0x7f == 0x7f { 0 } else { c }).collect();
    let f32s = |v: &[f32]| v.iter().flat_map(|v| v.to_le_bytes()).collect();
    BTreeMap::from([
        ("a.weight".into(), (Stored::F8_E4M3, vec![3, 130], codes(390))),
        ("a.weight_scale_inv".into(), (Stored::F32, vec![1, 2], f32s(&[0.5, 3.0]))),
        ("b.weight".into(), (Stored::F8_E4M3, vec![129, 2], codes(258))),
        ("b.weight_scale_inv".into(), (Stored::F8_E8M0, vec![2, 1], vec![120, 130])),
        ("n.weight".into(), (Stored::BF16, vec![5], vec![0x3f; 10])),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Truncated, flipped and overwritten files, and changed digits and names in the header. Each is rejected with the
    /// name of a file or a tensor, or all values are present and finite.
    #[test]
    fn damaged_fp8_files_do_no_harm(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..6), 1..4),
        token in prop::sample::select(vec![
            "0", "1", "128", "130", "3", "390", "18446744073709551615", "2305843009213693951", "-1", "[]", "1e9",
        ]),
    ) {
        let mut bytes = serialize(&small_file());
        for (at, byte, kind) in damage {
            let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()).min(bytes.len() as u64 - 8) as usize;
            let i = at.index(bytes.len());
            match kind {
                0 => bytes.truncate(i.max(8)),
                1 => bytes[i] ^= 1 << (byte % 8),
                // A NaN, an infinity or a changed sign somewhere in the data.
                2 => if header < bytes.len() { let i = header + at.index(bytes.len() - header); bytes[i] = byte | 0x7f; },
                3 => bytes.extend([byte; 3]),
                // A changed letter in the header: another type, or another name.
                4 => if header > 8 { let i = 8 + at.index(header - 8); bytes[i] = b"48EFM3AaBn_"[usize::from(byte) % 11]; },
                _ => if let Some(start) = (i.min(header).max(8)..header).find(|j| bytes[*j].is_ascii_digit()) {
                    let end = (start..bytes.len()).find(|j| !bytes[*j].is_ascii_digit()).unwrap_or(bytes.len());
                    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap());
                    let grown = length.wrapping_add(token.len() as u64).wrapping_sub((end - start) as u64);
                    bytes.splice(start..end, token.bytes());
                    bytes[..8].copy_from_slice(&grown.to_le_bytes());
                },
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let mut config = serde_json::to_value(config()).unwrap();
        config["quantization_config"] =
            serde_json::json!({"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]});
        fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        fs::write(dir.path().join("model.safetensors"), &bytes).unwrap();
        let needed =
            [("a.weight", vec![3, 130]), ("b.weight", vec![129, 2]), ("n.weight", vec![5])].map(|(n, s)| (n.to_string(), s));
        let checkpoint = match Checkpoint::open(dir.path()) {
            Ok(checkpoint) => checkpoint,
            Err(error) => {
                prop_assert!(error.to_string().contains("model.safetensors"), "{error}");
                return Ok(());
            }
        };
        let audit = checkpoint.check(&needed).unwrap();
        // Everything that exists can be read safely, audited or not.
        for name in checkpoint.names() {
            let info = checkpoint.info(name).unwrap();
            let mut out = vec![0f32; info.elements()];
            match checkpoint.read_f32(name, &mut out) {
                Ok(()) if *info.dtype == Dtype::F8E4M3 => prop_assert!(out.iter().all(|v| v.is_finite())),
                Ok(()) | Err(Error::Unsupported { .. }) => {}
                Err(error) => prop_assert!(error.to_string().contains(name), "{name}: {error}"),
            }
        }
        if audit.is_clean() {
            for (name, _) in &needed {
                let mut out = vec![0f32; checkpoint.info(name).unwrap().elements()];
                if let Err(error) = checkpoint.read_f32(name, &mut out) {
                    prop_assert!(matches!(error, Error::Unusable { .. }), "{error}");
                }
            }
        }
    }
}
