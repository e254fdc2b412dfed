//! The pre-tokenizer: it decides where DeepSeek-V3's tokenizer cuts text before bytes are merged.
//!
//! The released tokenizer splits in three passes, each with a regular expression. The first finds numbers in groups of
//! one to three digits. The second finds runs of Chinese characters and kana. The third splits everything else: words
//! with one leading character, runs of punctuation WITH the line breaks after them, line breaks with the white space
//! before them, and white space. The expressions are in `tokenizer.json`. [`split`] is the same function written out,
//! because the generic engine reaches only a few MB/s. A test compares the two on random text.

use std::sync::LazyLock;

/// First pass: numbers in groups of one to three.
pub const NUMBERS: &str = r"\p{N}{1,3}";
/// Second pass: runs of Chinese characters and kana.
pub const CJK: &str = "[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+";
/// Third pass: words, punctuation with line breaks, white space.
pub const WORDS: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"##,
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

const LETTER: u8 = 1;
const MARK: u8 = 2;
const NUMBER: u8 = 4;
/// Punctuation or symbol.
const PUNCT: u8 = 8;
const SPACE: u8 = 16;
const BREAK: u8 = 32;
const CJK_RUN: u8 = 64;
const WORD: u8 = LETTER | MARK;

/// Classes of every character, from the same Unicode tables as the regular expressions' engine.
static CLASSES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut table = vec![0u8; 0x11_0000];
    let sets = [
        (r"\p{L}", LETTER),
        (r"\p{M}", MARK),
        (r"\p{N}", NUMBER),
        (r"[\p{P}\p{S}]", PUNCT),
        (r"\s", SPACE),
        (r"[\r\n]", BREAK),
        (CJK.trim_end_matches('+'), CJK_RUN),
    ];
    for (pattern, bit) in sets {
        let set = regex_syntax::parse(pattern).expect("a constant pattern");
        if let regex_syntax::hir::HirKind::Class(regex_syntax::hir::Class::Unicode(class)) = set.kind() {
            for range in class.iter() {
                for entry in &mut table[range.start() as usize..=range.end() as usize] {
                    *entry |= bit;
                }
            }
        }
    }
    table
});

/// Calls `each` with every piece of `text` in order; together the pieces are the text.
pub fn split<'t>(text: &'t str, mut each: impl FnMut(&'t str)) {
    let classes = CLASSES.as_slice();
    let class = |at: usize| text[at..].chars().next().map_or(0, |c| classes[c as usize]);
    let mut start = 0;
    // The passes for numbers and for CJK cut the text into sections. The third pass never joins sections.
    while start < text.len() {
        let first = class(start);
        let (kind, limit) = if first & NUMBER != 0 {
            (NUMBER, 3)
        } else if first & CJK_RUN != 0 {
            (CJK_RUN, usize::MAX)
        } else {
            (0, usize::MAX)
        };
        let same = |bits: u8| if kind == 0 { bits & (NUMBER | CJK_RUN) == 0 } else { bits & kind != 0 };
        let mut end = start;
        for c in text[start..].chars().take(limit) {
            if !same(classes[c as usize]) {
                break;
            }
            end += c.len_utf8();
        }
        if kind == NUMBER {
            each(&text[start..end]);
        } else {
            split_section(&text[start..end], classes, &mut each);
        }
        start = end;
    }
}

/// The start of the line breaks in a piece of punctuation followed by line breaks. `None` for other text.
pub fn line_break_after_punctuation(text: &str) -> Option<usize> {
    let before = text.trim_end_matches(['\r', '\n']);
    let marks = before.strip_prefix(' ').unwrap_or(before);
    let punctuation = !marks.is_empty() && marks.chars().all(|c| CLASSES[c as usize] & PUNCT != 0);
    (punctuation && before.len() < text.len()).then_some(before.len())
}

/// The third pass on one section.
fn split_section<'t>(section: &'t str, classes: &[u8], each: &mut impl FnMut(&'t str)) {
    let mut unmatched = 0;
    let mut at = 0;
    while at < section.len() {
        match match_at(section, at, classes) {
            Some(end) => {
                if unmatched < at {
                    each(&section[unmatched..at]);
                }
                each(&section[at..end]);
                at = end;
                unmatched = end;
            }
            None => at += section[at..].chars().next().map_or(1, char::len_utf8),
        }
    }
    if unmatched < at {
        each(&section[unmatched..]);
    }
}

/// The end of the third pass's match that starts at `at`, if there is one.
fn match_at(section: &str, at: usize, classes: &[u8]) -> Option<usize> {
    let peek = |at: usize| -> Option<(u8, usize)> {
        let c = section[at..].chars().next()?;
        Some((classes[c as usize], at + c.len_utf8()))
    };
    let run = |mut at: usize, bits: u8| {
        while let Some((class, next)) = peek(at) {
            if class & bits == 0 {
                break;
            }
            at = next;
        }
        at
    };
    let (class, next) = peek(at)?;
    let bytes = section.as_bytes();
    // A mark followed by ASCII letters.
    if bytes[at].is_ascii_punctuation() && bytes.get(next).is_some_and(u8::is_ascii_alphabetic) {
        let letters = bytes[next..].iter().take_while(|b| b.is_ascii_alphabetic()).count();
        return Some(next + letters);
    }
    // Letters, with one other character before them.
    if class & WORD != 0 {
        return Some(run(next, WORD));
    }
    let following = peek(next).map_or(0, |(class, _)| class);
    if class & (BREAK | PUNCT) == 0 && following & WORD != 0 {
        return Some(run(next, WORD));
    }
    // Punctuation with a space before and line breaks after.
    if class & PUNCT != 0 || (bytes[at] == b' ' && following & PUNCT != 0) {
        return Some(run(run(next, PUNCT), BREAK));
    }
    if class & SPACE == 0 {
        return None;
    }
    // White space up to its last line break. Without one, all of it except the character that the next word takes.
    let end = run(next, SPACE);
    let white = &section[at..end];
    if let Some(last) = white.rfind(['\r', '\n']) {
        return Some(at + last + 1);
    }
    if end < section.len() {
        let last = white.chars().next_back().map_or(0, char::len_utf8);
        if last < white.len() {
            return Some(end - last);
        }
    }
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokenizers::pre_tokenizers::PreTokenizerWrapper;
    use tokenizers::pre_tokenizers::sequence::Sequence;
    use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, SplitDelimiterBehavior};

    fn by_expressions(text: &str) -> Vec<String> {
        static PASSES: LazyLock<Sequence> = LazyLock::new(|| {
            let pass = |p: &str| {
                let pattern = SplitPattern::Regex(p.into());
                PreTokenizerWrapper::Split(Split::new(pattern, SplitDelimiterBehavior::Isolated, false).unwrap())
            };
            Sequence::new(vec![pass(NUMBERS), pass(CJK), pass(WORDS)])
        });
        let mut string = PreTokenizedString::from(text);
        PASSES.pre_tokenize(&mut string).unwrap();
        string.get_splits(OffsetReferential::Original, OffsetType::Byte).iter().map(|s| s.0.to_owned()).collect()
    }

    fn by_hand(text: &str) -> Vec<String> {
        let mut pieces = Vec::new();
        split(text, |p| pieces.push(p.to_owned()));
        pieces
    }

    #[test]
    fn code_is_cut_where_expected() {
        let text = "fn main() {\n    let x = 12345;\n\n\treturn x.len();\r\n}\n";
        let expect = [
            "fn", " main", "()", " {\n", "   ", " let", " x", " =", " ", "123", "45", ";\n\n", "\treturn", " x",
            ".len", "();\r\n", "}\n",
        ];
        assert_eq!(by_hand(text), expect);
        assert_eq!(by_expressions(text), expect);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn equals_the_expressions(
            text in prop::collection::vec(
                prop_oneof![
                    "[ \t\r\n]{1,4}", "[a-zA-Z]{1,4}", "[0-9\u{0663}\u{2167}\u{00bd}]{1,5}", "[-!\"#$%&'()*+,./:;<=>?@_`{|}~^\\[\\]\\\\]{1,3}",
                    "[\u{4e00}-\u{4e10}\u{3040}-\u{30ff}]{1,3}", "[\u{0300}-\u{0303}\u{200b}\u{00a0}\u{2028}\u{0085}\u{3000}\u{0001}\u{e000}]{1,2}",
                    "[\u{20ac}\u{2013}\u{00e9}\u{0439}\u{1f600}\u{9fa6}]{1,2}", "\\PC{1,3}",
                ],
                0..12,
            )
        ) {
            let text = text.concat();
            prop_assert_eq!(by_hand(&text), by_expressions(&text));
        }
    }
}
