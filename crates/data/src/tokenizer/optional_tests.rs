//! Fields that may be absent, null or of another type in a tokenizer's files, compared with `tokenizers` and
//! `transformers`.

use super::tests::TRAINED;
use super::*;
use serde_json::json;

/// Values of many types.
fn any() -> [Value; 8] {
    [json!(null), json!({}), json!([]), json!("x"), json!(""), json!(7), json!(0.5), json!(false)]
}

/// Reads a file in both ways: either both reject it, or both encode alike.
fn both(json: &str) -> Option<Tokenizer> {
    let theirs: Result<tokenizers::Tokenizer, _> = serde_json::from_str(json);
    match Tokenizer::from_json(json.to_owned(), None, None) {
        Ok(ours) => {
            let theirs = theirs.expect("the library refuses it");
            let text = "fn main() { let x = 12; }\n\n d\u{e9}j\u{e0} vu";
            let expected = theirs.encode_fast(text, false).unwrap();
            // With dropout, every encoding differs.
            let is_fixed = !json.contains("\"dropout\":0.5");
            if is_fixed && theirs.get_truncation().is_none() && theirs.get_padding().is_none() {
                assert_eq!(ours.encode(text), expected.get_ids(), "{}", &json[..json.len().min(200)]);
            }
            Some(ours)
        }
        Err(error) => {
            assert!(theirs.is_err(), "the library reads it: {error}");
            assert!(error.to_string().contains("tokenizer.json"), "{error}");
            None
        }
    }
}

#[test]
fn optional_fields_of_a_tokenizer_are_the_library_s() {
    let whole: Value = serde_json::from_str(&TRAINED.json).unwrap();
    let (mut read, mut refused) = (0, 0);
    let mut check = |value: Value| match both(&value.to_string()) {
        Some(_) => read += 1,
        None => refused += 1,
    };
    for key in whole.as_object().unwrap().keys() {
        let mut without = whole.clone();
        without.as_object_mut().unwrap().remove(key);
        check(without);
        for value in any() {
            let mut other = whole.clone();
            other[key] = value;
            check(other);
        }
    }
    let model = [
        "type",
        "dropout",
        "unk_token",
        "continuing_subword_prefix",
        "end_of_word_suffix",
        "fuse_unk",
        "byte_fallback",
        "ignore_merges",
        "vocab",
        "merges",
    ];
    for key in model {
        let mut without = whole.clone();
        without["model"].as_object_mut().unwrap().remove(key);
        check(without);
        for value in any() {
            let mut other = whole.clone();
            other["model"][key] = value;
            check(other);
        }
    }
    for key in ["id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"] {
        let mut without = whole.clone();
        without["added_tokens"][0].as_object_mut().unwrap().remove(key);
        check(without);
    }
    assert!(read > 30 && refused > 30, "{read} {refused}");
    any().into_iter().for_each(|value| assert!(both(&value.to_string()).is_none()));
}

/// The library panics on these, so it is not asked.
#[test]
fn merges_that_make_no_token_are_refused() {
    let whole: Value = serde_json::from_str(&TRAINED.json).unwrap();
    let longest = whole["model"]["vocab"].as_object().unwrap().keys().max_by_key(|token| token.len()).unwrap();
    for (key, value) in [
        ("continuing_subword_prefix", json!("required")),
        ("merges", json!([[longest, longest]])),
        ("merges", json!([format!("{longest} {longest}")])),
    ] {
        let mut other = whole.clone();
        other["model"][key] = value;
        let error = Tokenizer::from_json(other.to_string(), None, None).err().expect("accepted").to_string();
        assert!(error.contains("merge 0 of") && error.contains("makes no token"), "{error}");
    }
}

#[test]
fn roles_may_be_absent_null_text_or_an_object() {
    let read = |config: &Value| Tokenizer::from_json(TRAINED.json.clone(), Some(config.to_string()), None);
    let all = TRAINED.special();
    assert_eq!(read(&json!({})).unwrap().special(), all);
    for (place, (role, names)) in ROLES.iter().enumerate() {
        let with = |value: Value| read(&json!({"model_max_length": null, *role: value}));
        for same in [Value::Null, json!(names[0]), json!({"content": names[0], "lstrip": false})] {
            assert_eq!(with(same.clone()).unwrap().special(), all, "{role} {same}");
        }
        // Another token in this role. No other role changes.
        let other = with(json!(SPECIAL_TOKENS[(place + 1) % 6])).unwrap().special();
        let list = |s: SpecialIds| [s.bos, s.eos, s.pad, s.fim_begin, s.fim_hole, s.fim_end];
        let changed: Vec<usize> = (0..6).filter(|i| list(other)[*i] != list(all)[*i]).collect();
        assert_eq!(changed, [place], "{role}");
        for wrong in [json!(7), json!([]), json!(true), json!({}), json!({"content": 7}), json!({"content": null})] {
            let error = with(wrong.clone()).err().unwrap_or_else(|| panic!("{role}: {wrong} was accepted")).to_string();
            assert!(error.contains("tokenizer_config.json") && error.contains(&format!("`{role}`")), "{error}");
        }
    }
    for wrong in [json!(null), json!([]), json!("x"), json!(7)] {
        let error = read(&wrong).err().expect("accepted").to_string();
        assert!(error.contains("tokenizer_config.json is not a JSON object"), "{error}");
    }
}

#[test]
fn files_of_another_kind_are_told() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0d7a\nsize 7847602\n";
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        for (text, part) in [
            (pointer.as_bytes(), "git lfs pull"),
            (b"<html>", "a web page"),
            (b"PK\x03\x04\xff", "zip"),
            (b"{\xff", "UTF-8"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            TRAINED.save(dir.path()).unwrap();
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            let error = Tokenizer::load(dir.path()).err().expect("accepted").to_string();
            assert!(error.contains(path.to_str().unwrap()) && error.contains(part), "{name}: {error}");
        }
    }
}
