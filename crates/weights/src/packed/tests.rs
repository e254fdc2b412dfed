//! What is written is read in place, and files that are damaged, foreign or of another version are refused by name.

use super::*;
use hadal_ops::bf16;
use std::fs;
use tempfile::TempDir;

const NAMES: [&str; 3] = ["a.f32.table", "b.int4.panels", "c.bf16.table"];

fn contents() -> [Vec<u8>; 3] {
    let floats: Vec<u8> = (0..5).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let codes: Vec<u8> = (0..128).collect();
    let halves: Vec<u8> = (0..3).flat_map(|i| bf16::from_f32(i as f32).to_le_bytes()).collect();
    [floats, codes, halves]
}

/// A folder with a packed file.
fn written() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let config = ModelConfig::named("small").unwrap();
    let arrays = NAMES.iter().zip(contents()).map(|(name, bytes)| ((*name).to_owned(), bytes.len()));
    let mut writer = PackedWriter::new(dir.path(), &config, DType::Bf16, arrays, None).unwrap();
    for (name, bytes) in NAMES.iter().zip(contents()) {
        writer.write(name, &bytes).unwrap();
    }
    let bytes = writer.finish().unwrap();
    assert_eq!(bytes, fs::metadata(dir.path().join(PACKED)).unwrap().len());
    dir
}

/// The error after the file's bytes were changed.
fn changed(change: impl FnOnce(&mut Vec<u8>)) -> String {
    let dir = written();
    let path = dir.path().join(PACKED);
    let mut bytes = fs::read(&path).unwrap();
    change(&mut bytes);
    fs::write(&path, bytes).unwrap();
    let error = PackedFile::open(dir.path()).and_then(|file| file.verify(|_| {})).unwrap_err().to_string();
    assert!(error.contains(PACKED), "{error}");
    error
}

/// The same with some text of the header replaced by text of the same length.
fn reworded(from: &str, to: &str) -> String {
    assert_eq!(from.len(), to.len());
    changed(|bytes| {
        let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).expect(from);
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    })
}

#[test]
fn arrays_are_read_where_they_lie() {
    let dir = written();
    assert!(PackedFile::is_in(dir.path()));
    let mut file = PackedFile::open(dir.path()).unwrap();
    assert_eq!(
        file.config(),
        &ModelConfig { dtype: file.config().dtype.clone(), ..ModelConfig::named("small").unwrap() }
    );
    assert_eq!(file.tensor(NAMES[0], &[5], DType::F32).unwrap().f32(), [0.0, 1.0, 2.0, 3.0, 4.0]);
    assert_eq!(file.tensor(NAMES[1], &[128], DType::U8).unwrap().u8(), contents()[1]);
    let halves = file.tensor(NAMES[2], &[3, 1], DType::Bf16).unwrap();
    assert_eq!(halves.to_vec_f32(), [0.0, 1.0, 2.0]);
    for (name, _) in file.arrays() {
        let start = file.file.slot(name).unwrap().bytes.start;
        assert!(start.is_multiple_of(ALIGN), "{name} at {start}");
    }
    let mut seen = 0;
    file.verify(|bytes| seen += bytes).unwrap();
    assert_eq!(seen, 64 + 128 + 64);
    let summary = file.summary().to_string();
    assert!(summary.contains("--dtype bf16, layout 1") && summary.contains("int4 0.0 MB"), "{summary}");
    file.set_context(77);
    assert_eq!(file.config().max_position_embeddings, 77);
    // Tensors outlive what opened them.
    drop((file, dir));
    assert_eq!(halves.to_vec_f32(), [0.0, 1.0, 2.0]);
}

#[test]
fn the_format_s_own_crate_reads_the_file() {
    let dir = written();
    let bytes = fs::read(dir.path().join(PACKED)).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    for (name, content) in NAMES.iter().zip(contents()) {
        let tensor = file.tensor(name).unwrap();
        assert_eq!(tensor.dtype(), safetensors::Dtype::U8);
        assert_eq!(&tensor.data()[..content.len()], content, "{name}");
        assert!(tensor.data()[content.len()..].iter().all(|b| *b == 0), "{name}");
    }
}

#[test]
fn arrays_must_be_what_the_model_needs() {
    let dir = written();
    let file = PackedFile::open(dir.path()).unwrap();
    for (name, shape, dtype, part) in [
        ("a.bf16.table", &[5][..], DType::Bf16, "has no `a.bf16.table`"),
        (
            NAMES[0],
            &[17],
            DType::F32,
            "has `a.f32.table` with 64 bytes, but the model in config.json needs [17] in F32",
        ),
        (NAMES[1], &[64], DType::U8, "with 128 bytes"),
        (NAMES[1], &[usize::MAX, 2], DType::F32, "with 128 bytes"),
    ] {
        let error = file.tensor(name, shape, dtype).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains(PACKED) && error.contains("hadal quantize"), "{error}");
    }
}

#[test]
fn damage_is_found_and_named() {
    let length = fs::metadata(written().path().join(PACKED)).unwrap().len() as usize;
    for keep in [0, 7, 100, length / 2, length - 1] {
        let error = changed(|bytes| bytes.truncate(keep));
        assert!(error.contains("copy or download it again"), "{keep}: {error}");
    }
    assert!(changed(|bytes| bytes.push(0)).contains("after its last tensor"));
    // A bit of the last array, then one of its padding.
    for back in [64, 1] {
        let error = changed(|bytes| bytes[length - back] ^= 4);
        assert!(error.contains("the checksum of `c.bf16.table` is not what was written"), "{error}");
    }
    assert!(reworded("\"compute\":\"bf16\"", "\"compute\":\"bf17\"").contains("damaged header (compute)"));
    assert!(reworded("checksums", "checksumz").contains("damaged header (checksums)"));
    assert!(reworded("\"U8\"", "\"I8\"").contains("damaged header (a.f32.table)"));
    // An array that does not begin at a multiple of 64.
    let error = reworded("[64],\"data_offsets\":[0,64]}", "[32],\"data_offsets\":[0,32]}");
    assert!(error.contains("gap"), "{error}");
}

#[test]
fn other_versions_and_foreign_files_are_refused() {
    let error = reworded("\"hadal_packed\":\"1\"", "\"hadal_packed\":\"9\"");
    assert!(error.contains("has layout 9, but this version of the program reads layout 1"), "{error}");
    assert!(error.contains("run `hadal quantize` again"), "{error}");
    assert!(reworded("hadal_packed", "other_packed").contains("was not written by `hadal quantize`"));
    assert!(changed(|bytes| *bytes = b"GGUF\x03\0\0\0 and more".to_vec()).contains("GGUF"));
    let dir = written();
    fs::remove_file(dir.path().join("config.json")).unwrap();
    assert!(PackedFile::open(dir.path()).err().unwrap().to_string().contains("config.json"));
}

#[test]
fn a_packed_folder_is_no_checkpoint() {
    let dir = written();
    let error = crate::Checkpoint::open(dir.path()).err().unwrap().to_string();
    assert!(error.contains("packed by `hadal quantize`") && error.contains("use the checkpoint"), "{error}");
}

#[test]
fn a_stopped_writer_says_so() {
    let (dir, stop) = (tempfile::tempdir().unwrap(), AtomicBool::new(true));
    let config = ModelConfig::named("small").unwrap();
    let result = PackedWriter::new(dir.path(), &config, DType::Bf16, [("a".to_owned(), 3)].into_iter(), Some(&stop));
    assert!(matches!(result.err(), Some(Error::Stopped)));
}
