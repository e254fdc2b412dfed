//! Cuts a long text at a blank line, otherwise at the end of a line, otherwise at white space.

use crate::source::Document;

/// Number of pieces that a text is cut into, unless they would be too short or too long.
const PIECES: usize = 64;
/// Sizes in bytes of the shortest and of the longest pieces.
const BYTES: std::ops::RangeInclusive<usize> = 2048..=1 << 19;

/// Cuts a text into pieces of at least `bytes` bytes, but of less than twice that. The last piece may be shorter.
/// Joined together, they are the text.
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

/// The end of the first piece.
fn end_of_piece(text: &str, bytes: usize) -> usize {
    if text.len() <= bytes {
        return text.len();
    }
    let (from, to) = (text.floor_char_boundary(bytes), text.floor_char_boundary(2 * bytes - 1));
    let window = &text[from..to];
    // The end of a line at the very beginning of the window counts: only the line break itself must lie inside.
    let mut line_end = None;
    let mut start = 0;
    while let Some(at) = window[start..].find('\n') {
        let end = start + at + 1;
        line_end = line_end.or(Some(end));
        let next = window[end..].split('\n').next().unwrap_or("");
        // The next line must be in the window as a whole to be recognised as blank.
        if end + next.len() < window.len() && next.trim().is_empty() {
            return from + end + next.len() + 1;
        }
        start = end;
    }
    let space = || window.char_indices().find(|(_, c)| c.is_whitespace()).map(|(at, c)| at + c.len_utf8());
    from + line_end.or_else(space).unwrap_or(window.len())
}

/// Cuts a document into pieces of a suitable length. The pieces are documents of the same group, named `ID:1` and so
/// on. A document that is too short to be cut is returned unchanged.
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
        // A blank line is preferred, even if a line ends before it.
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
                // A piece may end a few bytes early or late, at the boundary of a character.
                prop_assert!(piece.len() + 3 >= bytes || i + 1 == pieces.len());
            }
        }
    }
}
