//! From tokens to an answer: lists, relations, intervals, tuples, sets, and scalars with their units.

use std::collections::BTreeSet;

use super::evaluate::Expr;
use super::lex::{Token, tokens};
use super::sum::{Parser, closing};
use super::tidy;

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answer {
    Scalar(Scalar),
    Infinity {
        negative: bool,
    },
    Tuple(Vec<Answer>),
    Set(Vec<Answer>),
    /// Items that are separated by commas without brackets around them.
    List(Vec<Answer>),
    Intervals {
        pieces: Vec<Piece>,
        letter: Option<String>,
    },
    /// `x = value`.
    Named {
        name: String,
        value: Box<Answer>,
    },
    /// An equation, as the difference of its sides.
    Equation(Expr),
    NotEqual(Expr),
    /// An inequality: this is positive, or not negative.
    Positive {
        difference: Expr,
        strict: bool,
    },
    Words(String),
}

/// A number or expression with what stands around it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scalar {
    pub(super) expr: Expr,
    pub(super) percent: bool,
    pub(super) unit: Option<String>,
    /// The number of digits behind the point, if the answer is a plain decimal.
    pub(super) places: Option<usize>,
}

/// An interval. An end without a number is infinite.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Piece {
    pub(super) low: Option<Expr>,
    pub(super) high: Option<Expr>,
    pub(super) low_closed: bool,
    pub(super) high_closed: bool,
}

/// How deep answers and brackets may be nested.
pub(super) const MAX_DEPTH: usize = 40;

/// Reads an answer. Nothing if it is not in the grammar.
pub(super) fn parse(text: &str) -> Option<Answer> {
    list(&tokens(text)?, 0)
}

fn list(tokens: &[Token], depth: usize) -> Option<Answer> {
    let mut items = items(tokens, depth)?;
    if items.len() == 1 { items.pop() } else { Some(Answer::List(items)) }
}

/// The items between commas. `±` makes two items of one.
fn items(tokens: &[Token], depth: usize) -> Option<Vec<Answer>> {
    if depth > MAX_DEPTH {
        return None;
    }
    let mut items = Vec::new();
    for part in split(tokens, |token| *token == Token::Sign(','))? {
        // "1, 2, and 3" has an empty item before the last one.
        if part.is_empty() && !items.is_empty() {
            continue;
        }
        let signs = [('±', '∓'), ('∓', '±')].map(|(plus, minus)| {
            let sign = |token: &Token| match token {
                Token::Sign(c) if *c == plus => Token::Sign('+'),
                Token::Sign(c) if *c == minus => Token::Sign('-'),
                other => other.clone(),
            };
            part.iter().map(sign).collect::<Vec<_>>()
        });
        items.push(item(&signs[0], depth)?);
        if signs[0] != signs[1] {
            items.push(item(&signs[1], depth)?);
        }
    }
    Some(items)
}

/// The parts between separators that are outside of all brackets. Nothing if the brackets do not match.
fn split(tokens: &[Token], separator: impl Fn(&Token) -> bool) -> Option<Vec<&[Token]>> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0usize);
    for (at, token) in tokens.iter().enumerate() {
        match token {
            Token::Sign('(' | '[' | '{' | '⟨') => depth += 1,
            Token::Sign(')' | ']' | '}' | '⟩') => depth = depth.checked_sub(1)?,
            token if depth == 0 && separator(token) => {
                parts.push(&tokens[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&tokens[start..]);
    (depth == 0).then_some(parts)
}

fn item(tokens: &[Token], depth: usize) -> Option<Answer> {
    if depth > MAX_DEPTH || tokens.is_empty() {
        return None;
    }
    if let Some(words) = words(tokens) {
        return Some(Answer::Words(words));
    }
    let relation =
        |token: &Token| matches!(token, Token::Sign('=' | '<' | '>' | '≤' | '≥' | '≠') | Token::Command("in"));
    let parts = split(tokens, relation)?;
    if parts.len() > 1 {
        return relations(tokens, &parts, depth);
    }
    let operators: Vec<&Token> = tokens.iter().filter(|token| matches!(token, Token::Command("cup" | "cap"))).collect();
    if !operators.is_empty() {
        let parts = split(tokens, |token| matches!(token, Token::Command("cup" | "cap")))?;
        return unions(&parts, &operators, depth);
    }
    match tokens {
        [Token::Command("emptyset")] => return Some(Answer::Set(Vec::new())),
        [Token::Command("reals")] => return Some(everything()),
        [Token::Command("infty")] | [Token::Sign('+'), Token::Command("infty")] => {
            return Some(Answer::Infinity { negative: false });
        }
        [Token::Sign('-'), Token::Command("infty")] => return Some(Answer::Infinity { negative: true }),
        _ => {}
    }
    match bracketed(tokens, depth) {
        Bracketed::Whole(answer) => answer,
        Bracketed::Other => scalar(tokens).map(Answer::Scalar),
    }
}

/// The words of an item that has nothing else.
fn words(tokens: &[Token]) -> Option<String> {
    let texts = tokens.iter().map(|token| match token {
        Token::Text(text) => Some(text.as_str()),
        _ => None,
    });
    Some(tidy::words(&texts.collect::<Option<Vec<_>>>()?.join("")))
}

fn everything() -> Answer {
    let whole = Piece { low: None, high: None, low_closed: false, high_closed: false };
    Answer::Intervals { pieces: vec![whole], letter: None }
}

/// What a bracket around an item makes of it.
enum Bracketed {
    /// A set, tuple or interval. Nothing if it is a wrong one.
    Whole(Option<Answer>),
    /// An expression, or no bracket around the whole.
    Other,
}

/// A set, tuple or interval.
fn bracketed(tokens: &[Token], depth: usize) -> Bracketed {
    let (Some(Token::Sign(open)), Some(Token::Sign(close))) = (tokens.first(), tokens.last()) else {
        return Bracketed::Other;
    };
    let opens = matches!(open, '(' | '[' | '{' | '⟨');
    if !opens || tokens.len() < 2 || closing(tokens, 0) != Some(tokens.len() - 1) {
        return Bracketed::Other;
    }
    let inside = &tokens[1..tokens.len() - 1];
    if *open == '⟨' {
        let elements = if inside.is_empty() { Some(Vec::new()) } else { items(inside, depth + 1) };
        return Bracketed::Whole(elements.map(Answer::Set));
    }
    // Braces without a backslash only group.
    if *open == '{' {
        return match list(inside, depth + 1) {
            None | Some(Answer::Scalar(_)) => Bracketed::Other,
            inner => Bracketed::Whole(inner),
        };
    }
    if split(inside, |token| *token == Token::Sign(',')).is_none_or(|parts| parts.len() < 2) {
        return Bracketed::Other;
    }
    if (*open, *close) == ('(', ')') {
        return Bracketed::Whole(items(inside, depth + 1).map(Answer::Tuple));
    }
    let piece = || {
        let [low, high] = <[Answer; 2]>::try_from(items(inside, depth + 1)?).ok()?;
        let piece = Piece {
            low: end(low, true).ok()?,
            high: end(high, false).ok()?,
            low_closed: *open == '[',
            high_closed: *close == ']',
        };
        Some(Answer::Intervals { pieces: vec![piece], letter: None })
    };
    Bracketed::Whole(piece())
}

/// Something that cannot be the end of an interval.
struct NoEnd;

/// The end of an interval: a number, or nothing if it is infinite. Infinity must have the right sign.
fn end(answer: Answer, low: bool) -> Result<Option<Expr>, NoEnd> {
    match answer {
        Answer::Scalar(scalar) => Ok(Some(scalar.expr)),
        Answer::Infinity { negative } if negative == low => Ok(None),
        _ => Err(NoEnd),
    }
}

/// A tuple of two as an open interval, a set as points, and intervals as they are.
pub(super) fn pieces(answer: &Answer) -> Option<Vec<Piece>> {
    match answer {
        Answer::Intervals { pieces, .. } => Some(pieces.clone()),
        Answer::Tuple(ends) => {
            let [low, high] = ends.as_slice() else { return None };
            let (low, high) = (end(low.clone(), true).ok()?, end(high.clone(), false).ok()?);
            Some(vec![Piece { low, high, low_closed: false, high_closed: false }])
        }
        Answer::Set(elements) => {
            let point = |element: &Answer| match element {
                Answer::Scalar(scalar) => Some(Piece {
                    low: Some(scalar.expr.clone()),
                    high: Some(scalar.expr.clone()),
                    low_closed: true,
                    high_closed: true,
                }),
                _ => None,
            };
            elements.iter().map(point).collect()
        }
        _ => None,
    }
}

fn unions(parts: &[&[Token]], operators: &[&Token], depth: usize) -> Option<Answer> {
    if operators.len() + 1 != parts.len() {
        return None;
    }
    let mut all = pieces(&item(parts[0], depth + 1)?)?;
    for (part, operator) in parts[1..].iter().zip(operators) {
        let more = pieces(&item(part, depth + 1)?)?;
        if **operator == Token::Command("cup") {
            all.extend(more);
        } else {
            all = super::compare::intersection(&all, &more)?;
        }
    }
    Some(Answer::Intervals { pieces: all, letter: None })
}

fn relations(tokens: &[Token], parts: &[&[Token]], depth: usize) -> Option<Answer> {
    let mut at = 0;
    let mut operators = Vec::new();
    for part in &parts[..parts.len() - 1] {
        at += part.len();
        operators.push(match &tokens[at] {
            Token::Sign(c) => *c,
            _ => '∈',
        });
        at += 1;
    }
    let last = parts[parts.len() - 1];
    if operators == ['∈'] {
        return item(last, depth + 1);
    }
    if operators.iter().all(|c| *c == '=') {
        if let Some(name) = name(parts[0]) {
            return Some(Answer::Named { name, value: Box::new(item(last, depth + 1)?) });
        }
        let left = scalar(parts[0])?.expr;
        let mut letters = BTreeSet::new();
        left.letters(&mut letters);
        if parts.len() > 2 || letters.is_empty() {
            return item(last, depth + 1);
        }
        return Some(Answer::Equation(minus(left, scalar(last)?.expr)));
    }
    let sides = parts.iter().map(|part| scalar(part).map(|scalar| scalar.expr)).collect::<Option<Vec<_>>>()?;
    if operators == ['≠'] {
        return Some(Answer::NotEqual(minus(sides[0].clone(), sides[1].clone())));
    }
    inequality(sides, operators)
}

/// The letter that an equation defines: `x`, or `f(x)`.
fn name(tokens: &[Token]) -> Option<String> {
    match tokens {
        [Token::Letter(name)] => Some(name.clone()),
        [Token::Letter(f), Token::Sign('('), Token::Letter(x), Token::Sign(')')] => Some(format!("{f}({x})")),
        _ => None,
    }
}

fn minus(a: Expr, b: Expr) -> Expr {
    Expr::Add(Box::new(a), Box::new(Expr::Neg(Box::new(b))))
}

fn inequality(mut sides: Vec<Expr>, mut operators: Vec<char>) -> Option<Answer> {
    if operators.iter().all(|c| matches!(c, '>' | '≥')) {
        sides.reverse();
        operators.reverse();
        for operator in &mut operators {
            *operator = if *operator == '>' { '<' } else { '≤' };
        }
    }
    if !operators.iter().all(|c| matches!(c, '<' | '≤')) {
        return None;
    }
    let constant = |expr: &Expr| {
        let mut letters = BTreeSet::new();
        expr.letters(&mut letters);
        letters.is_empty()
    };
    let piece = |low, high, low_closed, high_closed, letter: &str| {
        let pieces = vec![Piece { low, high, low_closed, high_closed }];
        Some(Answer::Intervals { pieces, letter: Some(letter.to_owned()) })
    };
    match (sides.as_slice(), operators.as_slice()) {
        ([Expr::Letter(x), high], [op]) if constant(high) => piece(None, Some(high.clone()), false, *op == '≤', x),
        ([low, Expr::Letter(x)], [op]) if constant(low) => piece(Some(low.clone()), None, *op == '≤', false, x),
        ([low, Expr::Letter(x), high], [first, second]) if constant(low) && constant(high) => {
            piece(Some(low.clone()), Some(high.clone()), *first == '≤', *second == '≤', x)
        }
        ([low, high], [op]) => {
            Some(Answer::Positive { difference: minus(high.clone(), low.clone()), strict: *op == '<' })
        }
        _ => None,
    }
}

/// A number or expression with its unit.
fn scalar(tokens: &[Token]) -> Option<Scalar> {
    let (currency, tokens) = match tokens {
        [Token::Sign('$'), rest @ ..] => (true, rest),
        [Token::Sign('-'), Token::Sign('$'), ..] => return scalar_of_debt(tokens),
        _ => (false, tokens),
    };
    let mut parser = Parser::new(tokens);
    let expr = parser.sum(0)?;
    let places = match &tokens[..parser.position()] {
        [Token::Number { part, point: true, .. }]
        | [Token::Sign('-' | '+'), Token::Number { part, point: true, .. }] => Some(part.len()),
        _ => None,
    };
    let (percent, unit) = tail(&tokens[parser.position()..])?;
    let unit = if currency { Some("dollar".to_owned()) } else { unit };
    Some(Scalar { expr, percent, unit, places })
}

/// `-\$5`.
fn scalar_of_debt(tokens: &[Token]) -> Option<Scalar> {
    let mut debt = scalar(&tokens[1..])?;
    debt.expr = Expr::Neg(Box::new(debt.expr));
    Some(debt)
}

/// What may follow an expression: a sign of per cent or a unit.
fn tail(tokens: &[Token]) -> Option<(bool, Option<String>)> {
    match tokens {
        [] => Some((false, None)),
        [Token::Sign('%')] => Some((true, None)),
        [Token::Sign('$')] => Some((false, Some("dollar".to_owned()))),
        [Token::Sign('°')] => Some((false, Some("degree".to_owned()))),
        [Token::Text(_) | Token::Sign('°'), ..] => {
            let mut unit = String::new();
            for token in tokens {
                match token {
                    Token::Text(text) => unit.push_str(&super::compare::unit_name(text)),
                    Token::Letter(text) => unit.push_str(text),
                    Token::Number { whole, .. } => unit.push_str(whole),
                    Token::Sign(c @ ('^' | '/' | '*' | '-' | '°')) => unit.push(*c),
                    Token::Sign('{' | '}') => {}
                    _ => return None,
                }
            }
            Some((false, Some(unit)))
        }
        _ => None,
    }
}
