//! Cutting a long text where it pauses: at a blank line, else at a line's end, else at white space.

use crate::source::Document;

/// Pieces that a whole text is cut into, if they are neither too short nor too long.
const PIECES: usize = 64;
/// Bytes of the shortest and of the longest pieces.
const BYTES: std::ops::RangeInclusive<usize> = 2048..=1 << 19;

/// Cuts a text into pieces of `bytes` or somewhat more, but of less than twice as much; the last may be shorter. Together
/// they are the text.
pub fn cut(text: &str, bytes: usize) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (piece, after) = rest.split_at(end_of_piece(rest, bytes.max(4)));
        rest = after;
        Some(piece)
    })
}

/// Where the first piece ends.
fn end_of_piece(text: &str, bytes: usize) -> usize {
    if text.len() <= bytes {
        return text.len();
    }
    let (from, to) = (text.floor_char_boundary(bytes), text.floor_char_boundary(2 * bytes - 1));
    let window = &text[from..to];
    // A line's end at the very beginning of the window counts: the line break itself must lie inside.
    let mut line_end = None;
    let mut start = 0;
    while let Some(at) = window[start..].find('\n') {
        let end = start + at + 1;
        line_end = line_end.or(Some(end));
        let next = window[end..].split('\n').next().unwrap_or("");
        // The next line must be seen whole to be known as blank.
        if end + next.len() < window.len() && next.trim().is_empty() {
            return from + end + next.len() + 1;
        }
        start = end;
    }
    let space = || window.char_indices().find(|(_, c)| c.is_whitespace()).map(|(at, c)| at + c.len_utf8());
    from + line_end.or_else(space).unwrap_or(window.len())
}

/// A document in pieces of a suitable length for its own: documents of the same group, named `ID:1` and so on. One that is
/// too short to be cut comes back as it is.
pub fn cut_document(document: Document) -> Vec<Document> {
    let bytes = (document.text.len() / PIECES).clamp(*BYTES.start(), *BYTES.end());
    if document.text.len() < 2 * bytes {
        return vec![document];
    }
    let piece = |(i, text): (usize, &str)| Document {
        id: format!("{}:{}", document.id, i + 1),
        group: document.group.clone(),
        text: text.to_owned(),
    };
    cut(&document.text, bytes).enumerate().map(piece).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pauses_are_preferred_in_their_order() {
        let cut_at = |text: &str, bytes| cut(text, bytes).map(str::to_owned).collect::<Vec<_>>();
        // A blank line, though a line ends before it.
        assert_eq!(cut_at("aaaaaaaa\nb\n \nccccccc", 8), ["aaaaaaaa\nb\n \n", "ccccccc"]);
        assert_eq!(cut_at("aaaaaaaa\r\nb\r\n\r\ncc", 8), ["aaaaaaaa\r\nb\r\n\r\n", "cc"]);
        assert_eq!(cut_at("aaaaaaaa b\ncccccc", 8), ["aaaaaaaa b\n", "cccccc"]);
        assert_eq!(cut_at("aaaaaaaa b cccccc", 8), ["aaaaaaaa ", "b cccccc"]);
        assert_eq!(cut_at(&"x".repeat(40), 8), ["x".repeat(15), "x".repeat(15), "x".repeat(10)].map(|s| s));
        assert_eq!(cut_at("short", 8), ["short"]);
        assert_eq!(cut_at("", 8), [""; 0]);
    }

    #[test]
    fn documents_become_about_64_pieces() {
        let text = "A line of a play that goes on.\n\n".repeat(40_000);
        let document = Document { id: "play.txt".into(), group: "g".into(), text: text.clone() };
        let pieces = cut_document(document.clone());
        assert!((60..=64).contains(&pieces.len()), "{}", pieces.len());
        assert_eq!((pieces[0].id.as_str(), pieces[1].id.as_str()), ("play.txt:1", "play.txt:2"));
        assert!(pieces.iter().all(|p| p.group == "g" && p.text.ends_with("\n\n")));
        assert_eq!(pieces.iter().map(|p| p.text.as_str()).collect::<String>(), text);
        let short = Document { text: text[..4000].into(), ..document };
        assert_eq!(cut_document(short.clone()), [short]);
    }

    proptest! {
        #[test]
        fn pieces_are_the_text_and_of_bounded_length(text in "([a-z\u{e9}\u{1f600}]{0,20}[ \n\r]{0,3}){0,30}", bytes in 0usize..60) {
            let pieces: Vec<&str> = cut(&text, bytes).collect();
            prop_assert_eq!(pieces.concat(), &*text);
            let bytes = bytes.max(4);
            for (i, piece) in pieces.iter().enumerate() {
                prop_assert!(piece.len() < 2 * bytes && !piece.is_empty());
                // A character may hang over the edge.
                prop_assert!(piece.len() + 3 >= bytes || i + 1 == pieces.len());
            }
        }
    }
}
