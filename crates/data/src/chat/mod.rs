//! Conversations: how a model's family writes them, and how its models write thoughts and calls of tools.
//!
//! - [`ChatTemplate`] turns messages into a prompt. It runs the checkpoint's own template and gives the bytes that
//!   `transformers` gives.
//! - [`TextTemplate`] is a template over any values, as task files have them.
//! - [`OutputParser`] takes what a model writes apart, while it is written: thoughts, the answer, calls of tools.
//! - [`samples`] reads conversations to learn from. [`Turns`] says which tokens of them are the assistant's.
//! - [`Syntax`] says how a family writes them. It is recognised from the template, or named.

mod output;
pub mod samples;
mod template;
mod training;

pub use output::{CallSyntax, Delta, OutputParser, Syntax, Thoughts};
pub use template::{ChatRequest, ChatTemplate, Rendered, TextTemplate};
pub use training::{Learned, Turns};

/// A value as a template sees it: any JSON, with the keys of objects in their order. It can be read with `serde`.
pub use minijinja::Value;
