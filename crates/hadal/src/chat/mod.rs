//! A conversation in the terminal, on the engine, the templates and the parsers of the server.
//!
//! [`input`] reads lines, [`command`] tells commands from text, [`conversation`] keeps the messages, [`session`] asks the
//! model, and [`screen`] shows what it says. In a pipe, each line is a message, and answers alone are written out.

mod command;
mod conversation;
mod input;
mod screen;
mod session;
mod settings;

pub(crate) use conversation::Conversation;
pub(crate) use input::{Input, Line};
pub(crate) use screen::Screen;
pub(crate) use session::{Next, Session};
pub(crate) use settings::Settings;
