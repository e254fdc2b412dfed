//! Finds out which form of messages a template can write, by running it on small ones.
//!
//! Templates differ in what they expect. DeepSeek-V3's adds the arguments of a call to a string. GLM's loops over
//! their keys. One that prints a string as JSON would escape it twice. The form that is right gives an output with the
//! mark in it as it should be.

use std::collections::BTreeMap;

use minijinja::value::ValueKind;
use minijinja::{ErrorKind, Value};

use super::{Bounds, ChatRequest, Compiled};

/// The forms that a template can write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Forms {
    /// Arguments of calls as JSON text, and as an object.
    arguments: [bool; 2],
    /// Content as a list of parts.
    parts: bool,
    /// What stands for absent content beside calls.
    absent: Absent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Absent {
    Missing,
    Null,
    Empty,
}

impl Default for Forms {
    fn default() -> Self {
        Self { arguments: [true; 2], parts: true, absent: Absent::Missing }
    }
}

/// Steps that a template may take for a message or two. The largest known one takes some thousands.
const STEPS: u64 = 100_000;

/// Text that no template has.
const MARK: &str = "qzx";

/// The forms that a template can write.
pub(super) fn forms(template: &Compiled, special: &BTreeMap<String, Value>) -> Forms {
    let try_run = |messages: Vec<Value>| {
        let request = ChatRequest { messages, now: Some(0), ..ChatRequest::default() };
        let bounds = Bounds { steps: STEPS, output: 1 << 20 };
        template.run(special, &request, request.messages.clone(), &bounds).map(|rendered| rendered.text)
    };
    let run = |messages| try_run(messages).ok();
    let object = || map([("role", "user".into()), ("content", "a".into())]);
    let called = |arguments: Value, content: Option<Value>| {
        let function = map([("name", "call_me".into()), ("arguments", arguments)]);
        let call = map([("id", "a1".into()), ("type", "function".into()), ("function", function)]);
        let mut fields = vec![("role", Value::from("assistant")), ("tool_calls", Value::from(vec![call]))];
        fields.extend(content.map(|content| ("content", content)));
        let result = map([("role", "tool".into()), ("tool_call_id", "a1".into()), ("content", "r".into())]);
        run(vec![object(), map(fields), result]).filter(|text| text.contains("call_me"))
    };
    let as_text = || Value::from(format!("{{\"{MARK}\": \"v\"}}"));
    let as_object = || map([(MARK, Value::from("v"))]);
    let mut forms = Forms::default();
    let string = try_run(vec![map([("role", "user".into()), ("content", MARK.into())])]);
    if string.as_ref().is_err_and(|error| error.kind() == ErrorKind::OutOfFuel) {
        return forms;
    }
    // The first content with which a call can be written. `transformers` leaves absent content out.
    let contents =
        [(Absent::Missing, None), (Absent::Null, Some(Value::from(()))), (Absent::Empty, Some(Value::from("")))];
    for (absent, content) in contents {
        let arguments = [called(as_text(), content.clone()), called(as_object(), content)].map(|text| {
            // A mark inside quotes that are escaped, or one that Python printed, is wrong.
            let text = text.filter(|text| !text.contains("None")).unwrap_or_default();
            text.contains(MARK) && !text.contains(&format!("\\\"{MARK}")) && !text.contains(&format!("'{MARK}'"))
        });
        if arguments != [false; 2] {
            (forms.absent, forms.arguments) = (absent, arguments);
            break;
        }
    }
    let part = map([("type", "text".into()), ("text", MARK.into())]);
    let listed = run(vec![map([("role", "user".into()), ("content", Value::from(vec![part]))])]);
    forms.parts = string.is_err() || string.ok() == listed;
    forms
}

impl Forms {
    /// A message in a form that the template can write.
    pub(super) fn message(self, message: &Value) -> Value {
        if message.kind() != ValueKind::Map {
            return message.clone();
        }
        let mut fields: Vec<(String, Value)> = Vec::new();
        for key in message.try_iter().into_iter().flatten() {
            let Some(name) = key.as_str() else { continue };
            let value = message.get_item(&key).unwrap_or_default();
            // `transformers` leaves out fields that are null.
            if value.is_none() {
                continue;
            }
            let value = match name {
                "content" if !self.parts => joined(&value),
                "tool_calls" => self.calls(&value),
                _ => value,
            };
            fields.push((name.to_owned(), value));
        }
        let has = |fields: &[(String, Value)], wanted: &str| fields.iter().any(|(name, _)| name == wanted);
        if has(&fields, "tool_calls") && !has(&fields, "content") {
            match self.absent {
                Absent::Missing => {}
                Absent::Null => fields.push(("content".to_owned(), Value::from(()))),
                Absent::Empty => fields.push(("content".to_owned(), Value::from(""))),
            }
        }
        // Thoughts have had several names.
        let thoughts = ["reasoning_content", "thinking", "reasoning"]
            .iter()
            .find_map(|wanted| fields.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone()));
        if let Some(thoughts) = thoughts {
            for name in ["thinking", "reasoning_content"] {
                if !has(&fields, name) {
                    fields.push((name.to_owned(), thoughts.clone()));
                }
            }
        }
        map(fields)
    }

    fn calls(self, calls: &Value) -> Value {
        let [text, object] = self.arguments;
        if text == object || calls.kind() != ValueKind::Seq {
            return calls.clone();
        }
        let call = |call: Value| match call.get_attr("function") {
            Ok(function) if function.kind() == ValueKind::Map => with(&call, "function", self.arguments(&function)),
            _ => self.arguments(&call),
        };
        calls.try_iter().into_iter().flatten().map(call).collect()
    }

    /// A function with its arguments in the right form. What is not JSON stays.
    fn arguments(self, function: &Value) -> Value {
        let Ok(arguments) = function.get_attr("arguments") else { return function.clone() };
        let changed = match (self.arguments, arguments.as_str()) {
            ([false, true], Some(text)) => serde_json::from_str::<Value>(text).ok(),
            ([true, false], None) if arguments.kind() == ValueKind::Map => {
                super::text::plain_json(&arguments).map(Value::from)
            }
            _ => None,
        };
        changed.map_or_else(|| function.clone(), |arguments| with(function, "arguments", arguments))
    }
}

/// A mapping with one value changed, in its order.
pub(super) fn with(value: &Value, name: &str, changed: Value) -> Value {
    let keys = value.try_iter().into_iter().flatten();
    let fields = keys.filter_map(|key| {
        let same = key.as_str() == Some(name);
        let field = if same { changed.clone() } else { value.get_item(&key).unwrap_or_default() };
        Some((key.as_str()?.to_owned(), field))
    });
    map(fields.collect::<Vec<_>>())
}

/// A list of text parts as one string. Anything else stays.
fn joined(content: &Value) -> Value {
    if content.kind() != ValueKind::Seq {
        return content.clone();
    }
    let mut text = String::new();
    for part in content.try_iter().into_iter().flatten() {
        match part.get_attr("text") {
            Ok(part) if part.as_str().is_some() => text.push_str(part.as_str().unwrap_or_default()),
            _ => return content.clone(),
        }
    }
    Value::from(text)
}

pub(super) fn map<K: Into<String>>(fields: impl IntoIterator<Item = (K, Value)>) -> Value {
    Value::from_pairs(fields.into_iter().map(|(name, value)| (Value::from(name.into()), value)))
}
