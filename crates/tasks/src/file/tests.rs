//! Task files that are right, wrong and random.

use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn read(text: &str) -> Result<serde_json::Value, String> {
    let file: Arc<Path> = Arc::from(Path::new("t.yaml"));
    parse(text, &file).map(|node| node.json()).map_err(|error| error.to_string())
}

#[test]
fn scalars_mean_what_pyyaml_says() {
    // The right-hand sides come from yaml.FullLoader.
    let text = "a: yes\nb: off\nc: 1e-5\nd: 1.5e+3\ne: 010\nf: 0x1F\ng: 1_000\nh: 1:30\ni: ~\nj:\nk: .5\nl: '5'\nm: \"a\\nb\"\n\
                n: 5.\no: -3\np: +4\nq: .inf2\nr: 1.2.3\ns: No\nt: 0b11\nu: 08\nv: 1e5\nw: -0.5\nx: \"yes\"\ny: null\nz: n\n1: 1.5e3\n2: 0-5\n3: 0x+5\n4: -0x-8000000000000000\n";
    let expected = json!({
        "a": true, "b": false, "c": "1e-5", "d": 1500.0, "e": 8, "f": 31, "g": 1000, "h": 90, "i": null, "j": null, "k": 0.5,
        "l": "5", "m": "a\nb", "n": 5.0, "o": -3, "p": 4, "q": ".inf2", "r": "1.2.3", "s": false, "t": 3, "u": "08", "v": "1e5",
        "w": -0.5, "x": "yes", "y": null, "z": "n", "1": "1.5e3",
        "2": "0-5", "3": "0x+5", "4": "-0x-8000000000000000",
    });
    assert_eq!(read(text).unwrap(), expected);
}

#[test]
fn blocks_anchors_and_merges_are_read() {
    let text = "base: &b {x: 1, y: 2}\nmore:\n  <<: *b\n  y: 3\nlist: [*b, [1, two]]\ntext: |\n  one\n    two\nfolded: >-\n  a\n  b\n";
    let expected = json!({
        "base": {"x": 1, "y": 2}, "more": {"x": 1, "y": 3}, "list": [{"x": 1, "y": 2}, [1, "two"]], "text": "one\n  two\n",
        "folded": "a b",
    });
    assert_eq!(read(text).unwrap(), expected);
}

#[test]
fn mistakes_name_file_and_line() {
    for (text, line, word) in [
        ("a: 1\nb: [1\nc: 2\n", 3, "not valid YAML"),
        ("a: 1\na: 2\n", 2, "twice"),
        ("a: !python/object x\n", 1, "tag"),
        ("- a\n", 1, "mapping"),
        ("a: *x\n", 1, "not valid YAML"),
        ("a: 1\n---\nb: 2\n", 3, "one document"),
    ] {
        let error = read(text).unwrap_err();
        assert!(error.starts_with(&format!("t.yaml:{line}: ")) && error.contains(word), "{text:?}: {error}");
    }
}

#[test]
fn files_that_grow_without_end_are_refused() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..12 {
        let items = vec![format!("*a{}", i - 1); 10].join(", ");
        bomb.extend([format!("a{i}: &a{i} [{items}]\n")]);
    }
    assert!(read(&bomb).unwrap_err().contains("too many values"));
    assert!(read(&format!("a: {}", "[".repeat(5000))).is_err());
    assert!(read(&format!("a: {}{}", "[".repeat(100), "]".repeat(100))).unwrap_err().contains("too deep"));
}

#[test]
fn includes_are_merged_and_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let load = |name: &str| load(&folder.path().join(name)).map(|node| node.json()).map_err(|error| error.to_string());
    write("a.yaml", "include: [b.yaml, c.yaml]\nx: a\n");
    write("b.yaml", "x: b\ny: b\nz: b\ntask_list: [q]\n");
    write("c.yaml", "include: d.yaml\ny: c\n");
    write("d.yaml", "z: d\nw: d\n");
    assert_eq!(load("a.yaml").unwrap(), json!({"x": "a", "y": "c", "z": "d", "w": "d"}));
    write("self.yaml", "k: 1\ninclude: self.yaml\n");
    let error = load("self.yaml").unwrap_err();
    assert!(error.contains("self.yaml:2: `include`") && error.contains("includes itself"), "{error}");
    write("one.yaml", "include: two.yaml\n");
    write("two.yaml", "include: one.yaml\n");
    assert!(load("one.yaml").unwrap_err().contains("includes itself"));
    write("lost.yaml", "include: nowhere.yaml\n");
    assert!(load("lost.yaml").unwrap_err().contains("lost.yaml:1: `include`"));
    // Each file includes the next one twice: more files than there are atoms.
    for i in 0..60 {
        write(&format!("n{i}.yaml"), &format!("include: [n{}.yaml, n{}.yaml]\n", i + 1, i + 1));
    }
    write("n60.yaml", "x: 1\n");
    assert!(load("n0.yaml").unwrap_err().contains("more than"));
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "[\\[\\]{}:,&*!#|>'\"%@`?<~a-c0-9 .\\n-]{0,80}") {
        _ = read(&text);
    }

    #[test]
    fn changed_files_are_read_or_refused(at in 0usize..600, byte in 0u8..128) {
        let mut bytes = include_bytes!("../../tests/fixtures/harness/gsm8k_small.yaml").to_vec();
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Ok(text) = String::from_utf8(bytes) {
            let file: Arc<Path> = Arc::from(Path::new("t.yaml"));
            if let Ok(node) = parse(&text, &file) {
                // What can be read is a task, or its mistake is named.
                _ = crate::task::Config::of(&node, None).map_err(|error| assert!(error.to_string().contains("t.yaml:")));
            }
        }
    }
}
