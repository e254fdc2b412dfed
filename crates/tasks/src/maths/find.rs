//! Finds the final answer in a text.

/// Marks of a final answer, in small letters.
const MARKS: [&str; 3] = ["final answer is", "answer is", "answer:"];

/// The final answer in a text: the last `\boxed{}`, otherwise what follows the last `####`, otherwise what follows the
/// last "answer is" or "answer:", otherwise the last formula between dollars, otherwise the whole text if it is one line.
pub fn find_answer(text: &str) -> Option<&str> {
    if text.contains("\\boxed") || text.contains("\\fbox") {
        return last_box(text);
    }
    if let Some((_, after)) = text.rsplit_once("####") {
        return after.lines().next().map(str::trim);
    }
    // Only ASCII letters change, so positions stay.
    let small = text.to_ascii_lowercase();
    if let Some(at) = MARKS.iter().filter_map(|mark| Some(small.rfind(mark)? + mark.len())).max() {
        return Some(sentence(text[at..].trim_start_matches([':', ' '])));
    }
    if let Some(formula) = last_formula(text) {
        return Some(formula);
    }
    let text = text.trim();
    (!text.contains('\n')).then_some(text)
}

/// What stands inside the last `\boxed{}` or `\fbox{}`. A box that does not end counts as none.
fn last_box(text: &str) -> Option<&str> {
    let at = text.rfind("\\boxed").map(|at| at + 6).max(text.rfind("\\fbox").map(|at| at + 5))?;
    let inside = text[at..].trim_start().strip_prefix('{')?;
    let (mut depth, mut escaped) = (1usize, false);
    for (at, c) in inside.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(inside[..at].trim());
        }
    }
    None
}

/// A formula at the beginning of the text, or what comes before the end of the sentence.
fn sentence(text: &str) -> &str {
    for (open, close) in [("$$", "$$"), ("\\(", "\\)"), ("\\[", "\\]"), ("$", "$")] {
        if let Some((formula, _)) = text.strip_prefix(open).and_then(|rest| rest.split_once(close)) {
            return formula.trim();
        }
    }
    let line = text.lines().next().unwrap_or("");
    let end = line.find(". ").unwrap_or(line.len());
    line[..end].trim().trim_end_matches('.')
}

/// The last formula between dollars or in `\(…\)` or `\[…\]`.
fn last_formula(text: &str) -> Option<&str> {
    let mut bracketed = [("\\(", "\\)"), ("\\[", "\\]")].into_iter().filter_map(|(open, close)| {
        let (before, _) = text.rsplit_once(close)?;
        let (_, formula) = before.rsplit_once(open)?;
        Some(formula.trim())
    });
    let dollars = || {
        let end = text.trim_end().trim_end_matches('.').strip_suffix('$')?;
        let end = end.strip_suffix('$').unwrap_or(end);
        let start = end.rfind('$')?;
        Some(end[start + 1..].trim()).filter(|formula| !formula.is_empty() && !formula.contains('\n'))
    };
    bracketed.next_back().or_else(dollars)
}
