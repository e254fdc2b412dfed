//! Checks whether a `tokenizer.json` describes the tokenizer that our own code implements: byte-level BPE after the
//! three passes of [`pretoken`](super::pretoken).
//!
//! Meanings are compared, not spellings. The released files contain real line breaks in an expression, where others
//! have `\r\n`. A field may be absent, null or at its default. What the `tokenizers` library reads as equal counts as
//! equal.

use regex_syntax::hir::Hir;
use serde_json::Value;

use super::pretoken::{CJK, NUMBERS, WORDS};

/// Whether the whole file is of our kind, except for its vocabulary and its added tokens.
pub(super) fn is_ours(json: &Value) -> bool {
    is_plain_bpe(&json["model"]) && has_no_normalizer(&json["normalizer"]) && cuts_like_ours(&json["pre_tokenizer"])
}

/// Whether the model is BPE without anything that changes how merges are applied. The vocabulary has all bytes (the
/// code that reads the merges checks this), so the handling of unknown characters does not matter.
fn is_plain_bpe(model: &Value) -> bool {
    // A model without a type is BPE if it has merges: no other model has them.
    let is_bpe = model["type"] == "BPE" || (model["type"].is_null() && model["merges"].is_array());
    let no_dropout = model["dropout"].is_null() || model["dropout"].as_f64() == Some(0.0);
    let empty = |key: &str| model[key].is_null() || model[key] == "";
    let off = |key: &str| model[key].is_null() || model[key] == Value::Bool(false);
    is_bpe && no_dropout && empty("continuing_subword_prefix") && empty("end_of_word_suffix") && off("ignore_merges")
}

/// True for no normaliser, and for sequences of none.
fn has_no_normalizer(normalizer: &Value) -> bool {
    normalizer.is_null()
        || normalizer["normalizers"].as_array().is_some_and(|inner| inner.iter().all(has_no_normalizer))
}

/// The passes of a pre-tokenizer. Nested sequences are flattened.
fn passes<'j>(pre_tokenizer: &'j Value, out: &mut Vec<&'j Value>) {
    match pre_tokenizer["pretokenizers"].as_array() {
        Some(inner) => inner.iter().for_each(|p| passes(p, out)),
        None => out.push(pre_tokenizer),
    }
}

/// Whether text is cut by our three expressions and then written as bytes, with nothing added.
fn cuts_like_ours(pre_tokenizer: &Value) -> bool {
    let mut all = Vec::new();
    passes(pre_tokenizer, &mut all);
    let [a, b, c, last] = all.as_slice() else { return false };
    let is_split = |pass: &Value, expression: &str| {
        pass["type"] == "Split"
            && pass["behavior"] == "Isolated"
            && pass["invert"] == Value::Bool(false)
            && pass["pattern"]["Regex"].as_str().is_some_and(|p| same_meaning(p, expression))
    };
    let is_bytes = (last["type"] == "ByteLevel" || last["type"].is_null())
        && last["add_prefix_space"] == Value::Bool(false)
        && last["use_regex"] == Value::Bool(false);
    is_bytes && is_split(a, NUMBERS) && is_split(b, CJK) && is_split(c, WORDS)
}

/// Whether two regular expressions match the same text, with each alternative at the same position.
fn same_meaning(a: &str, b: &str) -> bool {
    a == b || parsed(a).is_some_and(|a| parsed(b) == Some(a))
}

/// The meaning of an expression. The parser does not support look-ahead, so a named group stands for ours. Any other
/// look-ahead makes the expression foreign.
fn parsed(expression: &str) -> Option<Hir> {
    let expression = expression.replace(r"(?!\S)", "(?<no_visible_character_follows>)");
    regex_syntax::parse(&expression).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn ours() -> Value {
        let split =
            |p: &str| json!({"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": false});
        json!({
            "normalizer": null,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                split(NUMBERS), split(CJK), split(WORDS),
                {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
            ]},
            "model": {"type": "BPE", "merges": []},
        })
    }

    #[test]
    fn the_same_meaning_in_other_words_is_recognised() {
        assert!(is_ours(&ours()));
        let expression = |place: usize, text: &str| {
            let mut json = ours();
            json["pre_tokenizer"]["pretokenizers"][place]["pattern"]["Regex"] = text.into();
            is_ours(&json)
        };
        // As in the released files, and as other tools might write it.
        let real = WORDS.replace(r"\r", "\r").replace(r"\n", "\n");
        assert!(real != WORDS && expression(2, &real));
        assert!(
            expression(2, &WORDS.replace(r"\r\n", r"\x0D\x0A")) && expression(2, &WORDS.replace(r"[\r\n]", r"[\n\r]"))
        );
        assert!(expression(0, r"\p{N}{1,3}") && expression(0, r"\p{Number}{1,3}"));
        assert!(expression(1, r"[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"));
        // Expressions with other meanings.
        assert!(!expression(0, r"\p{N}{1,2}") && !expression(0, r"\p{Nd}{1,3}") && !expression(0, "("));
        assert!(!expression(2, &WORDS.replace(r"(?!\S)", r"(?!\s)")) && !expression(2, &WORDS.replace(r"(?!\S)", "")));
        assert!(!expression(2, &WORDS.replace(r"\s+(?!\S)|\s+", r"\s+|\s+(?!\S)")));
    }

    #[test]
    fn absent_null_and_default_fields_are_the_same() {
        let with = |path: &str, value: Value| {
            let mut json = ours();
            *json.pointer_mut(path).unwrap() = value;
            is_ours(&json)
        };
        let model = |key: &str, value: Value| with("/model", json!({"type": "BPE", "merges": [], key: value}));
        for (key, value) in [
            ("dropout", json!(null)),
            ("dropout", json!(0.0)),
            ("dropout", json!(0)),
            ("unk_token", json!(null)),
            ("unk_token", json!("<unk>")),
            ("continuing_subword_prefix", json!(null)),
            ("continuing_subword_prefix", json!("")),
            ("end_of_word_suffix", json!("")),
            ("fuse_unk", json!(true)),
            ("byte_fallback", json!(null)),
            ("byte_fallback", json!(true)),
            ("ignore_merges", json!(null)),
            ("ignore_merges", json!(false)),
        ] {
            assert!(model(key, value.clone()), "{key}: {value}");
        }
        for (key, value) in [
            ("dropout", json!(0.1)),
            ("continuing_subword_prefix", json!("##")),
            ("end_of_word_suffix", json!("</w>")),
            ("ignore_merges", json!(true)),
        ] {
            assert!(!model(key, value.clone()), "{key}: {value}");
        }
        assert!(with("/model", json!({"merges": []})) && !with("/model", json!({"type": "WordPiece"})));
        assert!(!with("/model", json!({"type": "Unigram", "merges": []})) && !with("/model", json!({})));
        let nothing = json!({"type": "Sequence", "normalizers": []});
        assert!(with("/normalizer", nothing.clone()));
        assert!(with("/normalizer", json!({"type": "Sequence", "normalizers": [nothing]})));
        assert!(!with("/normalizer", json!({"type": "NFC"})));
        assert!(!with("/normalizer", json!({"type": "Sequence", "normalizers": [{"type": "NFC"}]})));
        let mut absent = ours();
        absent.as_object_mut().unwrap().remove("normalizer");
        assert!(is_ours(&absent));
        let bytes = "/pre_tokenizer/pretokenizers/3";
        assert!(!with(bytes, json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true})));
        assert!(!with(
            bytes,
            json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": false})
        ));
        assert!(with(
            bytes,
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false})
        ));
        assert!(!with("/pre_tokenizer/pretokenizers/0/invert", json!(true)));
        assert!(!with("/pre_tokenizer/pretokenizers/0/behavior", json!("Removed")));
        assert!(!with("/pre_tokenizer", json!(null)));
        // A sequence inside the sequence.
        let mut nested = ours();
        nested["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [nested["pre_tokenizer"].take()]});
        assert!(is_ours(&nested));
    }
}
