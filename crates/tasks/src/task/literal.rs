//! Python's literals (`ast.literal_eval`): templates write lists as Python prints them.

use serde_json::{Number, Value};

/// The deepest nesting of lists.
const MAX_DEPTH: usize = 50;

/// Reads a literal: a list, tuple, mapping, string, number, `True`, `False` or `None`. Nothing if it is something else.
pub(super) fn literal(text: &str) -> Option<Value> {
    let mut reader = Reader { rest: text.trim() };
    let value = reader.value(0)?;
    reader.spaces();
    reader.rest.is_empty().then_some(value)
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn spaces(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, mark: &str) -> bool {
        match self.rest.strip_prefix(mark) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        if depth > MAX_DEPTH {
            return None;
        }
        self.spaces();
        for (word, value) in [("True", Value::Bool(true)), ("False", Value::Bool(false)), ("None", Value::Null)] {
            if self.rest.starts_with(word) && !self.rest[word.len()..].starts_with(|c: char| c.is_alphanumeric()) {
                self.take(word);
                return Some(value);
            }
        }
        match self.rest.chars().next()? {
            '[' => {
                self.take("[");
                Some(Value::Array(self.items("]", depth)?.0))
            }
            '(' => {
                self.take("(");
                let (mut items, comma) = self.items(")", depth)?;
                Some(if items.len() == 1 && !comma { items.remove(0) } else { Value::Array(items) })
            }
            '{' => self.mapping(depth),
            '\'' | '"' => self.strings(),
            _ => self.number(),
        }
    }

    /// Items up to the closing mark, and whether a comma stands behind one.
    fn items(&mut self, close: &str, depth: usize) -> Option<(Vec<Value>, bool)> {
        let (mut items, mut comma) = (Vec::new(), false);
        loop {
            self.spaces();
            if self.take(close) {
                return Some((items, comma));
            }
            items.push(self.value(depth + 1)?);
            self.spaces();
            if self.take(",") {
                comma = true;
            } else {
                return self.take(close).then_some((items, comma));
            }
        }
    }

    fn mapping(&mut self, depth: usize) -> Option<Value> {
        self.take("{");
        let mut map = serde_json::Map::new();
        loop {
            self.spaces();
            if self.take("}") {
                return Some(Value::Object(map));
            }
            let key = match self.value(depth + 1)? {
                Value::String(key) => key,
                other => other.to_string(),
            };
            self.spaces();
            if !self.take(":") {
                return None;
            }
            let value = self.value(depth + 1)?;
            map.insert(key, value);
            self.spaces();
            if !self.take(",") {
                return self.take("}").then_some(Value::Object(map));
            }
        }
    }

    /// Strings that stand side by side are one.
    fn strings(&mut self) -> Option<Value> {
        let mut all = String::new();
        while self.rest.starts_with(['\'', '"']) {
            all.push_str(&self.string()?);
            self.spaces();
        }
        Some(Value::String(all))
    }

    fn string(&mut self) -> Option<String> {
        let quote = self.rest.chars().next()?;
        // Three quotes are not what Python prints.
        let mut letters = self.rest[1..].char_indices();
        let mut out = String::new();
        loop {
            let (at, c) = letters.next()?;
            match c {
                c if c == quote => {
                    self.rest = &self.rest[1 + at + 1..];
                    return Some(out);
                }
                '\n' => return None,
                '\\' => {
                    let (_, escape) = letters.next()?;
                    let length = match escape {
                        'x' => 2,
                        'u' => 4,
                        'U' => 8,
                        _ => 0,
                    };
                    if length > 0 {
                        let digits: String = (0..length).map_while(|_| letters.next().map(|(_, c)| c)).collect();
                        out.push(char::from_u32(u32::from_str_radix(&digits, 16).ok()?)?);
                        continue;
                    }
                    match escape {
                        'n' => out.push('\n'),
                        't' => out.push('\t'),
                        'r' => out.push('\r'),
                        'a' => out.push('\u{7}'),
                        'b' => out.push('\u{8}'),
                        'f' => out.push('\u{c}'),
                        'v' => out.push('\u{b}'),
                        '0' => out.push('\0'),
                        '\n' => {}
                        '\\' | '\'' | '"' => out.push(escape),
                        other => out.extend(['\\', other]),
                    }
                }
                c => out.push(c),
            }
        }
    }

    fn number(&mut self) -> Option<Value> {
        let end =
            self.rest.find(|c: char| !(c.is_ascii_alphanumeric() || "+-._".contains(c))).unwrap_or(self.rest.len());
        let (digits, rest) = self.rest.split_at(end);
        self.rest = rest;
        let plain = digits.strip_prefix(['-', '+']).unwrap_or(digits);
        if !plain.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
            return None;
        }
        if plain.bytes().all(|b| b.is_ascii_digit()) {
            // Python refuses leading zeros.
            let zeros = plain.len() > 1 && plain.starts_with('0') && plain.bytes().any(|b| b != b'0');
            return (!zeros).then(|| digits.trim_start_matches('+').parse::<i64>().ok()).flatten().map(Value::from);
        }
        Number::from_f64(digits.parse().ok()?).map(Value::Number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn literals_are_read_as_python_reads_them() {
        // The right-hand sides come from json.dumps(ast.literal_eval(...)).
        for (text, json) in [
            ("['a', \"it's\", 'b\\n']", r#"["a","it's","b\n"]"#),
            ("(1, 2.5, None, True)", "[1,2.5,null,true]"),
            ("(1)", "1"),
            ("(1,)", "[1]"),
            ("{'a': [1, -2]}", r#"{"a":[1,-2]}"#),
            ("'a' 'b'", r#""ab""#),
            ("'\\x41\\u00e9'", r#""Aé""#),
            ("[]", "[]"),
            ("[1,]", "[1]"),
        ] {
            assert_eq!(literal(text).map(|value| value.to_string()).as_deref(), Some(json), "{text}");
        }
        for wrong in ["[1", "x", "['a'", "[1 2]", "007", "f()", "", "1 + 1x", "'a"] {
            assert_eq!(literal(wrong), None, "{wrong}");
        }
        assert_eq!(literal(&"[".repeat(10_000)), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[\\[\\](){}'\"a0-9,:.\\\\ -]{0,40}") {
            _ = literal(&text);
        }
    }
}
