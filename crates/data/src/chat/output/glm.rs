//! Calls in GLM's form: a name, then keys and values between tags. They become JSON.
//!
//! Values are not quoted. The tools' own descriptions say which are strings. Others are JSON if they can be read as
//! JSON, and strings if not.

use std::collections::HashMap;
use std::fmt::Write as _;

use minijinja::Value;

use super::MAX_NAME;
use super::marks::{Found, find};

const KEY: &str = "<arg_key>";
const KEY_END: &str = "</arg_key>";
const VALUE: &str = "<arg_value>";
const VALUE_END: &str = "</arg_value>";
const END: &str = "</tool_call>";

/// Which parameters of which tools are strings.
#[derive(Default)]
pub(super) struct Types(HashMap<String, HashMap<String, bool>>);

impl Types {
    pub(super) fn of(tools: &[Value]) -> Self {
        let tool = |tool: &Value| {
            let function = tool.get_attr("function").ok().filter(|f| !f.is_undefined()).unwrap_or_else(|| tool.clone());
            let name = function.get_attr("name").ok()?.as_str()?.to_owned();
            let properties = function.get_attr("parameters").ok()?.get_attr("properties").ok()?;
            let types = properties.try_iter().ok()?.filter_map(|key| {
                let kind = properties.get_item(&key).ok()?.get_attr("type").ok()?;
                Some((key.as_str()?.to_owned(), kind.as_str()? == "string"))
            });
            Some((name, types.collect()))
        };
        Self(tools.iter().filter_map(tool).collect())
    }
}

/// Whether the name of a call is known.
pub(super) enum Named {
    More,
    Name(String),
    /// This is not a call.
    Not,
}

/// Whether the call goes on.
pub(super) enum Outcome {
    More,
    End,
}

/// Reads a call.
#[derive(Default)]
pub(super) struct Glm {
    state: State,
    strings: HashMap<String, bool>,
    key: String,
    value: String,
    count: usize,
    /// Whether the current value is passed on as it comes.
    passes: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    /// Between arguments.
    #[default]
    Next,
    Key,
    /// Between key and value.
    Between,
    Value,
}

impl Glm {
    /// Reads the name. `raw` takes what was read.
    pub(super) fn name(buffer: &mut String, raw: &mut String, end: bool) -> Named {
        let marks = [KEY, END, "<tool_call>"];
        let Found { text, mark } = find(buffer, &marks, end);
        raw.push_str(&text);
        let name = raw.trim_start_matches("<tool_call>").trim().to_owned();
        let valid = !name.is_empty() && name.len() <= MAX_NAME && !name.contains(char::is_whitespace);
        match mark {
            None if name.len() > MAX_NAME => Named::Not,
            None => Named::More,
            Some(at) => {
                buffer.insert_str(0, marks[at]);
                if valid && at < 2 && !name.contains(['{', '<']) { Named::Name(name) } else { Named::Not }
            }
        }
    }

    /// The call has this name.
    pub(super) fn begin(&mut self, name: &str, types: &Types) {
        self.strings = types.0.get(name).cloned().unwrap_or_default();
    }

    /// Reads arguments and writes them as JSON. What stands between them is dropped if it is white space, and otherwise
    /// ends the call: it stays in the buffer.
    pub(super) fn arguments(&mut self, buffer: &mut String, out: &mut String, end: bool) -> Outcome {
        loop {
            match self.state {
                State::Next => {
                    let rest = buffer.trim_start();
                    if let Some(after) = rest.strip_prefix(KEY) {
                        *buffer = after.to_owned();
                        self.state = State::Key;
                    } else if rest.is_empty() || (!end && (KEY.starts_with(rest) || END.starts_with(rest))) {
                        return Outcome::More;
                    } else {
                        *buffer = rest.strip_prefix(END).unwrap_or(rest).to_owned();
                        self.close(out);
                        return Outcome::End;
                    }
                }
                State::Key => {
                    let Found { text, mark } = find(buffer, &[KEY_END, END], end);
                    self.key.push_str(&text);
                    match mark {
                        Some(0) => self.state = State::Between,
                        Some(_) => return self.broken(KEY, END, buffer, out),
                        None => return Outcome::More,
                    }
                }
                State::Between => {
                    let rest = buffer.trim_start();
                    if let Some(after) = rest.strip_prefix(VALUE) {
                        *buffer = after.to_owned();
                        self.state = State::Value;
                        self.passes = self.strings.get(self.key.trim()) == Some(&true);
                        if self.passes {
                            self.head(out);
                            out.push('"');
                        }
                    } else if rest.is_empty() || (!end && VALUE.starts_with(rest)) {
                        return Outcome::More;
                    } else {
                        return self.broken(KEY, KEY_END, buffer, out);
                    }
                }
                State::Value => {
                    let Found { text, mark } = find(buffer, &[VALUE_END], end);
                    if self.passes {
                        out.push_str(&escaped(&text));
                    } else {
                        self.value.push_str(&text);
                    }
                    if mark.is_none() {
                        return Outcome::More;
                    }
                    if self.passes {
                        out.push('"');
                    } else {
                        self.head(out);
                        out.push_str(&json(&self.value));
                    }
                    self.key.clear();
                    self.value.clear();
                    self.state = State::Next;
                }
            }
        }
    }

    /// A key without a value is text.
    fn broken(&mut self, before: &str, after: &str, buffer: &mut String, out: &mut String) -> Outcome {
        buffer.insert_str(0, &format!("{before}{}{after}", self.key));
        self.close(out);
        Outcome::End
    }

    fn close(&self, out: &mut String) {
        out.push_str(if self.count == 0 { "{}" } else { "}" });
    }

    /// The brace or comma before an argument, and its key.
    fn head(&mut self, out: &mut String) {
        out.push_str(if self.count == 0 { "{" } else { ", " });
        self.count += 1;
        _ = write!(out, "\"{}\": ", escaped(self.key.trim()));
    }

    /// The text ended inside the call. What was read of a value is told, without an end.
    pub(super) fn finish(&mut self) -> String {
        let mut out = String::new();
        match self.state {
            State::Value if self.passes => {}
            State::Value => {
                self.head(&mut out);
                out.push('"');
                out.push_str(&escaped(&self.value));
            }
            State::Key | State::Between => {
                out.push_str(if self.count == 0 { "{" } else { ", " });
                _ = write!(out, "\"{}", escaped(self.key.trim()));
            }
            State::Next => {}
        }
        out
    }
}

/// A value as JSON: itself if it is JSON but no string, and a string otherwise.
fn json(value: &str) -> String {
    let trimmed = value.trim();
    match serde_json::from_str::<serde_json::Value>(trimmed) {
        Ok(read) if !read.is_string() => trimmed.to_owned(),
        _ => format!("\"{}\"", escaped(value)),
    }
}

/// The inside of a JSON string.
fn escaped(text: &str) -> String {
    let quoted = serde_json::to_string(text).unwrap_or_default();
    quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default().to_owned()
}
