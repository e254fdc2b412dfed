//! The text of a continuation, piece by piece.
//!
//! A piece never splits a character: the bytes of one may come in several tokens. Text that may be the beginning of a
//! stop string is held back until that is decided. What comes out does not depend on how the text is cut into tokens.
//!
//! The stop string that is complete first ends the text. If several end at the same byte, it is the longest one.

mod stops;
#[cfg(test)]
mod tests;

use hadal_data::Tokenizer;
use hadal_data::tokenizer::Utf8Stream;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
pub(crate) use stops::Stops;

/// How the tokens of a continuation become text, and which text ends it.
#[derive(Clone)]
pub struct TextOptions {
    /// The model's tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// Strings that end the continuation. None may be empty.
    pub stop: Vec<String>,
    /// Whether the text contains the stop string that ended it.
    pub include_stop: bool,
    /// Whether special tokens are shown by name. Otherwise they give no text.
    pub show_special: bool,
}

impl TextOptions {
    /// Plain text without stop strings.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self { tokenizer, stop: Vec::new(), include_stop: false, show_special: false }
    }
}

impl fmt::Debug for TextOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tokenizer: _, stop, include_stop, show_special } = self;
        let mut out = f.debug_struct("TextOptions");
        out.field("stop", stop).field("include_stop", include_stop).field("show_special", show_special);
        out.finish_non_exhaustive()
    }
}

/// The next part of a continuation's text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// The text, in whole characters. It is final.
    pub text: String,
    /// For each of the next tokens of the continuation, where its text begins: in bytes from the start of the whole
    /// text. A token's text ends where that of the next one begins. If a character is spread over several tokens, it
    /// belongs to the last of them.
    ///
    /// Tokens of a stop string that the text does not contain are in no piece.
    pub offsets: Vec<usize>,
}

impl Piece {
    /// Whether there is neither text nor a token.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty() && self.offsets.is_empty()
    }
}

/// The text of a sequence that is being generated.
pub(crate) struct Text {
    options: TextOptions,
    stops: Stops,
    utf8: Utf8Stream,
    /// Whole characters that are not given out yet.
    held: String,
    /// Bytes of text given out.
    given: usize,
    /// Where the tokens begin that are in no piece yet.
    offsets: VecDeque<usize>,
}

impl Text {
    /// No text yet.
    pub(crate) fn new(options: TextOptions) -> Self {
        Self {
            stops: Stops::new(&options.stop),
            options,
            utf8: Utf8Stream::default(),
            held: String::new(),
            given: 0,
            offsets: VecDeque::new(),
        }
    }

    /// Takes the next token. Returns the text that is final with it, and the number of the stop string that it
    /// completes. Nothing may follow a stop string.
    pub(crate) fn push(&mut self, token: u32) -> (Piece, Option<usize>) {
        let tokenizer = Arc::clone(&self.options.tokenizer);
        let shown = self.options.show_special || !tokenizer.is_special(token);
        self.push_bytes(if shown { tokenizer.token_bytes(token) } else { &[] })
    }

    /// The same for a token of these bytes.
    fn push_bytes(&mut self, bytes: &[u8]) -> (Piece, Option<usize>) {
        let seen = self.held.len();
        self.offsets.push_back(self.given + seen);
        self.utf8.push(bytes, &mut self.held);
        let stop = self.search(seen);
        // After a stop string, what is left of the held text is final.
        let open = if stop.is_some() { 0 } else { self.stops.open() };
        (self.give(self.held.len() - open), stop)
    }

    /// Ends the text after its last token: what was held back is text. Returns it, and the number of a stop string that
    /// the replacement of an incomplete character completes.
    pub(crate) fn finish(&mut self) -> (Piece, Option<usize>) {
        let seen = self.held.len();
        self.utf8.finish(&mut self.held);
        let stop = self.search(seen);
        let mut piece = self.give(self.held.len());
        if stop.is_none() {
            piece.offsets.extend(self.offsets.drain(..));
        }
        (piece, stop)
    }

    /// Looks for stop strings in the held text from byte `seen` on. Cuts the text off at the first one.
    fn search(&mut self, seen: usize) -> Option<usize> {
        let bytes = self.held.as_bytes();
        let found = (seen..bytes.len()).find_map(|i| self.stops.push(bytes[i]).map(|stop| (stop, i + 1)));
        let (stop, end) = found?;
        let end = if self.options.include_stop { end } else { end - self.options.stop[stop].len() };
        self.held.truncate(end);
        Some(stop)
    }

    /// Gives out the first `bytes` bytes of the held text, with the tokens that begin in them.
    fn give(&mut self, bytes: usize) -> Piece {
        let text: String = self.held.drain(..bytes).collect();
        self.given += bytes;
        let tokens = self.offsets.iter().take_while(|at| **at < self.given).count();
        Piece { text, offsets: self.offsets.drain(..tokens).collect() }
    }
}
