//! Documents in JSON: one per line (`.jsonl`), or the items of one array (`.json`).
//!
//! A document is an object with a text field, or with question and answer. An array may also contain plain strings. If
//! the text is missing, null or empty, there is no document, and the line is counted. If no line of a file has the
//! field, that is an error, because the text must be in another field.

use std::io::BufRead;
use std::path::Path;

use serde_json::{Map, Value};

use super::document::{Document, SourceOptions, Texts};
use super::left_out::Why;
use super::lines::each_line;
use crate::error::{DataError, Result};

/// One file while it is read.
struct Reading<'a> {
    path: &'a Path,
    id: &'a str,
    options: &'a SourceOptions,
    texts: Texts,
    /// The fields of the first object that lacks the text field.
    other_fields: Option<String>,
}

impl<'a> Reading<'a> {
    fn new(path: &'a Path, id: &'a str, options: &'a SourceOptions) -> Self {
        Self { path, id, options, texts: Texts::default(), other_fields: None }
    }

    /// The documents read so far, or an error if none had the expected field.
    fn finish(mut self) -> Result<Texts> {
        if !self.texts.documents.is_empty() {
            return Ok(self.texts);
        }
        if let Some(has) = self.other_fields {
            let field = self.options.text_field.clone();
            return Err(DataError::NoField { path: self.path.to_path_buf(), field, has });
        }
        if self.texts.left_out.is_empty() {
            self.texts.left_out.add(Why::Empty, || self.id.to_owned());
        }
        Ok(self.texts)
    }

    /// Reads one document. `number` is the number of the line or of the item in the array.
    fn take(&mut self, value: Value, number: usize) -> Result<()> {
        let id = format!("{}:{number}", self.id);
        let text = match value {
            Value::Object(mut fields) => {
                let text = self.text_of(&mut fields).map_err(|problem| self.problem(number, problem))?;
                text.map(|text| (text, self.group_of(&fields).unwrap_or_else(|| id.clone())))
            }
            _ => return Err(self.problem(number, "not a JSON object".into())),
        };
        match text {
            Some((text, group)) if !text.is_empty() => self.texts.documents.push(Document { id, group, text }),
            _ => self.texts.left_out.add(Why::NoText, || id),
        }
        Ok(())
    }

    fn text_of(&mut self, fields: &mut Map<String, Value>) -> Result<Option<String>, String> {
        let field = &self.options.text_field;
        match fields.remove(field) {
            Some(Value::String(text)) => Ok(Some(text)),
            Some(Value::Null) => Ok(None),
            Some(_) => Err(format!("the field `{field}` is not a string")),
            None => {
                let text = question_and_answer(fields).filter(|_| field == "text");
                if text.is_none() && self.other_fields.is_none() {
                    let names: Vec<&str> = fields.keys().map(String::as_str).collect();
                    self.other_fields = Some(names.join(", "));
                }
                Ok(text)
            }
        }
    }

    fn group_of(&self, fields: &Map<String, Value>) -> Option<String> {
        match self.options.group_field.as_ref().and_then(|key| fields.get(key))? {
            Value::String(group) => Some(group.clone()),
            other => Some(other.to_string()),
        }
    }

    fn problem(&self, line: usize, problem: String) -> DataError {
        DataError::JsonLine { path: self.path.to_path_buf(), line, problem }
    }
}

/// Exercises consist of a question and an answer. Here they are joined with a line break.
fn question_and_answer(fields: &Map<String, Value>) -> Option<String> {
    let string = |key| fields.get(key).and_then(Value::as_str);
    Some(format!("{}\n{}", string("question")?, string("answer")?))
}

/// Reads one document per line.
pub(super) fn read_lines(reader: &mut dyn BufRead, path: &Path, id: &str, options: &SourceOptions) -> Result<Texts> {
    let mut reading = Reading::new(path, id, options);
    each_line(reader, path, |number, line| {
        let Ok(text) = std::str::from_utf8(line) else {
            reading.texts.left_out.add(Why::NotUtf8, || format!("{id}:{number}"));
            return Ok(());
        };
        let value = serde_json::from_str(text).map_err(|e| reading.problem(number, format!("not JSON ({e})")))?;
        reading.take(value, number)
    })?;
    reading.finish()
}

/// Reads a `.json` file: an array of documents or of strings, or one document per line, which is common in such files.
pub(super) fn read_array(text: &str, path: &Path, id: &str, options: &SourceOptions) -> Result<Texts> {
    let problem = |problem: String| DataError::NoText { path: path.to_path_buf(), problem };
    if !text.trim_start().starts_with('[') {
        return read_lines(&mut text.as_bytes(), path, id, options).map_err(|e| match e {
            DataError::JsonLine { line, problem: why, .. } => problem(format!(
                "neither an array of documents nor one document per line (line {line}: {why}); rename it to .txt to take \
                 it as plain text"
            )),
            other => other,
        });
    }
    let items: Vec<Value> = serde_json::from_str(text).map_err(|e| problem(format!("not JSON ({e})")))?;
    let mut reading = Reading::new(path, id, options);
    for (i, item) in items.into_iter().enumerate() {
        let item = match item {
            Value::String(text) => Value::Object(Map::from_iter([(options.text_field.clone(), Value::String(text))])),
            Value::Null => Value::Object(Map::from_iter([(options.text_field.clone(), Value::Null)])),
            other => other,
        };
        reading.take(item, i + 1)?;
    }
    reading.finish()
}
