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

pub use hadal_data::chat::Delta;
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
    /// Further values for the template, such as whether to think.
    pub values: Map<String, Value>,
}

/// Sets the values with which templates are asked for an answer with thoughts or without.
pub fn think(values: &mut Map<String, Value>, on: bool) {
    for name in ["thinking", "enable_thinking"] {
        values.insert(name.to_owned(), on.into());
    }
}

/// A conversation as its model reads it.
pub struct Turn {
    /// The prompt, with special tokens by name.
    pub prompt: String,
    /// The text that ends the thoughts that the model begins with, if it does. A form that the answer must have begins
    /// after it.
    pub thinks_until: Option<String>,
    /// A new parser of what the model says, for each sample.
    pub parser: Box<dyn Fn() -> Box<dyn Parser> + Send + Sync>,
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
