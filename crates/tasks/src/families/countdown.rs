//! Countdown: an expression with given numbers, each used at most once, that has a given value.

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::Zero;
use serde_json::{Value, json};

use super::{Draw, Question};

/// The longest expression, in bytes.
const LONGEST: usize = 400;
/// The deepest nesting of brackets.
const MAX_DEPTH: usize = 30;

pub(super) fn question(draw: &mut Draw, difficulty: u32) -> Question {
    let count = difficulty as usize + 1;
    let numbers: Vec<i64> = (0..count).map(|_| 1 + draw.below(25) as i64).collect();
    // Two values are joined until one is left. Only whole numbers from 1 to 9999 occur on the way.
    let mut parts: Vec<(i64, String)> = numbers.iter().map(|n| (*n, n.to_string())).collect();
    while parts.len() > 1 {
        let first = draw.below(parts.len() as u64) as usize;
        let (a, left) = parts.swap_remove(first);
        let second = draw.below(parts.len() as u64) as usize;
        let (b, right) = parts.swap_remove(second);
        let (value, sign) = match draw.below(4) {
            0 if a * b < 10_000 => (a * b, '*'),
            1 if a > b => (a - b, '-'),
            2 if a % b == 0 => (a / b, '/'),
            _ if a + b < 10_000 => (a + b, '+'),
            _ => ((a - b).abs().max(1), ' '),
        };
        if sign == ' ' {
            // Too large to add: the smaller one is left out.
            parts.push(if a < b { (b, right) } else { (a, left) });
        } else {
            parts.push((value, format!("({left} {sign} {right})")));
        }
    }
    let (target, solution) = parts.swap_remove(0);
    let solution = solution.strip_prefix('(').and_then(|s| s.strip_suffix(')')).map_or(solution.clone(), str::to_owned);
    let list: Vec<String> = numbers.iter().map(i64::to_string).collect();
    Question {
        question: format!(
            "Use the numbers {} and the signs + - * / and brackets to write an expression whose value is {target}. Use each \
             number at most once.",
            list.join(", ")
        ),
        answer: solution,
        data: json!({ "numbers": numbers, "target": target }),
    }
}

/// Whether an expression has the target's value and uses only the given numbers. `= value` behind it is read past.
pub(super) fn check(data: &Value, answer: &str) -> bool {
    let numbers = data["numbers"].as_array().map(|list| list.iter().filter_map(Value::as_i64).collect::<Vec<_>>());
    let (Some(mut left), Some(target)) = (numbers, data["target"].as_i64()) else { return false };
    let expression = answer.split('=').next().unwrap_or_default();
    if expression.len() > LONGEST {
        return false;
    }
    let expression = expression.replace(['×', '·'], "*").replace('÷', "/").replace('−', "-");
    let mut reader = Reader { rest: expression.trim(), used: Vec::new() };
    let Some(value) = reader.sum(0) else { return false };
    let all_read = reader.rest.is_empty();
    let allowed = reader.used.iter().all(|number| match left.iter().position(|n| n == number) {
        Some(at) => {
            left.swap_remove(at);
            true
        }
        None => false,
    });
    all_read && allowed && !reader.used.is_empty() && value == BigRational::from_integer(BigInt::from(target))
}

struct Reader<'a> {
    rest: &'a str,
    used: Vec<i64>,
}

impl Reader<'_> {
    fn take(&mut self, signs: [char; 2]) -> Option<char> {
        let sign = self.rest.chars().next().filter(|c| signs.contains(c))?;
        self.rest = self.rest[1..].trim_start();
        Some(sign)
    }

    fn sum(&mut self, depth: usize) -> Option<BigRational> {
        let mut sum = self.product(depth)?;
        while let Some(sign) = self.take(['+', '-']) {
            let next = self.product(depth)?;
            sum = if sign == '+' { sum + next } else { sum - next };
        }
        Some(sum)
    }

    fn product(&mut self, depth: usize) -> Option<BigRational> {
        let mut product = self.atom(depth)?;
        while let Some(sign) = self.take(['*', '/']) {
            let next = self.atom(depth)?;
            if sign == '/' && next.is_zero() {
                return None;
            }
            product = if sign == '*' { product * next } else { product / next };
        }
        Some(product)
    }

    fn atom(&mut self, depth: usize) -> Option<BigRational> {
        if depth > MAX_DEPTH {
            return None;
        }
        if self.take(['(', '(']).is_some() {
            let inside = self.sum(depth + 1)?;
            self.take([')', ')'])?;
            return Some(inside);
        }
        let end = self.rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.rest.len());
        let number: i64 = self.rest[..end].parse().ok()?;
        self.rest = self.rest[end..].trim_start();
        self.used.push(number);
        Some(BigRational::from_integer(BigInt::from(number)))
    }
}
