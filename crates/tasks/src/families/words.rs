//! Whole numbers in English words.

const SMALL: [&str; 20] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
];
const TENS: [&str; 10] = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];
const SCALES: [(&str, i64); 3] = [("billion", 1_000_000_000), ("million", 1_000_000), ("thousand", 1000)];

/// A number below a trillion in words: "minus four hundred and seven".
pub(super) fn words(number: i64) -> String {
    if number < 0 {
        return format!("minus {}", words(-number));
    }
    for (name, size) in SCALES {
        if number >= size {
            let head = format!("{} {name}", words(number / size));
            return match number % size {
                0 => head,
                rest if rest < 100 => format!("{head} and {}", words(rest)),
                rest => format!("{head} {}", words(rest)),
            };
        }
    }
    if number >= 100 {
        let head = format!("{} hundred", SMALL[(number / 100) as usize]);
        return if number % 100 == 0 { head } else { format!("{head} and {}", words(number % 100)) };
    }
    if number < 20 {
        return SMALL[number as usize].to_owned();
    }
    let tens = TENS[(number / 10) as usize];
    if number % 10 == 0 { tens.to_owned() } else { format!("{tens}-{}", SMALL[(number % 10) as usize]) }
}

/// The number that words stand for, if they are the words of exactly one number. Case, commas, hyphens and "and" do not
/// matter.
pub(super) fn number(text: &str) -> Option<i64> {
    let plain = |text: &str| {
        let text = text.to_lowercase().replace(['-', ','], " ");
        text.split_whitespace().filter(|word| *word != "and").collect::<Vec<_>>().join(" ")
    };
    if text.len() > 300 {
        return None;
    }
    let text = plain(text);
    let mut parts = text.split(' ').peekable();
    let negative = parts.next_if(|word| matches!(*word, "minus" | "negative")).is_some();
    let (mut total, mut group) = (0i64, 0i64);
    for word in parts {
        if let Some(small) = SMALL.iter().position(|name| *name == word) {
            group += small as i64;
        } else if let Some(ten) = TENS.iter().skip(2).position(|name| *name == word) {
            group += 10 * (ten as i64 + 2);
        } else if word == "hundred" {
            group *= 100;
        } else {
            let (_, size) = SCALES.iter().find(|(name, _)| *name == word)?;
            total = total.checked_add(group.checked_mul(*size)?)?;
            group = 0;
        }
        if group > 1_000_000 {
            return None;
        }
    }
    let value = total.checked_add(group)?;
    // Words in another order, such as "three twenty", are not a number.
    let value = if negative { -value } else { value };
    (plain(&words(value)) == text.replace("negative", "minus")).then_some(value)
}
