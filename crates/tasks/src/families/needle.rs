//! Needles in a haystack as text. The facts are those of [`hadal_data::needle`], which makes rows of exact lengths in tokens
//! for a tokenizer. Here the haystack is made of simple sentences, so that any model can be asked.

use hadal_data::needle::{WORDS, statement};
use serde_json::Value;

use super::{Draw, Question};

const WHO: [&str; 10] = ["man", "woman", "child", "sailor", "farmer", "cook", "king", "doctor", "painter", "neighbour"];
const WHAT: [&str; 10] =
    ["saw", "found", "carried", "painted", "sold", "wanted", "lost", "mended", "counted", "remembered"];
const HOW: [&str; 10] = ["old", "small", "green", "heavy", "quiet", "broken", "early", "distant", "plain", "warm"];

pub(super) fn question(draw: &mut Draw, difficulty: u32) -> Question {
    let facts = difficulty as usize;
    let mut words: Vec<&str> = Vec::new();
    while words.len() < facts {
        let word = *draw.choose(&WORDS);
        if !words.contains(&word) {
            words.push(word);
        }
    }
    let numbers: Vec<String> = words.iter().map(|_| (10_000 + draw.below(90_000)).to_string()).collect();
    let mut sentences: Vec<String> = (0..facts << difficulty)
        .map(|_| {
            let [who, what, how, thing] =
                [draw.choose(&WHO), draw.choose(&WHAT), draw.choose(&HOW), draw.choose(&WORDS)];
            format!("The {who} {what} the {how} {thing}.")
        })
        .collect();
    for (word, number) in words.iter().zip(&numbers) {
        let at = draw.below(sentences.len() as u64 + 1) as usize;
        sentences.insert(at, format!("{}{number}.", statement(word)));
    }
    Question {
        question: format!("{} What is the magic number of {}?", sentences.join(" "), words[0]),
        answer: numbers[0].clone(),
        data: Value::Null,
    }
}
