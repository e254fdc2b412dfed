//! Against the tiktoken library's results for a small vocabulary (`oracle/make_tiktoken.py`).

use super::super::Tokenizer;
use super::*;
use proptest::prelude::*;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiktoken")
}

fn released() -> Tokenizer {
    Tokenizer::load(&folder()).unwrap_or_else(|e| panic!("{e}"))
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn ids_are_the_tiktoken_library_s() {
    let t = released();
    let expected: Vec<Value> = serde_json::from_slice(&fs::read(folder().join("expected.json")).unwrap()).unwrap();
    let mut named = 0;
    for row in &expected {
        let text = row["text"].as_str().unwrap();
        let plain = ids(&row["ids"]);
        assert_eq!(t.encode(text), plain, "{text:?}");
        assert_eq!(t.decode(&plain), text);
        let special = row.get("special").map_or(plain, ids);
        assert_eq!(t.encode_with_special(text), special, "{text:?}");
        assert_eq!(t.decode_with_special(&special), text);
        named += usize::from(row.get("special").is_some());
    }
    assert!(expected.len() > 200 && named > 20);
    assert!(t.is_lossless());
}

#[test]
fn special_tokens_have_their_ids_and_roles() {
    let t = released();
    let (bos, eos) = (t.id_of("[BOS]").unwrap(), t.id_of("[EOS]").unwrap());
    assert_eq!((t.special().bos, t.special().eos, t.special().pad), (Some(bos), Some(eos), t.id_of("[PAD]")));
    assert_eq!(eos, bos + 3);
    assert!(t.is_special(bos) && !t.is_special(0) && !t.is_special(bos + 1));
    assert_eq!((t.token_bytes(bos), t.token_bytes(bos + 1)), (b"[BOS]".as_slice(), b"".as_slice()));
    // Not called special in the file, and still no text may say it.
    let call = t.id_of("<|tool_call_begin|>").unwrap();
    assert!(t.is_special(call) && !t.encode("<|tool_call_begin|>").contains(&call));
    assert_eq!(t.encode_with_special("<|tool_call_begin|>"), [call]);
    assert_eq!(t.id_of(" zyxwv"), t.encode(" zyxwv").first().copied());
    assert_eq!(t.id_of("no such token"), None);
    assert_eq!(t.vocab_size() as u32, t.id_of("[PAD]").unwrap() + 1);
}

#[test]
fn a_saved_one_is_the_same_and_a_tokenizer_json_wins() {
    let t = released();
    let dir = tempfile::tempdir().unwrap();
    t.save(dir.path()).unwrap();
    assert!(!dir.path().join("tokenizer.json").exists());
    let again = Tokenizer::load(dir.path()).unwrap();
    assert_eq!((again.fingerprint(), again.encode("I'm 深度")), (t.fingerprint(), t.encode("I'm 深度")));
    let named = Tokenizer::load(&dir.path().join("tiktoken.model")).unwrap();
    assert_eq!(named.fingerprint(), t.fingerprint());
    let json = &*super::super::tests::TRAINED;
    json.save(dir.path()).unwrap();
    assert_eq!(Tokenizer::load(dir.path()).unwrap().fingerprint(), json.fingerprint());
}

#[test]
fn damaged_files_are_named() {
    let model = fs::read_to_string(folder().join("tiktoken.model")).unwrap();
    let config: Value = serde_json::from_slice(&fs::read(folder().join("tokenizer_config.json")).unwrap()).unwrap();
    let with = |key: &str, value: Value| {
        let mut config = config.clone();
        config[key] = value;
        config.to_string()
    };
    let error = |model: &str, config: Option<&str>| {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("tiktoken.model"), model).unwrap();
        if let Some(config) = config {
            fs::write(dir.path().join("tokenizer_config.json"), config).unwrap();
        }
        let error = Tokenizer::load(dir.path()).err().expect("accepted").to_string();
        assert!(error.contains("tiktoken.model"), "{error}");
        error
    };
    let good = config.to_string();
    for (line, part) in [
        ("IQ==", "line 490: must be a token in base64"),
        ("IQ== x", "line 490: the rank is not a whole number"),
        ("IQ== 4294967295", "line 490: the rank is too large"),
        ("I 900", "line 490: the token is not base64"),
        ("I*== 900", "line 490: the token is not base64"),
        (" 900", "line 490: the token is not base64"),
        ("IQ== 900", "line 490: the token is there twice"),
        ("IXh5eno= 3", "line 490: the rank is there twice"),
    ] {
        let text = error(&format!("{model}{line}\n"), Some(&good));
        assert!(text.contains(part), "{line}: {text}");
    }
    let first = model.split_once('\n').unwrap().1;
    assert!(error(first, Some(&good)).contains("has no token for byte 0"));
    assert!(error(&model, None).contains("tokenizer_config.json is missing"));
    assert!(error(&model, Some("{")).contains("is not JSON"));
    assert!(error(&model, Some(&with("tokenizer_class", json!("QWenTokenizer")))).contains("`tokenizer_class` \"QWen"));
    assert!(error(&model, Some(&with("bos_token", json!(7)))).contains("`bos_token`"));
    for (added, part) in [
        (json!([1]), "`added_tokens_decoder` that is not an object"),
        (json!({"7": {"content": "x"}}), "`added_tokens_decoder.7`, which is not an id of its own"),
        (json!({"x": {"content": "x"}}), "`added_tokens_decoder.x`, which is not an id"),
        (json!({"900": {"content": "x"}, "0900": {"content": "y"}}), "`added_tokens_decoder.0900`, which is not an id"),
        (json!({"900": {"content": 7}}), "`added_tokens_decoder.900` without text"),
    ] {
        let text = error(&model, Some(&with("added_tokens_decoder", added)));
        assert!(text.contains(part), "{text}");
    }
    assert!(error("version https://git-lfs.github.com/spec/v1\n", Some(&good)).contains("git lfs pull"));
}

/// The whole expression, look-ahead included, by the engine that the tiktoken library uses.
fn by_expression(text: &str) -> Vec<String> {
    use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, SplitDelimiterBehavior};
    let whole = EXPRESSION.join("|").replace(r"[\r\n]+|\s+", r"[\r\n]+|\s+(?!\S)|\s+");
    let pattern = SplitPattern::Regex(whole);
    let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).unwrap();
    let mut string = PreTokenizedString::from(text);
    split.pre_tokenize(&mut string).unwrap();
    string.get_splits(OffsetReferential::Original, OffsetType::Byte).iter().map(|s| s.0.to_owned()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn cuts_as_the_whole_expression_does(
        text in prop::collection::vec(
            prop_oneof![
                "[ \t\r\n]{1,4}", "[a-zA-Z']{1,5}", "[0-9\u{0663}\u{2167}\u{00bd}]{1,5}", "[-!\"#$%&'()*+,./:;<=>?@_`{|}~]{1,3}",
                "[\u{4e00}-\u{4e10}\u{3005}\u{3007}\u{3040}-\u{30ff}]{1,3}",
                "[\u{0300}-\u{0303}\u{200b}\u{00a0}\u{2028}\u{0085}\u{3000}\u{0001}\u{e000}]{1,2}", "\\PC{1,3}",
                Just("'Ve".to_owned()), Just("'\u{17f}".to_owned()), Just("\u{1c5}x".to_owned()),
            ],
            0..12,
        )
    ) {
        let text = text.concat();
        let mut pieces = Vec::new();
        Kimi::new().split(&text, |p| pieces.push(p.to_owned()));
        prop_assert_eq!(pieces, by_expression(&text));
    }

    #[test]
    fn any_text_comes_back(text in "\\PC{0,40}[ \n]{0,3}\\PC{0,10}") {
        let t = released();
        prop_assert_eq!(t.decode(&t.encode(&text)), text);
    }
}
