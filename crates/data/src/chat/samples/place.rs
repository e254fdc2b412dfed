//! Where a value stands in a line, for errors.

use serde_json::Value as Json;

/// A mistake in a line: the key, and what is wrong with its value.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    /// Path of the key, such as `messages[1].content`. Empty for the whole line.
    pub(super) key: String,
    pub(super) what: String,
}

impl Problem {
    /// About the whole line.
    pub(super) fn whole(what: impl Into<String>) -> Self {
        Self { key: String::new(), what: what.into() }
    }
}

/// The path of a key.
#[derive(Clone, Debug, Default)]
pub(super) struct Place(String);

impl Place {
    /// A key of the object here.
    pub(super) fn key(&self, name: &str) -> Self {
        Self(if self.0.is_empty() { name.to_owned() } else { format!("{}.{name}", self.0) })
    }

    /// An element of the list here.
    pub(super) fn at(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    /// An error about the value here.
    pub(super) fn problem(&self, what: impl Into<String>) -> Problem {
        Problem { key: self.0.clone(), what: what.into() }
    }

    /// An error: the value here should be `wanted`.
    pub(super) fn wrong(&self, wanted: &str, found: &Json) -> Problem {
        self.problem(format!("it is {}, not {wanted}", kind(found)))
    }
}

/// The kind of a value, for people.
pub(super) fn kind(value: &Json) -> &'static str {
    match value {
        Json::Null => "null",
        Json::Bool(_) => "true or false",
        Json::Number(_) => "a number",
        Json::String(_) => "text",
        Json::Array(_) => "a list",
        Json::Object(_) => "an object",
    }
}
