//! Conversations: what a model's format of them must offer, and `POST /v1/chat/completions`.
//!
//! How a family writes conversations, and how its models write thoughts and calls of tools, is `data`'s. [`Template`] is
//! the format of a checkpoint.

pub(crate) mod blocks;
pub(crate) mod endpoint;
mod message;
mod messages;
mod said;
mod template;

use hadal_data::Tokenizer;
pub use hadal_data::chat::Delta;
use hadal_infer::Constraint;
pub use message::{Call, Message};
use serde_json::{Map, Value};
pub use template::Template;

/// A conversation that is to be continued.
#[derive(Clone, Debug, Default)]
pub struct Chat {
    /// Its messages, as clients send them. Contents are strings, or absent.
    pub messages: Vec<Value>,
    /// Tools that the model may call, as clients send them.
    pub tools: Vec<Value>,
    /// Which of them it must call.
    pub tool_choice: ToolChoice,
    /// Whether one call is wanted at most.
    pub single_call: bool,
    /// Further values for the template, such as whether to think.
    pub values: Map<String, Value>,
}

/// Sets the values with which templates are asked for an answer with thoughts or without.
pub fn think(values: &mut Map<String, Value>, on: bool) {
    for name in ["thinking", "enable_thinking"] {
        values.insert(name.to_owned(), on.into());
    }
}

/// Which tools the answer must call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// The model decides.
    #[default]
    Auto,
    /// At least one.
    Required,
    /// This one, once.
    Named(String),
}

/// A conversation as its model reads it.
pub struct Turn {
    /// The prompt, with special tokens by name.
    pub prompt: String,
    /// The text that ends the thoughts that the model begins with, if it does. A form that the answer must have begins
    /// after it.
    pub thinks_until: Option<String>,
    /// The texts around the thoughts that the model may begin with, if it may.
    pub may_think: Option<(String, String)>,
    /// The grammar of the calls that the answer must make, in Lark's syntax. `None` if it need not make any.
    pub calls: Option<String>,
    /// Whether calls after the first one are left out.
    pub single_call: bool,
    /// A new parser of what the model says, for each sample.
    pub parser: Box<dyn Fn() -> Box<dyn Parser> + Send + Sync>,
}

impl Turn {
    /// The form of an answer, which begins after the thoughts, if there are any.
    pub(crate) fn after_thoughts(&self, form: Constraint, tokenizer: &Tokenizer) -> Constraint {
        let tokens = |text: &str| tokenizer.encode_with_special(text);
        match (&self.thinks_until, &self.may_think) {
            (Some(close), _) => form.after(&tokens(close)),
            (None, Some((open, close))) => match tokens(open)[..] {
                [open] => form.unless_begun(open, &tokens(close)),
                // Thoughts that begin with ordinary text cannot be told from the answer.
                _ => form,
            },
            (None, None) => form,
        }
    }
}

/// Whether a part of an answer is given to the client. Where a single call is wanted, further ones are left out.
pub(crate) fn is_wanted(delta: &Delta, single_call: bool) -> bool {
    match delta {
        Delta::Call { index, .. } | Delta::Arguments { index, .. } => !single_call || *index == 0,
        Delta::Content(_) | Delta::Reasoning(_) => true,
    }
}

/// How a model's conversations are written and read.
pub trait ChatFormat: Send + Sync {
    /// Writes a conversation.
    ///
    /// # Errors
    /// Says what is wrong with it, and what to do.
    fn write(&self, chat: &Chat) -> Result<Turn, String>;
}

/// Takes what a model says apart. How the text is cut must not matter.
pub trait Parser: Send {
    /// What the next piece of text adds.
    fn push(&mut self, text: &str) -> Vec<Delta>;
    /// What the end adds.
    fn finish(&mut self) -> Vec<Delta>;
}
