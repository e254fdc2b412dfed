//! Whether two answers to a maths question are the same.
//!
//! An answer is written in LaTeX, in plain text, or in a mixture of both. The grammar:
//!
//! ```text
//! answer    = item {("," | ";" | "and" | "or") item}          several items are a list
//! item      = relation | interval {("\cup" | "\cap") interval} | tuple | set | scalar | words
//! relation  = sum (op sum)+           op: = < > \le \ge \ne \in
//! interval  = ("(" | "[") end "," end (")" | "]") | "\mathbb{R}" | "\emptyset"     end: sum | ±\infty
//! tuple     = "(" item "," item {"," item} ")"
//! set       = "\{" [item {"," item}] "\}"
//! scalar    = ["\$"] sum ["\%" | unit]
//! sum       = ["+" | "-"] product {("+" | "-" | "\pm" | "\mp") product}
//! product   = power {["\cdot" | "\times" | "*" | "/" | "\div"] power}   no operator: a product
//! power     = atom {"!" | "^" exponent | "**" exponent}
//! atom      = number | mixed | letter | "\pi" | "(" sum ")" | "{" sum "}" | "|" sum "|"
//!           | "\frac" arg arg | "\binom" arg arg | "\sqrt" ["[" digits "]"] arg
//! number    = digits with separators of thousands [“.” digits]      1234  1,234  1{,}234  1\,234  .5
//! mixed     = digits "\frac" arg arg                                1\frac{1}{2} is 3/2
//! ```
//!
//! What is equal:
//! - Numbers are compared exactly, as fractions of integers. Roots and π are enclosed in intervals of 2048 bits.
//! - Two decimals are equal only if they are the same number. A decimal of at least six places also equals a fraction, a
//!   root or a multiple of π that rounds to it.
//! - `20\%` equals 20/100. A whole number of per cent also equals the bare number, because questions ask "what per cent".
//! - Expressions with letters are equal if they have the same value at eight points.
//! - Sets and lists have no order, and a repeated element counts once. Tuples have an order. A list equals a tuple
//!   with its elements in its order. A set or list of one element is that element.
//! - `(a, b)` is a tuple, and also an open interval where the other answer is an interval. An inequality of one letter is
//!   an interval. Unions are merged.
//! - `x = 5` equals 5. Equations are equal if their differences of sides are equal or opposite.
//! - A unit is left out if only one answer has one. If both have one, it must be the same. Units are not converted.
//! - Words are compared without case. What is outside of the grammar is compared letter by letter, without spaces.
//!
//! Answers come from a model, so they are hostile. Length, depth and the size of numbers are bounded. Beyond the bounds
//! only the same text is equal.

mod compare;
mod evaluate;
mod find;
mod lex;
mod near;
mod parse;
mod sum;
mod tidy;

pub use find::find_answer;

/// The longest answer that is read as mathematics, in bytes.
const LONGEST: usize = 2000;

/// Whether two answers are the same.
pub fn equal(gold: &str, answer: &str) -> bool {
    let (gold_text, answer_text) = (tidy::tidy(gold), tidy::tidy(answer));
    if answer_text.is_empty() || gold_text.is_empty() {
        return false;
    }
    if same_letters(&gold_text, &answer_text) {
        return true;
    }
    if gold_text.len() > LONGEST || answer_text.len() > LONGEST {
        return false;
    }
    match (parse::parse(&gold_text), parse::parse(&answer_text)) {
        (Some(gold), Some(answer)) => compare::equal(&gold, &answer),
        _ => tidy::words(&gold_text) == tidy::words(&answer_text),
    }
}

/// Whether the answer that a text ends with is the right one. The text may show it in `\boxed{}`.
pub fn judge(gold: &str, text: &str) -> bool {
    find_answer(text).is_some_and(|answer| equal(gold, answer))
}

fn same_letters(a: &str, b: &str) -> bool {
    let letters = |text: &'_ str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
    letters(a) == letters(b)
}

#[cfg(test)]
mod tests;
