//! Downloads from a hub on this machine.
#![cfg(feature = "hub")]

mod mock;

use hadal_weights::hub::{Hub, RepoId, Wanted};
use hadal_weights::{Checkpoint, Error, ModelConfig, SaveDtype, SaveOptions, SaveTensor, save};
use mock::{COMMIT, Mock, Repository};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn read(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.map(|p| (p.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(&p).unwrap())).collect()
}

/// A checkpoint of a few tensors in shards, with files beside it of which some are wanted.
fn repository() -> Repository {
    let dir = tempfile::tempdir().unwrap();
    let tensor = |i| SaveTensor { name: format!("t{i}"), shape: vec![64], dtype: SaveDtype::F32 };
    let tensors: Vec<SaveTensor> = (0..4).map(tensor).collect();
    let config = ModelConfig::named("small").unwrap();
    let options = SaveOptions { shard_bytes: 600, ..SaveOptions::default() };
    let fill = |_: &SaveTensor, _: usize, out: &mut [f32]| -> Result<(), Error> {
        out.fill(0.5);
        Ok(())
    };
    save(&dir.path().join("m"), &config, &tensors, &options, |_| Ok(()), fill).unwrap();
    let mut files = read(&dir.path().join("m"));
    assert!(files.keys().filter(|name| name.ends_with(".safetensors")).count() > 1);
    for name in ["tokenizer.json", "README.md", "pytorch_model.bin", "consolidated.safetensors"] {
        files.insert(name.into(), name.as_bytes().to_vec());
    }
    files.insert("onnx/model.safetensors".into(), vec![1]);
    Repository { files, ..Repository::default() }
}

struct Local {
    hub: Hub,
    _dir: tempfile::TempDir,
}

fn local(mock: &Mock) -> Local {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub { cache: dir.path().join("hub"), endpoint: mock.endpoint.clone(), token: None, offline: false };
    Local { hub, _dir: dir }
}

fn get(hub: &Hub, name: &str, wanted: Wanted) -> Result<PathBuf, String> {
    hub.folder(&RepoId::of(Path::new(name)).unwrap(), wanted).map_err(|e| e.to_string())
}

#[test]
fn a_model_arrives_whole_and_is_asked_for_once() {
    let mock = Mock::start(repository());
    let local = local(&mock);
    // For the configuration, nothing else comes.
    let folder = get(&local.hub, "org/name", Wanted::Config).unwrap();
    assert_eq!(read(&folder).into_keys().collect::<Vec<_>>(), ["config.json"]);
    let folder = get(&local.hub, "org/name", Wanted::Model).unwrap();
    assert!(folder.ends_with(format!("models--org--name/snapshots/{COMMIT}")));
    let mut wanted = repository().files;
    wanted.retain(|name, _| name.starts_with("model") || ["config.json", "tokenizer.json"].contains(&name.as_str()));
    assert!(read(&folder) == wanted, "{:?}", read(&folder).keys());
    assert_eq!(Checkpoint::open(&folder).unwrap().names().count(), 4);
    // From now on without the network.
    mock.asked();
    assert_eq!(get(&local.hub, "org/name", Wanted::Model).unwrap(), folder);
    assert_eq!(mock.asked(), [""; 0]);
    let offline = Hub { offline: true, ..local.hub.clone() };
    assert_eq!(get(&offline, "org/name", Wanted::Model).unwrap(), folder);
    // What went missing comes again, and nothing else.
    std::fs::remove_file(folder.join("model-00002-of-00004.safetensors")).unwrap_or_else(|_| {
        let one = read(&folder).into_keys().rfind(|name| name.ends_with(".safetensors")).unwrap();
        std::fs::remove_file(folder.join(one)).unwrap();
    });
    assert_eq!(get(&local.hub, "org/name", Wanted::Model).unwrap(), folder);
    assert!(mock.asked().iter().all(|path| !path.contains("tokenizer")));
    assert!(read(&folder) == wanted);
}

#[test]
fn a_part_that_is_there_is_gone_on_with_or_thrown_away() {
    let mock = Mock::start(repository());
    for (length, name) in [(3, "goes on"), (usize::MAX, "whole"), (usize::MAX - 1, "too long")] {
        let local = local(&mock);
        let folder = get(&local.hub, "org/name", Wanted::Model).unwrap();
        // A stopped download leaves the blob under another name; the link may be from before.
        let link = folder.join("tokenizer.json");
        let blob = link.canonicalize().unwrap();
        let mut bytes = std::fs::read(&blob).unwrap();
        std::fs::remove_file(&blob).unwrap();
        match length {
            usize::MAX => {}
            3 => bytes.truncate(3),
            _ => bytes.push(0),
        }
        std::fs::write(blob.with_extension("part"), bytes).unwrap();
        std::fs::remove_file(folder.join("model.safetensors.index.json")).unwrap();
        get(&local.hub, "org/name", Wanted::Model).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(std::fs::read(&link).unwrap(), b"tokenizer.json", "{name}");
    }
}

#[test]
fn gated_repositories_open_with_a_token() {
    let mock = Mock::start(Repository { token: Some("hf_secret".into()), ..repository() });
    let local = local(&mock);
    let error = get(&local.hub, "org/name", Wanted::Model).unwrap_err();
    assert!(error.starts_with("org/name ") && error.contains("answers 401") && error.contains("HF_TOKEN"), "{error}");
    let hub = Hub { token: Some("hf_secret".into()), ..local.hub };
    assert!(get(&hub, "org/name", Wanted::Model).is_ok());
}

#[test]
fn answers_say_what_to_do() {
    for (status, parts) in [
        (401, ["401", "HF_TOKEN"]),
        (403, ["accept its terms", "HF_TOKEN"]),
        (404, ["no such repository", "check the name"]),
        (429, ["too many requests", "later"]),
        (503, ["503", "try again later"]),
    ] {
        let mock = Mock::start(Repository { status: Some(status), ..repository() });
        let error = get(&local(&mock).hub, "org/name", Wanted::Model).unwrap_err();
        assert!(parts.iter().all(|part| error.contains(part)), "{status}: {error}");
    }
    let mock = Mock::start(repository());
    let known = local(&mock);
    assert!(get(&known.hub, "org/other", Wanted::Config).unwrap_err().contains("404"));
    assert!(get(&known.hub, "org/name@v9", Wanted::Config).unwrap_err().contains("org/name@v9"));
    // Nobody listens.
    let hub = Hub { endpoint: "http://127.0.0.1:1".into(), ..known.hub.clone() };
    let error = get(&hub, "org/name", Wanted::Model).unwrap_err();
    assert!(error.contains("http://127.0.0.1:1 cannot be reached") && error.contains("HF_ENDPOINT"), "{error}");
}

#[test]
fn what_is_no_model_is_refused_before_weights_arrive() {
    let without = |name: &str| {
        let mut repository = repository();
        repository.files.retain(|file, _| file != name);
        repository
    };
    let refused = |repository: Repository| {
        let mock = Mock::start(repository);
        let local = local(&mock);
        let error = get(&local.hub, "org/name", Wanted::Model).unwrap_err();
        let weights = mock.asked().iter().filter(|path| path.ends_with(".safetensors")).count();
        // A refusal leaves no word of a whole revision.
        assert!(!local.hub.cache.join("models--org--name/refs/main").exists());
        (error, weights)
    };
    let (error, weights) = refused(without("config.json"));
    assert!(error.contains("has no config.json") && weights == 0, "{error}");
    let (error, weights) = refused(without("model.safetensors.index.json"));
    assert!(error.contains("has no safetensors") && weights == 0, "{error}");
    let mut relative = repository();
    relative.files.insert("config.json".into(), br#"{"model_type": "deepseek_v32"}"#.to_vec());
    let (error, weights) = refused(relative);
    assert!(error.contains("`index_topk`") && weights == 0, "{error}");
    let mut quantised = repository();
    let config = String::from_utf8(quantised.files["config.json"].clone()).unwrap();
    let config = config.replacen('{', r#"{"quantization_config": {"quant_method": "compressed-tensors"},"#, 1);
    quantised.files.insert("config.json".into(), config.into_bytes());
    let (error, weights) = refused(quantised);
    assert!(error.contains("`quantization_config.quant_method`") && weights == 0, "{error}");
    let (error, _) = refused(Repository { cut: vec!["model.safetensors.index.json".into()], ..repository() });
    assert!(error.contains("bytes, and") && error.contains("try again"), "{error}");
}
