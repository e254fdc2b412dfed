//! Random logits under the grammar of a family's calls give calls that the family's parser reads back, with arguments
//! that the tool's schema allows.

use super::tests::{allows, draw_with};
use super::*;
use crate::generate::Stop;
use hadal_data::chat::{Delta, OutputParser, Syntax};
use hadal_data::tokenizer::TrainOptions;
use hadal_data::{Document, Tokenizer};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Names of special tokens.
const SPECIAL: [&str; 15] = [
    "<\u{ff5c}tool\u{2581}calls\u{2581}begin\u{ff5c}>",
    "<\u{ff5c}tool\u{2581}call\u{2581}begin\u{ff5c}>",
    "<\u{ff5c}tool\u{2581}sep\u{ff5c}>",
    "<\u{ff5c}tool\u{2581}call\u{2581}end\u{ff5c}>",
    "<\u{ff5c}tool\u{2581}calls\u{2581}end\u{ff5c}>",
    "<|tool_calls_section_begin|>",
    "<|tool_call_begin|>",
    "<|tool_call_argument_begin|>",
    "<|tool_call_end|>",
    "<|tool_calls_section_end|>",
    "<|role_sep|>",
    "<|message_sep|>",
    "<|function_call|>",
    "<think>",
    "</think>",
];
/// Names of tokens that Qwen and GLM have as ordinary text.
const PLAIN: [&str; 6] = ["<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"];

/// A tokenizer that has these tokens as special ones, and as others.
fn tokenizer(special: &[&str], plain: &[&str]) -> Tokenizer {
    let text = r#"{"name": "find", "arguments": {"q": "Ada", "n": 1815, "deep": [true, null]}} functions.find_all:0 "#;
    let document = Document { id: "a".into(), group: "a".into(), text: text.repeat(3) };
    let trained =
        Tokenizer::train(&[document], &TrainOptions { vocab_size: 380, ..TrainOptions::default() }).unwrap().0;
    let folder = tempfile::tempdir().unwrap();
    trained.save(folder.path()).unwrap();
    let path = folder.path().join("tokenizer.json");
    let mut file: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let more = special.iter().map(|name| (name, true)).chain(plain.iter().map(|name| (name, false)));
    for (id, (name, special)) in (trained.vocab_size()..).zip(more) {
        file["added_tokens"].as_array_mut().unwrap().push(json!({
            "id": id, "content": name, "special": special, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false,
        }));
    }
    std::fs::write(&path, file.to_string()).unwrap();
    Tokenizer::load(folder.path()).unwrap()
}

fn tools() -> Vec<Value> {
    let one = |name: &str, parameters: Value| json!({"type": "function", "function": {"name": name, "parameters": parameters}});
    vec![
        one(
            "find",
            json!({
                "type": "object", "additionalProperties": false, "required": ["q", "kind"], "description": "Finds.",
                "properties": {
                    "q": {"type": "string", "minLength": 1, "maxLength": 6, "description": "what"},
                    "kind": {"enum": ["near", "far away", 3]},
                    "n": {"type": "integer", "minimum": -3, "maximum": 120, "title": "count"},
                    "deep": {"type": "array", "maxItems": 2, "items": {"type": "boolean"}},
                    "empty": {"type": "string", "maxLength": 0},
                    "either": {"anyOf": [{"type": "string", "maxLength": 4}, {"type": "null"}, {"type": "boolean"}]},
                },
            }),
        ),
        one(
            "find_all",
            json!({"type": "object", "properties": {"title": {"type": "string", "maxLength": 4}}, "required": ["title"], "additionalProperties": false}),
        ),
        json!({"type": "function", "function": {"name": "stop"}}),
    ]
}

/// What a parser makes of a text: content, and the calls' names and arguments.
fn read(syntax: Syntax, tools: &[Value], text: &str) -> (String, Vec<(String, String)>) {
    let tools: Vec<_> = tools.iter().map(|tool| serde_json::from_value(tool.clone()).unwrap()).collect();
    let mut parser = OutputParser::new(syntax, "", &tools);
    let mut deltas = parser.push(text);
    deltas.extend(parser.finish());
    let (mut content, mut calls) = (String::new(), Vec::new());
    for delta in deltas {
        match delta {
            Delta::Reasoning(text) | Delta::Content(text) => content += &text,
            Delta::Call { name, .. } => calls.push((name, String::new())),
            Delta::Arguments { index, text } => calls[index].1 += &text,
        }
    }
    (content, calls)
}

#[test]
fn the_parser_reads_back_what_the_grammar_allows() {
    let tools = tools();
    let schemas: BTreeMap<&str, &Value> = tools
        .iter()
        .map(|tool| (tool["function"]["name"].as_str().unwrap(), &tool["function"]["parameters"]))
        .collect();
    let none = json!({"type": "object", "additionalProperties": false});
    // Marks are special tokens, ordinary ones, or spelled in pieces.
    let all: Vec<&str> = SPECIAL.iter().chain(&PLAIN).copied().collect();
    for tokenizer in [tokenizer(&SPECIAL, &PLAIN), tokenizer(&all, &[]), tokenizer(&[], &[])] {
        let vocabulary = tokenizer.vocab_size() + 5;
        let grammars = Grammars::new(&tokenizer, vocabulary, &[tokenizer.eos().unwrap()]).unwrap();
        for name in Syntax::names() {
            let syntax = Syntax::named(name).unwrap();
            let Some(calls) = syntax.calls else { continue };
            for several in [true, false] {
                let grammar = calls.grammar(&tools, several, &tokenizer).unwrap();
                let constraint = grammars
                    .constraint(&Grammar::Lark(grammar.clone()))
                    .unwrap_or_else(|e| panic!("{name}: {e}\n{grammar}"));
                let (mut ended, mut most) = (0, 0);
                for seed in 0..24 {
                    let (ids, stop) = draw_with(vocabulary, &constraint, seed, 1500);
                    if stop == Stop::Length {
                        continue;
                    }
                    assert!(matches!(stop, Stop::Token | Stop::Grammar), "{stop:?}");
                    ended += 1;
                    let text = tokenizer.decode_with_special(&ids);
                    let (content, found) = read(syntax, &tools, &text);
                    assert_eq!(content, "", "{name}: {text}");
                    assert!(!found.is_empty() && (several || found.len() == 1), "{name}: {text}");
                    most = most.max(found.len());
                    for (tool, arguments) in found {
                        let value: Value = serde_json::from_str(&arguments)
                            .unwrap_or_else(|e| panic!("{name}: {e}: {arguments} in {text}"));
                        let schema = schemas[tool.as_str()];
                        let schema = if schema.is_null() { &none } else { schema };
                        assert!(value.is_object() && allows(schema, &value), "{name}: {arguments} in {text}");
                    }
                }
                assert!(ended > 8, "{name}: {ended}");
                assert!(!several || most > 1 || name == "gigachat-3", "{name}: {most}");
            }
        }
    }
}

#[test]
fn tools_that_cannot_be_forced_are_named() {
    let tokenizer = tokenizer(&[], &[]);
    let grammar = |name: &str, tools: Value| {
        let tools: Vec<Value> = serde_json::from_value(tools).unwrap();
        let calls = Syntax::named(name).unwrap().calls.unwrap();
        calls.grammar(&tools, true, &tokenizer).unwrap_err().to_string()
    };
    let tool = |schema: Value| json!([{"type": "function", "function": {"name": "f", "parameters": schema}}]);
    assert!(grammar("hermes", json!([])).contains("at least one"));
    assert!(grammar("hermes", json!([{"function": {"name": "two words"}}])).contains("two words"));
    let pattern = json!({"type": "object", "properties": {"key": {"type": "string", "pattern": "a+"}}});
    assert!(grammar("glm-4", tool(pattern)).contains("`key` has a `pattern`"));
    let required = json!({"type": "object", "required": ["key"]});
    assert!(grammar("glm-4", tool(required)).contains("requires `key`"));
    let round = json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}});
    assert!(grammar("glm-4", tool(round)).contains("references"));
    let endless = json!({"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}]});
    let endless = json!({"type": "object", "properties": {"key": endless}, "$defs": {"a": endless}});
    assert!(grammar("glm-4", tool(endless)).contains("`key` may have too many forms"));
}
