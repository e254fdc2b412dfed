//! Remembers where each key of a recipe was written, so that an error can point at it.
//!
//! The file and the `--set` overrides are read as one text, with the overrides after the file. An override is parsed
//! after as many spaces as there is text before it. This makes every span an offset into that one text.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use super::RecipeError;
use crate::{removed, renamed};

/// The written text of a recipe and the place of every key in it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WrittenText {
    /// File name, or the name of a built-in recipe.
    pub name: String,
    text: String,
    /// Overrides as given, with their offsets in the joined text.
    overrides: Vec<(usize, String)>,
    /// Dotted key (array elements by number) to its span.
    keys: BTreeMap<String, Range<usize>>,
}

impl WrittenText {
    /// Parses `text` and `overrides` (each `dotted.key=value`) into a `T`, without the keys that were removed.
    pub(crate) fn read<T: DeserializeOwned>(
        name: &str,
        text: &str,
        overrides: &[String],
    ) -> Result<(T, Self), RecipeError> {
        let mut source = Self { name: name.into(), text: format!("{text}\n"), ..Self::default() };
        let mut pieces = Vec::new();
        let mut at = source.text.len();
        for o in overrides {
            let line = override_as_toml(o)?;
            source.overrides.push((at, o.clone()));
            pieces.push(format!("{}{line}\n", " ".repeat(at)));
            at += line.len() + 1;
        }
        let parse = |text| DeTable::parse(text).map_err(|e| source.error(e.message(), e.span()));
        let mut root = parse(&source.text)?;
        let renamed = renamed::in_recipe(root.get_mut());
        for piece in &pieces {
            let mut table = parse(piece)?.into_inner();
            renamed::in_recipe(&mut table).expect("an override is one key");
            merge(root.get_mut(), table);
        }
        let mut keys = BTreeMap::new();
        collect(root.get_ref(), "", &mut keys);
        let found = Self { keys, ..source.clone() };
        renamed.map_err(|(key, message)| found.at_key(key, message))?;
        removed::take_from_recipe(root.get_mut()).map_err(|r| found.at_key(r.key, r.message()))?;
        let value = T::deserialize(Deserializer::from(root)).map_err(|e| found.error(e.message(), e.span()))?;
        Ok((value, found))
    }

    /// The file's text, without the overrides.
    pub(crate) fn file_text(&self) -> &str {
        &self.text
    }

    /// True when the key was written (in the file or by an override).
    pub fn has(&self, key: &str) -> bool {
        self.keys.contains_key(key)
    }

    /// Every written key, in dotted form.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str)
    }

    /// An error about the value of `key`. It points at the key, or at the nearest table that holds it.
    pub fn at_key(&self, key: &str, message: impl Into<String>) -> RecipeError {
        let mut probe = key;
        let place = loop {
            if let Some(span) = self.keys.get(probe) {
                break self.place(span.start);
            }
            match probe.rsplit_once('.') {
                Some((parent, _)) => probe = parent,
                None => break self.name.clone(),
            }
        };
        RecipeError::Key { place, key: key.into(), message: message.into() }
    }

    /// "file, line 12" or "--set key=value" for an offset into the joined text.
    fn place(&self, offset: usize) -> String {
        if let Some((_, text)) = self.overrides.iter().rev().find(|(start, _)| *start <= offset) {
            return format!("--set {text}");
        }
        let line = 1 + self.text.bytes().take(offset).filter(|&b| b == b'\n').count();
        format!("{}, line {line}", self.name)
    }

    fn error(&self, message: &str, span: Option<Range<usize>>) -> RecipeError {
        let place = span.as_ref().map_or_else(|| self.name.clone(), |s| self.place(s.start));
        let key = span.and_then(|s| self.key_at(&s)).unwrap_or_default();
        let message = message.lines().collect::<Vec<_>>().join("; ");
        RecipeError::Key { place, key, message: suggest(&message) }
    }

    /// The innermost key whose name or value covers `span`.
    fn key_at(&self, span: &Range<usize>) -> Option<String> {
        self.keys
            .iter()
            .filter(|(_, s)| s.start <= span.start && span.end <= s.end)
            .min_by_key(|(k, s)| (s.len(), std::cmp::Reverse(k.len())))
            .map(|(k, _)| k.clone())
    }
}

/// `a.b=value` as a line of TOML. A value that is not TOML is read as a string, so that a shell command needs no
/// quotes.
fn override_as_toml(text: &str) -> Result<String, RecipeError> {
    let bad = || RecipeError::Override { text: text.into() };
    let (key, value) = text.split_once('=').ok_or_else(bad)?;
    let (key, value) = (key.trim(), value.trim());
    if key.is_empty() || !key.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)) {
        return Err(bad());
    }
    let line = format!("{key} = {value}");
    if !value.contains('\n') && DeTable::parse(&line).is_ok() {
        return Ok(line);
    }
    let line = format!("{key} = {}", toml::Value::String(value.into()));
    // This rejects keys such as `a..b`.
    DeTable::parse(&line).map_err(|_| bad())?;
    Ok(line)
}

/// Copies every value of `from` into `into`. Tables are merged, everything else is replaced.
fn merge<'a>(into: &mut DeTable<'a>, from: DeTable<'a>) {
    for (key, value) in from {
        let (span, value) = (value.span(), value.into_inner());
        match (into.get_mut(&key).map(Spanned::get_mut), value) {
            (Some(DeValue::Table(old)), DeValue::Table(new)) => merge(old, new),
            (_, value) => {
                // The old key's span would point into the file.
                into.remove(&key);
                into.insert(key, Spanned::new(span, value));
            }
        }
    }
}

fn collect(table: &DeTable<'_>, prefix: &str, keys: &mut BTreeMap<String, Range<usize>>) {
    for (key, value) in table {
        let path = format!("{prefix}{}", key.get_ref());
        // The spans of the key, of its value, and for a `[table]` of the brackets around it.
        let (k, v) = (key.span(), value.span());
        let span = k.start.min(v.start)..k.end.max(v.end);
        keys.insert(path.clone(), span);
        collect_value(value.get_ref(), &path, keys);
    }
}

fn collect_value(value: &DeValue<'_>, path: &str, keys: &mut BTreeMap<String, Range<usize>>) {
    match value {
        DeValue::Table(t) => collect(t, &format!("{path}."), keys),
        DeValue::Array(a) => {
            for (i, v) in a.iter().enumerate() {
                let path = format!("{path}.{i}");
                keys.insert(path.clone(), v.span());
                collect_value(v.get_ref(), &path, keys);
            }
        }
        _ => {}
    }
}

/// Adds "did you mean" to serde's "unknown field `x`, expected one of `a`, `b`".
fn suggest(message: &str) -> String {
    let mut names = message.split('`').skip(1).step_by(2);
    let Some(wrong) = names.next() else { return message.into() };
    if !message.starts_with("unknown field") && !message.starts_with("unknown variant") {
        return message.into();
    }
    match nearest(wrong, names) {
        Some(near) => format!("{message} (did you mean `{near}`?)"),
        None => message.into(),
    }
}

/// The name closest to `wrong`, if it is close enough to be a typing error.
pub(crate) fn nearest<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names
        .map(|n| (strsim::jaro_winkler(wrong, n), n))
        .filter(|(score, _)| *score > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, n)| n)
}
