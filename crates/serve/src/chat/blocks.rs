//! An answer as a row of blocks: thoughts, text, and calls of tools. OpenAI's responses and Anthropic's messages number
//! the blocks of an answer, and tell of the beginning and the end of each.

use super::{Delta, Parser, Turn, is_wanted};
use hadal_infer::{Event, Stop, Usage};

/// What a block is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Thoughts,
    Text,
    Call { id: String, name: String },
}

/// A block with its text. The text of a call is its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) kind: Kind,
    pub(crate) text: String,
}

/// What happens to an answer. Blocks are told by their number.
#[derive(Debug)]
pub(crate) enum Step {
    Open(usize),
    More(usize, String),
    Close(usize),
    End,
}

/// How an answer ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    pub(crate) stop: Stop,
    pub(crate) usage: Usage,
    /// How many of its tokens were thoughts.
    pub(crate) thoughts: usize,
}

/// The blocks of an answer on its way.
pub(crate) struct Blocks {
    parser: Box<dyn Parser>,
    /// What the names of calls begin with, where the model gives none.
    prefix: String,
    single_call: bool,
    all: Vec<Block>,
    is_open: bool,
    /// Tokens so far, and those before the first text or call.
    tokens: usize,
    thoughts: usize,
    has_answered: bool,
    end: Option<End>,
}

impl Blocks {
    pub(crate) fn new(turn: &Turn, prefix: String) -> Self {
        let (all, parser, single_call) = (Vec::new(), (turn.parser)(), turn.single_call);
        let (is_open, tokens, thoughts, has_answered, end) = (false, 0, 0, false, None);
        Self { parser, prefix, single_call, all, is_open, tokens, thoughts, has_answered, end }
    }

    /// The blocks so far. The last one may be open.
    pub(crate) fn all(&self) -> &[Block] {
        &self.all
    }

    /// How the answer ended, once it has.
    pub(crate) fn end(&self) -> Option<End> {
        self.end
    }

    /// What an event adds. The last block is closed by the same event that ends the answer.
    pub(crate) fn hear(&mut self, event: Event) -> Vec<Step> {
        let mut steps = Vec::new();
        match event {
            Event::Token { .. } => self.tokens += 1,
            Event::Text { piece, .. } => {
                for delta in self.parser.push(&piece.text) {
                    self.add(delta, &mut steps);
                }
                if !self.has_answered {
                    self.thoughts = self.tokens;
                }
            }
            Event::Finished { stop, usage, .. } => {
                for delta in self.parser.finish() {
                    self.add(delta, &mut steps);
                }
                self.close(&mut steps);
                let thinks = self.all.iter().any(|block| block.kind == Kind::Thoughts);
                let thoughts = if thinks { self.thoughts.min(usage.generated) } else { 0 };
                self.end = Some(End { stop, usage, thoughts });
                steps.push(Step::End);
            }
            Event::Scored { .. } => {}
        }
        steps
    }

    fn add(&mut self, delta: Delta, steps: &mut Vec<Step>) {
        if !is_wanted(&delta, self.single_call) {
            return;
        }
        self.has_answered |= !matches!(delta, Delta::Reasoning(_));
        match delta {
            Delta::Reasoning(text) => self.more(&Kind::Thoughts, text, steps),
            Delta::Content(text) => self.more(&Kind::Text, text, steps),
            Delta::Call { index, id, name } => {
                let id = id.unwrap_or_else(|| format!("{}_{index}", self.prefix));
                self.open(Kind::Call { id, name }, steps);
            }
            // The arguments of a call come before anything else does.
            Delta::Arguments { text, .. } => self.extend(text, steps),
        }
    }

    /// Adds text. It goes into the last block if that has the same kind, and otherwise into a new one. Empty text makes no
    /// block.
    fn more(&mut self, kind: &Kind, text: String, steps: &mut Vec<Step>) {
        if text.is_empty() {
            return;
        }
        if !(self.is_open && self.all.last().is_some_and(|block| block.kind == *kind)) {
            self.open(kind.clone(), steps);
        }
        self.extend(text, steps);
    }

    fn extend(&mut self, text: String, steps: &mut Vec<Step>) {
        let Some(block) = self.all.last_mut().filter(|_| self.is_open) else { return };
        block.text += &text;
        steps.push(Step::More(self.all.len() - 1, text));
    }

    fn open(&mut self, kind: Kind, steps: &mut Vec<Step>) {
        self.close(steps);
        steps.push(Step::Open(self.all.len()));
        self.all.push(Block { kind, text: String::new() });
        self.is_open = true;
    }

    fn close(&mut self, steps: &mut Vec<Step>) {
        if std::mem::take(&mut self.is_open) {
            steps.push(Step::Close(self.all.len() - 1));
        }
    }
}
