//! Whether an answer holds a text as a word of its own: the check of a needle.

/// Whether `text` stands in the answer, not as part of a longer word or number. Case does not matter.
pub(super) fn contains(answer: &str, text: &str) -> bool {
    let (answer, text) = (answer.to_lowercase(), text.trim().to_lowercase());
    if text.is_empty() {
        return false;
    }
    answer.match_indices(&text).any(|(at, found)| {
        let before = answer[..at].chars().next_back().is_some_and(char::is_alphanumeric);
        let after = answer[at + found.len()..].chars().next().is_some_and(char::is_alphanumeric);
        !before && !after
    })
}

#[cfg(test)]
mod tests {
    use super::contains;

    #[test]
    fn a_number_inside_of_a_longer_one_does_not_count() {
        assert!(contains("It is 73941.", "73941"));
        assert!(contains("73941", "73941"));
        assert!(!contains("It is 739410.", "73941"));
        assert!(!contains("It is 173941.", "73941"));
        assert!(!contains("", "73941"));
        assert!(!contains("x", " "));
    }
}
