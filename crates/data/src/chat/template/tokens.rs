//! The words and marks of expressions in templates.

/// The length of the string literal that the text begins with.
pub(super) fn string_length(text: &str) -> Option<usize> {
    let quote = text.chars().next()?;
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return Some(at + c.len_utf8()),
            _ => {}
        }
    }
    None
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A name, keyword or number.
    Word,
    /// A string.
    Text,
    Open,
    Close,
    Mark,
}

pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) start: usize,
    pub(super) end: usize,
    /// How many brackets are open around it. A bracket itself counts as outside.
    pub(super) depth: usize,
}

impl Token {
    pub(super) fn is(&self, text: &str, wanted: &str) -> bool {
        self.kind != Kind::Text && &text[self.start..self.end] == wanted
    }

    /// Whether an operand can end with it.
    pub(super) fn ends_operand(&self, text: &str) -> bool {
        match self.kind {
            Kind::Word => !is_keyword(&text[self.start..self.end]),
            Kind::Text | Kind::Close => true,
            Kind::Open | Kind::Mark => false,
        }
    }
}

pub(super) fn tokens(text: &str) -> Vec<Token> {
    let (mut tokens, mut at, mut depth) = (Vec::new(), 0, 0usize);
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        let (kind, length) = match c {
            c if c.is_whitespace() => {
                at += c.len_utf8();
                continue;
            }
            '\'' | '"' => (Kind::Text, string_length(rest).unwrap_or(rest.len())),
            '(' | '[' | '{' => (Kind::Open, 1),
            ')' | ']' | '}' => (Kind::Close, 1),
            c if c.is_alphanumeric() || c == '_' => {
                let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                (Kind::Word, end)
            }
            _ if ["==", "!=", "<=", ">=", "//", "**"].iter().any(|mark| rest.starts_with(mark)) => (Kind::Mark, 2),
            c => (Kind::Mark, c.len_utf8()),
        };
        if kind == Kind::Close {
            depth = depth.saturating_sub(1);
        }
        tokens.push(Token { kind, start: at, end: at + length, depth });
        depth += usize::from(kind == Kind::Open);
        at += length;
    }
    tokens
}

/// Words that are not operands.
pub(super) fn is_keyword(word: &str) -> bool {
    matches!(word, "in" | "not" | "and" | "or" | "if" | "else" | "is" | "elif" | "do")
}

/// The parts between marks outside of brackets.
pub(super) fn split_top(text: &str, mark: char) -> Vec<&str> {
    let (mut parts, mut start) = (Vec::new(), 0);
    for token in tokens(text) {
        if token.depth == 0 && token.kind == Kind::Mark && text[token.start..token.end].starts_with(mark) {
            parts.push(&text[start..token.start]);
            start = token.end;
        }
    }
    parts.push(&text[start..]);
    parts
}
