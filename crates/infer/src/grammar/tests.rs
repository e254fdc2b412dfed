//! Random logits under a grammar give text of the grammar. Hostile grammars do no harm.

use super::*;
use crate::generate::Stop;
use crate::sample::{SampleParams, Sampler};
use hadal_base::{Purpose, Rng};
use hadal_data::Document;
use hadal_data::tokenizer::TrainOptions;
use serde_json::{Value, json};
use std::sync::LazyLock;

/// Tokens of the model: some more than the tokenizer has.
const VOCABULARY: usize = 416;

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
    let text = r#"{"name": "Ada Lovelace", "born": 1815, "tags": ["true", "false", null], "size": -2.5e3},  { "é": [[1, 2], []] }"#;
    let document = Document { id: "a".into(), group: "a".into(), text: text.repeat(3) };
    Tokenizer::train(&[document], &TrainOptions { vocab_size: 400, ..TrainOptions::default() }).unwrap().0
});

static GRAMMARS: LazyLock<Grammars> =
    LazyLock::new(|| Grammars::new(&TOKENIZER, VOCABULARY, &[TOKENIZER.eos().unwrap()]).unwrap());

/// The text of at most `most` tokens that random logits give, and why it ended.
fn draw(constraint: &Constraint, seed: u64, most: usize) -> (String, Stop) {
    let (ids, stop) = draw_with(VOCABULARY, constraint, seed, most);
    (TOKENIZER.decode(&ids), stop)
}

/// At most `most` tokens that random logits give, and why they ended.
pub(super) fn draw_with(vocabulary: usize, constraint: &Constraint, seed: u64, most: usize) -> (Vec<u32>, Stop) {
    let mut follower = constraint.follow();
    let mut sampler = Sampler::new(SampleParams { temperature: 1.0, seed, ..SampleParams::default() });
    let mut ids = Vec::new();
    while ids.len() < most {
        let rng = Rng::new(seed, Purpose::Test, ids.len() as u64);
        let mut logits: Vec<f32> = (0..vocabulary as u64).map(|i| 2.0 * rng.normal(i) as f32).collect();
        if let Err(stop) = follower.mask(&mut logits) {
            return (ids, stop);
        }
        let token = sampler.next(&logits, ids.len());
        if follower.is_end(token) {
            return (ids, Stop::Token);
        }
        ids.push(token);
        if let Some(stop) = follower.advance(token) {
            return (ids, stop);
        }
    }
    (ids, Stop::Length)
}

/// Whether a schema of these tests allows a value. It knows the keywords that they have, and no others.
pub(super) fn allows(schema: &Value, value: &Value) -> bool {
    let Value::Object(keys) = schema else { panic!("{schema}") };
    let number = |key: &Value| key.as_f64().expect("a number");
    let count = |key: &Value, n: usize| (key.as_u64().expect("a count") as usize, n);
    keys.iter().all(|(key, with)| match key.as_str() {
        "type" => match with.as_str().expect("a type") {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            "boolean" => value.is_boolean(),
            "null" => value.is_null(),
            other => panic!("type {other}"),
        },
        "properties" => value.as_object().is_none_or(|object| {
            with.as_object().expect("properties").iter().all(|(name, s)| object.get(name).is_none_or(|v| allows(s, v)))
        }),
        "required" => value.as_object().is_none_or(|object| {
            with.as_array().expect("names").iter().all(|name| object.contains_key(name.as_str().expect("a name")))
        }),
        "additionalProperties" => value.as_object().is_none_or(|object| {
            assert_eq!(*with, json!(false));
            object.keys().all(|name| schema["properties"].get(name).is_some())
        }),
        "items" => value.as_array().is_none_or(|all| all.iter().all(|v| allows(with, v))),
        "minItems" => value.as_array().is_none_or(|all| count(with, all.len()).0 <= all.len()),
        "maxItems" => value.as_array().is_none_or(|all| count(with, all.len()).0 >= all.len()),
        "maxLength" => value.as_str().is_none_or(|s| with.as_u64().expect("a length") >= s.chars().count() as u64),
        "minimum" => value.as_f64().is_none_or(|v| v >= number(with)),
        "maximum" => value.as_f64().is_none_or(|v| v <= number(with)),
        "minLength" => value.as_str().is_none_or(|s| with.as_u64().expect("a length") <= s.chars().count() as u64),
        "title" | "description" => true,
        "enum" => with.as_array().expect("values").contains(value),
        "anyOf" => with.as_array().expect("schemas").iter().any(|s| allows(s, value)),
        other => panic!("keyword {other}"),
    })
}

#[test]
fn random_logits_give_json_that_the_schema_allows() {
    let person = json!({
        "type": "object", "additionalProperties": false, "required": ["name", "age"],
        "properties": {
            "name": {"type": "string", "maxLength": 8},
            "age": {"type": "integer", "minimum": 0, "maximum": 130},
            "tags": {"type": "array", "items": {"enum": ["red", "green", 7, null]}, "minItems": 1, "maxItems": 3},
        },
    });
    let mixed = json!({
        "type": "array", "maxItems": 4,
        "items": {"anyOf": [{"type": "boolean"}, {"type": "null"}, {"type": "integer", "minimum": -20, "maximum": -3}, person]},
    });
    for schema in [person, mixed] {
        let constraint = GRAMMARS.constraint(&Grammar::JsonSchema(schema.to_string())).unwrap();
        for seed in 0..60 {
            let (text, stop) = draw(&constraint, seed, 3000);
            assert!(matches!(stop, Stop::Token | Stop::Grammar), "{stop:?}: {text}");
            let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
            assert!(allows(&schema, &value), "{schema} does not allow {text}");
        }
    }
}

#[test]
fn a_model_that_likes_white_space_ends_its_json_all_the_same() {
    let schema = json!({"type": "object", "properties": {"a": {"enum": [[1], [2]]}}, "required": ["a"],
        "additionalProperties": false});
    let constraint = GRAMMARS.constraint(&Grammar::JsonSchema(schema.to_string())).unwrap();
    let mut follower = constraint.follow();
    let mut text = String::new();
    let is_space = |id: u32| TOKENIZER.decode(&[id]).bytes().all(|b| b == b' ');
    loop {
        let mut logits: Vec<f32> = (0..VOCABULARY as u32).map(|id| f32::from(u8::from(is_space(id)))).collect();
        follower.mask(&mut logits).unwrap();
        let token = (0..VOCABULARY as u32).max_by(|a, b| logits[*a as usize].total_cmp(&logits[*b as usize])).unwrap();
        if follower.is_end(token) {
            break;
        }
        text += &TOKENIZER.decode(&[token]);
        assert!(text.len() < 2000, "{text}");
        if follower.advance(token).is_some() {
            break;
        }
    }
    let longest = text.split(|c| c != ' ').map(str::len).max();
    assert_eq!(longest, Some(MOST_SPACE), "{text}");
    assert!(serde_json::from_str::<Value>(&text).unwrap()["a"].is_array(), "{text}");
}

#[test]
fn a_model_may_choose_to_think_before_the_grammar_begins() {
    let (open, close) = (TOKENIZER.id_of("<|fim_begin|>").unwrap(), TOKENIZER.id_of("<|fim_end|>").unwrap());
    let constraint = GRAMMARS.constraint(&Grammar::Regex("yes|no".into())).unwrap().unless_begun(open, &[close]);
    let (mut thought, mut not) = (0, 0);
    for seed in 0..60 {
        let (ids, stop) = draw_with(VOCABULARY, &constraint, seed, 3000);
        let end = ids.iter().position(|id| *id == close).filter(|_| ids[0] == open);
        if end.is_some() {
            thought += 1;
        } else {
            not += 1;
            // The token that opens thoughts can only be the first one.
            assert!(stop == Stop::Length || !ids.contains(&open));
        }
        let text = TOKENIZER.decode(&ids[end.map_or(0, |end| end + 1)..]);
        assert!(stop == Stop::Length || text == "yes" || text == "no", "{stop:?} {text}");
    }
    assert!(thought > 3 && not > 3, "{thought} {not}");
}

#[test]
fn random_logits_give_text_that_the_expression_matches() {
    for source in [r"[a-f]{3}(-\d{2,4})?", r"(true|false|null)( (true|false)){0,2}", r"é+[^a-z]{1,3}.", r"\{/\\}"] {
        let constraint = GRAMMARS.constraint(&Grammar::Regex(source.into())).unwrap();
        let whole = regex::Regex::new(&format!("^(?:{source})$")).unwrap();
        for seed in 0..60 {
            let (text, stop) = draw(&constraint, seed, 3000);
            assert!(matches!(stop, Stop::Token | Stop::Grammar), "{stop:?}: {text}");
            assert!(whole.is_match(&text), "{source} does not match {text:?}");
        }
    }
}

#[test]
fn a_context_free_grammar_nests_as_deep_as_it_says() {
    let lark = "start: list\nlist: \"[\" (item (\",\" item)*)? \"]\"\nitem: list | \"1\"\n";
    let constraint = GRAMMARS.constraint(&Grammar::Lark(lark.into())).unwrap();
    let ended = (0..60).filter(|seed| {
        let (text, stop) = draw(&constraint, *seed, 3000);
        let mut open = 0i64;
        for c in text.chars() {
            open += i64::from(c == '[') - i64::from(c == ']');
            assert!("[],1".contains(c) && open >= 0, "{text}");
        }
        assert!(stop == Stop::Length || open == 0, "{stop:?}: {text}");
        stop != Stop::Length
    });
    assert!(ended.count() > 10);
}

#[test]
fn a_grammar_waits_for_the_tokens_it_comes_after() {
    let constraint = GRAMMARS.constraint(&Grammar::Regex("x".into())).unwrap().after(&[70, 71, 70]);
    let mut follower = constraint.follow();
    let free = |follower: &mut Follower| {
        let mut logits = vec![0.0; VOCABULARY];
        follower.mask(&mut logits).unwrap();
        logits.iter().filter(|l| **l == 0.0).count()
    };
    for token in [70, 71, 70 + 9, 70, 70, 71, 71, 70, 71] {
        assert_eq!((free(&mut follower), follower.is_end(TOKENIZER.eos().unwrap())), (VOCABULARY, false));
        assert_eq!(follower.advance(token), None);
    }
    assert_eq!((free(&mut follower), follower.advance(70)), (VOCABULARY, None));
    // One token says "x".
    assert_eq!(free(&mut follower), 1);
    assert!(follower.is_end(TOKENIZER.eos().unwrap()));
    assert_eq!(follower.advance(TOKENIZER.encode("x")[0]), Some(Stop::Grammar));
    // Nothing to wait for.
    let at_once = GRAMMARS.constraint(&Grammar::Regex("x".into())).unwrap().after(&[]);
    assert_eq!(free(&mut at_once.follow()), 1);
}

#[test]
fn a_grammar_that_allows_no_token_is_stuck() {
    let constraint = GRAMMARS.constraint(&Grammar::Regex("x".into())).unwrap();
    let mut logits = vec![0.0; VOCABULARY];
    logits[TOKENIZER.encode("x")[0] as usize] = f32::NEG_INFINITY;
    assert_eq!(constraint.follow().mask(&mut logits), Err(Stop::Stuck));
    assert_eq!(constraint.follow().advance(TOKENIZER.encode("y")[0]), Some(Stop::Stuck));
    assert_eq!(constraint.follow().advance(VOCABULARY as u32 + 1), Some(Stop::Stuck));
    // A vocabulary without the bytes that are wanted.
    let few = Grammars::new(&TOKENIZER, 40, &[1, 1 << 20]).unwrap();
    let constraint = few.constraint(&Grammar::Regex("é".into())).unwrap();
    assert_eq!(constraint.follow().mask(&mut [0.0; 40]), Err(Stop::Stuck));
}

#[test]
fn mistakes_are_named() {
    let error = |grammar: Grammar| GRAMMARS.constraint(&grammar).unwrap_err().to_string();
    let contains = |error: String, what: &str| assert!(error.contains(what), "{error:?} does not say {what:?}");
    let schema = |text: &str| error(Grammar::JsonSchema(text.into()));
    contains(schema("{"), "the JSON schema cannot be used: EOF");
    contains(schema(r#"{"type": "strange"}"#), "strange");
    contains(schema(r#"{"not": {"type": "string"}}"#), "not");
    contains(schema(r##"{"$ref": "#/$defs/gone"}"##), "gone");
    let regex = |text: &str| error(Grammar::Regex(text.into()));
    contains(regex("a(b"), "the regular expression cannot be used");
    let lark = |text: &str| error(Grammar::Lark(text.into()));
    contains(lark("start: missing"), "missing");
    contains(lark(""), "the grammar cannot be used");
    // A message does not repeat the whole grammar.
    assert!(regex(&format!("a{}", "*".repeat(10_000))).len() < 2 * LONGEST_MESSAGE);
}

/// Each of these would take minutes or gigabytes, or overflow the stack, if nothing was limited. Those that are
/// accepted end soon, one way or another.
#[test]
fn hostile_grammars_do_no_harm() {
    let numbered = |n: usize, each: &dyn Fn(usize) -> String| (0..n).map(each).collect::<Vec<_>>();
    let defs = |last: usize, each: &dyn Fn(usize) -> String| {
        let defs = numbered(last, &|i| format!(r#""d{i}": {}"#, each(i + 1))).join(",");
        format!(r##"{{"$ref": "#/$defs/d0", "$defs": {{{defs}, "d{last}": {{"type": "null"}}}}}}"##)
    };
    let reference = |i: usize| format!(r##"{{"$ref": "#/$defs/d{i}"}}"##);
    let objects =
        numbered(100, &|i| format!(r#"{{"type": "object", "properties": {{"k{i}": {{"type": "integer"}}}}}}"#));
    let any = format!(r#"{{"anyOf": [{}]}}"#, objects.join(","));
    let lark = |rules: Vec<String>, end: &str| Grammar::Lark(format!("start: r0\n{}{end}", rules.concat()));
    let harmful = [
        Grammar::Regex("[a-z]*[0-9]*".repeat(1300)),
        Grammar::Regex("([a-z]*[0-9]*){1000}".repeat(100)),
        Grammar::Regex("((((a{1,1000}){1,1000}){1,1000}){1,1000}){1,1000}b".into()),
        Grammar::Regex(format!("(a|b)*a{}", "(a|b){40}".repeat(200))),
        Grammar::Regex("(".repeat(16_000)),
        Grammar::Regex("a".repeat(1 << 20)),
        lark(numbered(4000, &|i| format!("r{i}: r{}\n", i + 1)), "r4000: \"a\"\n"),
        lark(numbered(40, &|i| format!("r{i}: r{0} r{0}\n", i + 1)), "r40: \"a\"\n"),
        lark(
            vec!["r0: R0\n".into()],
            &(numbered(40, &|i| format!("R{i}: R{0} R{0}\n", i + 1)).concat() + "R40: \"a\"\n"),
        ),
        lark(vec![format!("r0: {}\"a\"\n", "\"a\"? ".repeat(10_000))], ""),
        lark(vec!["r0: x{1000000}\nx: \"x\" y{100000}\ny: \"y\"\n".into()], ""),
        Grammar::JsonSchema("[".repeat(10_000)),
        Grammar::JsonSchema(defs(4000, &reference)),
        Grammar::JsonSchema(defs(30, &|i| format!(r#"{{"allOf": [{0}, {0}]}}"#, reference(i)))),
        Grammar::JsonSchema(defs(30, &|i| {
            format!(r#"{{"anyOf": [{0}, {{"type": "array", "items": {0}}}]}}"#, reference(i))
        })),
        Grammar::JsonSchema(format!(r#"{{"allOf": [{any}, {any}, {any}]}}"#)),
        Grammar::JsonSchema(r##"{"$ref": "#"}"##.into()),
        Grammar::JsonSchema(r#"{"type": "string", "minLength": 1000000000, "maxLength": 2000000000}"#.into()),
        Grammar::JsonSchema(r#"{"type": "array", "items": {"type": "null"}, "minItems": 100000000}"#.into()),
        Grammar::JsonSchema(r#"{"type": "integer", "multipleOf": 999999937, "minimum": 5}"#.into()),
        Grammar::JsonSchema(format!(r#"{{"type": "string", "pattern": "{}"}}"#, "[a-z]*[0-9]*".repeat(20_000))),
    ];
    for grammar in &harmful {
        match GRAMMARS.constraint(grammar) {
            Ok(constraint) => drop(draw(&constraint, 1, 100)),
            Err(error) => assert!(error.to_string().len() < 2 * LONGEST_MESSAGE, "{error}"),
        }
    }
}

#[test]
fn constraints_can_go_to_other_threads() {
    fn can_go<T: Send + Sync>(_: Option<T>) {}
    can_go(None::<Constraint>);
    can_go(None::<Grammars>);
    can_go(None::<crate::Request>);
}
