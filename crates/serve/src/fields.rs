//! The fields of a JSON body, taken one by one. What is wrong is named by its path. In the end nothing may be left that
//! would change what is asked.

use crate::error::ApiError;
use serde_json::{Map, Value};
use std::ops::RangeInclusive;

/// Fields that change nothing of an answer.
const HARMLESS: [&str; 8] = [
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "request_id",
];

/// An object of which fields are taken.
#[derive(Debug)]
pub(crate) struct Fields {
    /// Its path, with a dot at its end. Empty for the body.
    path: String,
    left: Map<String, Value>,
}

impl From<Map<String, Value>> for Fields {
    /// The fields of a body that was put together here.
    fn from(left: Map<String, Value>) -> Self {
        Self { path: String::new(), left }
    }
}

impl Fields {
    /// The fields of a body.
    pub(crate) fn of_body(body: &[u8]) -> Result<Self, ApiError> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(left)) => Ok(Self { path: String::new(), left }),
            Ok(_) => Err(ApiError::body("the body must be a JSON object")),
            Err(error) => Err(ApiError::body(format!("the body is not JSON: {error}"))),
        }
    }

    /// The fields of an object at `path`.
    pub(crate) fn of(path: &str, value: Value) -> Result<Self, ApiError> {
        match value {
            Value::Object(left) => Ok(Self { path: format!("{path}."), left }),
            other => Err(wrong(path, "an object", &other)),
        }
    }

    /// The path of a field.
    pub(crate) fn path(&self, name: &str) -> String {
        format!("{}{name}", self.path)
    }

    /// An error about a field.
    pub(crate) fn error(&self, name: &str, message: impl Into<String>) -> ApiError {
        ApiError::field(self.path(name), message)
    }

    /// A field. `null` counts as absent.
    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        self.left.remove(name).filter(|value| !value.is_null())
    }

    /// A text.
    pub(crate) fn text(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        self.typed(name, "a string", |value| match value {
            Value::String(text) => Ok(text),
            other => Err(other),
        })
    }

    /// A truth value. Absent means no.
    pub(crate) fn flag(&mut self, name: &str) -> Result<bool, ApiError> {
        self.flag_or(name, false)
    }

    /// A truth value, with what it is if it is absent.
    pub(crate) fn flag_or(&mut self, name: &str, absent: bool) -> Result<bool, ApiError> {
        Ok(self.typed(name, "true or false", |value| value.as_bool().ok_or(value))?.unwrap_or(absent))
    }

    /// A number between bounds.
    pub(crate) fn number(&mut self, name: &str, bounds: RangeInclusive<f64>) -> Result<Option<f32>, ApiError> {
        let Some(number) = self.typed(name, "a number", |value| value.as_f64().ok_or(value))? else { return Ok(None) };
        if !bounds.contains(&number) {
            return Err(self.error(name, between(name, &bounds, number)));
        }
        Ok(Some(number as f32))
    }

    /// A whole number between bounds.
    pub(crate) fn whole(&mut self, name: &str, bounds: RangeInclusive<i64>) -> Result<Option<i64>, ApiError> {
        // A number such as 16.0 is whole as well.
        let read = |value: Value| {
            let float = || value.as_f64().filter(|n| n.fract() == 0.0 && n.abs() < 9e15).map(|n| n as i64);
            value.as_i64().or_else(float).ok_or(value)
        };
        let Some(number) = self.typed(name, "a whole number", read)? else { return Ok(None) };
        if !bounds.contains(&number) {
            return Err(self.error(name, between(name, &bounds, number)));
        }
        Ok(Some(number))
    }

    /// A list.
    pub(crate) fn list(&mut self, name: &str) -> Result<Option<Vec<Value>>, ApiError> {
        self.typed(name, "a list", |value| match value {
            Value::Array(all) => Ok(all),
            other => Err(other),
        })
    }

    /// An object.
    pub(crate) fn object(&mut self, name: &str) -> Result<Option<Self>, ApiError> {
        let path = self.path(name);
        self.take(name).map(|value| Self::of(&path, value)).transpose()
    }

    /// All that is left.
    pub(crate) fn rest(self) -> Map<String, Value> {
        self.left
    }

    /// Refuses a field, unless it has the value that it has without being given.
    pub(crate) fn only(&mut self, name: &str, neutral: &[Value], reason: &str) -> Result<(), ApiError> {
        match self.take(name) {
            Some(value) if !neutral.contains(&value) => Err(self.error(name, format!("`{name}` {reason}"))),
            _ => Ok(()),
        }
    }

    /// Refuses what is left, unless it changes nothing.
    pub(crate) fn finish(self) -> Result<(), ApiError> {
        let unknown = |(name, value): &(&String, &Value)| !value.is_null() && !HARMLESS.contains(&name.as_str());
        match self.left.iter().find(unknown) {
            Some((name, _)) => Err(self
                .error(name, format!("`{name}` is not known or not supported here: leave it out"))
                .with_code("unknown_field")),
            None => Ok(()),
        }
    }

    fn typed<T>(
        &mut self,
        name: &str,
        wanted: &str,
        read: impl FnOnce(Value) -> Result<T, Value>,
    ) -> Result<Option<T>, ApiError> {
        let value = self.take(name).map(read).transpose();
        value.map_err(|other| wrong(&self.path(name), wanted, &other))
    }
}

fn between<T: std::fmt::Display>(name: &str, bounds: &RangeInclusive<T>, have: T) -> String {
    format!("`{name}` must be from {} to {}, and is {have}", bounds.start(), bounds.end())
}

/// A value of a wrong type.
pub(crate) fn wrong(path: &str, wanted: &str, have: &Value) -> ApiError {
    let have = match have {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    ApiError::field(path, format!("`{path}` must be {wanted}, and is {have}")).with_code("invalid_type")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_fields_are_named_by_their_path() {
        let mut fields = Fields::of_body(br#"{"a": 1.5, "b": {"c": "x", "user": 1}, "n": null, "k": 3.0}"#).unwrap();
        let message = |error: ApiError| error.to_json()["error"]["message"].as_str().unwrap().to_owned();
        assert_eq!(fields.whole("k", 0..=9), Ok(Some(3)));
        assert_eq!(fields.whole("n", 0..=9), Ok(None));
        assert_eq!(message(fields.whole("a", 0..=9).unwrap_err()), "`a` must be a whole number, and is a number");
        let mut inner = fields.object("b").unwrap().unwrap();
        assert_eq!(message(inner.flag("c").unwrap_err()), "`b.c` must be true or false, and is a string");
        inner.finish().unwrap();
        fields.left.insert("beams".into(), 4.into());
        assert_eq!(fields.finish().unwrap_err().to_json()["error"]["param"], "beams");
        assert!(Fields::of_body(b"[1]").is_err() && Fields::of_body(b"{").is_err());
    }
}
