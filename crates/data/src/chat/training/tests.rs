//! Which messages are trained, what is refused, and the bytes of tokens.

use std::path::Path;

use proptest::prelude::*;

use super::{Learned, Turns};
use crate::chat::ChatTemplate;
use crate::chat::samples::{Sample, read_samples};
use crate::error::Result;
use crate::testing::tokenizer;
use crate::tokenizer::Tokenizer;

/// A template that ends turns with the tokenizer's own token, with and without marks.
const PLAIN: &str = "{% for m in messages %}{% if m.role == 'assistant' %}A:{{ m.content }}<|eos_token|>\n\
    {% else %}U:{{ m.content }}\n{% endif %}{% endfor %}{% if add_generation_prompt %}A:{% endif %}";
const MARKED: &str = "{% for m in messages %}{% if m.role == 'assistant' %}A:{% generation %}{{ m.content }}<|eos_token|>\
    {% endgeneration %}{{ '\n' }}{% else %}U:{{ m.content }}\n{% endif %}{% endfor %}";

fn learn(template: &str, line: &str) -> Result<Vec<Learned>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("chat.jsonl");
    std::fs::write(&path, format!("\n{line}\n")).unwrap();
    let mut samples: Vec<Sample> = Vec::new();
    read_samples(&path, |sample| {
        samples.push(sample);
        Ok(())
    })?;
    let (template, tokenizer) = (ChatTemplate::from_source(template, &[]).unwrap(), tokenizer());
    Turns { template: &template, tokenizer: &tokenizer, now: 0 }.learn(&path, &samples[0])
}

/// The trained stretches as text.
fn shown(learned: &Learned) -> Vec<String> {
    learned.trained.iter().map(|of| tokenizer().decode_with_special(&learned.ids[of.clone()])).collect()
}

const TWO: &str = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "(b)", "weight": 0},
    {"role": "user", "content": "c"}, {"role": "assistant", "content": "[d]"}, {"role": "user", "content": "e"}]}"#;

#[test]
fn messages_of_weight_0_are_read_and_not_trained() {
    let line = TWO.replace('\n', "");
    for template in [PLAIN, MARKED] {
        let both = learn(template, &line.replace(", \"weight\": 0", "")).unwrap();
        assert_eq!(both.len(), 1);
        assert_eq!(shown(&both[0]), ["(b)<|eos_token|>", "[d]<|eos_token|>"]);
        let one = learn(template, &line).unwrap();
        assert_eq!(shown(&one[0]), ["[d]<|eos_token|>"]);
        // The last trained token is the last one. What follows it has no effect.
        assert_eq!((&one[0].ids, one[0].targets()), (&both[0].ids, both[0].targets() - both[0].trained[0].len()));
        assert_eq!(tokenizer().decode_with_special(&one[0].ids), "U:a\nA:(b)<|eos_token|>\nU:c\nA:[d]<|eos_token|>");
    }
}

#[test]
fn what_cannot_be_learned_is_refused_by_line_and_message() {
    let line = &TWO.replace('\n', "");
    let marks_all =
        "{% generation %}{% for m in messages %}{{ m.content }}{% endfor %}<|eos_token|>{% endgeneration %}";
    let bare = "{% for m in messages %}{{ m.content }}{% endfor %}";
    let [prompt, marks_none] = ["{% if add_generation_prompt %}x{% endif %}", "{% generation %}{% endgeneration %}"];
    for (template, key, word) in [
        (bare, "messages[3]", "would not learn to stop"),
        (&format!("{bare}{prompt}"), "messages[3]", "prompt that it never"),
        ("{% for m in messages %}{{ m.x.y }}{% endfor %}", "messages[3]", "undefined"),
        (&format!("{marks_none}{bare}"), "messages", "1 stretches of text for 2"),
        (marks_all, "messages", "`weight` 0"),
    ] {
        let error = learn(template, line).unwrap_err().to_string();
        assert!(error.contains("chat.jsonl:2: ") && error.contains(key) && error.contains(word), "{template}: {error}");
    }
    let one = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
    let error = learn("{% generation %}{% endgeneration %}{{ messages[0].content }}", one).unwrap_err().to_string();
    assert!(error.contains("nothing of it as the assistant's"), "{error}");
    let thought = one.replace("\"b\"", "\"b\", \"reasoning_content\": \"deep\"");
    let error = learn(PLAIN, &thought).unwrap_err().to_string();
    assert!(error.contains("messages[1]") && error.contains("leaves out its thought"), "{error}");
    let first = r#"{"messages": [{"role": "assistant", "content": "b"}]}"#;
    let error = learn("{{ messages[0].content.x.y }}", first).unwrap_err().to_string();
    assert!(error.contains("messages[0]") && error.contains("comes first"), "{error}");
}

#[test]
#[allow(clippy::single_range_in_vec_init)] // One stretch is meant.
fn a_cut_sequence_ends_with_its_last_trained_token() {
    let whole = Learned { ids: (0..10).collect(), trained: vec![0..2, 4..6, 8..10] };
    assert_eq!(whole.targets(), 5);
    for (len, ids, trained, targets) in
        [(9, 9, vec![0..2, 4..6, 8..9], 4), (8, 6, vec![0..2, 4..6], 3), (5, 5, vec![0..2, 4..5], 2), (0, 0, vec![], 0)]
    {
        let mut cut = whole.clone();
        cut.cut(len);
        assert_eq!((cut.ids.len(), &cut.trained, cut.targets()), (ids, &trained, targets), "{len}");
    }
}

/// Ids are those of the prompt's encoder. The bytes of tokens follow one another and cover the text.
fn check_places(tokenizer: &Tokenizer, text: &str) {
    let places = tokenizer.encode_with_places(text);
    let ids: Vec<u32> = places.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, tokenizer.encode_with_special(text));
    let mut end = 0;
    for (_, bytes) in &places {
        assert!(bytes.start <= end && bytes.end >= end, "{text:?}: {places:?}");
        end = bytes.end;
    }
    assert_eq!(end, text.len());
    for (place, id) in tokenizer.special_in(text) {
        assert!(places.contains(&(id, place.clone())), "{text:?}: {place:?}");
        assert_eq!(text.as_bytes()[place], *tokenizer.token_bytes(id));
    }
}

proptest! {
    #[test]
    fn tokens_know_their_bytes(parts in proptest::collection::vec("<\\|eos_token\\|>|<EOS>| |\n+|[a-e]{1,4}|\\PC{0,4}", 0..12)) {
        let text = parts.concat();
        check_places(&tokenizer(), &text);
        // One that the `tokenizers` library encodes.
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/masks/tokenizer.json");
        static LIBRARY: std::sync::OnceLock<Tokenizer> = std::sync::OnceLock::new();
        let library = LIBRARY.get_or_init(|| Tokenizer::load(&file).unwrap());
        prop_assert!(!library.is_lossless());
        check_places(library, &text);
    }
}

#[test]
fn a_token_that_straddles_the_start_of_an_answer_is_trained() {
    let template = "{{ '(' + 'retu' }}{% generation %}rn<|eos_token|>{% endgeneration %}";
    let learned = learn(template, r#"{"messages": [{"role": "assistant", "content": "b"}]}"#).unwrap();
    assert_eq!(shown(&learned[0]), ["turn<|eos_token|>"]);
}

#[test]
fn what_the_template_leaves_out_is_an_error() {
    let template = "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|eos_token|>\
                    {% endgeneration %}{% elif m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}";
    let line = |role: &str| {
        format!(r#"{{"messages": [{{"role": "{role}", "content": "a"}}, {{"role": "assistant", "content": "b"}}]}}"#)
    };
    // Without marks, answers are found by prefixes.
    let unmarked = template.replace("{% generation %}", "").replace("{% endgeneration %}", "");
    for template in [template, &unmarked] {
        assert!(learn(template, &line("user")).is_ok());
        let error = learn(template, &line("system")).unwrap_err().to_string();
        assert!(error.contains(":2:") && error.contains("no place for `messages[0]`"), "{error}");
    }
}
