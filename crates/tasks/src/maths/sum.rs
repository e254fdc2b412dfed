//! Sums, products and powers: the expressions inside of answers.

use num_rational::BigRational;
use num_traits::Signed;

use super::evaluate::{Expr, MAX_DEGREE};
use super::lex::Token;
use super::parse::MAX_DEPTH;

/// The position of the bracket that closes the one at a position. Any kinds of brackets close each other, because
/// intervals mix them.
pub(super) fn closing(tokens: &[Token], open: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token {
            Token::Sign('(' | '[' | '{' | '⟨') => depth += 1,
            Token::Sign(')' | ']' | '}' | '⟩') => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

/// Reads an expression from the beginning of tokens.
pub(super) struct Parser {
    tokens: Vec<Token>,
    at: usize,
    /// Tokens that were cut in two so far: each makes the rest one longer.
    cuts: usize,
    /// Bars of absolute values that are open.
    bars: usize,
}

impl Parser {
    pub(super) fn new(tokens: &[Token]) -> Self {
        Self { tokens: tokens.to_vec(), at: 0, cuts: 0, bars: 0 }
    }

    /// How many of the given tokens were read.
    pub(super) fn position(&self) -> usize {
        self.at - self.cuts
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn take(&mut self, sign: char) -> bool {
        let found = self.peek() == Some(&Token::Sign(sign));
        self.at += usize::from(found);
        found
    }

    pub(super) fn sum(&mut self, depth: usize) -> Option<Expr> {
        if depth > MAX_DEPTH {
            return None;
        }
        let negative = self.take('-');
        if !negative {
            self.take('+');
        }
        let first = self.product(depth)?;
        let mut sum = if negative { Expr::Neg(Box::new(first)) } else { first };
        let mut terms = 0;
        loop {
            let negative = match self.peek() {
                Some(Token::Sign('+')) => false,
                Some(Token::Sign('-')) => true,
                _ => return Some(sum),
            };
            self.at += 1;
            terms += 1;
            let term = self.product(depth)?;
            let term = if negative { Expr::Neg(Box::new(term)) } else { term };
            sum = Expr::Add(Box::new(sum), Box::new(term));
            if terms > MAX_TERMS {
                return None;
            }
        }
    }

    fn product(&mut self, depth: usize) -> Option<Expr> {
        let mut product = self.signed(depth)?;
        for _ in 0..MAX_TERMS {
            if self.take('*') {
                product = Expr::Mul(Box::new(product), Box::new(self.signed(depth)?));
            } else if self.take('/') {
                product = Expr::Div(Box::new(product), Box::new(self.signed(depth)?));
            } else if self.begins_factor() {
                product = Expr::Mul(Box::new(product), Box::new(self.power(depth)?));
            } else {
                return Some(product);
            }
        }
        None
    }

    /// Whether a factor follows without an operator. Digits after a factor are not a product.
    fn begins_factor(&self) -> bool {
        match self.peek() {
            Some(Token::Letter(_) | Token::Sign('(' | '[' | '{')) => true,
            Some(Token::Command(command)) => matches!(*command, "frac" | "sqrt" | "binom" | "pi"),
            Some(Token::Sign('|')) => self.bars == 0,
            _ => false,
        }
    }

    fn signed(&mut self, depth: usize) -> Option<Expr> {
        if self.take('-') { Some(Expr::Neg(Box::new(self.power(depth)?))) } else { self.power(depth) }
    }

    fn power(&mut self, depth: usize) -> Option<Expr> {
        let mut base = self.atom(depth)?;
        while self.take('!') {
            base = Expr::Factorial(Box::new(base));
        }
        if !self.take('^') {
            return Some(base);
        }
        if depth > MAX_DEPTH {
            return None;
        }
        let negative = self.take('-');
        // Powers of powers group from the right.
        let exponent = self.power(depth + 1)?;
        let exponent = if negative { Expr::Neg(Box::new(exponent)) } else { exponent };
        Some(Expr::Pow(Box::new(base), Box::new(exponent)))
    }

    fn atom(&mut self, depth: usize) -> Option<Expr> {
        let token = self.peek()?.clone();
        match token {
            Token::Number { whole, part, point } => {
                self.at += 1;
                let number = Token::number(&whole, &part)?;
                if !point && self.peek() == Some(&Token::Command("frac")) {
                    return self.mixed(number, depth);
                }
                Some(Expr::Number(number))
            }
            Token::Letter(name) => {
                self.at += 1;
                Some(Expr::Letter(name))
            }
            Token::Sign(open @ ('(' | '[' | '{')) => {
                self.at += 1;
                self.bracket(open, depth)
            }
            Token::Sign('|') => {
                self.at += 1;
                self.bars += 1;
                let inside = self.sum(depth + 1)?;
                self.bars -= 1;
                self.take('|').then(|| Expr::Abs(Box::new(inside)))
            }
            Token::Command(command) => {
                self.at += 1;
                self.command(command, depth)
            }
            _ => None,
        }
    }

    /// The rest of a bracket. Bars inside of it are its own.
    fn bracket(&mut self, open: char, depth: usize) -> Option<Expr> {
        let bars = std::mem::take(&mut self.bars);
        let inside = self.sum(depth + 1)?;
        self.bars = bars;
        let close = match open {
            '(' => ')',
            '[' => ']',
            _ => '}',
        };
        self.take(close).then_some(inside)
    }

    /// A whole number and a fraction: a mixed number if the fraction is a proper one, otherwise a product.
    fn mixed(&mut self, whole: BigRational, depth: usize) -> Option<Expr> {
        let fraction = self.power(depth)?;
        let proper = match &fraction {
            Expr::Div(top, bottom) => match (top.as_ref(), bottom.as_ref()) {
                (Expr::Number(top), Expr::Number(bottom)) => {
                    top.is_integer() && bottom.is_integer() && top.is_positive() && top < bottom
                }
                _ => false,
            },
            _ => false,
        };
        let whole = Box::new(Expr::Number(whole));
        Some(if proper { Expr::Add(whole, Box::new(fraction)) } else { Expr::Mul(whole, Box::new(fraction)) })
    }

    fn command(&mut self, command: &str, depth: usize) -> Option<Expr> {
        match command {
            "pi" => Some(Expr::Pi),
            "frac" => {
                let (top, bottom) = (self.argument(depth, true)?, self.argument(depth, true)?);
                Some(Expr::Div(Box::new(top), Box::new(bottom)))
            }
            "binom" => {
                let (n, k) = (self.argument(depth, true)?, self.argument(depth, true)?);
                Some(Expr::Binomial(Box::new(n), Box::new(k)))
            }
            "sqrt" => {
                let mut degree = 2;
                if self.take('[') {
                    let Some(Token::Number { whole, part, point: false }) = self.peek().cloned() else { return None };
                    degree = (whole + &part).parse().ok().filter(|d| (1..=MAX_DEGREE).contains(d))?;
                    self.at += 1;
                    if !self.take(']') {
                        return None;
                    }
                }
                Some(Expr::Root(degree, Box::new(self.argument(depth, false)?)))
            }
            _ => None,
        }
    }

    /// The argument of a command: a group, a letter, a command or digits. `\frac12` takes one digit for each argument.
    fn argument(&mut self, depth: usize, one_digit: bool) -> Option<Expr> {
        if depth > MAX_DEPTH {
            return None;
        }
        match self.peek()?.clone() {
            Token::Number { whole, part, point } if one_digit && whole.len() + part.len() > 1 => {
                let (first, rest) = whole.split_at_checked(1)?;
                let digit = Token::Number { whole: first.to_owned(), part: String::new(), point: false };
                self.tokens[self.at] = Token::Number { whole: rest.to_owned(), part, point };
                self.tokens.insert(self.at, digit);
                self.cuts += 1;
                self.atom(depth + 1)
            }
            Token::Number { whole, part, .. } => {
                self.at += 1;
                Some(Expr::Number(Token::number(&whole, &part)?))
            }
            _ => self.atom(depth + 1),
        }
    }
}

/// The most terms of a sum and factors of a product.
const MAX_TERMS: usize = 200;
