//! Regular expressions as Python's `re` understands them.

use fancy_regex::{Regex, RegexBuilder};

/// The most steps back that a pattern may take on one text.
const BACKTRACKS: usize = 1_000_000;

/// A compiled regular expression.
#[derive(Clone, Debug)]
pub struct Pattern(Regex);

impl Pattern {
    /// Compiles a pattern. The error says what is wrong with it.
    pub fn new(pattern: &str) -> Result<Self, String> {
        let compiled = RegexBuilder::new(&translated(pattern)).backtrack_limit(BACKTRACKS).build();
        compiled.map(Self).map_err(|error| format!("`{pattern}` is not a regular expression ({error}); correct it"))
    }

    /// What `re.findall` gives: for each match the groups, or the whole match if there are no groups.
    pub fn find_all(&self, text: &str) -> Vec<Vec<String>> {
        let mut found = Vec::new();
        for captures in self.0.captures_iter(text) {
            // A pattern that goes back too often finds nothing more.
            let Ok(captures) = captures else { break };
            let group = |at| captures.get(at).map_or(String::new(), |group| group.as_str().to_owned());
            found.push(if captures.len() == 1 { vec![group(0)] } else { (1..captures.len()).map(group).collect() });
        }
        found
    }

    /// What `re.sub` gives, for a replacement that is plain text.
    pub fn replace_all(&self, text: &str, replacement: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut end = 0;
        for found in self.0.find_iter(text) {
            let Ok(found) = found else { break };
            out.push_str(&text[end..found.start()]);
            out.push_str(replacement);
            end = found.end();
        }
        out.push_str(&text[end..]);
        out
    }

    /// What `re.sub` gives, for a replacement with groups (`\1`) and at most `count` times (0: no limit).
    pub fn substitute(&self, text: &str, replacement: &str, count: usize) -> String {
        let mut out = String::with_capacity(text.len());
        let mut end = 0;
        for (at, captures) in self.0.captures_iter(text).enumerate() {
            let Ok(captures) = captures else { break };
            if count > 0 && at >= count {
                break;
            }
            let Some(whole) = captures.get(0) else { break };
            out.push_str(&text[end..whole.start()]);
            let mut letters = replacement.chars().peekable();
            while let Some(c) = letters.next() {
                match (c, letters.peek().copied()) {
                    ('\\', Some(d)) if d.is_ascii_digit() => {
                        letters.next();
                        let group = d.to_digit(10).unwrap_or(0) as usize;
                        out.push_str(captures.get(group).map_or("", |group| group.as_str()));
                    }
                    ('\\', Some(d)) => {
                        letters.next();
                        out.push(match d {
                            'n' => '\n',
                            't' => '\t',
                            other => other,
                        });
                    }
                    (c, _) => out.push(c),
                }
            }
            end = whole.end();
        }
        out.push_str(&text[end..]);
        out
    }
}

/// The pattern in the syntax of the crate. In Python, `$` also stands before a line break at the end, and `\Z` is the end.
fn translated(pattern: &str) -> String {
    let lines = pattern.starts_with("(?m") || pattern.starts_with("(?sm") || pattern.starts_with("(?im");
    let mut out = String::with_capacity(pattern.len() + 8);
    let (mut letters, mut class) = (pattern.chars(), false);
    while let Some(c) = letters.next() {
        match c {
            '\\' => match letters.next() {
                Some('Z') if !class => out.push_str("\\z"),
                // Python knows these as plain letters.
                Some(c @ ('"' | '\'' | '%' | ',' | ':' | ';' | '=' | '@' | '`' | '!' | '_' | '/')) => {
                    out.push(c);
                }
                Some(other) => out.extend(['\\', other]),
                None => out.push('\\'),
            },
            '[' if !class => {
                class = true;
                out.push('[');
                // `[]a]` and `[^]a]` hold a bracket.
                if letters.as_str().starts_with('^') {
                    letters.next();
                    out.push('^');
                }
                if letters.as_str().starts_with(']') {
                    letters.next();
                    out.push_str("\\]");
                }
            }
            // Rust's classes can be nested and have operators. Python's cannot.
            '[' | '&' | '~' if class => out.extend(['\\', c]),
            ']' if class => {
                class = false;
                out.push(']');
            }
            '$' if !class && !lines => out.push_str("(?=\\n?\\z)"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_pythons() {
        let all = |pattern: &str, text: &str| Pattern::new(pattern).unwrap().find_all(text);
        assert_eq!(all("a$", "a\n"), [["a"]]);
        assert_eq!(all("[$0-9.,]{2,}", "x $12.5"), [["$12.5"]]);
        assert_eq!(all("(-?[$0-9.,]{2,})|(-?[0-9]+)", "5 and 17"), [["", "5"], ["17", ""]]);
        assert_eq!(all("[[]", "[a"), [["["]]);
        assert_eq!(all("(?<=#)\\d+", "#12 3"), [["12"]]);
        let sub = |pattern: &str, text: &str| Pattern::new(pattern).unwrap().replace_all(text, "");
        assert_eq!(sub("\\.$", "18."), "18");
        assert_eq!(sub("(?s).*#### ", "a\nb\n#### 72"), "72");
        assert_eq!(Pattern::new("(a)(b)").unwrap().substitute("ab ab", "\\2\\1", 1), "ba ab");
        assert!(Pattern::new("(").unwrap_err().contains('('));
    }

    #[test]
    fn a_pattern_that_goes_back_forever_ends() {
        let pattern = Pattern::new("(?=(a+)+b)(a+)+c\\1").unwrap();
        assert!(pattern.find_all(&"a".repeat(40)).is_empty());
    }
}
