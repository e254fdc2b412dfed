//! Generated solutions pass, changed ones fail, and splits share no question.

use std::collections::HashSet;

use hadal_base::Rng;
use proptest::prelude::*;

use super::*;

fn document(family: Family, seed: u64, difficulty: u32) -> (Question, Value) {
    let question = family.question(Rng::new(seed, Purpose::Test, 1), difficulty);
    let document = json!({ "question": question.question, "answer": question.answer, "data": question.data });
    (question, document)
}

/// An answer that is close to the right one, but wrong.
fn perturbed(family: Family, answer: &str, how: usize) -> String {
    match family {
        Family::Sums => words::words(words::number(answer).unwrap() + 1 + (how % 3) as i64),
        Family::Programs | Family::Needle => (answer.parse::<u64>().unwrap() + 1 + (how % 98) as u64).to_string(),
        // A number that is there once is used once more.
        Family::Countdown => format!("{answer} + {}", 1 + how % 25),
        Family::Edits => {
            let mut letters: Vec<char> = answer.chars().collect();
            let at = how % letters.len();
            letters[at] = if letters[at] == 'z' { 'y' } else { 'z' };
            letters.into_iter().collect()
        }
        Family::Sorting => {
            let mut items: Vec<&str> = answer.split(' ').collect();
            items.remove(how % items.len());
            items.join(" ")
        }
    }
}

proptest! {
    #[test]
    fn solutions_pass_and_changed_ones_fail(seed in 0u64..1 << 40, difficulty in 1u32..=10, how in 0usize..1000) {
        for family in Family::ALL {
            let (question, document) = document(family, seed, difficulty);
            prop_assert!(family.check(&document, &question.answer), "{question:?}");
            prop_assert!(family.check(&document, &format!("Well.\nThe answer is {}.", question.answer)), "{question:?}");
            prop_assert!(family.check(&document, &format!("\\boxed{{{}}}", question.answer)), "{question:?}");
            let wrong = perturbed(family, &question.answer, how);
            prop_assert!(!family.check(&document, &wrong), "{question:?} and {wrong}");
            prop_assert!(!family.check(&document, ""));
        }
    }

    #[test]
    fn any_answer_is_judged(seed in 0u64..1000, answer in "\\PC{0,60}|[0-9()+*/ -]{0,60}") {
        for family in Family::ALL {
            let (_, document) = document(family, seed, 3);
            family.check(&document, &answer);
        }
    }

    #[test]
    fn numbers_survive_their_words(number in -999_999_999_999i64..=999_999_999_999) {
        prop_assert_eq!(words::number(&words::words(number)), Some(number));
    }
}

#[test]
fn words_that_are_no_number_are_refused() {
    for text in [
        "",
        "three twenty",
        "one one",
        "hundred",
        "minus",
        "twenty-eleven",
        "5",
        "a",
        "zero one",
        "one thousand thousand",
    ] {
        assert_eq!(words::number(text), None, "{text}");
    }
    assert_eq!(words::number("Negative forty-two"), Some(-42));
    assert_eq!(words::number("one thousand two hundred five"), Some(1205));
}

#[test]
fn countdown_counts_every_use_of_a_number() {
    let data = json!({ "numbers": [3, 3, 8, 8], "target": 24 });
    assert!(countdown::check(&data, "8 / (3 - 8 / 3)"));
    assert!(countdown::check(&data, "8/(3-8/3) = 24"));
    assert!(countdown::check(&data, "3 * 8"));
    for wrong in ["3 * 3 * 3 - 3", "24", "8 * 3 * 1", "8 / 0", "(8 * 3", "8 3", "--8*3", "8*3)", "23 = 24"] {
        assert!(!countdown::check(&data, wrong), "{wrong}");
    }
    assert!(!countdown::check(&data, &"(".repeat(390)));
}

#[test]
fn splits_share_no_question_and_a_seed_gives_the_same_documents() {
    for family in Family::ALL {
        let texts = |seed: u64, split: &str| {
            let documents = Generator::new(family, 2, 60, seed).documents(split);
            documents.iter().map(|d| d["question"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let test: HashSet<String> = texts(1, "test").into_iter().collect();
        assert!(test.len() >= 20, "{family:?}: {}", test.len());
        for seed in [1, 2] {
            assert!(texts(seed, "train").iter().chain(&texts(seed, "validation")).all(|text| !test.contains(text)));
        }
        assert_eq!(texts(1, "train"), texts(1, "train"));
        assert_ne!(texts(1, "train"), texts(2, "train"));
    }
}

#[test]
fn difficulty_makes_questions_longer() {
    for family in Family::ALL {
        let length =
            |difficulty| -> usize { (0..50).map(|seed| document(family, seed, difficulty).0.question.len()).sum() };
        assert!(length(1) < length(4) && length(4) < length(9), "{family:?}");
    }
}
