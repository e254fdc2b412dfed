//! Turns bytes that come piece by piece into text. A token may end inside a character, so the bytes of a character may be
//! spread over several tokens.

/// Gives out characters as soon as they are complete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Utf8Stream {
    /// The beginning of a character, at most three bytes.
    pending: Vec<u8>,
}

impl Utf8Stream {
    /// Takes more bytes, and appends the characters that they complete to `text`. Bytes that cannot be part of a character
    /// become U+FFFD, as in [`String::from_utf8_lossy`].
    pub fn push(&mut self, bytes: &[u8], text: &mut String) {
        self.pending.extend_from_slice(bytes);
        let mut done = 0;
        while done < self.pending.len() {
            match std::str::from_utf8(&self.pending[done..]) {
                Ok(whole) => {
                    text.push_str(whole);
                    done = self.pending.len();
                }
                Err(error) => {
                    let good = done + error.valid_up_to();
                    text.push_str(&String::from_utf8_lossy(&self.pending[done..good]));
                    done = good;
                    // No length: the last character is incomplete, and more bytes may complete it.
                    let Some(bad) = error.error_len() else { break };
                    text.push(char::REPLACEMENT_CHARACTER);
                    done += bad;
                }
            }
        }
        self.pending.drain(..done);
    }

    /// Ends the text: a character that is still incomplete becomes one U+FFFD.
    pub fn finish(&mut self, text: &mut String) {
        if !self.pending.is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
            self.pending.clear();
        }
    }
}
