//! Calls that are an object (Hermes, Llama 3, GigaChat), or that become one (GLM).

use super::envelope::End;
use super::glm::{self, Glm};
use super::{OutputParser, State};

impl OutputParser {
    pub(super) fn object(&mut self) -> bool {
        let State::Object(mut envelope) = std::mem::replace(&mut self.state, State::Closing) else { return false };
        let buffer = std::mem::take(&mut self.buffer);
        let mut chars = buffer.char_indices();
        let mut ended = None;
        for (at, c) in chars.by_ref() {
            let step = envelope.push(c);
            if let Some(name) = step.name {
                self.begin(&name, None, State::Closing);
                if !matches!(self.state, State::Closing) {
                    // Not a name: everything is text.
                    self.buffer.push_str(&buffer[at..]);
                    return true;
                }
            }
            self.arguments(&step.arguments);
            match step.end {
                Some(End::Broken) if !envelope.has_begun() => {
                    self.buffer.push_str(&buffer[at..]);
                    self.give_up();
                    return true;
                }
                Some(end) => {
                    let next = if end == End::Complete { at + c.len_utf8() } else { at };
                    ended = Some((end, next));
                    break;
                }
                None if !envelope.has_begun() => self.raw.push(c),
                None => {}
            }
        }
        let Some((end, next)) = ended else {
            self.state = State::Object(envelope);
            return false;
        };
        self.no_arguments();
        self.buffer.push_str(&buffer[next..]);
        self.state = if end == End::Complete { State::Closing } else { State::Content };
        true
    }

    /// After an object: its mark, or text.
    pub(super) fn closing(&mut self, end: bool) -> bool {
        let (_, Some(object)) = self.marks() else { return false };
        self.skip_space();
        if self.buffer.is_empty() {
            return false;
        }
        if end && object.close.starts_with(&self.buffer) {
            // The call is complete, and its mark was cut off.
            self.buffer.clear();
            self.state = State::Lead;
            return true;
        }
        match self.begins_with(object.close, end) {
            None => return false,
            Some(closed) => {
                if closed {
                    self.buffer.drain(..object.close.len());
                }
                self.state = if closed { State::Lead } else { State::Content };
            }
        }
        true
    }

    pub(super) fn glm(&mut self, end: bool) -> bool {
        let State::Glm(mut glm) = std::mem::replace(&mut self.state, State::Content) else { return false };
        let named = self.raw.is_empty();
        if !named {
            let step = Glm::name(&mut self.buffer, &mut self.raw, end);
            match step {
                glm::Named::More => {
                    self.state = State::Glm(glm);
                    return false;
                }
                glm::Named::Not => {
                    self.give_up();
                    return true;
                }
                glm::Named::Name(name) => {
                    glm.begin(&name, &self.types);
                    self.begin(&name, None, State::Glm(glm));
                    return true;
                }
            }
        }
        let mut text = String::new();
        let outcome = glm.arguments(&mut self.buffer, &mut text, end);
        self.arguments(&text);
        match outcome {
            glm::Outcome::More => {
                self.state = State::Glm(glm);
                false
            }
            glm::Outcome::End => {
                self.state = State::Lead;
                true
            }
        }
    }
}
