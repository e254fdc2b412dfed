//! Stop strings in text that comes byte by byte.

use crate::pattern::Pattern;

/// Strings to look for, each with the number of its bytes that the text ends with.
pub(crate) struct Stops {
    all: Vec<(Pattern<u8>, usize)>,
}

impl Stops {
    /// The strings must not be empty.
    pub(crate) fn new(strings: &[String]) -> Self {
        let pattern = |s: &String| Pattern::new(s.as_bytes().to_vec()).expect("a request's stop strings are not empty");
        Self { all: strings.iter().map(|s| (pattern(s), 0)).collect() }
    }

    /// Takes the next byte. Returns the number of the string that ends with it, the longest if there are several.
    /// Nothing may come after that.
    pub(crate) fn push(&mut self, byte: u8) -> Option<usize> {
        let mut found: Option<usize> = None;
        for i in 0..self.all.len() {
            let (pattern, matched) = &mut self.all[i];
            *matched = pattern.step(*matched, &byte);
            if *matched == pattern.len() && found.is_none_or(|best| self.all[best].0.len() < self.all[i].0.len()) {
                found = Some(i);
            }
        }
        found
    }

    /// Number of bytes at the end of the text that may be the beginning of a stop string.
    pub(crate) fn open(&self) -> usize {
        self.all.iter().map(|(_, matched)| *matched).max().unwrap_or(0)
    }
}
