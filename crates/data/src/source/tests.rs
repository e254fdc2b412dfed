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
    write(dir.path(), "a/bad.rs", b"\xe9t\xe9");
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
    assert_eq!(texts.bytes(), 18);
    let said = texts.left_out.to_string();
    assert_eq!((texts.left_out.count(Why::NotUtf8), texts.left_out.count(Why::OtherKind)), (1, 1), "{said}");
    assert!(said.contains("1 file of another kind (") && said.contains("a/image.png)"), "{said}");
    assert!(said.contains(&format!("1 file or line that is not UTF-8 ({})", id("a/bad.rs"))), "{said}");
}

#[test]
fn records_without_the_field_are_counted_in_a_folder_and_an_error_by_name() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "metrics.jsonl", b"{\"loss\": 1, \"step\": 2}\n");
    let error = read_paths(&[dir.path()], &SourceOptions::default()).unwrap_err().to_string();
    assert!(error.contains("metrics.jsonl has no `text`, but loss, step"), "{error}");
    write(dir.path(), "a.txt", b"a");
    let texts = read_paths(&[dir.path()], &SourceOptions::default()).unwrap();
    assert_eq!((texts.documents.len(), texts.left_out.count(Why::NoField)), (1, 1));
    let error = read_paths(&[dir.path().join("metrics.jsonl")], &SourceOptions::default()).unwrap_err().to_string();
    assert!(error.contains("no document has a field `text` (the first has: loss, step)"), "{error}");
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
    // Not if another field was asked for, and only for strings.
    let options = SourceOptions { text_field: "body".into(), group_field: None };
    let error = read_paths(&[dir.path().join("x.jsonl")], &options).unwrap_err().to_string();
    assert!(error.contains("no document has a field `body` (the first has: question, answer)"), "{error}");
    write(dir.path(), "x.jsonl", b"{\"question\":\"1 + 1?\",\"answer\":2}\n");
    let error = read_paths(&[dir.path().join("x.jsonl")], &SourceOptions::default()).unwrap_err().to_string();
    assert!(error.contains("no document has a field `text`"), "{error}");
}

#[test]
fn broken_lines_are_named() {
    let dir = tempfile::tempdir().unwrap();
    for (line, says) in
        [("{\"text\":", "not JSON"), ("[1]", "not a JSON object"), ("{\"text\":1}", "`text` is not a string")]
    {
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

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    liblzma::read::XzEncoder::new(bytes, 1).read_to_end(&mut out).unwrap();
    out
}

fn error_of(path: &Path) -> String {
    read_paths(&[path], &SourceOptions::default()).unwrap_err().to_string()
}

#[test]
fn lines_without_text_are_left_out_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let lines = "{\"text\":\"one\"}\r\n{\"text\":null}\r\n{\"meta\":1}\n{\"text\":\"\"}\n\n{\"text\":\"two\"}";
    write(dir.path(), "x.jsonl", format!("\u{feff}{lines}").as_bytes());
    let path = dir.path().join("x.jsonl");
    let texts = read_paths(&[&path], &SourceOptions::default()).unwrap();
    assert_eq!(texts.documents.iter().map(|d| &*d.text).collect::<Vec<_>>(), ["one", "two"]);
    assert_eq!(texts.documents[1].id, format!("{}:6", path.display()));
    assert_eq!(texts.left_out.to_string(), format!("3 lines without text (the first: {}:2)", path.display()));
    // Only lines without text, and an empty file.
    write(dir.path(), "x.jsonl", b"{\"text\":null}\n");
    assert!(error_of(&path).contains("no text found (1 line without text ("), "{}", error_of(&path));
    write(dir.path(), "x.jsonl", b"\n");
    assert!(error_of(&path).contains("no text found (1 empty file ("), "{}", error_of(&path));
    write(dir.path(), "x.jsonl", b"{\"text\":null}\n{\"content\":\"x\",\"id\":1}\n");
    assert!(
        error_of(&path).contains("no document has a field `text` (the first has: content, id)"),
        "{}",
        error_of(&path)
    );
}

#[test]
fn compressed_files_are_unpacked_whatever_they_are_called() {
    let dir = tempfile::tempdir().unwrap();
    let (text, line) = ("d\u{e9}j\u{e0} vu\n", "{\"text\":\"one\"}\n");
    let twice = [gzip(text.as_bytes()), gzip(b"and again")].concat();
    write(dir.path(), "a.txt.gz", &twice);
    write(dir.path(), "b.txt.zst", &zstd::encode_all(text.as_bytes(), 1).unwrap());
    write(dir.path(), "c.txt.xz", &xz(text.as_bytes()));
    write(dir.path(), "d.jsonl.gz", &gzip(line.as_bytes()));
    write(dir.path(), "e.jsonl", &gzip(line.as_bytes()));
    write(dir.path(), "f.txt", &zstd::encode_all(text.as_bytes(), 1).unwrap());
    write(dir.path(), "g.tar.gz", &gzip(b"other"));
    let texts = read_paths(&[dir.path()], &SourceOptions::default()).unwrap();
    let got: Vec<&str> = texts.documents.iter().map(|d| d.text.as_str()).collect();
    assert_eq!(got, [&*format!("{text}and again"), text, text, "one", "one", text]);
    assert_eq!(texts.left_out.count(Why::OtherKind), 1);
    // A truncated file is an error that names the file.
    write(dir.path(), "a.txt.gz", &twice[..twice.len() - 5]);
    assert!(error_of(dir.path()).contains("a.txt.gz"));
}

#[test]
fn what_cannot_be_text_is_an_error_where_it_was_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut tar = vec![b'a'; 600];
    tar[257..262].copy_from_slice(b"ustar");
    for (name, bytes, says) in [
        ("x.txt", b"\xff\xfea\0b\0".to_vec(), "UTF-16"),
        ("x.jsonl", b"\xfe\xff\0a\0b".to_vec(), "UTF-16"),
        ("x.txt.gz", gzip(b"\xff\xfea\0b\0"), "UTF-16"),
        ("x.txt", b"PK\x03\x04 and so on".to_vec(), "zip archive"),
        ("x.txt.bz2", b"BZh91AY&SY".to_vec(), "bzip2"),
        ("x.tar", tar.clone(), "tar archive"),
        ("x.tgz", gzip(&tar), "tar archive"),
        ("x.txt", Vec::new(), "no text found (1 empty file ("),
        ("x.txt", b"\xef\xbb\xbf".to_vec(), "no text found (1 empty file ("),
        ("x.txt", b"caf\xe9".to_vec(), "no text found (1 file or line that is not UTF-8 ("),
    ] {
        write(dir.path(), name, &bytes);
        let error = error_of(&dir.path().join(name));
        assert!(error.contains(name) && error.contains(says), "{error}");
        std::fs::remove_file(dir.path().join(name)).unwrap();
    }
    // In a folder it is skipped and counted.
    write(dir.path(), "a.txt", b"\xff\xfea\0");
    write(dir.path(), "b.txt", b"text\r\n");
    write(dir.path(), "c.txt", b"");
    let texts = read_paths(&[dir.path()], &SourceOptions::default()).unwrap();
    assert_eq!(texts.documents.iter().map(|d| &*d.text).collect::<Vec<_>>(), ["text\r\n"]);
    assert_eq!((texts.left_out.count(Why::Utf16), texts.left_out.count(Why::Empty)), (1, 1));
}

#[test]
fn arrays_of_documents_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.json");
    let texts = |body: &str| {
        std::fs::write(&path, body).unwrap();
        read_paths(&[&path], &SourceOptions::default())
    };
    let got =
        texts("\u{feff}[\n  {\"text\": \"one\"},\n  \"two\", null,\n  {\"question\":\"a\",\"answer\":\"b\"}\n]\n")
            .unwrap();
    assert_eq!(got.documents.iter().map(|d| &*d.text).collect::<Vec<_>>(), ["one", "two", "a\nb"]);
    assert_eq!(got.documents[2].id, format!("{}:4", path.display()));
    assert_eq!(got.left_out.count(Why::NoText), 1);
    assert_eq!(texts("{\"text\":\"one\"}\n{\"text\":\"two\"}\n").unwrap().documents.len(), 2);
    for (body, says) in [
        ("{\n  \"data\": []\n}\n", "neither an array of documents nor one document per line"),
        ("[{\"body\":\"x\"}]", "no document has a field `text` (the first has: body)"),
        ("[1]", "not a JSON object"),
        ("[\"cut", "not JSON"),
        ("[]", "no text found (1 empty file"),
    ] {
        let error = texts(body).unwrap_err().to_string();
        assert!(error.contains("x.json") && error.contains(says), "{error}");
    }
    // In a folder such files are settings.
    std::fs::write(&path, "[\"one\"]").unwrap();
    assert!(error_of(dir.path()).contains("1 file of another kind ("));
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), packed in 0usize..4, name in 0usize..4) {
        let dir = tempfile::tempdir().unwrap();
        let name = ["x.jsonl", "x.json", "x.txt", "x.jsonl.zst"][name];
        let bytes = match packed {
            1 => gzip(&bytes),
            2 => zstd::encode_all(&*bytes, 1).unwrap(),
            // A mark followed by bytes that do not belong to it.
            3 => [&[0x1f, 0x8b, 8, 0][..], &bytes].concat(),
            _ => bytes,
        };
        write(dir.path(), name, &bytes);
        let _ = read_paths(&[dir.path()], &SourceOptions::default());
        let _ = read_paths(&[dir.path().join(name)], &SourceOptions::default());
    }

    #[test]
    fn cut_json_never_panics(cut in 0usize..80, at in 0usize..80, byte: u8, packed: bool, array: bool) {
        let dir = tempfile::tempdir().unwrap();
        let body = "{\"text\":\"d\u{e9}j\u{e0} vu\"}\n{\"text\":\"\\u00e9\"}\n{\"text\":null}\n";
        let body = if array { format!("[{}]", body.trim_end().replace('\n', ",")) } else { body.into() };
        let mut bytes = if packed { gzip(body.as_bytes()) } else { body.into_bytes() };
        let at = at % bytes.len();
        bytes[at] = byte;
        bytes.truncate(cut);
        let path = dir.path().join(if array { "x.json" } else { "x.jsonl" });
        std::fs::write(&path, bytes).unwrap();
        if let Ok(texts) = read_paths(&[&path], &SourceOptions::default()) {
            prop_assert!(texts.documents.iter().all(|d| !d.text.is_empty()));
        }
    }
}
