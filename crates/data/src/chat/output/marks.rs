//! Marks in text that comes in pieces.

/// Text that is certain, and the mark that ends it.
pub(super) struct Found {
    /// The text before the mark, taken from the buffer.
    pub(super) text: String,
    /// Which mark was found. It is taken from the buffer too.
    pub(super) mark: Option<usize>,
}

/// Takes text up to the first of the marks. Without one, it takes all but an end that may become a mark. At the end of
/// the text nothing can become one.
pub(super) fn find(buffer: &mut String, marks: &[&str], end: bool) -> Found {
    let first = marks.iter().enumerate().filter_map(|(which, mark)| Some((buffer.find(mark)?, which)));
    if let Some((at, which)) = first.min() {
        let text = buffer[..at].to_owned();
        buffer.drain(..at + marks[which].len());
        return Found { text, mark: Some(which) };
    }
    let longest = marks.iter().map(|mark| mark.len()).max().unwrap_or(0);
    let may_become = |tail: &str| marks.iter().any(|mark| mark.starts_with(tail));
    let start = buffer.ceil_char_boundary((buffer.len() + 1).saturating_sub(longest));
    let tails = buffer[start..].char_indices().map(|(at, _)| start + at);
    let kept = tails.filter(|_| !end).find(|at| may_become(&buffer[*at..])).unwrap_or(buffer.len());
    let text = buffer[..kept].to_owned();
    buffer.drain(..kept);
    Found { text, mark: None }
}
