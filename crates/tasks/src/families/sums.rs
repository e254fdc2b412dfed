//! Sums and differences in words.

use serde_json::Value;

use super::words::words;
use super::{Draw, Question};

pub(super) fn question(draw: &mut Draw, difficulty: u32) -> Question {
    let below = 10u64.pow(difficulty);
    let (a, b) = (draw.below(below) as i64, draw.below(below) as i64);
    let plus = draw.below(2) == 0;
    let sign = if plus { "plus" } else { "minus" };
    Question {
        question: format!("What is {} {sign} {}? Answer in words.", words(a), words(b)),
        answer: words(if plus { a + b } else { a - b }),
        data: Value::Null,
    }
}
