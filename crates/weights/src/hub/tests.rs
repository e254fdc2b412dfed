use super::*;
use std::fs;

#[test]
fn names_of_repositories_are_told_from_paths() {
    for (text, name, revision) in [
        ("moonshotai/Moonlight-16B-A3B", "moonshotai/Moonlight-16B-A3B", "main"),
        ("zai-org/GLM-4.7-Flash@v1.0", "zai-org/GLM-4.7-Flash", "v1.0"),
        ("a/b@refs/pr/1", "a/b", "refs/pr/1"),
    ] {
        let repo = RepoId::of(Path::new(text)).unwrap();
        assert_eq!((repo.name.as_str(), repo.revision.as_str()), (name, revision));
        assert_eq!(repo.to_string(), text);
    }
    for path in [
        "/a/b",
        "./a/b",
        "../b",
        "a",
        "a/b/c",
        "a/",
        "/b",
        "a/b@",
        "a/b@../c",
        "a/.b",
        "-a/b",
        "a b/c",
        "a/b\u{e9}",
        "",
    ] {
        assert_eq!(RepoId::of(Path::new(path)), None, "{path}");
    }
    // A folder `src` is here: what is in it is a path.
    assert_eq!(RepoId::of(Path::new("src/nothing")), None);
}

fn hub(cache: &Path) -> Hub {
    Hub { cache: cache.into(), endpoint: "http://127.0.0.1:9".into(), token: None, offline: true }
}

#[test]
fn what_is_whole_in_the_cache_is_used_without_the_network() {
    let dir = tempfile::tempdir().unwrap();
    let (repo, hub) = (RepoId::of(Path::new("org/name")).unwrap(), hub(dir.path()));
    let error = |wanted| hub.folder(&repo, wanted).unwrap_err().to_string();
    assert!(error(Wanted::Config).contains("org/name is not whole in the cache"), "{}", error(Wanted::Config));
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let folder = dir.path().join("models--org--name");
    let snapshot = folder.join("snapshots").join(commit);
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(folder.join("refs")).unwrap();
    fs::write(folder.join("refs/main"), format!("{commit}\n")).unwrap();
    assert!(error(Wanted::Config).contains("HF_HUB_OFFLINE"));
    fs::write(snapshot.join("config.json"), "{}").unwrap();
    assert_eq!(hub.folder(&repo, Wanted::Config).unwrap(), snapshot);
    assert!(error(Wanted::Model).contains("not whole"));
    // Two shards, of which one is there.
    let index = r#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#;
    fs::write(snapshot.join("model.safetensors.index.json"), index).unwrap();
    fs::write(snapshot.join("model-1.safetensors"), "").unwrap();
    assert!(error(Wanted::Model).contains("not whole"));
    fs::write(snapshot.join("model-2.safetensors"), "").unwrap();
    assert_eq!(hub.folder(&repo, Wanted::Model).unwrap(), snapshot);
    // By its commit, and by a revision that is not there.
    let of = |text: &str| hub.folder(&RepoId::of(Path::new(text)).unwrap(), Wanted::Model);
    assert_eq!(of(&format!("org/name@{commit}")).unwrap(), snapshot);
    assert!(of("org/name@v2").unwrap_err().to_string().contains("org/name@v2"));
}
