//! The grammar of an answer that must call tools: at least one call, in the family's own syntax, with arguments that the
//! tool's JSON schema allows. It is text in `llguidance`'s variant of Lark's syntax. [`OutputParser`](super::OutputParser)
//! reads back what it allows.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::glm_grammar;
use super::syntax::{CallSyntax, Section};
use crate::error::{DataError, Result};
use crate::tokenizer::Tokenizer;

/// Keywords that say nothing about which values a schema allows.
const NOTES: [&str; 9] =
    ["$comment", "default", "deprecated", "description", "example", "examples", "readOnly", "title", "writeOnly"];
/// Keywords whose values are schemas by name.
const BY_NAME: [&str; 5] = ["$defs", "definitions", "dependentSchemas", "patternProperties", "properties"];
/// Keywords whose values are not schemas.
const PLAIN: [&str; 3] = ["const", "enum", "required"];

/// A tool that may be called.
struct Tool<'a> {
    name: &'a str,
    /// The schema of its arguments.
    schema: Value,
}

impl CallSyntax {
    /// The grammar of at least one call of these tools, in OpenAI's form. Without `several`, it is exactly one.
    ///
    /// # Errors
    /// If a tool has no name, or one that the syntax cannot hold, or if its schema cannot be held.
    pub fn grammar(self, tools: &[Value], several: bool, tokenizer: &Tokenizer) -> Result<String> {
        let tools = tools.iter().map(tool).collect::<Result<Vec<Tool>>>()?;
        if tools.is_empty() {
            return Err(wrong("there are none, and one must be called: give at least one"));
        }
        let mut rules = String::new();
        for (i, tool) in tools.iter().enumerate() {
            let call = self.call(i, tool, tokenizer, &mut rules)?;
            _ = writeln!(rules, "call{i}: {call}");
        }
        let any: Vec<String> = (0..tools.len()).map(|i| format!("call{i}")).collect();
        _ = writeln!(rules, "call: {}", any.join(" | "));
        let more = match self.between() {
            Some(between) if several => format!(" ({} call)*", literal(between)),
            _ => String::new(),
        };
        let calls = match self.section() {
            Some(Section { open, close, .. }) => {
                format!("{} call{more} {}", mark(open, tokenizer), mark(close, tokenizer))
            }
            None => format!("call{more}"),
        };
        // Models write a line break after their thoughts.
        Ok(format!("start: BREAK? {calls}\nBREAK: /\\n{{1,2}}/\n{rules}"))
    }

    /// What stands between two calls. `None` if an answer has one call at most.
    fn between(self) -> Option<&'static str> {
        match self {
            Self::DeepSeekV3 | Self::Glm | Self::Hermes => Some("\n"),
            Self::DeepSeekV31 | Self::Kimi => Some(""),
            Self::Llama3 => Some("; "),
            Self::GigaChat => None,
        }
    }

    /// What a call of tool `i` is. `rules` takes the rules that it needs.
    fn call(self, i: usize, tool: &Tool, tokenizer: &Tokenizer, rules: &mut String) -> Result<String> {
        let Tool { name, schema } = tool;
        if self == Self::Glm {
            return glm_grammar::call(i, name, schema, tokenizer, rules);
        }
        _ = writeln!(rules, "args{i}: {}", json_rule(schema));
        if let Some(Section { begin, separator, end, .. }) = self.section() {
            let [begin, separator, end] = [begin, separator, end].map(|name| mark(name, tokenizer));
            return Ok(match self {
                Self::DeepSeekV3 => {
                    let name = literal(&format!("{name}\n```json\n"));
                    format!("{begin} \"function\" {separator} {name} args{i} {} {end}", literal("\n```"))
                }
                Self::Kimi => {
                    let name = literal(&format!("functions.{name}:"));
                    format!("{begin} {name} /[0-9]{{1,3}}/ {separator} args{i} {end}")
                }
                _ => format!("{begin} {} {separator} args{i} {end}", literal(name)),
            });
        }
        let head = |key: &str| literal(&format!("{{\"name\": {}, \"{key}\": ", json!(name)));
        Ok(match self {
            Self::Hermes => {
                let [open, close] = ["<tool_call>", "</tool_call>"].map(|name| mark(name, tokenizer));
                let (begin, end) = (literal("\n"), literal("}\n"));
                format!("{open} {begin} {} args{i} {end} {close}", head("arguments"))
            }
            Self::GigaChat => {
                let open = if tokenizer.id_of("<|function_call|>").is_some() {
                    mark("<|function_call|>", tokenizer)
                } else {
                    let [end, begin] = ["<|message_sep|>", "<|role_sep|>"].map(|name| mark(name, tokenizer));
                    format!("{end} {} {begin} {}", literal("\n\nfunction call"), literal("\n"))
                };
                format!("{open} {} args{i} \"}}\"", head("arguments"))
            }
            _ => format!("{} args{i} \"}}\"", head("parameters")),
        })
    }
}

/// A tool in OpenAI's form.
fn tool(value: &Value) -> Result<Tool<'_>> {
    let function = &value["function"];
    let name = function["name"].as_str().ok_or_else(|| wrong("one has no name: give it one"))?;
    let is_plain = |c: char| c.is_alphanumeric() || "_-.:/".contains(c);
    if name.is_empty() || name.len() > super::MAX_NAME || !name.chars().all(is_plain) {
        let problem = format!("`{name}` cannot be forced: use letters, digits, `_`, `-` and `.` in the name of a tool");
        return Err(wrong(problem));
    }
    let schema = match function.get("parameters") {
        None | Some(Value::Null) => json!({"type": "object", "additionalProperties": false}),
        Some(schema) => schema_of_object(schema),
    };
    Ok(Tool { name, schema })
}

/// A schema that allows nothing but objects. Arguments are always one.
fn schema_of_object(schema: &Value) -> Value {
    let mut schema = without_notes(schema);
    if let Value::Object(keys) = &mut schema
        && !["type", "$ref", "anyOf", "oneOf", "allOf"].iter().any(|key| keys.contains_key(*key))
    {
        keys.insert("type".to_owned(), json!("object"));
    }
    schema
}

/// The same schema without what it tells people and models. Grammars are limited in size.
fn without_notes(schema: &Value) -> Value {
    match schema {
        Value::Object(keys) => {
            let kept = keys.iter().filter(|(key, _)| !NOTES.contains(&key.as_str()));
            Value::Object(kept.map(|(key, value)| (key.clone(), inner(key, value))).collect())
        }
        Value::Array(all) => Value::Array(all.iter().map(without_notes).collect()),
        other => other.clone(),
    }
}

/// The value of a keyword.
fn inner(key: &str, value: &Value) -> Value {
    match value {
        Value::Object(named) if BY_NAME.contains(&key) => Value::Object(
            named.iter().map(|(name, schema)| (name.clone(), without_notes(schema))).collect::<Map<_, _>>(),
        ),
        value if PLAIN.contains(&key) => value.clone(),
        value => without_notes(value),
    }
}

/// A rule for JSON of a schema. There is a space after a comma or colon or none, as in what templates write. With more
/// freedom, a model may write white space for ever.
pub(super) fn json_rule(schema: &Value) -> String {
    let mut schema = schema.clone();
    if let Value::Object(keys) = &mut schema {
        let spaces = json!({"whitespace_flexible": false, "item_separator": ", ?", "key_separator": ": ?"});
        keys.insert("x-guidance".to_owned(), spaces);
    }
    format!("%json {schema}")
}

/// A mark in the grammar: the special token of this name, or its text.
pub(super) fn mark(name: &str, tokenizer: &Tokenizer) -> String {
    match tokenizer.id_of(name).filter(|id| tokenizer.is_special(*id)) {
        Some(id) => format!("<[{id}]>"),
        None => literal(name),
    }
}

/// A text in the grammar.
pub(super) fn literal(text: &str) -> String {
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

pub(super) fn wrong(problem: impl Into<String>) -> DataError {
    DataError::Option { key: "tools", problem: problem.into() }
}
