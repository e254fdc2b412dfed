//! Numbers and words in order.

use serde_json::Value;

use super::{Draw, Question};

/// Words of different first letters, some of them long parts of others.
const WORDS: [&str; 32] = [
    "ant", "anthem", "bee", "beetle", "cat", "cattle", "dog", "dogma", "eel", "elk", "fox", "goat", "hen", "hare",
    "ibis", "jay", "kite", "lark", "lion", "mole", "newt", "otter", "owl", "pig", "pigeon", "quail", "rat", "rattle",
    "seal", "toad", "wolf", "yak",
];

pub(super) fn question(draw: &mut Draw, difficulty: u32) -> Question {
    let count = 2 * difficulty as usize + 1;
    let numbers = draw.below(2) == 0;
    let (list, sorted) = if numbers {
        let list: Vec<u64> = (0..count).map(|_| draw.below(100 * u64::from(difficulty))).collect();
        let mut sorted = list.clone();
        sorted.sort_unstable();
        let text = |list: &[u64]| list.iter().map(u64::to_string).collect::<Vec<_>>();
        (text(&list), text(&sorted))
    } else {
        let list: Vec<String> = (0..count).map(|_| (*draw.choose(&WORDS)).to_owned()).collect();
        let mut sorted = list.clone();
        sorted.sort_unstable();
        (list, sorted)
    };
    let order = if numbers { "from the smallest to the largest" } else { "in the order of the alphabet" };
    Question {
        question: format!("Write these {order}, with spaces between them: {}", list.join(" ")),
        answer: sorted.join(" "),
        data: Value::Null,
    }
}
