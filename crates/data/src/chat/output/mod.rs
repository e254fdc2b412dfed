//! What a model writes, taken apart while it is written.
//!
//! [`OutputParser`] takes text in pieces. How the text is cut does not matter: nothing is told before it is certain.
//! What looks like a call and is none is given out as text. White space around marks is dropped.

mod envelope;
mod glm;
mod marks;
mod syntax;

use minijinja::Value;

use envelope::{End, Envelope};
use glm::{Glm, Types};
use marks::{Found, find};
pub use syntax::{CallSyntax, Syntax, Thoughts};
use syntax::{Object, Section};

/// The longest name of a tool, with what stands around it.
const MAX_NAME: usize = 512;

/// What a piece of text adds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delta {
    /// Thoughts.
    Reasoning(String),
    /// The answer.
    Content(String),
    /// A call begins.
    Call {
        /// The number of the call in this message.
        index: usize,
        /// The call's name for itself, if the model gave one.
        id: Option<String>,
        /// The tool's name.
        name: String,
    },
    /// Text of a call's arguments. All texts of a call together are JSON, if the model wrote it properly.
    Arguments {
        /// The number of the call in this message.
        index: usize,
        /// The text.
        text: String,
    },
}

/// Takes apart what a model writes for one message.
pub struct OutputParser {
    syntax: Syntax,
    types: Types,
    /// Text that is not understood yet.
    buffer: String,
    state: State,
    /// Text since the last mark of a call that may turn out to be none.
    raw: String,
    /// White space that is dropped if a mark follows.
    held: String,
    /// Whether white space is dropped until other text comes.
    fresh: bool,
    calls: usize,
    /// Whether the current call has arguments.
    argued: bool,
    out: Vec<Delta>,
}

enum State {
    /// Nothing but white space so far.
    Start,
    Thoughts,
    /// After thoughts or calls, before text.
    Lead,
    Content,
    /// Between the calls of a section.
    Section,
    /// Before the separator of a call.
    Header,
    /// The name on a line of its own.
    Name,
    /// Before a block of code.
    Fence,
    Arguments {
        fenced: bool,
    },
    Object(Envelope),
    /// After an object.
    Closing,
    Glm(Glm),
}

impl OutputParser {
    /// A parser for what follows a prompt. Without tools, all calls are text.
    pub fn new(syntax: Syntax, prompt: &str, tools: &[Value]) -> Self {
        let calls = syntax.calls.filter(|_| !tools.is_empty());
        let state = if syntax.thinks_until(prompt).is_some() { State::Thoughts } else { State::Start };
        let fresh = matches!(state, State::Thoughts);
        Self {
            syntax: Syntax { calls, ..syntax },
            types: Types::of(tools),
            buffer: String::new(),
            state,
            raw: String::new(),
            held: String::new(),
            fresh,
            calls: 0,
            argued: false,
            out: Vec::new(),
        }
    }

    /// Takes the next piece of text.
    pub fn push(&mut self, text: &str) -> Vec<Delta> {
        // What is understood is taken from the front of the buffer, so the buffer is kept short.
        let mut rest = text;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.floor_char_boundary(4096));
            self.buffer.push_str(piece);
            while self.step(false) {}
            rest = after;
        }
        std::mem::take(&mut self.out)
    }

    /// Tells what was held back at the end of the text.
    pub fn finish(&mut self) -> Vec<Delta> {
        while self.step(true) {}
        let rest = std::mem::take(&mut self.buffer);
        match std::mem::replace(&mut self.state, State::Content) {
            State::Thoughts => self.held.clear(),
            State::Arguments { fenced } => self.end_arguments(fenced),
            State::Glm(mut glm) if self.raw.is_empty() => {
                let text = glm.finish();
                self.arguments(&text);
            }
            State::Object(envelope) if envelope.has_begun() => {}
            _ => {
                self.give_up();
                self.content(&rest);
            }
        }
        // Between a call and the end, there is nothing but white space.
        if !self.fresh {
            let held = std::mem::take(&mut self.held);
            self.add(&held, Delta::Content);
        }
        std::mem::take(&mut self.out)
    }

    /// Reads on. False if more text is needed.
    fn step(&mut self, end: bool) -> bool {
        match self.state {
            State::Start => self.start(end),
            State::Lead => self.lead(end),
            State::Thoughts => self.thoughts(end),
            State::Content => self.text(end),
            State::Section => self.section(end),
            State::Header => self.header(end),
            State::Name => self.name(end),
            State::Fence => self.fence(end),
            State::Arguments { fenced } => self.body(fenced, end),
            State::Object(_) => self.object(),
            State::Closing => self.closing(end),
            State::Glm(_) => self.glm(end),
        }
    }

    /// Drops the white space that the buffer begins with.
    fn skip_space(&mut self) {
        let space = self.buffer.len() - self.buffer.trim_start().len();
        self.buffer.drain(..space);
    }

    /// Whether the buffer begins with a mark. `None` if more text is needed.
    fn begins_with(&self, mark: &str, end: bool) -> Option<bool> {
        if self.buffer.starts_with(mark) {
            return Some(true);
        }
        if !end && mark.starts_with(&self.buffer) { None } else { Some(false) }
    }

    fn start(&mut self, end: bool) -> bool {
        let Some(marks) = self.syntax.thoughts else {
            self.state = State::Lead;
            return true;
        };
        let trimmed = self.buffer.trim_start();
        if let Some(rest) = trimmed.strip_prefix(marks.open) {
            self.buffer = rest.to_owned();
            (self.state, self.fresh) = (State::Thoughts, true);
            return true;
        }
        if !end && marks.open.starts_with(trimmed) {
            return false;
        }
        self.state = State::Lead;
        true
    }

    /// Llama 3 writes calls in place of text.
    fn lead(&mut self, end: bool) -> bool {
        if self.syntax.calls == Some(CallSyntax::Llama3) {
            let trimmed = self.buffer.trim_start();
            if trimmed.is_empty() && !end {
                return false;
            }
            if trimmed.starts_with('{') {
                let space = self.buffer.len() - trimmed.len();
                let space: String = self.buffer.drain(..space).collect();
                if !self.fresh {
                    self.held.push_str(&space);
                }
                self.state = State::Object(Envelope::default());
                return true;
            }
        }
        self.state = State::Content;
        !self.buffer.is_empty()
    }

    fn thoughts(&mut self, end: bool) -> bool {
        let close = self.syntax.thoughts.map_or("", |marks| marks.close);
        let calls = self.syntax.calls.filter(|calls| calls.ends_thoughts());
        let mut marks = calls.map(CallSyntax::marks).unwrap_or_default();
        marks.insert(0, close);
        let Found { text, mark } = find(&mut self.buffer, &marks, end);
        let progress = !text.is_empty() || mark.is_some();
        self.spaced(&text, Delta::Reasoning);
        match mark {
            Some(0) => {
                self.held.clear();
                (self.state, self.fresh) = (State::Lead, true);
            }
            Some(at) => {
                self.held.clear();
                self.fresh = true;
                self.open_call(marks[at]);
            }
            None => {}
        }
        progress
    }

    fn text(&mut self, end: bool) -> bool {
        let marks = self.syntax.calls.map(CallSyntax::marks).unwrap_or_default();
        let Found { text, mark } = find(&mut self.buffer, &marks, end);
        let progress = !text.is_empty() || mark.is_some();
        self.content(&text);
        if let Some(at) = mark {
            self.open_call(marks[at]);
        }
        progress
    }

    /// A mark after which a call should follow.
    fn open_call(&mut self, mark: &'static str) {
        self.raw = mark.to_owned();
        self.state = match self.syntax.calls {
            Some(syntax) => match syntax.section() {
                Some(section) if mark == section.open => State::Section,
                Some(_) => State::Header,
                None if syntax == CallSyntax::Glm => State::Glm(Glm::default()),
                None => State::Object(Envelope::default()),
            },
            None => State::Content,
        };
    }

    /// What was read since the mark is no call.
    fn give_up(&mut self) {
        let raw = std::mem::take(&mut self.raw);
        self.content(&raw);
        self.state = State::Content;
    }

    fn marks(&self) -> (Option<Section>, Option<Object>) {
        let calls = self.syntax.calls;
        (calls.and_then(CallSyntax::section), calls.and_then(CallSyntax::object))
    }

    fn section(&mut self, end: bool) -> bool {
        let (Some(section), _) = self.marks() else { return false };
        let space = self.buffer.len() - self.buffer.trim_start().len();
        if !self.raw.is_empty() {
            self.raw.push_str(&self.buffer[..space]);
        }
        self.buffer.drain(..space);
        match (self.begins_with(section.begin, end), self.begins_with(section.close, end)) {
            (Some(true), _) => {
                self.raw.push_str(section.begin);
                self.buffer.drain(..section.begin.len());
                self.state = State::Header;
            }
            (_, Some(true)) if self.raw.is_empty() => {
                self.buffer.drain(..section.close.len());
                self.state = State::Lead;
            }
            (Some(false), Some(_)) | (Some(_), Some(false)) if !self.buffer.is_empty() => self.give_up(),
            _ => return false,
        }
        true
    }

    /// The text before the separator: the name of the call, or its kind.
    fn header(&mut self, end: bool) -> bool {
        let (Some(section), _) = self.marks() else { return false };
        let marks = [section.separator, section.end, section.close, section.open, section.begin];
        let Found { text, mark } = find(&mut self.buffer, &marks, end);
        let progress = !text.is_empty() || mark.is_some();
        self.raw.push_str(&text);
        let header = self.raw.rfind(section.begin).map_or(0, |at| at + section.begin.len());
        let header = self.raw[header..].trim().to_owned();
        match mark {
            _ if header.len() > MAX_NAME => {
                self.back(mark.map(|at| marks[at]));
                self.give_up();
            }
            Some(0) => {
                self.raw.push_str(section.separator);
                match self.syntax.calls {
                    Some(CallSyntax::DeepSeekV3) => self.state = State::Name,
                    Some(CallSyntax::Kimi) => {
                        let name = header.strip_prefix("functions.").unwrap_or(&header);
                        let name = name.rsplit_once(':').map_or(name, |(name, _)| name).to_owned();
                        self.begin(&name, Some(header), State::Arguments { fenced: false });
                    }
                    _ => self.begin(&header, None, State::Arguments { fenced: false }),
                }
            }
            Some(at) => {
                self.back(Some(marks[at]));
                self.give_up();
            }
            None => {}
        }
        progress
    }

    /// Puts a mark back to be read again.
    fn back(&mut self, mark: Option<&str>) {
        self.buffer.insert_str(0, mark.unwrap_or_default());
    }

    /// A name on a line of its own.
    fn name(&mut self, end: bool) -> bool {
        let (Some(section), _) = self.marks() else { return false };
        let marks = ["\n", section.end, section.close, section.open, section.begin];
        let Found { text, mark } = find(&mut self.buffer, &marks, end);
        let progress = !text.is_empty() || mark.is_some();
        self.raw.push_str(&text);
        let start = self.raw.rfind(section.separator).map_or(0, |at| at + section.separator.len());
        let name = self.raw[start..].trim().to_owned();
        match mark {
            _ if name.len() > MAX_NAME => {
                self.back(mark.map(|at| marks[at]));
                self.give_up();
            }
            Some(0) => {
                self.raw.push('\n');
                self.begin(&name, None, State::Fence);
            }
            Some(at) => {
                self.back(Some(marks[at]));
                self.give_up();
            }
            None => {}
        }
        progress
    }

    /// Tells of a call, if its name can be one.
    fn begin(&mut self, name: &str, id: Option<String>, then: State) {
        if name.is_empty() || name.len() > MAX_NAME || name.contains(char::is_whitespace) {
            self.give_up();
            return;
        }
        self.raw.clear();
        self.held.clear();
        (self.fresh, self.argued) = (true, false);
        self.out.push(Delta::Call { index: self.calls, id, name: name.to_owned() });
        self.calls += 1;
        self.state = then;
    }

    fn fence(&mut self, end: bool) -> bool {
        const FENCE: &str = "```json\n";
        self.skip_space();
        match self.begins_with(FENCE, end) {
            None => return false,
            Some(fenced) => {
                if fenced {
                    self.buffer.drain(..FENCE.len());
                }
                self.state = State::Arguments { fenced };
            }
        }
        true
    }

    /// The arguments of a call up to its end.
    fn body(&mut self, fenced: bool, end: bool) -> bool {
        let (Some(section), _) = self.marks() else { return false };
        let marks = [section.end, section.close];
        let Found { text, mark } = find(&mut self.buffer, &marks, end);
        let progress = !text.is_empty() || mark.is_some();
        self.held.push_str(&text);
        if !self.argued {
            let space = self.held.len() - self.held.trim_start().len();
            self.held.drain(..space);
        }
        // A fence and white space at the end are not part of them.
        let certain = self.held.trim_end_matches(|c: char| c.is_whitespace() || (fenced && c == '`')).len();
        let certain: String = self.held.drain(..certain).collect();
        self.arguments(&certain);
        if let Some(at) = mark {
            self.end_arguments(fenced);
            self.state = if at == 0 { State::Section } else { State::Lead };
        }
        progress
    }

    fn end_arguments(&mut self, fenced: bool) {
        let held = std::mem::take(&mut self.held);
        let mut rest = held.trim_end();
        if fenced {
            rest = rest.strip_suffix("```").unwrap_or(rest).trim_end();
        }
        self.arguments(rest);
        self.no_arguments();
    }

    /// A call that has no arguments has an empty object of them.
    fn no_arguments(&mut self) {
        if !self.argued {
            self.arguments("{}");
        }
    }

    fn object(&mut self) -> bool {
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
                    self.buffer = buffer[at..].to_owned();
                    return true;
                }
            }
            self.arguments(&step.arguments);
            match step.end {
                Some(End::Broken) if !envelope.has_begun() => {
                    self.buffer = buffer[at..].to_owned();
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
        self.buffer = buffer[next..].to_owned();
        self.state = if end == End::Complete { State::Closing } else { State::Content };
        true
    }

    /// After an object: its mark, or text.
    fn closing(&mut self, end: bool) -> bool {
        let (_, Some(object)) = self.marks() else { return false };
        self.skip_space();
        if self.buffer.is_empty() {
            return false;
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

    fn glm(&mut self, end: bool) -> bool {
        let State::Glm(mut glm) = std::mem::replace(&mut self.state, State::Content) else { return false };
        let named = self.raw.is_empty();
        if !named {
            let step = glm.name(&mut self.buffer, &mut self.raw, end);
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

    /// Adds to the answer.
    fn content(&mut self, text: &str) {
        self.spaced(text, Delta::Content);
    }

    /// Adds text, without white space that marks may follow.
    fn spaced(&mut self, text: &str, kind: fn(String) -> Delta) {
        let text = if self.fresh { text.trim_start() } else { text };
        if text.is_empty() {
            return;
        }
        self.fresh = false;
        self.held.push_str(text);
        let certain = self.held.trim_end().len();
        let certain: String = self.held.drain(..certain).collect();
        self.add(&certain, kind);
    }

    fn add(&mut self, text: &str, kind: fn(String) -> Delta) {
        if !text.is_empty() {
            self.out.push(kind(text.to_owned()));
        }
    }

    fn arguments(&mut self, text: &str) {
        if text.is_empty() || self.calls == 0 {
            return;
        }
        self.argued = true;
        let index = self.calls - 1;
        match self.out.last_mut() {
            Some(Delta::Arguments { text: last, .. }) => last.push_str(text),
            _ => self.out.push(Delta::Arguments { index, text: text.to_owned() }),
        }
    }
}

#[cfg(test)]
mod tests;
