//! Changes a template's source before it is compiled, where minijinja differs from what `transformers` offers.
//!
//! - `{% generation %}` becomes a call block, which marks the text of the assistant ([`super::python`]).
//! - Every place that gives a value a name (`set`, `for`, `with`, arguments of a macro) checks the value's size and
//!   depth with `__guard`. Without this, forty lines could double a list forty times, and printing it would never end.
//! - What `~` joins is written as Python writes it.
//! - If the template calls methods that change lists, its list literals become lists that can change.
//!
//! Nothing is added or removed that holds a line break. So the line numbers of errors stay right.

use std::fmt::Write as _;

use super::tokens::{Kind, Token, is_keyword, split_top, string_length, tokens};

/// Names that the rewritten source calls.
pub(super) const GUARD: &str = "__guard";
pub(super) const LIST: &str = "__list";
pub(super) const TEXT: &str = "__text";
pub(super) const GENERATION: &str = "__generation";

/// Methods that change a list.
const CHANGING: [&str; 4] = ["append", "extend", "insert", "pop"];

/// The source to compile.
pub(super) fn rewrite(source: &str) -> String {
    let lists = CHANGING.iter().any(|method| source.contains(&format!(".{method}(")));
    let mut out = String::with_capacity(source.len() + source.len() / 4);
    let mut rest = source;
    while let Some(at) = next_tag(rest) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let taken = match &rest[..2] {
            "{#" => rest.find("#}").map_or(rest.len(), |end| end + 2),
            open => tag(rest, open == "{%", lists, &mut out),
        };
        if rest.starts_with("{#") {
            out.push_str(&rest[..taken]);
        }
        rest = &rest[taken..];
    }
    out.push_str(rest);
    out
}

/// Whether a rewritten source marks the assistant's text.
pub(super) fn marks_answers(rewritten: &str) -> bool {
    rewritten.contains(&format!("call {GENERATION}()"))
}

/// Where the next tag, expression or comment begins.
fn next_tag(text: &str) -> Option<usize> {
    text.match_indices('{').map(|(at, _)| at).find(|at| matches!(text.as_bytes().get(at + 1), Some(b'%' | b'{' | b'#')))
}

/// Writes one tag or expression to `out` and returns its length in the source. What cannot be understood is copied: the
/// compiler reports it.
fn tag(text: &str, block: bool, lists: bool, out: &mut String) -> usize {
    let Some(tag) = Tag::read(text, block) else {
        out.push_str(text);
        return text.len();
    };
    let body = tag.body(text);
    let start = tag.inner.end - body.len();
    if !block {
        out.push_str(&text[..start]);
        out.push_str(&expression(body, lists));
        out.push_str(&text[tag.inner.end..tag.end]);
        return tag.end;
    }
    let name: &str = body.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
    let arguments = &body[name.len()..];
    let close = &text[tag.inner.end..tag.end];
    out.push_str(&text[..start]);
    match name {
        "raw" => {
            // Up to the tag that ends it, everything is text.
            let end = end_of_raw(&text[tag.end..]).map_or(text.len(), |end| tag.end + end);
            out.push_str(&text[start..end]);
            return end;
        }
        "generation" => _ = write!(out, "call {GENERATION}()"),
        "endgeneration" => out.push_str("endcall"),
        "set" => _ = write!(out, "set{}", assignment(arguments, lists)),
        "with" => {
            let parts = split_top(arguments, ',');
            let parts: Vec<String> = parts.iter().map(|part| assignment(part, lists)).collect();
            _ = write!(out, "with{}", parts.join(","));
        }
        "for" => _ = write!(out, "for{}", iteration(arguments, lists)),
        "macro" | "call" => {
            _ = write!(out, "{name}{}", expression(arguments, lists));
            let parameters = parameters(arguments, name == "call");
            if !parameters.is_empty() {
                spaced(out);
                _ = write!(out, "%}}{{% set __checked = {GUARD}(({},))", parameters.join(", "));
            }
        }
        _ => _ = write!(out, "{name}{}", expression(arguments, lists)),
    }
    spaced(out);
    out.push_str(close);
    tag.end
}

/// Adds white space before the end of a tag, if there is none.
fn spaced(out: &mut String) {
    if !out.ends_with(char::is_whitespace) {
        out.push(' ');
    }
}

/// Where the text of a `raw` block ends: after its end tag.
fn end_of_raw(text: &str) -> Option<usize> {
    let mut from = 0;
    loop {
        let at = from + text[from..].find("{%")?;
        let inner = text[at + 2..].trim_start_matches(['-', '+']).trim_start();
        if inner.starts_with("endraw") {
            return Some(at + text[at..].find("%}")? + 2);
        }
        from = at + 2;
    }
}

/// `TARGET = VALUE`, with the value checked. Without `=` (a block that is set) it stays as it is.
fn assignment(text: &str, lists: bool) -> String {
    let tokens = tokens(text);
    let equals = tokens.iter().find(|t| t.depth == 0 && t.kind == Kind::Mark && &text[t.start..t.end] == "=");
    let Some(equals) = equals else { return expression(text, lists) };
    let value = text[equals.end..].trim();
    if value.is_empty() {
        return text.to_owned();
    }
    // A value that becomes part of a namespace.
    match text[..equals.start].split_once('.') {
        Some((namespace, _)) => {
            let value = expression(value, lists);
            format!("{} {GUARD}(({value}), {})", &text[..equals.end], namespace.trim())
        }
        None => format!("{} {}", &text[..equals.end], guarded(value, lists)),
    }
}

/// `TARGETS in VALUES if CONDITION recursive`, with the values checked.
fn iteration(text: &str, lists: bool) -> String {
    let tokens = tokens(text);
    let word = |t: &&Token, name: &str| t.depth == 0 && t.kind == Kind::Word && &text[t.start..t.end] == name;
    let Some(start) = tokens.iter().find(|t| word(t, "in")) else { return expression(text, lists) };
    let after = tokens.iter().filter(|t| t.start >= start.end);
    let end = after.clone().find(|t| word(t, "if") || word(t, "recursive")).map_or(text.len(), |t| t.start);
    let values = text[start.end..end].trim();
    if values.is_empty() {
        return text.to_owned();
    }
    format!("{} {} {}", &text[..start.end], guarded(values, lists), expression(&text[end..], lists))
}

fn guarded(value: &str, lists: bool) -> String {
    format!("{GUARD}(({}))", expression(value, lists))
}

/// Names of the parameters in the first parentheses. Those of a call block come directly after its name.
fn parameters(text: &str, must_begin: bool) -> Vec<&str> {
    let Some(open) = text.find('(') else { return Vec::new() };
    if must_begin && !text[..open].trim().is_empty() {
        return Vec::new();
    }
    let tokens = tokens(&text[open..]);
    let Some(close) = tokens.iter().find(|t| t.kind == Kind::Close && t.depth == 0) else { return Vec::new() };
    let inner = &text[open + 1..open + close.start];
    let name = |part: &str| part.trim().len();
    split_top(inner, ',')
        .into_iter()
        .filter(|part| name(part) > 0)
        .map(|part| split_top(part, '=')[0].trim())
        .filter(|part| part.chars().all(|c| c.is_alphanumeric() || c == '_'))
        .collect()
}

/// An expression, in which list literals become lists that can change, and what `~` joins is written as in Python.
fn expression(text: &str, lists: bool) -> String {
    let tokens = tokens(text);
    // Where to insert what. At one place, ends come before beginnings, and outer beginnings before inner ones.
    let mut edits: Vec<(usize, usize, String)> = Vec::new();
    for at in (0..tokens.len()).filter(|at| tokens[*at].is(text, "~")) {
        let left = operand(text, &tokens, (0..at).rev());
        let right = operand(text, &tokens, at + 1..tokens.len());
        for (first, last) in [left, right].into_iter().flatten() {
            let edit = (tokens[first].start, 1, format!("{TEXT}("));
            if !edits.contains(&edit) {
                edits.extend([edit, (tokens[last].end, 0, ")".to_owned())]);
            }
        }
    }
    let mut literal = Vec::new();
    for (at, token) in tokens.iter().enumerate().filter(|_| lists) {
        if token.is(text, "[") {
            let starts = at == 0 || !tokens[at - 1].ends_operand(text);
            literal.push(starts);
            edits.extend(starts.then(|| (token.start, 2, format!("{LIST}("))));
        } else if token.is(text, "]") && literal.pop() == Some(true) {
            edits.push((token.end, 0, ")".to_owned()));
        }
    }
    edits.sort();
    let (mut out, mut copied) = (String::new(), 0);
    for (at, _, insert) in edits {
        out.push_str(&text[copied..at]);
        out.push_str(&insert);
        copied = at;
    }
    out.push_str(&text[copied..]);
    out
}

/// The first and last token of an operand of `~` that begins or ends beside it.
fn operand(text: &str, tokens: &[Token], side: impl Iterator<Item = usize>) -> Option<(usize, usize)> {
    let mut found: Option<(usize, usize)> = None;
    let mut depth = None;
    for at in side {
        let token = &tokens[at];
        let depth = *depth.get_or_insert(token.depth);
        let sign = token.is(text, "-") || token.is(text, "+");
        let ends = match token.kind {
            _ if token.depth < depth => true,
            _ if token.depth > depth => false,
            Kind::Word => {
                let negated = at > 0 && tokens[at - 1].is(text, "is");
                is_keyword(&text[token.start..token.end])
                    && !token.is(text, "is")
                    && !(token.is(text, "not") && negated)
            }
            // A sign before an operand belongs to it.
            Kind::Mark if sign => at > 0 && tokens[at - 1].ends_operand(text),
            Kind::Mark => ![".", "|", "*", "/", "//", "%", "**"].iter().any(|mark| token.is(text, mark)),
            Kind::Text | Kind::Open | Kind::Close => false,
        };
        if ends {
            break;
        }
        found = Some(found.map_or((at, at), |(first, last)| (first.min(at), last.max(at))));
    }
    found
}

/// A tag or expression: its inner text without the marks for white space, and its end.
struct Tag {
    inner: std::ops::Range<usize>,
    end: usize,
}

impl Tag {
    fn read(text: &str, block: bool) -> Option<Self> {
        let mut start = 2;
        if text[start..].starts_with(['-', '+']) {
            start += 1;
        }
        let close = if block { "%}" } else { "}}" };
        let mut depth = 0usize;
        let mut at = start;
        while at < text.len() {
            let rest = &text[at..];
            if depth == 0 || block {
                let marked = rest.starts_with(['-', '+']) && rest[1..].starts_with(close);
                if marked || rest.starts_with(close) {
                    let end = at + close.len() + usize::from(marked);
                    return Some(Self { inner: start..at, end });
                }
            }
            let c = rest.chars().next()?;
            match c {
                '\'' | '"' => {
                    at += string_length(rest)?;
                    continue;
                }
                '(' | '[' | '{' => depth += 1,
                ')' | ']' | '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            at += c.len_utf8();
        }
        None
    }

    /// The inner text, from its first word on.
    fn body<'t>(&self, text: &'t str) -> &'t str {
        text[self.inner.clone()].trim_start()
    }
}

#[cfg(test)]
mod tests {
    use super::rewrite;

    #[test]
    fn tags_that_bind_are_checked_and_the_rest_is_kept() {
        let same =
            "a {{ x[1] }} {# {% set x = 1 %} #} {% raw %}{% set x = 1 %}{% endraw %} {% set x %}b{% endset %} { % }";
        assert_eq!(rewrite(same), same);
        assert_eq!(rewrite("{%- set a.b = c == d -%}"), "{%- set a.b = __guard((c == d), a) -%}");
        assert_eq!(
            rewrite("{% for a, b in c.items() if a in d %}"),
            "{% for a, b in __guard((c.items())) if a in d %}"
        );
        assert_eq!(rewrite("{% for a in b recursive %}"), "{% for a in __guard((b)) recursive %}");
        assert_eq!(
            rewrite("{% macro f(a, b='x, y') -%}"),
            "{% macro f(a, b='x, y') %}{% set __checked = __guard((a, b,)) -%}"
        );
        assert_eq!(rewrite("{% with a = 1, b = [2, 3] %}"), "{% with a = __guard((1)), b = __guard(([2, 3])) %}");
        assert_eq!(rewrite("{% set a = '%}' ~ \"}}\" %}"), "{% set a = __guard((__text('%}') ~ __text(\"}}\"))) %}");
        for (source, expected) in [
            ("a.b ~ c[d ~ 1] ~ e", "__text(a.b) ~ __text(c[__text(d) ~ __text(1)]) ~ __text(e)"),
            ("f(a, b ~ c) + d|e ~ -g", "f(a, __text(b) ~ __text(c)) + __text(d|e) ~ __text(-g)"),
            ("a if b is not c ~ d else (e ~ f)", "a if __text(b is not c) ~ __text(d) else (__text(e) ~ __text(f))"),
            ("'~'", "'~'"),
        ] {
            assert_eq!(rewrite(&format!("{{{{ {source} }}}}")), format!("{{{{ {expected} }}}}"));
        }
        assert_eq!(rewrite("{%- generation -%}x{% endgeneration %}"), "{%- call __generation() -%}x{% endcall %}");
    }

    #[test]
    fn literals_can_change_where_a_template_changes_lists() {
        let source = "{{ [] }}{% set n = namespace(ids=[[1], x[0]]) %}{% set _ = n.ids.append(y[1:]) %}";
        let expected = "{{ __list([]) }}{% set n = __guard((namespace(ids=__list([__list([1]), x[0]])))) %}\
                        {% set _ = __guard((n.ids.append(y[1:]))) %}";
        assert_eq!(rewrite(source), expected);
    }

    #[test]
    fn what_is_broken_is_copied() {
        for source in [
            "{% set a = ",
            "{{ 'x }}",
            "{%",
            "{{",
            "{#",
            "{{ ~ }}",
            "{% for %}",
            "{% set = %}",
            "{% raw %}",
            "{% with %}",
        ] {
            let written: String = rewrite(source).split_whitespace().collect();
            assert_eq!(written, source.split_whitespace().collect::<String>());
        }
    }
}
