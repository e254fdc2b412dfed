//! What a model writes, taken apart while it is written.
//!
//! [`OutputParser`] takes text in pieces. How the text is cut does not matter: nothing is told before it is certain.
//! What looks like a call and is none is given out as text. White space around marks is dropped.

mod envelope;
mod glm;
mod glm_grammar;
mod grammar;
mod marks;
mod object;
mod section;
mod syntax;

use minijinja::Value;

use envelope::Envelope;
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
            let taken = self.buffer.len() - rest.len();
            self.buffer.drain(..taken);
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
        mark.clone_into(&mut self.raw);
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

    /// What was read since the mark is not a call.
    fn give_up(&mut self) {
        let raw = std::mem::take(&mut self.raw);
        self.content(&raw);
        self.state = State::Content;
    }

    fn marks(&self) -> (Option<Section>, Option<Object>) {
        let calls = self.syntax.calls;
        (calls.and_then(CallSyntax::section), calls.and_then(CallSyntax::object))
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

    /// A call that has no arguments has an empty object of them.
    fn no_arguments(&mut self) {
        if !self.argued {
            self.arguments("{}");
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
