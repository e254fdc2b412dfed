//! A server for one model, with OpenAI's API over HTTP.
//!
//! One thread owns the engine (`worker`). Handlers check a request, hand it over, and turn the events that come back into
//! an answer (`answer`). A client that goes, or does not read, ends its own request and disturbs nobody.

mod answer;
mod anthropic;
mod app;
mod chat;
mod completions;
mod engine;
mod error;
mod fields;
mod form;
mod health;
mod keys;
mod listen;
mod metrics;
mod models;
mod page;
mod prompts;
mod responses;
mod routes;
mod sampling;
mod server;
#[cfg(test)]
mod tests;
mod tokenize;
mod tokens;
mod worker;

pub use app::ServeOptions;
pub use chat::{Call, Chat, ChatFormat, Delta, Message, Parser, Template, Turn, think};
pub use keys::{Keys, KeysError};
pub use server::{ServeError, Server, signals};
