//! `doc_to_text` and its like: a field of the document, a template over it, or a constant.

use hadal_data::chat::TextTemplate;
use minijinja::Environment;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::config::Source;
use super::literal::literal;
use crate::error::{Place, Result, TaskError};
use crate::file::Yaml;
use crate::pattern::Pattern;

/// A document: a question with what belongs to it.
#[derive(Clone, Debug)]
pub struct Document {
    /// Its fields.
    pub fields: Value,
    /// The fields as templates read them.
    pub(super) values: minijinja::Value,
}

impl Document {
    /// A document of fields. Columns that other documents have are null in it.
    pub(crate) fn new(fields: Map<String, Value>) -> Self {
        let fields = Value::Object(fields);
        // Every JSON value is a value of a template.
        let values = minijinja::Value::deserialize(&fields).unwrap_or_default();
        Self { fields, values }
    }
}

/// A key that gives a value for each document.
#[derive(Debug)]
pub(super) struct Field {
    key: &'static str,
    place: Place,
    form: Form,
}

#[derive(Debug)]
enum Form {
    Column(String),
    Template(Box<TextTemplate>),
    Constant(Value),
}

impl Field {
    /// Reads a key. Text that is the name of a column means the column, and otherwise it is a template.
    pub(super) fn new(source: &Source, columns: &[String]) -> Result<Self> {
        let (key, place) = (source.key, source.node.place.clone());
        let form = match &source.node.yaml {
            Yaml::Text(text) if columns.contains(text) => Form::Column(text.clone()),
            Yaml::Text(text) => Form::Template(Box::new(template(text, &format!("{place}, `{key}`"))?)),
            Yaml::Map(entries) => Form::Constant(entries.iter().map(|entry| entry.value.json()).collect()),
            _ => Form::Constant(source.node.json()),
        };
        Ok(Self { key, place, form })
    }

    pub(super) fn wrong(&self, document: usize, problem: impl Into<String>) -> TaskError {
        TaskError::Document { place: self.place.clone(), key: self.key.to_owned(), document, problem: problem.into() }
    }

    /// The value of a column or constant, or the text that a template gives.
    fn raw(&self, document: &Document, number: usize) -> Result<(Value, bool)> {
        match &self.form {
            Form::Column(name) => match document.fields.get(name) {
                Some(value) => Ok((value.clone(), false)),
                None => Err(self.wrong(number, format!("the document has no field `{name}`"))),
            },
            Form::Template(template) => {
                let text = template.render(&document.values).map_err(|error| self.wrong(number, error.to_string()))?;
                Ok((Value::String(text), true))
            }
            Form::Constant(value) => Ok((value.clone(), false)),
        }
    }

    /// Text. It is an error if it is something else.
    pub(super) fn text(&self, document: &Document, number: usize) -> Result<String> {
        match self.raw(document, number)?.0 {
            Value::String(text) => Ok(text),
            other => Err(self.wrong(number, format!("gives {}, but text is needed; write a template", kind(&other)))),
        }
    }

    /// The question. With choices, digits are a number.
    pub(super) fn question(&self, document: &Document, number: usize, choices: bool) -> Result<Value> {
        let (value, template) = self.raw(document, number)?;
        Ok(match value {
            Value::String(text) if template && choices && digits(&text) => self.integer(&text, number)?,
            other => other,
        })
    }

    /// The answer: text, the number of a choice, or a list of right answers.
    pub(super) fn target(&self, document: &Document, number: usize, choices: bool) -> Result<Value> {
        let (value, template) = self.raw(document, number)?;
        let Value::String(text) = value else { return Ok(value) };
        if !template {
            return Ok(Value::String(text));
        }
        if choices && digits(&text) {
            return self.integer(&text, number);
        }
        let list = text.len() >= 2 && text.starts_with('[') && text.ends_with(']');
        Ok(list.then(|| literal(&text)).flatten().unwrap_or(Value::String(text)))
    }

    /// The choices: a list of texts.
    pub(super) fn choices(&self, document: &Document, number: usize) -> Result<Vec<String>> {
        let (value, template) = self.raw(document, number)?;
        let value = match value {
            Value::String(text) if template => literal(&text)
                .ok_or_else(|| self.wrong(number, "the template does not give a list, such as `['a', 'b']`"))?,
            other => other,
        };
        let Value::Array(items) = value else {
            return Err(self.wrong(number, format!("gives {}, but a list of texts is needed", kind(&value))));
        };
        let text = |item: Value| match item {
            Value::String(text) => Ok(text),
            other => Err(self.wrong(number, format!("a choice is {}, but text is needed", kind(&other)))),
        };
        items.into_iter().map(text).collect()
    }

    fn integer(&self, digits: &str, number: usize) -> Result<Value> {
        literal(digits).ok_or_else(|| self.wrong(number, format!("`{digits}` is not the number of a choice")))
    }
}

/// Compiles a template as the harness does.
fn template(text: &str, origin: &str) -> Result<TextTemplate> {
    let extend = |environment: &mut Environment<'static>| {
        let replace = |text: &str, pattern: &str, with: &str, count: Option<usize>| {
            let pattern = Pattern::new(pattern)
                .map_err(|problem| minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, problem))?;
            Ok::<_, minijinja::Error>(pattern.substitute(text, with, count.unwrap_or(0)))
        };
        environment.add_filter("regex_replace", replace);
    };
    Ok(TextTemplate::new(text, origin, extend)?)
}

fn digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}
