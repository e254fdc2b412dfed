//! Checkpoints written and read back, files written by the format's own crate, and files with wrong contents.

use super::*;
use crate::config::ModelConfig;
use crate::header::*;
use hadal_base::{IoError, atomic};
use hadal_ops::bf16;
use proptest::prelude::*;
use safetensors::tensor::{Dtype as TheirDtype, SafeTensors, TensorView};
use std::collections::HashMap;
use std::fs;
use std::path::Path;

fn config() -> ModelConfig {
    ModelConfig::named("small").unwrap()
}

fn tensor(name: &str, shape: &[usize], dtype: SaveDtype) -> SaveTensor {
    SaveTensor { name: name.into(), shape: shape.into(), dtype }
}

/// A value that depends on tensor and element. All kinds of rounding occur among these values.
fn value(name: &str, i: usize) -> f32 {
    let key = name.bytes().fold(i as u32, |h, b| h.wrapping_mul(31).wrapping_add(b as u32)).wrapping_mul(0x9e37_79b9);
    (key as f32 / 2f32.powi(31) - 1.0) * 3.0
}

#[allow(clippy::unnecessary_wraps, reason = "the signature that `save` asks for")]
fn fill(t: &SaveTensor, start: usize, out: &mut [f32]) -> Result<(), Error> {
    for (i, v) in out.iter_mut().enumerate() {
        *v = value(&t.name, start + i);
    }
    Ok(())
}

#[allow(clippy::unnecessary_wraps, reason = "the signature that `save` asks for")]
fn no_more(_: &Path) -> Result<(), Error> {
    Ok(())
}

/// What the format's own crate writes for the same tensors.
fn theirs(tensors: &[&SaveTensor]) -> Vec<u8> {
    let data: Vec<Vec<u8>> = tensors
        .iter()
        .map(|t| {
            let values = (0..t.elements()).map(|i| value(&t.name, i));
            match t.dtype {
                SaveDtype::F32 => values.flat_map(f32::to_le_bytes).collect(),
                SaveDtype::Bf16 => values.flat_map(|v| bf16::from_f32(v).to_le_bytes()).collect(),
                other => panic!("{other:?} is tested elsewhere"),
            }
        })
        .collect();
    let views = tensors.iter().zip(&data).map(|(t, d)| {
        let dtype = if t.dtype == SaveDtype::F32 { TheirDtype::F32 } else { TheirDtype::BF16 };
        (t.name.clone(), TensorView::new(dtype, t.shape.clone(), d).unwrap())
    });
    safetensors::serialize(views, Some(HashMap::from([("format".into(), "pt".into())]))).unwrap()
}

fn some_tensors() -> Vec<SaveTensor> {
    vec![
        tensor("model.embed_tokens.weight", &[7, 5], SaveDtype::Bf16),
        tensor("model.layers.0.mlp.gate.e_score_correction_bias", &[3], SaveDtype::F32),
        tensor("model.layers.0.mlp.gate.weight", &[3, 5], SaveDtype::Bf16),
        tensor("model.norm.weight", &[5], SaveDtype::F32),
        tensor("empty \"quoted\" \u{1f980}", &[0, 4], SaveDtype::Bf16),
        tensor("scalar", &[], SaveDtype::F32),
        tensor("lm_head.weight", &[7, 5], SaveDtype::Bf16),
    ]
}

fn expected(tensors: &[SaveTensor]) -> Vec<(String, Vec<usize>)> {
    tensors.iter().map(|t| (t.name.clone(), t.shape.clone())).collect()
}

fn check_values(checkpoint: &Checkpoint, tensors: &[SaveTensor]) {
    for t in tensors {
        let mut read = vec![0f32; t.elements()];
        checkpoint.read_f32(&t.name, &mut read).unwrap();
        for (i, r) in read.iter().enumerate() {
            let v = value(&t.name, i);
            let v = if t.dtype == SaveDtype::Bf16 { bf16::from_f32(v).to_f32() } else { v };
            assert_eq!(r.to_bits(), v.to_bits(), "{} at {i}", t.name);
        }
    }
}

#[test]
fn one_file_is_to_the_byte_what_the_format_s_own_crate_writes() {
    let (dir, tensors) = (tempfile::tempdir().unwrap(), some_tensors());
    let path = dir.path().join("model");
    save(&path, &config(), &tensors, &SaveOptions::default(), no_more, fill).unwrap();
    let ours = fs::read(path.join("model.safetensors")).unwrap();
    assert!(ours[8..].starts_with(br#"{"__metadata__":{"format":"pt"},"#));
    assert_eq!(ours, theirs(&tensors.iter().collect::<Vec<_>>()));
    assert!(!path.join("model.safetensors.index.json").exists());
    let checkpoint = Checkpoint::open(&path).unwrap();
    check_values(&checkpoint, &tensors);
    assert_eq!(checkpoint.config().dtype.as_deref(), Some("bfloat16"));
    assert!(checkpoint.check(&expected(&tensors)).unwrap().is_clean());
}

#[test]
fn shards_are_the_same_tensors_under_an_index() {
    let (dir, tensors) = (tempfile::tempdir().unwrap(), some_tensors());
    let path = dir.path().join("model");
    let options = SaveOptions { shard_bytes: 90, ..SaveOptions::default() };
    save(&path, &config(), &tensors, &options, no_more, fill).unwrap();
    let names: Vec<_> = (1..=3).map(|i| format!("model-{i:05}-of-00003.safetensors")).collect();
    for (name, part) in names.iter().zip([&tensors[0..2], &tensors[2..6], &tensors[6..7]]) {
        assert_eq!(fs::read(path.join(name)).ok(), Some(theirs(&part.iter().collect::<Vec<_>>())), "{name}");
    }
    let checkpoint = Checkpoint::open(&path).unwrap();
    check_values(&checkpoint, &tensors);
    assert_eq!(checkpoint.names().count(), tensors.len());
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(path.join("model.safetensors.index.json")).unwrap()).unwrap();
    assert_eq!(index["metadata"]["total_size"], tensors.iter().map(SaveTensor::bytes).sum::<usize>());
    assert_eq!(index["weight_map"].as_object().unwrap().len(), tensors.len());
}

#[test]
fn tensors_larger_than_a_piece_are_whole() {
    let dir = tempfile::tempdir().unwrap();
    let tensors = [tensor("big", &[3, 700_001], SaveDtype::Bf16)];
    save(&dir.path().join("m"), &config(), &tensors, &SaveOptions::default(), no_more, fill).unwrap();
    check_values(&Checkpoint::open(dir.path().join("m")).unwrap(), &tensors);
}

#[test]
fn a_failed_save_leaves_nothing() {
    let (dir, tensors) = (tempfile::tempdir().unwrap(), some_tensors());
    let path = dir.path().join("model");
    let full = || std::io::Error::from(std::io::ErrorKind::StorageFull);
    let fails = |t: &SaveTensor, _: usize, _: &mut [f32]| {
        if t.name != "lm_head.weight" {
            return Ok(());
        }
        Err(IoError { action: "write", path: "x".into(), error: full() }.into())
    };
    for shard_bytes in [90, 1 << 20] {
        let options = SaveOptions { shard_bytes, ..SaveOptions::default() };
        let error = save(&path, &config(), &tensors, &options, no_more, fails).unwrap_err();
        assert!(error.to_string().contains("cannot write x"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
    let twice = [tensors[0].clone(), tensors[0].clone()];
    let error = save(&path, &config(), &twice, &SaveOptions::default(), no_more, fill).unwrap_err();
    assert!(matches!(error, Error::Duplicate(_)));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_folder_is_not_replaced() {
    let (dir, tensors) = (tempfile::tempdir().unwrap(), some_tensors());
    let path = dir.path().join("model");
    let beside = |p: &Path| Ok(atomic::write_file(&p.join("tokenizer.json"), b"{}")?);
    save(&path, &config(), &tensors, &SaveOptions::default(), beside, fill).unwrap();
    let again = save(&path, &config(), &tensors[..1], &SaveOptions::default(), no_more, fill).unwrap_err();
    assert!(again.to_string().contains("already exists"), "{again}");
    assert_eq!(Checkpoint::open(&path).unwrap().names().count(), tensors.len());
    assert!(path.join("tokenizer.json").exists());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

/// A checkpoint folder with given bytes as its only file of weights.
fn folder_with(bytes: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), config().to_json()).unwrap();
    fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
    dir
}

fn file_of(json: &str, data: usize) -> Vec<u8> {
    let mut out = (json.len() as u64).to_le_bytes().to_vec();
    out.extend(json.as_bytes());
    out.resize(out.len() + data, 0x3f);
    out
}

#[test]
fn half_precision_and_rows_are_read() {
    let values = [1.5f32, -0.0, 65504.0, 6e-8, f32::NAN, 0.1];
    let data: Vec<u8> = values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect();
    let view = TensorView::new(TheirDtype::F16, vec![3, 2], &data).unwrap();
    let dir = folder_with(&safetensors::serialize([("h", view)], None).unwrap());
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(checkpoint.info("h").unwrap(), Info { dtype: &Dtype::F16, shape: &[3, 2] });
    let (mut all, mut rows, mut short) = ([0f32; 6], [bf16::ZERO; 4], [0f32; 5]);
    checkpoint.read_f32("h", &mut all).unwrap();
    for (a, v) in all.iter().zip(values) {
        assert_eq!(a.to_bits(), half::f16::from_f32(v).to_f32().to_bits());
    }
    checkpoint.read_from("h", 0, &mut rows).unwrap();
    assert_eq!(rows.map(bf16::to_f32)[..2], [1.5, -0.0]);
    assert_eq!(rows[2], bf16::from_f32(65504.0));
    checkpoint.read_from::<f32>("h", 6, &mut []).unwrap();
    assert!(matches!(checkpoint.read_f32("h", &mut short), Err(Error::Size { .. })));
    for start in [2, 6, usize::MAX] {
        assert!(matches!(checkpoint.read_from("h", start, &mut short), Err(Error::Size { .. })));
    }
    let error = checkpoint.read_f32("absent", &mut []).unwrap_err().to_string();
    assert!(error.contains("no tensor `absent`"), "{error}");
}

#[test]
fn unreadable_formats_are_named() {
    let json = r#"{"w":{"dtype":"F8_E4M3","shape":[2,4],"data_offsets":[0,8]},
        "i":{"dtype":"I64","shape":[1],"data_offsets":[8,16]},"four":{"dtype":"F4","shape":[2],"data_offsets":[16,17]}}"#;
    let dir = folder_with(&file_of(json, 17));
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(checkpoint.info("w").unwrap().dtype, &Dtype::F8E4M3);
    for (name, dtype, n) in [("w", "F8_E4M3", 8), ("i", "I64", 1), ("four", "F4", 2)] {
        let error = checkpoint.read_f32(name, &mut vec![0.0; n]).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(dtype), "{error}");
    }
}

#[test]
fn lying_headers_are_refused_by_name() {
    let one = |shape: &str, dtype: &str, begin: u64, end: u64| {
        format!(r#"{{"w":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}}}"#)
    };
    let two = |b: (u64, u64)| {
        let (from, to) = b;
        format!(
            r#"{{"a":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}},"b":{{"dtype":"F32","shape":[2],"data_offsets":[{from},{to}]}}}}"#
        )
    };
    let cases: Vec<(String, usize, &str)> = vec![
        (one("[2]", "F32", 0, 8), 4, "is cut off: it has"),
        (one("[2]", "F32", 0, 8), 12, "4 bytes after its last tensor"),
        (one("[3]", "F32", 0, 8), 8, "tensor `w` of shape [3] in F32 needs 12 bytes"),
        (one("[2]", "F32", 8, 0), 8, "tensor `w`"),
        (one("[2]", "F33", 0, 8), 8, "unknown type `F33`"),
        (one("[3]", "F4", 0, 1), 1, "impossible shape"),
        (one("[4294967296,4294967296,4294967296]", "F32", 0, 8), 8, "impossible shape"),
        (one("[288230376151711744]", "F32", 0, 1152921504606846976), 8, "cut off"),
        (one("[2]", "F32", 18446744073709551608, 18446744073709551615), 8, "tensor `w`"),
        (one("[0]", "F32", 18446744073709551615, 18446744073709551615), 8, "tensor `w` has the impossible range"),
        (one("[-2]", "F32", 0, 8), 8, "tensor `w`"),
        (two((4, 12)), 12, "tensor `b` overlaps"),
        (two((12, 20)), 20, "tensor `b` leaves a gap"),
        (two((0, 8)), 8, "overlaps"),
        (r#"{"w":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"w":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#.into(), 0, "`w` appears twice"),
        (r#"{"__metadata__":{"a":1}}"#.into(), 0, "broken header"),
        (r#"{"w":7}"#.into(), 0, "tensor `w`"),
        (one(&format!("[2{}]", ",1".repeat(16)), "F32", 0, 8), 8, "tensor `w`: has more than 16 dimensions"),
        (one("[2]", &"x".repeat(5_000_000), 0, 8), 8, "unknown type `xxx"),
        (one("[2]", "F32", 0, 8).replace("[0,8]", &format!("\"{}\"", "x".repeat(5_000_000))), 8, "tensor `w`"),
        (one("[2]", "F32", 0, 8).replace('w', &"w".repeat(501)), 8, "at most 500 bytes"),
        (one("[2]", "F32", 0, 8).replace('w', "\\u001b[2J"), 8, "no control characters: `\\u{1b}[2J`"),
        ("[]".into(), 0, "broken header"),
        ("{".into(), 0, "broken header"),
    ];
    for (json, data, part) in cases {
        let dir = folder_with(&file_of(&json, data));
        let error = Checkpoint::open(dir.path()).err().unwrap_or_else(|| panic!("accepted: {json}")).to_string();
        assert!(error.contains(part) && error.contains("model.safetensors"), "{part}: {error}");
        assert!(error.len() < 1000 && !error.contains('\u{1b}'), "{} bytes", error.len());
    }
    for (bytes, part) in [
        (vec![1, 2, 3], "only 3 bytes"),
        (u64::MAX.to_le_bytes().to_vec(), "claims a header of 18446744073709551615"),
        (90u64.to_le_bytes().to_vec(), "cut off: it has 8 bytes and should have more than 98"),
    ] {
        let error = Checkpoint::open(folder_with(&bytes).path()).err().expect("accepted").to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn folders_without_weights_and_lying_indices_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Checkpoint::open(dir.path()).err().expect("accepted").to_string();
    assert!(open().contains("config.json"));
    fs::write(dir.path().join("config.json"), config().to_json()).unwrap();
    assert!(open().contains("neither model.safetensors nor"));
    fs::write(dir.path().join("pytorch_model.bin"), b"").unwrap();
    assert!(open().contains("convert"));
    fs::create_dir(dir.path().join("model.safetensors")).unwrap();
    assert!(open().contains("not a regular file"));
    fs::remove_dir(dir.path().join("model.safetensors")).unwrap();

    let t = tensor("w", &[2], SaveDtype::F32);
    fs::write(dir.path().join("a.safetensors"), theirs(&[&t])).unwrap();
    assert!(open().contains("none with such a name"));
    let index = dir.path().join("model.safetensors.index.json");
    for (map, part) in [
        (r#"{"w":"b.safetensors"}"#, "names the file `b.safetensors`, which does not exist"),
        (r#"{"v":"a.safetensors"}"#, "tensor `v` is in `a.safetensors`, but it is not"),
        (r#"{"w":"../a.safetensors"}"#, "tensor `w`: `../a.safetensors` is not the name"),
        (r#"{"w":"/etc/passwd"}"#, "is not the name"),
        (r#"{"w":".."}"#, "is not the name"),
        (r#"{"w":""}"#, "is not the name"),
        (r#"{"w":7}"#, "is not a safetensors index"),
    ] {
        fs::write(&index, format!(r#"{{"weight_map":{map}}}"#)).unwrap();
        let error = open();
        assert!(error.contains(part) && error.contains("index.json"), "{error}");
    }
    fs::write(&index, "[").unwrap();
    assert!(open().contains("is not a safetensors index"));
    fs::write(&index, format!(r#"{{"weight_map":{{"\u001b{}":"a.safetensors"}}}}"#, "x".repeat(100_000))).unwrap();
    assert!(open().len() < 1000 && !open().contains('\u{1b}'));
    #[cfg(unix)]
    for name in ["model.safetensors.index.json", "config.json"] {
        let path = dir.path().join(name);
        fs::rename(&path, dir.path().join("aside")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert!(open().contains(name) && open().contains("not a regular file"), "{}", open());
        fs::remove_file(&path).unwrap();
        fs::File::create(&path).unwrap().set_len(3 << 30).unwrap();
        assert!(open().contains(name) && open().contains("larger than"), "{}", open());
        fs::remove_file(&path).unwrap();
        fs::rename(dir.path().join("aside"), &path).unwrap();
    }
    fs::write(&index, r#"{"weight_map":{}}"#).unwrap();
    assert_eq!(Checkpoint::open(dir.path()).unwrap().names().count(), 0);
}

#[test]
fn what_is_there_twice_is_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), config().to_json()).unwrap();
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|n| tensor(n, &[2], SaveDtype::F32));
    fs::write(dir.path().join("1.safetensors"), theirs(&[&a, &b, &c])).unwrap();
    fs::write(dir.path().join("2.safetensors"), theirs(&[&b, &c, &d])).unwrap();
    let map = r#"{"a":"1.safetensors","a":"1.safetensors","b":"2.safetensors","c":"1.safetensors","c":"2.safetensors","d":"2.safetensors"}"#;
    let index = dir.path().join("model.safetensors.index.json");
    fs::write(&index, format!(r#"{{"weight_map":{map}}}"#)).unwrap();
    let need = expected(&[a, b, c, d]);
    let audit = Checkpoint::open(dir.path()).unwrap().check(&need).unwrap();
    assert_eq!(audit.repeated, ["a", "b", "c"]);
    let text = audit.into_result().unwrap_err().to_string();
    assert!(text.contains("3 stored or listed twice: a, b, c") && text.contains("keep only one"), "{text}");
}

#[test]
fn a_file_that_changes_while_it_is_open_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m");
    // More files than may be open at the same time.
    let tensors: Vec<SaveTensor> = (0..40).map(|i| tensor(&format!("t{i:02}"), &[25], SaveDtype::F32)).collect();
    let options = SaveOptions { shard_bytes: 100, ..SaveOptions::default() };
    save(&path, &config(), &tensors, &options, no_more, fill).unwrap();
    assert_eq!(fs::read_dir(&path).unwrap().count(), 42);
    let checkpoint = Checkpoint::open(&path).unwrap();
    check_values(&checkpoint, &tensors);
    check_values(&checkpoint, &tensors);
    fs::write(path.join("model-00001-of-00040.safetensors"), b"another").unwrap();
    let error = checkpoint.read_f32("t00", &mut [0.0; 25]).unwrap_err().to_string();
    assert!(error.contains("model-00001-of-00040") && error.contains("changed"), "{error}");
}

#[test]
fn an_audit_names_every_difference() {
    let mut config = config();
    config.num_nextn_predict_layers = 1;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m");
    let tensors = [
        tensor("model.embed_tokens.weight", &[4, 2], SaveDtype::Bf16),
        tensor("lm_head.weight", &[4, 2], SaveDtype::F32),
        tensor("model.layers.8.embed_tokens.weight", &[4, 2], SaveDtype::F32),
        tensor("model.layers.8.shared_head.head.weight", &[4, 2], SaveDtype::F32),
        tensor("model.layers.0.self_attn.rotary_emb.inv_freq", &[4], SaveDtype::F32),
        tensor("model.layers.7.embed_tokens.weight", &[4, 2], SaveDtype::F32),
        tensor("model.layers.9.eh_proj.weight", &[4], SaveDtype::F32),
        tensor("model.norm.weight", &[2], SaveDtype::F32),
        tensor("surplus", &[2], SaveDtype::F32),
    ];
    let fill = |t: &SaveTensor, start: usize, out: &mut [f32]| {
        let head = t.name.ends_with("head.weight") && t.name != "lm_head.weight";
        for (i, v) in out.iter_mut().enumerate() {
            let one_off = if head && start + i == 7 { 1.0 } else { 0.0 };
            *v = (start + i) as f32 + one_off;
        }
        Ok(())
    };
    save(&path, &config, &tensors, &SaveOptions::default(), no_more, fill).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let need = [
        ("model.embed_tokens.weight".to_string(), vec![4, 2]),
        ("lm_head.weight".into(), vec![4, 2]),
        ("model.norm.weight".into(), vec![3]),
        ("model.layers.0.input_layernorm.weight".into(), vec![2]),
    ];
    let audit = checkpoint.check(&need).unwrap();
    assert_eq!(audit.missing, ["model.layers.0.input_layernorm.weight"]);
    assert_eq!(audit.misshaped.len(), 1);
    assert_eq!(audit.extra, ["model.layers.7.embed_tokens.weight", "model.layers.9.eh_proj.weight", "surplus"]);
    let copy = "model.layers.8.shared_head.head.weight".to_string();
    assert_eq!(audit.differing, [(copy, "lm_head.weight".to_string())]);
    assert_eq!(audit.ignored, ["model.layers.0.self_attn.rotary_emb.inv_freq", "model.layers.8.embed_tokens.weight"]);
    let text = audit.clone().into_result().unwrap_err().to_string();
    for part in
        ["1 missing: model.layers.0.input", "model.norm.weight is [2], not [3]", "surplus", "is not equal to lm_head"]
    {
        assert!(text.contains(part), "{text}");
    }
    assert!(text.contains("2 MTP modules are stored, but `num_nextn_predict_layers` is 1: set it to 2"), "{text}");
    assert!(text.contains("leave the copy out"), "{text}");
    assert_eq!(audit.lines().len(), 6);
    assert!(audit.lines().contains(&"not part of the model: surplus".to_string()));
}

#[test]
fn a_tied_model_may_store_its_head_if_it_is_the_embedding() {
    let config = ModelConfig { tie_word_embeddings: true, ..config() };
    let dir = tempfile::tempdir().unwrap();
    let tensors = ["model.embed_tokens.weight", "lm_head.weight"].map(|n| tensor(n, &[4, 2], SaveDtype::F32));
    let need = expected(&tensors[..1]);
    for (name, offset) in [("same", 0.0), ("other", 1.0)] {
        let fill = |t: &SaveTensor, start: usize, out: &mut [f32]| {
            let add = if t.name.starts_with("lm") { offset } else { 0.0 };
            out.iter_mut().enumerate().for_each(|(i, v)| *v = (start + i) as f32 + add);
            Ok(())
        };
        let path = dir.path().join(name);
        save(&path, &config, &tensors, &SaveOptions::default(), no_more, fill).unwrap();
        let audit = Checkpoint::open(&path).unwrap().check(&need).unwrap();
        assert_eq!(audit.is_clean(), offset == 0.0, "{audit}");
    }
}

fn any_tensors() -> impl Strategy<Value = Vec<SaveTensor>> {
    let one = (prop::collection::vec(0usize..5, 0..4), any::<bool>());
    prop::collection::vec(one, 0..9).prop_map(|all| {
        all.into_iter()
            .enumerate()
            .map(|(i, (shape, wide))| {
                tensor(&format!("t{}", i * 7 % 10), &shape, if wide { SaveDtype::F32 } else { SaveDtype::Bf16 })
            })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn any_tensors_survive_any_sharding(tensors in any_tensors(), shard_bytes in 1usize..400) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        let options = SaveOptions { shard_bytes, ..SaveOptions::default() };
        save(&path, &config(), &tensors, &options, no_more, fill).unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        prop_assert!(checkpoint.check(&expected(&tensors)).unwrap().is_clean());
        check_values(&checkpoint, &tensors);
    }

    /// Truncated, flipped and overwritten files are rejected with a name or read without harm. The format's own crate
    /// accepts every file that is accepted here, with the same tensors.
    #[test]
    fn damaged_files_do_no_harm(
        tensors in any_tensors(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..4), 1..4),
        token in prop::sample::select(vec!["0", "18446744073709551615", "2305843009213693951", "-1", "1e9", "[]", "null"]),
    ) {
        let mut bytes = theirs(&tensors.iter().collect::<Vec<_>>());
        for (at, byte, kind) in damage {
            let i = at.index(bytes.len());
            match kind {
                0 => bytes.truncate(i.max(1)),
                1 => bytes[i] ^= 1 << (byte % 8),
                2 => bytes[i] = byte,
                // A digit in the header changes, and the header's length is adjusted.
                _ => if let Some(start) = (i.max(8)..bytes.len()).find(|j| bytes[*j].is_ascii_digit()) {
                    let end = (start..bytes.len()).find(|j| !bytes[*j].is_ascii_digit()).unwrap_or(bytes.len());
                    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap());
                    let grown = length.wrapping_add(token.len() as u64).wrapping_sub((end - start) as u64);
                    bytes.splice(start..end, token.bytes());
                    bytes[..8].copy_from_slice(&grown.to_le_bytes());
                },
            }
            bytes.resize(bytes.len().max(8), 0);
        }
        let dir = folder_with(&bytes);
        match Checkpoint::open(dir.path()) {
            Ok(checkpoint) => {
                let accepted = SafeTensors::deserialize(&bytes).unwrap();
                prop_assert_eq!(accepted.len(), checkpoint.names().count());
                for (name, view) in accepted.tensors() {
                    let info = checkpoint.info(&name).unwrap();
                    prop_assert_eq!(info.shape, view.shape());
                    prop_assert_eq!(info.dtype.to_string(), view.dtype().to_string());
                    let mut out = vec![0f32; info.elements()];
                    let read = checkpoint.read_f32(&name, &mut out);
                    let harmless = matches!(read, Ok(()) | Err(Error::Unsupported { .. }));
                    prop_assert!(harmless, "{:?}", read);
                }
            }
            Err(error) => prop_assert!(error.to_string().contains("model.safetensors"), "{}", error),
        }
    }
}
