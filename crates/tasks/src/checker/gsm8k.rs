//! The final number of a GSM8K answer: what follows `####`, otherwise the last number of the text. Numbers are compared as
//! numbers, so `18.00` is `18`, and separators of thousands and dollars do not matter.

use crate::maths;

/// Whether the answer's final number is that of the target.
pub(super) fn right(target: &str, answer: &str) -> bool {
    match (final_number(target), final_number(answer)) {
        (Some(target), Some(answer)) => maths::equal(&target, &answer),
        _ => false,
    }
}

fn final_number(text: &str) -> Option<String> {
    let after = text.rsplit_once("####").map(|(_, after)| after.lines().next().unwrap_or("").trim());
    match after {
        Some(after) => first_number(after),
        None => last_number(text),
    }
}

/// A number at the beginning of a text.
fn first_number(text: &str) -> Option<String> {
    let text = text.trim_start_matches(['$', ' ']);
    let end = text.find(|c: char| !(c.is_ascii_digit() || "-.,".contains(c))).unwrap_or(text.len());
    cleaned(&text[..end])
}

fn last_number(text: &str) -> Option<String> {
    let end = text.rfind(|c: char| c.is_ascii_digit())? + 1;
    let start = text[..end]
        .rfind(|c: char| !(c.is_ascii_digit() || ".,".contains(c)))
        .map_or(0, |at| at + text[at..].chars().next().map_or(1, char::len_utf8));
    // A minus sign counts if no number stands before it, as in "10-3".
    let negative = text[..start].ends_with('-') && !text[..start - 1].ends_with(|c: char| c.is_alphanumeric());
    let number = cleaned(text[start..end].trim_start_matches(['.', ',']))?;
    Some(if negative { format!("-{number}") } else { number })
}

/// The number without separators. Nothing if it has no digit.
fn cleaned(text: &str) -> Option<String> {
    let text: String = text.chars().filter(|c| *c != ',').collect();
    let text = text.trim_end_matches('.');
    text.contains(|c: char| c.is_ascii_digit()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::right;

    #[test]
    fn the_final_number_counts() {
        let target = "She makes 9 * 2 = $<<9*2=18>>18 every day.\n#### 18";
        for answer in
            ["9 * 2 = 18\n#### 18", "#### $18.00", "So the answer is 18.", "#### 18\n\nQuestion: 5", "It is $18"]
        {
            assert!(right(target, answer), "{answer}");
        }
        for answer in ["#### 17", "18 minus 1 is 17", "#### ", "no", "", "#### -18", "it is -18", "#### 1.8"] {
            assert!(!right(target, answer), "{answer}");
        }
        assert!(right("#### 1,234", "1234"));
        assert!(right("#### 7", "10-3=7"));
    }
}
