//! Conversions in less memory than the size of the checkpoint.

use crate::setup::{fixture, run_with};
use hadal_weights::ModelConfig;
use hadal_weights::list::Part;
use hadal_weights::{
    Checkpoint, Error, SaveDtype, SaveOptions, SaveTensor, ScaleFormat, WeightFormat, expected, is_fp8, save,
    scale_name, scale_shape,
};
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Largest private memory of the program in bytes: heap, stacks and other private pages. The checkpoint is twice as
/// large. Even its largest matrix in f32 is larger.
const LIMIT: usize = 24_000_000;

/// Largest resident memory in bytes. It includes the program and its libraries, which are large in a test build.
pub(crate) const RESIDENT: usize = 48_000_000;

/// A checkpoint in BF16, in files of 9 MB. With a `hidden_size` of 1024 it has about 70 MB.
pub(crate) fn checkpoint(folder: &Path, hidden_size: usize) -> usize {
    let small = ModelConfig::from_file(fixture("yarn").join("config.json")).unwrap();
    let config =
        ModelConfig { hidden_size, vocab_size: 1000, moe_intermediate_size: 200, intermediate_size: 6500, ..small };
    let stored = |t: Part| SaveTensor { dtype: WeightFormat::Bf16.of(&t.name), name: t.name, shape: t.shape };
    let tensors: Vec<_> = expected(&config).into_iter().map(stored).collect();
    let mut piece = Vec::new();
    let fill = |_: &SaveTensor, start: usize, out: &mut [f32]| -> Result<(), Error> {
        while piece.len() < out.len() {
            piece.push((piece.len() * 7919 % 10_007) as f32 * 1e-5 - 0.05);
        }
        out.copy_from_slice(&piece[..out.len()]);
        out[0] = 0.2 + (start % 8) as f32;
        Ok(())
    };
    let options = SaveOptions { shard_bytes: 9_000_000, ..SaveOptions::default() };
    save(folder, &config, &tensors, &options, |_| Ok(()), fill).unwrap();
    tensors.iter().map(SaveTensor::bytes).sum()
}

/// An FP8 checkpoint of the full size with headers and scales, but without other data: the files are sparse.
fn hollow(folder: &Path) -> u64 {
    let config = ModelConfig { num_nextn_predict_layers: 1, ..ModelConfig::named("deepseek-v3").unwrap() };
    let mut json = serde_json::to_value(&config).unwrap();
    json["quantization_config"] =
        serde_json::json!({"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]});
    std::fs::create_dir(folder).unwrap();
    std::fs::write(folder.join("config.json"), json.to_string()).unwrap();
    let mut tensors = Vec::new();
    for t in expected(&config) {
        let bytes = |shape: &[usize], size: usize| (shape.iter().product::<usize>() * size) as u64;
        let (dtype, size) = match WeightFormat::Fp8(ScaleFormat::F32).of(&t.name) {
            SaveDtype::F32 => ("F32", 4),
            SaveDtype::Bf16 => ("BF16", 2),
            _ => {
                let scales = scale_shape(&t.shape).unwrap();
                tensors.push((scale_name(&t.name), "F32", scales.to_vec(), bytes(&scales, 4)));
                ("F8_E4M3", 1)
            }
        };
        tensors.push((t.name, dtype, t.shape.clone(), bytes(&t.shape, size)));
    }
    let (mut total, mut index) = (0, serde_json::Map::new());
    for (i, shard) in tensors.chunks(600).enumerate() {
        let (mut header, mut end, mut scales) = (serde_json::Map::new(), 0, 0);
        let file = format!("model-{i}.safetensors");
        let (first, others): (Vec<_>, Vec<_>) = shard.iter().partition(|t| t.0.ends_with("_scale_inv"));
        for (name, dtype, shape, bytes) in first.into_iter().chain(others) {
            scales += if name.ends_with("_scale_inv") { *bytes as usize / 4 } else { 0 };
            let place = serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": [end, end + bytes]});
            header.insert(name.clone(), place);
            index.insert(name.clone(), file.clone().into());
            end += bytes;
        }
        let header = serde_json::to_string(&header).unwrap();
        let mut out = std::fs::File::create(folder.join(file)).unwrap();
        out.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
        out.write_all(header.as_bytes()).unwrap();
        out.write_all(&1f32.to_le_bytes().repeat(scales)).unwrap();
        out.set_len(8 + header.len() as u64 + end).unwrap();
        total += end;
    }
    let index = serde_json::json!({"weight_map": index});
    std::fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
    total
}

#[test]
fn the_full_size_is_audited_in_80_megabytes() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("full");
    // One byte for each of 671 B parameters and those of the MTP module, and more for the tensors in BF16.
    assert!(hollow(&folder) > 684_000_000_000);
    let most = run_limited(80_000_000, &["import", folder.to_str().unwrap()]);
    assert!((1..80_000_000).contains(&most), "{most} bytes resident");
}

/// Rejecting files with false sizes takes almost no memory either.
#[test]
fn lies_are_refused_in_80_megabytes() {
    let dir = tempfile::tempdir().unwrap();
    let (config, weights) = (dir.path().join("config.json"), dir.path().join("model.safetensors"));
    let folder = dir.path().to_str().unwrap();
    let refuses = |limit: usize, part: &str| {
        for command in ["import", "inspect"] {
            let out = limited(limit, &[command, folder]).wait_with_output().unwrap();
            let error = String::from_utf8_lossy(&out.stderr).into_owned();
            let harmless = command == "inspect" && out.status.success();
            assert!(harmless || (out.status.code() == Some(1) && error.contains(part)), "{command}: {error}");
            assert!(error.len() < 2000, "{} bytes", error.len());
        }
    };
    let small = ModelConfig::from_file(fixture("yarn").join("config.json")).unwrap();
    let many = ModelConfig { num_hidden_layers: 4096, n_routed_experts: 8192, ..small.clone() };
    std::fs::write(&config, many.to_json()).unwrap();
    std::fs::copy(fixture("yarn").join("model.safetensors"), &weights).unwrap();
    refuses(80_000_000, "n_routed_experts");
    // One tensor with very many dimensions, and one with a very long name. Only the header itself must fit into memory.
    std::fs::write(&config, small.to_json()).unwrap();
    for (tensor, part) in [
        (
            format!(r#"{{"a":{{"dtype":"F32","shape":[{}1],"data_offsets":[0,4]}}}}"#, "1,".repeat(20_000_000)),
            "dimensions",
        ),
        (format!(r#"{{"{}":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}}}"#, "a".repeat(40_000_000)), "a name"),
    ] {
        let mut file = (tensor.len() as u64).to_le_bytes().to_vec();
        file.extend(tensor.as_bytes());
        file.extend([0; 4]);
        std::fs::write(&weights, file).unwrap();
        refuses(160_000_000, part);
    }
}

/// Runs the program with `limit` as the system's limit on its private memory. Returns its largest resident memory,
/// mapped files included.
pub(crate) fn run_limited(limit: usize, args: &[&str]) -> usize {
    let mut child = limited(limit, args);
    let mut most = 0;
    loop {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or("0 kB");
        let kb: usize = line.trim().trim_end_matches(" kB").trim().parse().unwrap();
        most = most.max(kb * 1024);
        if child.try_wait().unwrap().is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    most
}

pub(crate) fn limited(limit: usize, args: &[&str]) -> Child {
    let script = format!("ulimit -d {} && exec \"$0\" \"$@\"", limit / 1024);
    let mut command = Command::new("sh");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_hadal")]).args(args);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn conversions_need_less_memory_than_the_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let paths = ["source", "fp8", "back"].map(|n| dir.path().join(n));
    let [source_arg, fp8_arg, back_arg] = paths.each_ref().map(|p| p.to_str().unwrap());
    let bytes = checkpoint(&paths[0], 1024);
    assert!(bytes > 2 * LIMIT.max(RESIDENT / 2) && 4 * 1024 * 6500 > LIMIT, "{bytes}");
    let to_fp8 = ["import", source_arg, "--out", fp8_arg, "--dtype", "fp8", "--shard-size", "9MB"];
    let from_fp8 = ["export", fp8_arg, "--out", back_arg, "--shard-size", "9MB"];
    for (args, files) in [(to_fp8.as_slice(), 3), (&from_fp8, 5)] {
        let most = run_limited(LIMIT, args);
        assert!((1..RESIDENT).contains(&most), "{args:?} had {most} bytes resident");
        let written = std::fs::read_dir(args[3]).unwrap().count();
        assert!(written > files, "{written} files in {}", args[3]);
    }
    let [source, fp8, back] = paths.each_ref().map(|p| Checkpoint::open(p).unwrap());
    assert_eq!(fp8.format(), WeightFormat::Fp8(ScaleFormat::F32));
    assert_eq!(back.format(), WeightFormat::Bf16);
    for name in source.names() {
        let read = |c: &Checkpoint| {
            let mut out = vec![0f32; c.info(name).unwrap().elements()];
            c.read_f32(name, &mut out).unwrap();
            out
        };
        let (a, b) = (read(&source), read(&back));
        // Half a step of E4M3, and half of the smallest step in a block whose largest value is 7.2.
        let near = |(a, b): (&f32, &f32)| (a - b).abs() <= if is_fp8(name) { a.abs() * 0.07 + 2e-5 } else { 0.0 };
        assert!(a.iter().zip(&b).all(near), "{name}");
    }
    let no = run_with(["import", source_arg, "--out", fp8_arg, "--dtype", "fp8"], "");
    assert!(!no.status.success(), "what is there is not replaced");
}
