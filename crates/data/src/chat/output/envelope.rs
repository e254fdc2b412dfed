//! A call as a JSON object with its name and arguments, read character by character.

/// What a character led to.
#[derive(Default)]
pub(super) struct Step {
    /// The name, when it is known and arguments begin.
    pub(super) name: Option<String>,
    /// Text of the arguments.
    pub(super) arguments: String,
    /// Whether the object is complete, or is not a call.
    pub(super) end: Option<End>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Complete,
    Broken,
}

/// Reads an object.
#[derive(Default)]
pub(super) struct Envelope {
    state: State,
    value: Value,
    key: String,
    /// The current key or value, if it is kept.
    text: String,
    name: Option<String>,
    /// Arguments that came before the name.
    early: Option<String>,
    begun: bool,
    /// Whether the characters of the current value are passed on.
    passes: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// After `{` or a comma.
    Key,
    InKey,
    Colon,
    Value,
    InValue,
    AfterValue,
}

/// Where a JSON value ends.
#[derive(Default)]
struct Value {
    depth: usize,
    quoted: bool,
    escaped: bool,
    /// A number or word, which ends before the next character that cannot belong to it.
    bare: bool,
}

/// Keys under which families write the arguments.
const ARGUMENTS: [&str; 2] = ["arguments", "parameters"];

impl Envelope {
    /// Whether the name was told.
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    /// Reads a character.
    pub(super) fn push(&mut self, c: char) -> Step {
        let mut step = Step::default();
        if self.read(c, &mut step).is_none() {
            step.end = Some(End::Broken);
        }
        step
    }

    /// `None` if the character cannot be part of a call.
    fn read(&mut self, c: char, step: &mut Step) -> Option<()> {
        match (self.state, c) {
            (State::InKey, _) => {
                self.text.push(c);
                if self.value.ends_with(c) {
                    self.key = unquoted(&self.text)?;
                    self.state = State::Colon;
                }
            }
            (State::InValue, _) => {
                // A number or word ends before the next character.
                if self.value.bare && !(c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '-')) {
                    self.end_value(step)?;
                    return self.read(c, step);
                }
                self.keep(c, step);
                if !self.value.bare && self.value.ends_with(c) {
                    self.end_value(step)?;
                }
            }
            _ if c.is_ascii_whitespace() => {}
            (State::Open, '{') | (State::AfterValue, ',') => self.state = State::Key,
            (State::Key, '"') => {
                self.text = c.to_string();
                self.value = Value { quoted: true, ..Value::default() };
                self.state = State::InKey;
            }
            (State::Colon, ':') => self.state = State::Value,
            (State::Value, _) => {
                self.value = Value::default();
                self.text.clear();
                match c {
                    '"' => self.value.quoted = true,
                    '{' | '[' => self.value.depth = 1,
                    '-' | '0'..='9' | 'a'..='z' => self.value.bare = true,
                    _ => return None,
                }
                self.state = State::InValue;
                // An object is passed on as soon as the name is known. A string holds JSON text: it is decoded at its end.
                if c == '{' && self.is_arguments() && self.name.is_some() {
                    (self.begun, self.passes, step.name) = (true, true, self.name.clone());
                }
                self.keep(c, step);
            }
            (State::AfterValue, '}') => {
                // A call may have no arguments.
                if !self.begun {
                    (self.begun, step.name) = (true, Some(self.name.clone()?));
                }
                step.end = Some(End::Complete);
            }
            _ => return None,
        }
        Some(())
    }

    /// Whether the current value is the call's arguments.
    fn is_arguments(&self) -> bool {
        !self.begun && ARGUMENTS.contains(&self.key.as_str())
    }

    /// Keeps a character of a value, or passes it on.
    fn keep(&mut self, c: char, step: &mut Step) {
        if self.passes {
            step.arguments.push(c);
        } else if self.key == "name" || self.is_arguments() {
            self.text.push(c);
        }
    }

    fn end_value(&mut self, step: &mut Step) -> Option<()> {
        self.state = State::AfterValue;
        self.passes = false;
        let text = std::mem::take(&mut self.text);
        if self.key == "name" && self.name.is_none() {
            self.name = Some(unquoted(&text).filter(|name| !name.is_empty())?);
        } else if self.is_arguments() {
            let arguments = if text.starts_with('"') { unquoted(&text)? } else { text };
            self.early = Some(if arguments == "null" { String::new() } else { arguments });
        }
        if !self.begun
            && let (Some(name), Some(arguments)) = (&self.name, &self.early)
        {
            step.name = Some(name.clone());
            step.arguments.push_str(arguments);
            self.begun = true;
        }
        Some(())
    }
}

impl Value {
    /// Follows quotes and brackets. Whether the character ends the value.
    fn ends_with(&mut self, c: char) -> bool {
        if self.quoted {
            match c {
                _ if self.escaped => self.escaped = false,
                '\\' => self.escaped = true,
                '"' => {
                    self.quoted = false;
                    return self.depth == 0;
                }
                _ => {}
            }
            return false;
        }
        match c {
            '"' => self.quoted = true,
            '{' | '[' => self.depth += 1,
            '}' | ']' => {
                self.depth = self.depth.saturating_sub(1);
                return self.depth == 0;
            }
            _ => {}
        }
        false
    }
}

/// The text of a JSON string.
fn unquoted(json: &str) -> Option<String> {
    serde_json::from_str(json).ok()
}
