//! Values as text, as Python writes them: `json.dumps` and `repr`.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};
use std::fmt::Write as _;

/// Deeper values are refused. JSON that people send is at most 128 deep.
pub(super) const MAX_DEPTH: usize = 150;

/// A value of a request as `json.dumps` writes it. `None` if it is too deep.
pub(super) fn plain_json(value: &Value) -> Option<String> {
    let layout = Layout { ascii: false, indent: None, item: ", ".into(), key: ": ".into(), sorted: false };
    let mut out = String::new();
    write_json(&|_| Ok(()), value, &layout, 0, &mut out).ok()?;
    Some(out)
}

/// Counts steps, and fails if there were too many.
type Spend<'s> = &'s dyn Fn(u64) -> Result<(), Error>;

/// The layout of `json.dumps`.
struct Layout {
    ascii: bool,
    indent: Option<String>,
    item: String,
    key: String,
    sorted: bool,
}

/// The filter `tojson`, as `transformers` defines it: no HTML is escaped, and letters of all scripts stay.
pub(super) fn to_json(state: &State, value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent = match options.get::<Option<Value>>("indent")? {
        None => None,
        Some(value) if value.is_none() || value.is_undefined() => None,
        Some(value) => Some(match value.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(value.as_usize().unwrap_or(0).min(64)),
        }),
    };
    let mut layout = Layout {
        ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        item: if indent.is_some() { "," } else { ", " }.to_owned(),
        key: ": ".to_owned(),
        sorted: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        indent,
    };
    if let Some(separators) = options.get::<Option<Value>>("separators")?.filter(|v| !v.is_none()) {
        let part = |at: usize| {
            let part = separators.get_item_by_index(at)?;
            part.as_str().map(str::to_owned).ok_or_else(|| bad("tojson: separators must be two strings"))
        };
        (layout.item, layout.key) = (part(0)?, part(1)?);
    }
    options.assert_all_used()?;
    let mut out = String::new();
    write_json(&|steps| state.consume_fuel(steps), value, &layout, 0, &mut out)?;
    Ok(out)
}

/// The filter `tojson` as jinja2 itself defines it: sorted, in ASCII, and safe inside of HTML.
pub(super) fn html_json(state: &State, value: &Value) -> Result<String, Error> {
    let layout = Layout { ascii: true, indent: None, item: ", ".into(), key: ": ".into(), sorted: true };
    let mut out = String::new();
    write_json(&|steps| state.consume_fuel(steps), value, &layout, 0, &mut out)?;
    let escapes = [('<', "\\u003c"), ('>', "\\u003e"), ('&', "\\u0026"), ('\'', "\\u0027")];
    Ok(escapes.into_iter().fold(out, |text, (c, escape)| text.replace(c, escape)))
}

fn write_json(spend: Spend, value: &Value, layout: &Layout, depth: usize, out: &mut String) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(endless("a value is nested too deep"));
    }
    spend(1)?;
    let break_line = |depth: usize, out: &mut String| {
        if let Some(indent) = &layout.indent {
            out.push('\n');
            (0..depth).for_each(|_| out.push_str(indent));
        }
    };
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => out.push_str(&number(value)),
        ValueKind::String => json_string(value.as_str().unwrap_or_default(), layout.ascii, out),
        ValueKind::Seq | ValueKind::Iterable => {
            out.push('[');
            let mut empty = true;
            for item in value.try_iter()?.checked() {
                if !std::mem::take(&mut empty) {
                    out.push_str(&layout.item);
                }
                break_line(depth + 1, out);
                write_json(spend, &item?, layout, depth + 1, out)?;
            }
            if !empty {
                break_line(depth, out);
            }
            out.push(']');
        }
        ValueKind::Map => {
            let mut entries = Vec::new();
            for key in value.try_iter()?.checked() {
                let key = key?;
                let text = match key.kind() {
                    ValueKind::String => key.as_str().unwrap_or_default().to_owned(),
                    ValueKind::None => "null".to_owned(),
                    ValueKind::Bool => if key.is_true() { "true" } else { "false" }.to_owned(),
                    ValueKind::Number => number(&key),
                    _ => return Err(bad("tojson: the keys of a mapping must be text or numbers")),
                };
                entries.push((text, value.get_item(&key)?));
            }
            if layout.sorted {
                entries.sort_by(|a, b| a.0.cmp(&b.0));
            }
            out.push('{');
            for (at, (key, value)) in entries.iter().enumerate() {
                if at > 0 {
                    out.push_str(&layout.item);
                }
                break_line(depth + 1, out);
                json_string(key, layout.ascii, out);
                out.push_str(&layout.key);
                write_json(spend, value, layout, depth + 1, out)?;
            }
            if !entries.is_empty() {
                break_line(depth, out);
            }
            out.push('}');
        }
        ValueKind::Undefined => return Err(bad("tojson: the value is undefined")),
        _ => return Err(bad("tojson: the value cannot be written as JSON")),
    }
    Ok(())
}

/// A string as `json.dumps` writes it.
fn json_string(text: &str, ascii: bool, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' || (ascii && c > '~') => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    _ = write!(out, "\\u{unit:04x}");
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// A number as Python writes it.
fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    let Ok(number) = f64::try_from(value.clone()) else { return value.to_string() };
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    float(number)
}

/// The shortest digits that give the number back, in Python's layout.
fn float(number: f64) -> String {
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if number == 0.0 || (-4..16).contains(&exponent) {
        let plain = number.to_string();
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

/// What `{{ value }}` prints.
pub(super) fn printed(state: &State, value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    match value.kind() {
        ValueKind::String => out.push_str(value.as_str().unwrap_or_default()),
        _ => write_repr(state, value, 0, &mut out)?,
    }
    Ok(out)
}

fn write_repr(state: &State, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(endless("a value is nested too deep"));
    }
    state.consume_fuel(1)?;
    match value.kind() {
        ValueKind::Undefined => {}
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => out.push_str(&match number(value).as_str() {
            "NaN" => "nan".to_owned(),
            "Infinity" => "inf".to_owned(),
            "-Infinity" => "-inf".to_owned(),
            text => text.to_owned(),
        }),
        ValueKind::String => repr_string(value.as_str().unwrap_or_default(), out),
        ValueKind::Seq | ValueKind::Iterable => {
            let tuple = value.is_tuple();
            out.push(if tuple { '(' } else { '[' });
            let mut count = 0;
            for item in value.try_iter()?.checked() {
                if count > 0 {
                    out.push_str(", ");
                }
                count += 1;
                write_repr(state, &item?, depth + 1, out)?;
            }
            if tuple && count == 1 {
                out.push(',');
            }
            out.push(if tuple { ')' } else { ']' });
        }
        ValueKind::Map => {
            out.push('{');
            for (at, key) in value.try_iter()?.checked().enumerate() {
                if at > 0 {
                    out.push_str(", ");
                }
                let key = key?;
                write_repr(state, &key, depth + 1, out)?;
                out.push_str(": ");
                write_repr(state, &value.get_item(&key)?, depth + 1, out)?;
            }
            out.push('}');
        }
        ValueKind::Invalid => return value.try_iter().map(|_| ()),
        _ => out.push_str(&value.to_string()),
    }
    Ok(())
}

/// A string as Python's `repr` writes it.
fn repr_string(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if c < ' ' || ('\u{7f}'..'\u{a0}').contains(&c) => _ = write!(out, "\\x{:02x}", u32::from(c)),
            c => out.push(c),
        }
    }
    out.push(quote);
}

pub(super) fn bad(problem: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem)
}

/// The template does not keep within bounds.
pub(super) fn endless(problem: &'static str) -> Error {
    Error::new(ErrorKind::OutOfFuel, problem)
}

#[cfg(test)]
mod tests {
    use super::float;

    #[test]
    fn floats_are_written_as_in_python() {
        // Each pair comes from Python's repr.
        for (number, expected) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (123456.789, "123456.789"),
            (5e-324, "5e-324"),
        ] {
            assert_eq!(float(number), expected);
        }
    }
}
