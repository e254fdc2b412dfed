//! The grammar of a call in GLM's form: a name, then keys and values between tags, in the order of the schema.
//!
//! A string stands there as it is, without quotes. Other values are JSON. So a string among values of other types must
//! not look like one of them.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::grammar::{json_rule, literal, mark, wrong};
use crate::error::Result;
use crate::tokenizer::Tokenizer;

/// Most references in a row that are followed.
const MOST_REFERENCES: usize = 16;
/// Most schemas of values that are looked at, and most of them inside one another. Schemas may contain themselves.
const MOST_SCHEMAS: usize = 2000;
const MOST_NESTED: usize = 32;
/// The end of a value in a regular expression.
const END: &str = r"<\/arg_value>";

/// The rules of a call that are written so far.
struct Call<'a> {
    /// The schema of all arguments, with what references name.
    root: &'a Value,
    /// The end tag of a value in the grammar.
    end: String,
    rules: &'a mut String,
    /// Number of the tool, and of its values so far. The names of rules have both.
    tool: usize,
    values: usize,
    /// Schemas that were looked at so far.
    schemas: usize,
    /// Schemas that are open now.
    nested: usize,
}

/// What a call is. `rules` takes the rules that it needs.
pub(super) fn call(i: usize, name: &str, schema: &Value, tokenizer: &Tokenizer, rules: &mut String) -> Result<String> {
    let end = mark("</arg_value>", tokenizer);
    let mut call = Call { root: schema, end, rules, tool: i, values: 0, schemas: 0, nested: 0 };
    let object = call.resolved(schema)?;
    if object["type"] != "object" {
        return Err(wrong(format!(
            "the parameters of `{name}` must be of type object: this model's calls hold no others"
        )));
    }
    let none = Map::new();
    let properties = object["properties"].as_object().unwrap_or(&none);
    let required: Vec<&str> =
        object["required"].as_array().map(|all| all.iter().filter_map(Value::as_str).collect()).unwrap_or_default();
    if let Some(key) = required.iter().find(|key| !properties.contains_key(**key)) {
        return Err(wrong(format!("`{name}` requires `{key}`, which is not among its properties: describe it")));
    }
    let [open, close, key_open, key_end, value_open] =
        ["<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>"].map(|name| mark(name, tokenizer));
    let lf = literal("\n");
    let mut parts = format!("{open} {} {lf}?", literal(name));
    for (key, schema) in properties {
        let value = call.value(key, schema)?;
        let one = format!("{key_open} {} {key_end} {lf}? {value_open} {value} {lf}?", literal(key));
        let one = if required.contains(&key.as_str()) { one } else { format!("({one})?") };
        _ = write!(parts, " {one}");
    }
    Ok(format!("{parts} {close}"))
}

impl<'a> Call<'a> {
    /// The schema that a reference names.
    fn resolved(&self, schema: &'a Value) -> Result<&'a Value> {
        let mut schema = schema;
        for _ in 0..MOST_REFERENCES {
            let Some(reference) = schema["$ref"].as_str() else { return Ok(schema) };
            let found = reference.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer));
            schema = found.ok_or_else(|| wrong(format!("there is nothing at `{reference}`: correct the reference")))?;
        }
        Err(wrong("references lead to each other: correct them"))
    }

    /// Whether the end tag of a value is a special token, and not text.
    fn is_token(&self) -> bool {
        self.end.starts_with('<')
    }

    /// A value with its end tag.
    fn value(&mut self, key: &str, schema: &'a Value) -> Result<String> {
        let own = self.resolved(schema)?;
        let is_string = own["type"] == "string";
        let mut parts = Vec::new();
        self.alternatives(key, own, is_string, &mut parts)?;
        Ok(format!("({})", parts.join(" | ")))
    }

    /// The forms that a value of a schema may have. `is_string` tells that the parser takes whatever is there for a string.
    fn alternatives(&mut self, key: &str, schema: &'a Value, is_string: bool, out: &mut Vec<String>) -> Result<()> {
        self.schemas += 1;
        if self.schemas > MOST_SCHEMAS || self.nested > MOST_NESTED {
            return Err(wrong(format!("`{key}` may have too many forms: allow fewer")));
        }
        let own = self.resolved(schema)?;
        let end = self.end.clone();
        if let Some(all) = own["enum"].as_array() {
            let kind = &own["type"];
            let fits = |value: &&Value| kind.is_null() || *kind != "string" || value.is_string();
            for value in all.iter().filter(fits) {
                out.push(format!("{} {end}", literal(&plain(key, value, is_string)?)));
            }
        } else if let Some(value) = own.get("const") {
            out.push(format!("{} {end}", literal(&plain(key, value, is_string)?)));
        } else if let Some(all) = own["anyOf"].as_array().or(own["oneOf"].as_array()) {
            self.nested += 1;
            for one in all {
                self.alternatives(key, one, is_string, out)?;
            }
            self.nested -= 1;
        } else {
            let kinds: Vec<&str> = match &own["type"] {
                Value::String(kind) => vec![kind],
                Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
                _ => vec!["string", "number", "boolean", "null", "object", "array"],
            };
            for kind in kinds {
                let one = if kind == "string" { self.string(key, own, is_string)? } else { self.json(own, kind) };
                // The terminal of a string holds an end tag that is text.
                out.push(if kind == "string" && !self.is_token() { one } else { format!("{one} {end}") });
            }
        }
        Ok(())
    }

    /// A rule for JSON of one type.
    fn json(&mut self, schema: &Value, kind: &str) -> String {
        let mut schema = schema.clone();
        schema["type"] = json!(kind);
        for definitions in ["$defs", "definitions"] {
            if let Some(all) = self.root.get(definitions) {
                schema[definitions] = all.clone();
            }
        }
        self.rule("value", "", &json_rule(&schema))
    }

    /// A terminal for a string. If the end tag is text, it is part of the terminal.
    fn string(&mut self, key: &str, schema: &Value, is_string: bool) -> Result<String> {
        if schema.get("pattern").is_some() {
            return Err(wrong(format!("`{key}` has a `pattern`, which this model's calls cannot hold: leave it out")));
        }
        let count = |name: &str| schema[name].as_u64();
        let (least, most) = (count("minLength").unwrap_or(0), count("maxLength"));
        if most == Some(0) {
            return Ok(if self.is_token() { String::new() } else { self.end.clone() });
        }
        let most = most.map_or(String::new(), |most| most.to_string());
        let special = self.is_token();
        // An empty terminal is not possible: it is left out.
        let (first, optional) = if special { (least.max(1), least == 0) } else { (least, false) };
        let end = if special { "" } else { END };
        let mut terminal = format!("/(?s:.){{{first},{most}}}{end}/ & ~/(?s:.*){END}(?s:.+)/");
        if special {
            _ = write!(terminal, " & ~/(?s:.*){END}/");
        }
        if !is_string {
            let looks = r#"\s*(true|false|null|[-0-9\[{"](?s:.)*)\s*"#;
            _ = write!(terminal, " & ~/{looks}{end}/");
        }
        let name = self.rule("STRING", "", &terminal);
        match (special, optional) {
            (true, true) => Ok(format!("{name}?")),
            (true, false) => Ok(name),
            // The first end tag ends it.
            (false, _) => Ok(self.rule("value", "[lazy]", &name)),
        }
    }

    /// Adds a rule, and returns its name.
    fn rule(&mut self, kind: &str, attributes: &str, what: &str) -> String {
        let name = format!("{kind}{}_{}", self.tool, self.values);
        self.values += 1;
        _ = writeln!(self.rules, "{name}{attributes}: {what}");
        name
    }
}

/// A given value as it stands between tags.
fn plain(key: &str, value: &Value, is_string: bool) -> Result<String> {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let is_json = serde_json::from_str::<Value>(text.trim()).is_ok_and(|read| !read.is_string());
    let reads_back = if value.is_string() { is_string || !is_json } else { !is_string };
    if !reads_back || text.contains("</arg_value>") {
        let problem =
            format!("`{key}` may be {value}, which this model's calls cannot tell apart: give the parameter one type");
        return Err(wrong(problem));
    }
    Ok(text)
}
