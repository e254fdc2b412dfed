//! Added tokens in text: special tokens, which only a prompt may name, and ordinary words, which any text may contain.
//!
//! Special tokens mark up what a model reads (the end of a document, who speaks). Data must not be able to produce
//! them, so their names inside text are ordinary characters. Special are: all tokens that the file calls special, those
//! of the form `<|NAME|>` or `<｜NAME｜>`, and those with a role in [`SpecialIds`](super::SpecialIds). Any other added
//! token is a word of the vocabulary. It is found before merging, as in the `tokenizers` library.

use ahash::AHashSet;
use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::Value;
use tokenizers::AddedToken;

use super::ROLES;

/// Whether a name has the form of markup in these files.
fn is_markup(name: &str) -> bool {
    let between = |open: &str, close: &str| {
        name.strip_prefix(open).and_then(|rest| rest.strip_suffix(close)).is_some_and(|inner| !inner.is_empty())
    };
    between("<|", "|>") || between("<\u{ff5c}", "\u{ff5c}>") || ROLES.iter().any(|(_, names)| names.contains(&name))
}

/// Marks special tokens as special in the file, so that the library treats their names in text as text. Returns their
/// names. A name that occurs twice is special if one of the two is.
pub(super) fn mark_special(json: &mut Value) -> AHashSet<String> {
    let mut names = AHashSet::new();
    for token in json.get_mut("added_tokens").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(name) = token["content"].as_str().map(str::to_owned) else { continue };
        // If the field is missing or not a boolean, the library reports it.
        if let Some(Value::Bool(special)) = token.get_mut("special")
            && (*special || is_markup(&name))
        {
            *special = true;
            names.insert(name);
        }
    }
    names
}

/// Finds names in text: the earliest, and among those that begin at the same place the longest.
pub(super) struct Names {
    automaton: AhoCorasick,
    /// The id of each name. `None` for names that are found but ignored.
    ids: Vec<Option<u32>>,
}

impl Names {
    /// `None` if there is nothing to find, or too much for an automaton.
    pub(super) fn new<S: AsRef<[u8]>>(names: impl IntoIterator<Item = (S, Option<u32>)>) -> Option<Self> {
        let (names, ids): (Vec<S>, Vec<_>) = names.into_iter().unzip();
        if ids.iter().all(Option::is_none) {
            return None;
        }
        let automaton = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(names).ok()?;
        Some(Self { automaton, ids })
    }

    /// Calls `each` with the stretches of text between names, and with the ids of the names.
    pub(super) fn split<'t>(&self, text: &'t str, mut each: impl FnMut(Part<'t>)) {
        let mut start = 0;
        for found in self.automaton.find_iter(text) {
            if let Some(id) = self.ids[found.pattern().as_usize()] {
                if start < found.start() {
                    each(Part::Text(&text[start..found.start()]));
                }
                each(Part::Token(id));
                start = found.end();
            }
        }
        if start < text.len() {
            each(Part::Text(&text[start..]));
        }
    }
}

/// A stretch of text, or a name in it.
pub(super) enum Part<'t> {
    Text(&'t str),
    Token(u32),
}

/// The ordinary added words of a tokenizer.
#[derive(Default)]
pub(super) struct Words {
    /// The words to find in the text as it is, then those to find in normalised text, which is the same here. The
    /// library searches for special tokens at the same time and ignores them. So a word that begins inside a special
    /// token is not found.
    passes: [Option<Names>; 2],
}

impl Words {
    /// `None` if a word has a flag that only the library supports: it takes white space beside it, or must be a whole
    /// word.
    pub(super) fn new<'a>(added: impl Iterator<Item = (u32, &'a AddedToken)>) -> Option<Self> {
        let mut passes = [Vec::new(), Vec::new()];
        for (id, token) in added {
            if !token.special && (token.lstrip || token.rstrip || token.single_word) {
                return None;
            }
            passes[usize::from(token.normalized)].push((&token.content, (!token.special).then_some(id)));
        }
        Some(Self { passes: passes.map(Names::new) })
    }

    /// Calls `each` with the text between words, and with the ids of the words.
    pub(super) fn split<'t>(&self, text: &'t str, mut each: impl FnMut(Part<'t>)) {
        let [first, second] = &self.passes;
        let mut then = |part: Part<'t>| match (second, part) {
            (Some(names), Part::Text(text)) => names.split(text, &mut each),
            (_, part) => each(part),
        };
        match first {
            Some(names) => names.split(text, then),
            None => then(Part::Text(text)),
        }
    }
}
