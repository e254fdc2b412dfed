use super::*;
use proptest::prelude::*;

fn write(folder: &Path, name: &str, bytes: &[u8]) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn folders_are_read_in_the_order_of_names() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "b/two.rs", b"fn two() {}");
    write(dir.path(), "a/z.md", b"\xef\xbb\xbftext");
    write(dir.path(), "a/bad.rs", b"\xff\xfe");
    write(dir.path(), "a/image.png", b"not text");
    write(dir.path(), ".git/x.rs", b"hidden");
    write(dir.path(), "out/x.rs", b"built");
    write(dir.path(), "out/CACHEDIR.TAG", b"Signature: 8a477f597d28d172789f06886806bc55");
    write(dir.path(), "top.txt", b"top");
    let texts = read_paths(&[dir.path()], &SourceOptions::default()).unwrap();
    let root = dir.path().file_name().unwrap().to_str().unwrap();
    let got: Vec<(&str, &str)> = texts.documents.iter().map(|d| (d.id.as_str(), d.text.as_str())).collect();
    let id = |s: &str| format!("{root}/{s}");
    assert_eq!(got, [(&*id("a/z.md"), "text"), (&*id("b/two.rs"), "fn two() {}"), (&*id("top.txt"), "top")]);
    assert_eq!(texts.documents[1].group, id("b"));
    assert_eq!(texts.documents[2].group, id("top.txt"));
    assert_eq!((texts.not_utf8, texts.other_files, texts.bytes()), (1, 1, 18));
}

#[test]
fn endings_are_sorted_for_the_search() {
    assert!(TEXT_ENDINGS.is_sorted());
}

#[test]
fn json_lines_with_fields_and_groups() {
    let dir = tempfile::tempdir().unwrap();
    let body = "{\"body\":\"one\",\"repo\":\"r\"}\n\n{\"body\":\"two\"}\n";
    write(dir.path(), "x.jsonl", body.as_bytes());
    write(dir.path(), "y.jsonl.zst", &zstd::encode_all(body.as_bytes(), 1).unwrap());
    let options = SourceOptions { text_field: "body".into(), group_field: Some("repo".into()) };
    for name in ["x.jsonl", "y.jsonl.zst"] {
        let path = dir.path().join(name);
        let texts = read_paths(&[&path], &options).unwrap();
        assert_eq!(texts.documents.len(), 2);
        assert_eq!(texts.documents[0].group, "r");
        assert_eq!(texts.documents[1].id, format!("{}:3", path.display()));
        assert_eq!(texts.documents[1].group, texts.documents[1].id);
    }
}

#[test]
fn exercises_are_question_and_answer() {
    let dir = tempfile::tempdir().unwrap();
    let lines = "{\"question\":\"1 + 1?\",\"answer\":\"2\"}\n{\"answer\":\"b\",\"text\":\"a\",\"question\":\"c\"}\n";
    write(dir.path(), "x.jsonl", lines.as_bytes());
    let texts = read_paths(&[dir.path()], &SourceOptions::default()).unwrap();
    let texts: Vec<&str> = texts.documents.iter().map(|d| d.text.as_str()).collect();
    assert_eq!(texts, ["1 + 1?\n2", "a"]);
    // Not where another field was asked for, and not of anything but strings.
    let options = SourceOptions { text_field: "body".into(), group_field: None };
    assert!(read_paths(&[dir.path()], &options).unwrap_err().to_string().contains("no field `body`"));
    write(dir.path(), "x.jsonl", b"{\"question\":\"1 + 1?\",\"answer\":2}\n");
    let error = read_paths(&[dir.path()], &SourceOptions::default()).unwrap_err().to_string();
    assert!(error.contains("no field `text`"), "{error}");
}

#[test]
fn broken_lines_are_named() {
    let dir = tempfile::tempdir().unwrap();
    for (line, says) in [
        ("{\"text\":", "not JSON"),
        ("[1]", "not a JSON object"),
        ("{\"text\":1}", "`text` is not a string"),
        ("{\"content\":\"x\"}", "no field `text` (it has: content)"),
    ] {
        write(dir.path(), "x.jsonl", format!("{{\"text\":\"fine\"}}\n{line}\n").as_bytes());
        let error = read_paths(&[dir.path()], &SourceOptions::default()).unwrap_err().to_string();
        assert!(error.contains("x.jsonl:2: ") && error.contains(says), "{error}");
    }
}

#[test]
fn missing_paths_and_empty_folders_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let error = read_paths(&[dir.path().join("none")], &SourceOptions::default()).unwrap_err().to_string();
    assert!(error.contains("cannot read") && error.contains("check the path"), "{error}");
    let error = read_paths(&[dir.path()], &SourceOptions::default()).unwrap_err().to_string();
    assert!(error.contains("no text found"), "{error}");
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), zst: bool) {
        let dir = tempfile::tempdir().unwrap();
        let name = if zst { "x.jsonl.zst" } else { "x.jsonl" };
        write(dir.path(), name, &bytes);
        let _ = read_paths(&[dir.path()], &SourceOptions::default());
    }

    #[test]
    fn cut_json_lines_never_panic(cut in 0usize..60) {
        let dir = tempfile::tempdir().unwrap();
        let body = "{\"text\":\"d\u{e9}j\u{e0} vu\"}\n{\"text\":\"\\u00e9\"}\n";
        write(dir.path(), "x.jsonl", &body.as_bytes()[..cut.min(body.len())]);
        if let Ok(texts) = read_paths(&[dir.path()], &SourceOptions::default()) {
            prop_assert!(texts.documents.iter().all(|d| !d.text.is_empty()));
        }
    }
}
