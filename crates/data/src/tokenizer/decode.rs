//! Turns ids into text, also one at a time: the bytes of a character may be spread over several tokens.

use super::Tokenizer;

/// Turns a stream of ids into text as soon as characters are complete.
pub struct StreamDecoder<'t> {
    tokenizer: &'t Tokenizer,
    pending: Vec<u8>,
}

impl<'t> StreamDecoder<'t> {
    pub(super) fn new(tokenizer: &'t Tokenizer) -> Self {
        Self { tokenizer, pending: Vec::new() }
    }

    /// The text that `id` completes. Empty if a character is still incomplete. Special tokens give no text.
    pub fn push(&mut self, id: u32) -> String {
        if self.tokenizer.is_special(id) {
            return String::new();
        }
        self.pending.extend_from_slice(self.tokenizer.token_bytes(id));
        let mut text = String::new();
        loop {
            match std::str::from_utf8(&self.pending) {
                Ok(whole) => {
                    text.push_str(whole);
                    self.pending.clear();
                    return text;
                }
                Err(error) => {
                    let good = error.valid_up_to();
                    text.push_str(&String::from_utf8_lossy(&self.pending[..good]));
                    // Bytes that no further byte can complete become a replacement character, as in `decode`.
                    let bad = error.error_len();
                    text.extend(bad.map(|_| char::REPLACEMENT_CHARACTER));
                    self.pending.drain(..good + bad.unwrap_or(0));
                    if bad.is_none() {
                        return text;
                    }
                }
            }
        }
    }

    /// The rest at the end: a replacement character if the last character is incomplete.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }
}
