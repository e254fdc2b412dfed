//! What a chat template may call: the functions that `transformers` offers, methods of Python's strings, lists and
//! mappings, and the checks that keep a foreign template within bounds.

use std::sync::{Arc, Mutex};

use minijinja::syntax::SyntaxConfig;
use minijinja::tests::is_sameas;
use minijinja::value::{Enumerator, Kwargs, Object, ObjectRepr, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value};
use minijinja_contrib::pycompat;

use super::clock::strftime;
use super::rewrite::{GENERATION, GUARD, LIST, TEXT};
use super::text::{MAX_DEPTH, bad, endless, printed, to_json};
use super::{ChatRequest, Rendered};

/// Begins the detail of an error that the template itself raised.
pub(super) const RAISED: &str = "raised: ";

/// The most values that one variable of a template may hold, counted as often as they would be printed.
const MAX_VALUES: usize = 1 << 17;

/// The most elements of a list that a template changes.
const MAX_CHANGED: usize = 1 << 14;

/// Names of values that the functions below read.
pub(super) const CLOCK: &str = "__now";
const OPEN: &str = "__open";
const CLOSE: &str = "__close";

/// Marks around the assistant's text in the output of a template: two characters that occur nowhere else.
pub(super) struct Marks([char; 2]);

impl Marks {
    /// Characters that mean nothing and that neither the template nor the request has.
    pub(super) fn absent_from(source: &str, messages: &[Value], request: &ChatRequest) -> Self {
        let unused = ['\u{fdd0}', '\u{fdd1}'];
        if !source.contains("generation") {
            return Self(unused);
        }
        let all = format!("{source}{messages:?}{:?}{:?}", request.tools, request.values);
        let mut free = ('\u{fdd0}'..='\u{fdef}').filter(|c| !all.contains(*c) && !all.contains(&escaped(*c)));
        Self(std::array::from_fn(|at| free.next().unwrap_or(unused[at])))
    }

    /// The marks for the function that writes them.
    pub(super) fn values(&self) -> [(String, Value); 2] {
        let [open, close] = self.0.map(|c| Value::from(c.to_string()));
        [(OPEN.to_owned(), open), (CLOSE.to_owned(), close)]
    }

    /// Takes the marks out of the output.
    pub(super) fn remove(&self, output: &str) -> Rendered {
        let [open, close] = self.0;
        let (mut rendered, mut starts, mut rest) = (Rendered::default(), Vec::new(), output);
        while let Some(at) = rest.find([open, close]) {
            rendered.text.push_str(&rest[..at]);
            if rest[at..].starts_with(open) {
                starts.push(rendered.text.len());
            } else if let Some(start) = starts.pop() {
                rendered.generated.push(start..rendered.text.len());
            }
            rest = &rest[at + open.len_utf8()..];
        }
        rendered.text.push_str(rest);
        rendered
    }
}

/// A character as the debug form of a string writes it.
fn escaped(c: char) -> String {
    c.escape_debug().to_string()
}

/// The environment that all templates share. The values of a request come later.
pub(super) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().unwrap_or_default();
    environment.set_syntax(syntax);
    environment.set_recursion_limit(120);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_formatter(|out: &mut Output, state: &mut State, value: &Value| {
        let failed = |_| Error::new(ErrorKind::WriteFailure, "the output is too long");
        match value.as_str() {
            Some(text) => out.write_str(text).map_err(failed),
            None => out.write_str(&printed(state, value)?).map_err(failed),
        }
    });
    environment.set_unknown_method_callback(method);
    environment.add_filter("tojson", |state: &State, value: &Value, options: Kwargs| to_json(state, value, options));
    let as_text = |state: &State, value: Value| match value.as_str() {
        Some(_) => Ok(value),
        None => printed(state, &value).map(Value::from),
    };
    environment.add_filter("string", as_text);
    environment.add_function(TEXT, as_text);
    environment.add_filter("from_json", |text: &str| {
        serde_json::from_str::<Value>(text).map_err(|e| bad(format!("from_json: the text is not JSON ({e})")))
    });
    // What Python can iterate over, take the length of, and count with.
    environment.add_test("iterable", |value: &Value| {
        use ValueKind::{Bytes, Iterable, Map, Seq, String, Undefined};
        matches!(value.kind(), Bytes | Iterable | Map | Seq | String | Undefined)
    });
    environment.add_test("sequence", |value: &Value| {
        use ValueKind::{Bytes, Map, Seq, String, Undefined};
        matches!(value.kind(), Bytes | Map | Seq | String | Undefined)
    });
    environment.add_test("number", |value: &Value| matches!(value.kind(), ValueKind::Number | ValueKind::Bool));
    environment.add_function("raise_exception", |message: Value| -> Result<Value, Error> {
        Err(bad(format!("{RAISED}{message}")))
    });
    environment.add_function("strftime_now", |state: &State, format: &str| {
        let now = state.lookup(CLOCK).and_then(|now| now.as_i64()).and_then(|now| u64::try_from(now).ok());
        strftime(format, now.unwrap_or(0))
    });
    environment.add_function(GUARD, guard);
    environment.add_function(LIST, |values: Vec<Value>| Value::from_object(List(Mutex::new(values))));
    environment.add_function(GENERATION, |state: &mut State, options: Kwargs| -> Result<Value, Error> {
        let caller: Value = options.get("caller")?;
        let text = caller.call(state, &[])?;
        let [open, close] = [OPEN, CLOSE].map(|name| state.lookup(name).unwrap_or_default());
        Ok(Value::from(format!("{open}{text}{close}")))
    });
    // It prints the whole state, which can be without end.
    environment.remove_global("debug");
    environment.remove_filter("pprint");
    environment
}

/// The value, if it is small enough and not too deep to be printed. Values that can be read once become lists. If the
/// value becomes part of a namespace, it may not contain this namespace.
fn guard(state: &mut State, value: Value, namespace: Option<Value>) -> Result<Value, Error> {
    let value = match value.kind() {
        ValueKind::Iterable => {
            let mut values = Vec::new();
            for item in value.try_iter()?.checked() {
                state.consume_fuel(1)?;
                values.push(item?);
            }
            Value::from(values)
        }
        ValueKind::Invalid => value.try_iter().map(|_| value.clone())?,
        _ => value,
    };
    check(state, &value, &namespace.map_or(Holder::Nothing, Holder::Namespace))?;
    Ok(value)
}

/// What a value becomes part of.
enum Holder {
    Nothing,
    Namespace(Value),
    List(Arc<List>),
}

impl Holder {
    fn is(&self, value: &Value) -> bool {
        match self {
            Self::Nothing => false,
            Self::Namespace(namespace) => is_sameas(value, namespace),
            Self::List(list) => value.downcast_object::<List>().is_some_and(|value| Arc::ptr_eq(&value, list)),
        }
    }
}

/// Counts the values inside a value. What the value becomes part of may not occur in it.
fn check(state: &State, value: &Value, holder: &Holder) -> Result<(), Error> {
    let mut count = 0;
    let mut open = vec![(value.clone(), 0)];
    while let Some((value, depth)) = open.pop() {
        count += 1;
        if count % 4 == 0 {
            state.consume_fuel(1)?;
        }
        if count > MAX_VALUES {
            return Err(endless("a value grows without end"));
        }
        if depth > MAX_DEPTH {
            return Err(endless("a value is nested too deep"));
        }
        if holder.is(&value) {
            return Err(endless("a list or namespace holds itself"));
        }
        let depth = depth + 1;
        match value.kind() {
            ValueKind::Seq | ValueKind::Iterable => {
                for item in value.try_iter()?.checked() {
                    let item = item?;
                    match item.as_object() {
                        Some(_) => open.push((item, depth)),
                        None => count += 1,
                    }
                }
            }
            ValueKind::Map => {
                for key in value.try_iter()?.checked() {
                    let item = value.get_item(&key?)?;
                    match item.as_object() {
                        Some(_) => open.push((item, depth)),
                        None => count += 1,
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// A list that a template changes. `transformers` refuses such templates, but some models have one (Kimi-K2).
#[derive(Debug)]
struct List(Mutex<Vec<Value>>);

impl List {
    fn values(&self) -> std::sync::MutexGuard<'_, Vec<Value>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// An index as Python understands it.
    fn index(at: i64, length: usize) -> Option<usize> {
        let at = if at < 0 { at.checked_add(length as i64)? } else { at };
        usize::try_from(at).ok()
    }
}

impl Object for List {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let values = self.values();
        values.get(Self::index(key.as_i64()?, values.len())?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.values().clone())
    }

    fn call_method(self: &Arc<Self>, state: &mut State, method: &str, args: &[Value]) -> Result<Value, Error> {
        let missing = || bad(format!("{method}: an argument is missing"));
        match method {
            "append" | "insert" => {
                let at = match (method, args) {
                    ("append", [_]) => i64::MAX,
                    ("insert", [at, _]) => at.as_i64().ok_or_else(missing)?,
                    _ => return Err(missing()),
                };
                let value = args.last().ok_or_else(missing)?;
                check(state, value, &Holder::List(Arc::clone(self)))?;
                let mut values = self.values();
                let length = values.len();
                let at =
                    if at < 0 { at.saturating_add(length as i64).max(0) as usize } else { (at as usize).min(length) };
                values.insert(at, value.clone());
                Self::bounded(&values)
            }
            "extend" => {
                let [more] = args else { return Err(missing()) };
                check(state, more, &Holder::List(Arc::clone(self)))?;
                let more: Vec<Value> = more.try_iter()?.checked().collect::<Result<_, _>>()?;
                let mut values = self.values();
                values.extend(more);
                Self::bounded(&values)
            }
            "pop" => {
                let mut values = self.values();
                let length = values.len();
                let at = args.first().map_or(Some(-1), Value::as_i64).ok_or_else(missing)?;
                let at = Self::index(at, length).filter(|at| *at < length);
                at.map(|at| values.remove(at)).ok_or_else(|| bad("pop: the list has no such element"))
            }
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }
}

impl List {
    fn bounded(values: &[Value]) -> Result<Value, Error> {
        if values.len() > MAX_CHANGED {
            return Err(endless("a list grows without end"));
        }
        Ok(Value::from(()))
    }
}

/// Methods that values have in Python.
fn method(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let own = match (value.as_str(), method, args) {
        (Some(text), "removeprefix", [prefix]) => prefix.as_str().map(|p| text.strip_prefix(p).unwrap_or(text).into()),
        (Some(text), "removesuffix", [suffix]) => suffix.as_str().map(|s| text.strip_suffix(s).unwrap_or(text).into()),
        (Some(text), "partition" | "rpartition", [mark]) => mark.as_str().filter(|m| !m.is_empty()).map(|mark| {
            let first = method == "partition";
            let found = if first { text.split_once(mark) } else { text.rsplit_once(mark) };
            let [a, b, c] = match found {
                Some((before, after)) => [before, mark, after],
                None if first => [text, "", ""],
                None => ["", "", text],
            };
            [a, b, c].iter().map(|part| Value::from(*part)).collect()
        }),
        (Some(text), "rsplit", [mark, rest @ ..]) => mark.as_str().filter(|m| !m.is_empty()).map(|mark| {
            let most = rest.first().and_then(Value::as_i64).and_then(|most| usize::try_from(most).ok());
            let mut parts: Vec<&str> = match most {
                Some(most) => text.rsplitn(most.saturating_add(1), mark).collect(),
                None => text.rsplit(mark).collect(),
            };
            parts.reverse();
            parts.into_iter().map(Value::from).collect()
        }),
        (Some(text), "index", [wanted]) => {
            let wanted = wanted.as_str().ok_or_else(|| bad("index: look for text in text"))?;
            let at = text.find(wanted).map(|at| Value::from(text[..at].chars().count()));
            Some(at.ok_or_else(|| bad(format!("index: {wanted} is not in the text")))?)
        }
        (None, "index", [wanted]) if value.kind() == ValueKind::Seq => {
            let items: Vec<Value> = value.try_iter()?.checked().collect::<Result<_, _>>()?;
            let at = items.iter().position(|item| item == wanted);
            Some(at.map(Value::from).ok_or_else(|| bad(format!("index: {wanted} is not in the list")))?)
        }
        (None, "copy", []) if matches!(value.kind(), ValueKind::Map | ValueKind::Seq) => Some(value.clone()),
        (None, "append" | "extend" | "insert" | "pop" | "update" | "setdefault" | "clear" | "remove", _) => {
            return Err(bad(format!("{method}: values that come with the request or are mappings cannot be changed")));
        }
        _ => None,
    };
    match own {
        Some(value) => Ok(value),
        None => pycompat::unknown_method_callback(state, value, method, args),
    }
}
