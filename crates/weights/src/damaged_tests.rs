//! Files that are missing or incomplete, and cases that the format's own library leaves open.

use super::*;
use safetensors::SafeTensors;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/v1\noid sha256:0d7a2146\nsize 4302350824\n";
const MODEL: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// A folder with a configuration and one other file.
fn folder(name: &str, bytes: &[u8]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), ModelConfig::named("small").unwrap().to_json()).unwrap();
    fs::write(dir.path().join(name), bytes).unwrap();
    dir
}

fn file_of(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

fn refusal(dir: &Path) -> String {
    Checkpoint::open(dir).err().expect("it was accepted").to_string()
}

#[test]
fn pointers_of_git_lfs_are_told_wherever_they_stand() {
    for name in [MODEL, INDEX, "config.json"] {
        let dir = folder(name, POINTER);
        let error = refusal(dir.path());
        let path = dir.path().join(name).display().to_string();
        assert!(error.contains(&path) && error.contains("Git LFS pointer"), "{error}");
        assert!(error.contains("git lfs pull"), "{error}");
    }
    let dir = folder(INDEX, br#"{"weight_map":{"w":"model-00001-of-00001.safetensors"}}"#);
    fs::write(dir.path().join("model-00001-of-00001.safetensors"), POINTER).unwrap();
    let error = refusal(dir.path());
    assert!(error.contains("model-00001-of-00001.safetensors") && error.contains("git lfs pull"), "{error}");
}

#[test]
fn files_of_another_kind_are_told_by_how_they_begin() {
    for (bytes, part) in [
        (&b"<!DOCTYPE html><html>Sign in</html>"[..], "a web page"),
        (b"PK\x03\x04\0\0\x08\x08\0\0archive/data.pkl", "zip archive, as PyTorch writes"),
        (b"GGUF\x03\0\0\0\x10\0\0\0\0\0\0\0", "a GGUF file"),
        (b"\x80\x02}q\0X\x06\0\0\0weight", "pickle"),
        (&[0; 4096], "full of zeros"),
        // A header of two exabytes.
        (b"", "only 0 bytes"),
        (&[&(2u64 << 60).to_le_bytes()[..], b"{}"].concat(), "a header of 2305843009213693952 bytes"),
        (b"an ordinary text, of some length", "begins with `an ordinary text`"),
        // A plausible length before something that is not a header.
        (b"\x20\0\0\0\0\0\0\0not JSON", "not JSON"),
    ] {
        let error = refusal(folder(MODEL, bytes).path());
        assert!(error.contains(MODEL) && error.contains("is not a safetensors file"), "{error}");
        assert!(error.contains(part), "{part}: {error}");
    }
    for (bytes, part) in [(&b"<html>"[..], "a web page"), (b"\x1f\x8b\x08", "gzip")] {
        let error = refusal(folder("config.json", bytes).path());
        assert!(error.contains("config.json is not a configuration") && error.contains(part), "{error}");
        let error = refusal(folder(INDEX, bytes).path());
        assert!(error.contains(INDEX) && error.contains(part), "{error}");
    }
}

/// Wherever a file is cut, the error says how many bytes there are and how many there should be.
#[test]
fn half_copied_files_say_what_is_missing() {
    let header = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"BF16","shape":[3],"data_offsets":[8,14]}}"#;
    let whole = file_of(header, &[0x3f; 14]);
    assert_eq!(Checkpoint::open(folder(MODEL, &whole).path()).unwrap().names().count(), 2);
    let (header, all) = (8 + header.len(), whole.len());
    for n in 0..all {
        let error = refusal(folder(MODEL, &whole[..n]).path());
        let part = match n {
            0..8 => format!("is not a safetensors file: it has only {n} bytes"),
            _ if n < header => format!("is cut off: it has {n} bytes and should have more than {header}"),
            _ => format!("is cut off: it has {n} bytes, but its header says {all}"),
        };
        assert!(error.contains(&part) && error.ends_with("copy or download it again"), "{n}: {error}");
        assert!(SafeTensors::deserialize(&whole[..n]).is_err());
    }
    let error = refusal(folder(MODEL, &[&whole[..], b"more"].concat()).path());
    assert!(error.contains("has 4 bytes after its last tensor; copy or download it again"), "{error}");
    // A truncated index.
    let index = br#"{"metadata":{"total_size":8},"weight_map":{"w":"a.safetensors"}}"#;
    for n in 0..index.len() {
        let error = refusal(folder(INDEX, &index[..n]).path());
        assert!(error.contains(INDEX) && error.ends_with("copy or download it again"), "{n}: {error}");
    }
}

/// Fields of a header and of an index that may be absent, null or anything. The header is compared with the format's
/// own crate.
#[test]
fn optional_parts_of_headers_and_indices() {
    let tensor = json!({"dtype": "F32", "shape": [2], "data_offsets": [0, 8]});
    let any = || {
        [
            json!(null),
            json!({}),
            json!({"a": "b"}),
            json!({"a": null}),
            json!({"a": 1}),
            json!([]),
            json!("x"),
            json!(7),
        ]
    };
    let both = |header: &Value, key: &str| {
        let bytes = file_of(&header.to_string(), &[0x3f; 8]);
        let theirs = SafeTensors::deserialize(&bytes).is_ok();
        match Checkpoint::open(folder(MODEL, &bytes).path()) {
            Ok(found) => assert!(theirs && found.names().eq(["w"]), "{header}"),
            Err(error) => {
                assert!(!theirs, "{header}: {error}");
                assert!(error.to_string().contains("broken header") && error.to_string().contains(key), "{error}");
            }
        }
        theirs
    };
    assert!(both(&json!({"w": tensor}), ""));
    let metadata: Vec<bool> =
        any().into_iter().map(|value| both(&json!({"__metadata__": value, "w": tensor}), "__metadata__")).collect();
    assert_eq!(metadata, [true, true, true, false, false, false, false, false]);
    // All fields of a tensor are required. Other fields are ignored.
    for key in ["dtype", "shape", "data_offsets"] {
        let mut without = tensor.clone();
        without.as_object_mut().unwrap().remove(key);
        assert!(!both(&json!({"w": without}), "tensor `w`"));
        for value in any() {
            let mut other = tensor.clone();
            other[key] = value;
            assert!(!both(&json!({"w": other}), "tensor `w`"));
        }
    }
    for value in any() {
        let mut more = tensor.clone();
        more["note"] = value;
        assert!(both(&json!({"w": more}), ""));
    }

    let dir = folder("a.safetensors", &file_of(&json!({"w": tensor}).to_string(), &[0x3f; 8]));
    let index = |value: Value| {
        fs::write(dir.path().join(INDEX), value.to_string()).unwrap();
        Checkpoint::open(dir.path()).map(|found| assert!(found.names().eq(["w"]))).map_err(|e| e.to_string())
    };
    let map = json!({"w": "a.safetensors"});
    index(json!({"weight_map": map})).unwrap();
    for value in
        any().into_iter().chain([json!({"total_size": null}), json!({"total_size": "8"}), json!({"total_size": 8})])
    {
        index(json!({"weight_map": map, "metadata": value})).unwrap();
        index(json!({"weight_map": map, "another": value})).unwrap();
    }
    assert!(index(json!({"metadata": {}})).unwrap_err().contains("`weight_map`"));
    for value in [json!(null), json!([]), json!("x"), json!(7)] {
        let error = index(json!({"weight_map": value})).unwrap_err();
        assert!(error.contains(INDEX) && error.contains("`weight_map`"), "{error}");
        let error = index(json!({"weight_map": {"w": value}})).unwrap_err();
        assert!(error.contains(INDEX) && (value == "x" || error.contains("tensor `w`")), "{error}");
    }
}

/// The newest checkpoint of a run cannot be opened. The error is the one of its file, and it names the older checkpoint
/// that can be opened.
#[test]
fn a_damaged_checkpoint_names_an_older_one() {
    let run = tempfile::tempdir().unwrap();
    let steps = [1, 2, 10, 11].map(|n| run.path().join(format!("checkpoints/step-{n:08}")));
    let config = ModelConfig::named("small").unwrap();
    let values = |_: &SaveTensor, _: usize, out: &mut [f32]| {
        out.fill(1.0);
        Ok(())
    };
    let tensor = SaveTensor { name: "w".into(), shape: vec![2], dtype: SaveDtype::F32 };
    for step in &steps {
        save(step, &config, std::slice::from_ref(&tensor), &SaveOptions::default(), |_| Ok(()), values).unwrap();
    }
    let newest = folder::model_folder(run.path()).unwrap();
    assert!(newest.ends_with("step-00000011") && Checkpoint::open(&newest).is_ok());
    let cut = |step: &Path, name: &str| {
        let bytes = fs::read(step.join(name)).unwrap();
        fs::write(step.join(name), &bytes[..bytes.len() - 3]).unwrap();
    };
    // The checkpoint before is damaged as well, in another file.
    cut(&steps[2], "config.json");
    cut(&steps[3], MODEL);
    let error = refusal(&newest);
    for part in [&*steps[3].join(MODEL).to_string_lossy(), "is cut off", "an older checkpoint", "step-00000002", "move"]
    {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(!error.contains("step-00000001") && !error.contains("step-00000010"), "{error}");
    // The advice in the error works.
    fs::rename(&steps[3], run.path().join("aside")).unwrap();
    fs::rename(&steps[2], run.path().join("aside too")).unwrap();
    let used = folder::model_folder(run.path()).unwrap();
    assert!(used.ends_with("step-00000002") && Checkpoint::open(&used).is_ok());
    // If there is no older checkpoint, the error stands alone. This is also so for a checkpoint that does not belong to
    // a run.
    cut(&steps[0], MODEL);
    assert!(!refusal(&steps[0]).contains("older"));
    cut(&run.path().join("aside too"), MODEL);
    assert!(!refusal(&run.path().join("aside too")).contains("older"));
}
