//! The tokens of an answer.

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::Pow;

/// A token.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// Digits before and behind the point. `point` tells whether there is one.
    Number { whole: String, part: String, point: bool },
    /// A variable: a letter, possibly with an index.
    Letter(String),
    /// A command that stays as it is: `frac`, `sqrt`, `binom`, `pi`, `infty`, `cup`, `cap`, `in`, `emptyset`, `reals`.
    Command(&'static str),
    /// Words that are set as text, or a word of several letters.
    Text(String),
    /// One of `+ - * / ^ ! ( ) [ ] { } | , < > = % $ ± ∓ ≤ ≥ ≠`, `⟨` and `⟩` for the braces of a set, `°` for degrees.
    Sign(char),
}

/// Commands and the tokens they stand for.
const SIGNS: [(&str, char); 34] = [
    ("cdot", '*'),
    ("times", '*'),
    ("ast", '*'),
    ("div", '/'),
    ("pm", '±'),
    ("mp", '∓'),
    ("le", '≤'),
    ("leq", '≤'),
    ("leqslant", '≤'),
    ("ge", '≥'),
    ("geq", '≥'),
    ("geqslant", '≥'),
    ("lt", '<'),
    ("gt", '>'),
    ("ne", '≠'),
    ("neq", '≠'),
    ("lvert", '|'),
    ("rvert", '|'),
    ("vert", '|'),
    ("mid", '|'),
    ("lbrace", '⟨'),
    ("rbrace", '⟩'),
    ("lbrack", '['),
    ("rbrack", ']'),
    ("langle", '('),
    ("rangle", ')'),
    ("circ", '°'),
    ("degree", '°'),
    ("percent", '%'),
    ("colon", ':'),
    ("slash", '/'),
    ("And", ','),
    ("lparen", '('),
    ("rparen", ')'),
];

const COMMANDS: [(&str, &str); 17] = [
    ("frac", "frac"),
    ("dfrac", "frac"),
    ("tfrac", "frac"),
    ("cfrac", "frac"),
    ("sqrt", "sqrt"),
    ("binom", "binom"),
    ("dbinom", "binom"),
    ("tbinom", "binom"),
    ("pi", "pi"),
    ("infty", "infty"),
    ("infinity", "infty"),
    ("cup", "cup"),
    ("cap", "cap"),
    ("in", "in"),
    ("emptyset", "emptyset"),
    ("varnothing", "emptyset"),
    ("R", "reals"),
];

/// Commands whose argument is text.
const TEXTS: [&str; 8] = ["text", "textbf", "textit", "textrm", "textnormal", "mbox", "mathrm", "operatorname"];

/// Commands whose argument is mathematics.
const FONTS: [&str; 5] = ["mathbf", "mathit", "boldsymbol", "bm", "mathsf"];

const GREEK: [&str; 14] = [
    "alpha", "beta", "gamma", "delta", "theta", "lambda", "mu", "rho", "sigma", "tau", "phi", "omega", "varphi",
    "epsilon",
];

/// Short words that are units after a number. Longer words need no list.
const SHORT_UNITS: [&str; 18] =
    ["cm", "mm", "km", "kg", "mg", "ml", "ft", "lb", "lbs", "oz", "mph", "kmh", "hr", "hrs", "min", "sec", "yd", "pct"];

impl Token {
    /// The number that a token of digits stands for.
    pub(super) fn number(whole: &str, part: &str) -> Option<BigRational> {
        let digits = format!("0{whole}{part}").parse::<BigInt>().ok()?;
        let scale: BigInt = Pow::pow(BigInt::from(10), part.len() as u32);
        Some(BigRational::new(digits, scale))
    }
}

/// Cuts an answer into tokens. Nothing if it has a character or command that is not in the grammar.
pub(super) fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut lexer = Lexer { rest: text, depth: 0, out: Vec::new() };
    while !lexer.rest.is_empty() {
        lexer.next()?;
    }
    Some(lexer.out)
}

struct Lexer<'a> {
    rest: &'a str,
    /// The number of open brackets in which a comma separates elements.
    depth: usize,
    out: Vec<Token>,
}

impl<'a> Lexer<'a> {
    fn next(&mut self) -> Option<()> {
        let c = self.rest.chars().next()?;
        let second = self.rest[c.len_utf8()..].chars().next();
        match c {
            '\\' => return self.command(),
            '0'..='9' => {
                self.number();
                return Some(());
            }
            '.' if second.is_some_and(|c| c.is_ascii_digit()) => {
                self.number();
                return Some(());
            }
            '*' if second == Some('*') => {
                self.rest = &self.rest[1..];
                self.sign('^');
            }
            '<' if second == Some('=') => {
                self.rest = &self.rest[1..];
                self.sign('≤');
            }
            '>' if second == Some('=') => {
                self.rest = &self.rest[1..];
                self.sign('≥');
            }
            '^' if ["^\\circ", "^{\\circ}", "^\\degree"].iter().any(|mark| self.rest.starts_with(mark)) => {
                let mark =
                    ["^\\circ", "^{\\circ}", "^\\degree"].into_iter().find(|mark| self.rest.starts_with(mark))?;
                self.out.push(Token::Sign('°'));
                self.rest = &self.rest[mark.len()..];
                return Some(());
            }
            c if c.is_whitespace() || c == '~' => {}
            c if c.is_ascii_alphabetic() => {
                self.word();
                return Some(());
            }
            _ => self.sign(match c {
                '−' | '–' => '-',
                '×' | '·' | '⋅' => '*',
                '÷' => '/',
                ';' => ',',
                '+' | '-' | '*' | '/' | '^' | '!' | '(' | ')' | '[' | ']' | '{' | '}' | '|' | ',' | '<' | '>' | '='
                | '%' | '$' | '±' | '≤' | '≥' | '≠' | '°' => c,
                'π' => return self.one(Token::Command("pi")),
                '∞' => return self.one(Token::Command("infty")),
                '∪' => return self.one(Token::Command("cup")),
                '∩' => return self.one(Token::Command("cap")),
                '∈' => return self.one(Token::Command("in")),
                '∅' => return self.one(Token::Command("emptyset")),
                'ℝ' => return self.one(Token::Command("reals")),
                '√' => return self.one(Token::Command("sqrt")),
                '²' | '³' => {
                    self.out.push(Token::Sign('^'));
                    let power = if c == '²' { "2" } else { "3" };
                    return self.one(Token::Number { whole: power.to_owned(), part: String::new(), point: false });
                }
                _ => return None,
            }),
        }
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(())
    }

    fn one(&mut self, token: Token) -> Option<()> {
        self.out.push(token);
        self.rest = &self.rest[self.rest.chars().next()?.len_utf8()..];
        Some(())
    }

    fn sign(&mut self, sign: char) {
        match sign {
            '(' | '[' | '⟨' => self.depth += 1,
            ')' | ']' | '⟩' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        self.out.push(Token::Sign(sign));
    }

    /// Digits with separators of thousands, and digits behind a point.
    fn number(&mut self) {
        let mut whole = self.digits();
        // `{,}` and `\,` always separate thousands. A comma or a space does so outside of brackets.
        let separators: &[&str] = if self.depth == 0 { &["{,}", "\\,", ",\\,", ",", " "] } else { &["{,}", "\\,"] };
        let grouped = (1..=3).contains(&whole.len()) && !whole.starts_with('0');
        while let Some(after) = separators.iter().find_map(|mark| self.rest.strip_prefix(mark))
            && grouped
            && after.bytes().take_while(u8::is_ascii_digit).count() == 3
        {
            whole.push_str(&after[..3]);
            self.rest = &after[3..];
        }
        let (mut part, mut point) = (String::new(), false);
        if let Some(after) = self.rest.strip_prefix('.') {
            self.rest = after;
            part = self.digits();
            point = true;
        }
        self.out.push(Token::Number { whole, part, point });
    }

    fn digits(&mut self) -> String {
        let count = self.rest.bytes().take_while(u8::is_ascii_digit).count();
        let (digits, rest) = self.rest.split_at(count);
        self.rest = rest;
        digits.to_owned()
    }

    /// Letters that are not set as text: variables, a word, or a unit.
    fn word(&mut self) {
        let end = self.rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        let small = word.to_ascii_lowercase();
        match small.as_str() {
            "and" | "or" => self.out.push(Token::Sign(',')),
            "percent" | "percentage" | "pct" => self.out.push(Token::Sign('%')),
            "pi" => self.out.push(Token::Command("pi")),
            "sqrt" => self.out.push(Token::Command("sqrt")),
            "infinity" | "inf" | "oo" => self.out.push(Token::Command("infty")),
            "degree" | "degrees" => self.out.push(Token::Sign('°')),
            _ if word.len() > 3 || SHORT_UNITS.contains(&small.as_str()) => self.out.push(Token::Text(small)),
            _ => {
                let mut letters: Vec<String> = word.chars().map(String::from).collect();
                if let (Some(last), Some(index)) = (letters.last_mut(), self.index()) {
                    last.push('_');
                    last.push_str(&index);
                }
                self.out.extend(letters.into_iter().map(Token::Letter));
            }
        }
    }

    /// The index of a variable: `_1` or `_{12}`.
    fn index(&mut self) -> Option<String> {
        let after = self.rest.strip_prefix('_')?;
        if let Some(inside) = after.strip_prefix('{') {
            let (index, rest) = inside.split_once('}')?;
            self.rest = rest;
            return index.chars().all(char::is_alphanumeric).then(|| index.to_owned());
        }
        let c = after.chars().next().filter(|c| c.is_alphanumeric())?;
        self.rest = &after[c.len_utf8()..];
        Some(c.to_string())
    }

    fn command(&mut self) -> Option<()> {
        let after = &self.rest[1..];
        let end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        if end == 0 {
            let c = after.chars().next()?;
            self.rest = &after[c.len_utf8()..];
            match c {
                '{' => self.sign('⟨'),
                '}' => self.sign('⟩'),
                '%' | '$' | '|' => self.sign(c),
                ',' | '\\' => {}
                _ => return None,
            }
            return Some(());
        }
        let (name, rest) = after.split_at(end);
        self.rest = rest;
        if let Some((_, command)) = COMMANDS.iter().find(|(known, _)| *known == name) {
            self.out.push(Token::Command(command));
        } else if let Some((_, sign)) = SIGNS.iter().find(|(known, _)| *known == name) {
            self.sign(*sign);
        } else if GREEK.contains(&name) {
            let index = self.index().map(|index| format!("_{index}")).unwrap_or_default();
            self.out.push(Token::Letter(format!("{name}{index}")));
        } else if TEXTS.contains(&name) {
            let words = self.argument()?.replace(['~', '\\'], " ");
            self.text(words.trim());
        } else if name == "mathbb" {
            let set = self.argument()?;
            if set.trim() != "R" {
                return None;
            }
            self.out.push(Token::Command("reals"));
        } else if FONTS.contains(&name) {
            // The argument follows in braces.
        } else {
            return None;
        }
        Some(())
    }

    fn text(&mut self, words: &str) {
        let small = words.to_lowercase();
        match small.as_str() {
            "and" | "or" | ", and" | ", or" | ", " => self.out.push(Token::Sign(',')),
            "percent" | "%" | "percentage" => self.out.push(Token::Sign('%')),
            "degree" | "degrees" => self.out.push(Token::Sign('°')),
            "" => {}
            _ => self.out.push(Token::Text(words.to_owned())),
        }
    }

    /// The text in the braces that follow.
    fn argument(&mut self) -> Option<&'a str> {
        let inside = self.rest.trim_start().strip_prefix('{')?;
        let mut depth = 1;
        for (at, c) in inside.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                self.rest = &inside[at + 1..];
                return Some(&inside[..at]);
            }
        }
        None
    }
}
