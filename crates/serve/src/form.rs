//! The form that an answer must have, under the names that OpenAI's API and vLLM's have for it.

use crate::error::ApiError;
use crate::fields::{Fields, wrong};
use hadal_infer::Grammar;
use serde_json::Value;

/// The schema of any JSON object.
const OBJECT: &str = r#"{"type": "object"}"#;

/// Takes the fields that say what an answer may be. At most one of them may be there.
pub(crate) fn take(fields: &mut Fields) -> Result<Option<Grammar>, ApiError> {
    let mut all = Vec::new();
    all.extend(response_format(fields)?.map(|grammar| ("response_format", grammar)));
    if let Some(mut inner) = fields.object("structured_outputs")? {
        for name in ["json", "regex", "choice", "grammar"] {
            all.extend(one(&mut inner, name, name)?.map(|grammar| ("structured_outputs", grammar)));
        }
        if inner.flag("json_object")? {
            all.push(("structured_outputs", Grammar::JsonSchema(OBJECT.into())));
        }
        inner.finish()?;
    }
    for name in ["guided_json", "guided_regex", "guided_choice", "guided_grammar"] {
        let kind = name.trim_start_matches("guided_");
        all.extend(one(fields, name, kind)?.map(|grammar| (name, grammar)));
    }
    if let [(first, _), (second, _), ..] = all[..] {
        return Err(fields.error(second, format!("`{first}` and `{second}` both say what the answer may be: give one")));
    }
    Ok(all.pop().map(|(_, grammar)| grammar))
}

/// OpenAI's field.
fn response_format(fields: &mut Fields) -> Result<Option<Grammar>, ApiError> {
    let Some(mut format) = fields.object("response_format")? else { return Ok(None) };
    let kind = format.text("type")?.unwrap_or_default();
    let grammar = match kind.as_str() {
        "text" => None,
        "json_object" => Some(Grammar::JsonSchema(OBJECT.into())),
        "json_schema" => {
            let inner = format.object("json_schema")?;
            let mut inner =
                inner.ok_or_else(|| format.error("json_schema", "`json_schema` is missing: give the schema in it"))?;
            inner.text("name")?;
            inner.text("description")?;
            inner.flag("strict")?;
            let schema = inner.take("schema");
            let schema = schema.ok_or_else(|| inner.error("schema", "`schema` is missing: give the JSON schema"))?;
            inner.finish()?;
            Some(Grammar::JsonSchema(schema.to_string()))
        }
        other => {
            let message = format!("the type `{other}` is not supported: use text, json_object or json_schema");
            return Err(format.error("type", message));
        }
    };
    format.finish()?;
    Ok(grammar)
}

/// A field `name` that holds a grammar of a kind.
fn one(fields: &mut Fields, name: &str, kind: &str) -> Result<Option<Grammar>, ApiError> {
    if kind == "json" {
        // A schema may be given as an object or as its text.
        return Ok(fields.take(name).map(|schema| match schema {
            Value::String(text) => Grammar::JsonSchema(text),
            schema => Grammar::JsonSchema(schema.to_string()),
        }));
    }
    if kind == "choice" {
        let Some(all) = fields.list(name)? else { return Ok(None) };
        let text = |value: Value| match value {
            Value::String(text) => Ok(escape(&text)),
            other => Err(wrong(&fields.path(name), "a list of strings", &other)),
        };
        let all: Vec<String> = all.into_iter().map(text).collect::<Result<_, _>>()?;
        if all.is_empty() {
            return Err(fields.error(name, format!("`{name}` has no choices: give at least one")));
        }
        return Ok(Some(Grammar::Regex(all.join("|"))));
    }
    let text = fields.text(name)?;
    Ok(text.map(|text| if kind == "regex" { Grammar::Regex(text) } else { Grammar::Lark(text) }))
}

/// A regular expression for exactly this text.
fn escape(text: &str) -> String {
    let special = |c: char| r"\.+*?()|[]{}^$#&-~".contains(c);
    text.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn taken(body: &Value) -> Result<Option<Grammar>, ApiError> {
        take(&mut Fields::of_body(body.to_string().as_bytes())?)
    }

    #[test]
    fn each_name_gives_its_grammar() {
        let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}});
        let wanted = Some(Grammar::JsonSchema(schema.to_string()));
        for body in [
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": true, "schema": schema}}}),
            json!({"structured_outputs": {"json": schema}}),
            json!({"guided_json": schema}),
            json!({"guided_json": schema.to_string(), "response_format": {"type": "text"}}),
        ] {
            assert_eq!(taken(&body), Ok(wanted.clone()), "{body}");
        }
        assert_eq!(taken(&json!({"guided_choice": ["a.b", "c"]})), Ok(Some(Grammar::Regex(r"a\.b|c".into()))));
        assert_eq!(taken(&json!({"guided_regex": "a+"})), Ok(Some(Grammar::Regex("a+".into()))));
        assert_eq!(taken(&json!({"guided_grammar": "start: \"a\""})), Ok(Some(Grammar::Lark("start: \"a\"".into()))));
        assert_eq!(taken(&json!({})), Ok(None));
        for (body, param) in [
            (json!({"guided_regex": "a", "guided_json": {}}), "guided_regex"),
            (json!({"response_format": {"type": "xml"}}), "response_format.type"),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": {}}}),
                "response_format.json_schema.schema",
            ),
            (json!({"structured_outputs": {"structural_tag": "x"}}), "structured_outputs.structural_tag"),
            (json!({"guided_choice": []}), "guided_choice"),
        ] {
            assert_eq!(taken(&body).unwrap_err().to_json()["error"]["param"], param, "{body}");
        }
    }
}
