//! The checker against the committed pairs, whose labels were written before it, and against hostile answers.

use proptest::prelude::*;
use serde::Deserialize;

use super::{equal, find_answer, judge};

#[derive(Deserialize)]
struct Pair {
    rule: String,
    gold: String,
    answer: String,
    equal: bool,
    math_verify: bool,
}

fn pairs() -> Vec<Pair> {
    serde_json::from_str(include_str!("../../tests/fixtures/maths_pairs.json")).unwrap()
}

#[test]
fn no_wrong_answer_passes_and_no_right_one_fails() {
    let pairs = pairs();
    let right = pairs.iter().filter(|pair| pair.equal).count();
    assert!(pairs.len() >= 300 && right * 2 <= pairs.len() + 8 && right * 2 >= pairs.len() - 8);
    let wrong = |expected: bool| {
        let missed = pairs.iter().filter(|p| p.equal == expected && judge(&p.gold, &p.answer) != expected);
        missed.map(|p| format!("{}: {} and {}", p.rule, p.gold, p.answer)).collect::<Vec<_>>()
    };
    let (passed, failed) = (wrong(false), wrong(true));
    assert!(passed.is_empty(), "wrong answers that pass: {passed:#?}");
    // The requirement is at most 3 of 100. All pass.
    assert!(failed.is_empty(), "right answers that fail: {failed:#?}");
}

#[test]
fn equality_does_not_depend_on_the_order_of_the_two() {
    for pair in pairs().iter().filter(|pair| pair.rule != "found") {
        let (one, other) = (equal(&pair.gold, &pair.answer), equal(&pair.answer, &pair.gold));
        assert_eq!(one, other, "{} and {}", pair.gold, pair.answer);
    }
}

#[test]
fn what_math_verify_calls_equal_is_equal_and_nothing_wrong_besides() {
    let pairs = pairs();
    let (both, missed): (Vec<&Pair>, Vec<&Pair>) =
        pairs.iter().filter(|p| p.math_verify && p.equal).partition(|p| judge(&p.gold, &p.answer));
    assert!(missed.len() * 100 <= 3 * (both.len() + missed.len()), "{}", missed.len());
    // Where we say equal and math-verify does not, the answers are equal: these are its own misses.
    let ours: Vec<&Pair> = pairs.iter().filter(|p| !p.math_verify && judge(&p.gold, &p.answer)).collect();
    assert!(ours.iter().all(|pair| pair.equal) && ours.len() <= 10, "{}", ours.len());
}

#[test]
fn hostile_answers_end() {
    let deep = |open: &str, close: &str, n: usize| format!("{}1{}", open.repeat(n), close.repeat(n));
    let hostile = [
        deep("(", ")", 900),
        deep("\\frac{1}{", "}", 150),
        deep("\\sqrt{", "}", 250),
        deep("\\{", "\\}", 400),
        "10^{10^{10}}".to_owned(),
        "9^9^9^9".to_owned(),
        "2^{-2147483648}".to_owned(),
        "500!!!".to_owned(),
        "(500!)^{500!}".to_owned(),
        "\\binom{4000000000}{2000000000}".to_owned(),
        "\\sqrt[16]{2}".repeat(150),
        "x^{99}".repeat(300),
        "1+".repeat(900) + "1",
        "1,".repeat(900) + "1",
        "-".repeat(1900),
        "\\{1,2\\},".repeat(200),
        "[1,2]\\cup".repeat(180) + "[1,2]",
        "|".repeat(1900),
        "1".repeat(1900) + "/" + &"3".repeat(90),
        "\\boxed{".repeat(5000),
        "é".repeat(100_000),
        "\\sqrt{\\pi}".repeat(190),
        "(x+y+z)^{64}".repeat(100),
    ];
    // Without bounds, several of these would run for years or exhaust the stack.
    for answer in &hostile {
        for gold in ["x+1", "[1,2]", answer] {
            _ = judge(gold, answer);
        }
    }
    assert!(!judge("10^{10^{10}}", "10^{10^{11}}"));
    assert!(judge("10^{10^{10}}", "10^{10^{10}}"));
}

#[test]
fn tiny_differences_of_irrational_numbers_are_seen() {
    assert!(equal("\\sqrt{2}", "\\frac{2}{\\sqrt{2}}"));
    assert!(!equal("\\sqrt{2}", "\\sqrt{2}+10^{-100}"));
    assert!(!equal("0", "\\sqrt{2}\\cdot 10^{-140}"));
    assert!(!equal("\\pi", "\\frac{245850922}{78256779}"));
    assert!(!equal("\\sqrt{x^2}", "x"));
    assert!(equal("|x|", "\\sqrt{x^2}"));
}

proptest! {
    #[test]
    fn fractions_equal_their_multiples_and_nothing_else(a in -999i64..999, b in 1i64..999, k in 1i64..50, c in -999i64..999) {
        let gold = format!("\\frac{{{a}}}{{{b}}}");
        let (multiple, other) = (format!("{}/{}", a * k, b * k), format!("\\dfrac{{{c}}}{{{b}}}"));
        prop_assert!(equal(&gold, &multiple));
        prop_assert_eq!(equal(&gold, &other), a == c);
    }

    #[test]
    fn every_text_equals_itself_and_none_panics(text in "\\PC{0,40}", other in "[0-9a-z\\\\{}()\\[\\]^_+*/=<>,.%$| -]{0,40}") {
        let text = text.trim();
        _ = find_answer(&other);
        _ = judge(&other, text);
        _ = equal(&other, text);
        _ = equal(text, &other);
        if !super::tidy::tidy(&other).is_empty() {
            prop_assert!(equal(&other, &other));
        }
    }

    #[test]
    fn changed_pairs_are_judged_without_a_panic(index in 0usize..389, at in 0usize..40, c in "[0-9\\\\{}()^,|]") {
        let pairs = pairs();
        let mut answer: Vec<char> = pairs[index].answer.chars().collect();
        let at = at % (answer.len() + 1);
        answer.insert(at, c.chars().next().unwrap());
        _ = judge(&pairs[index].gold, &answer.iter().collect::<String>());
    }
}
