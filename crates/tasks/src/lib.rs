//! Benchmarks: what to ask of a model, and what its answers are worth.
//!
//! - A [`Task`] is one file: prompt, examples, check and reward. Evaluation and reinforcement learning use the same object.
//!   It never runs a model itself: it gives [`Request`]s and takes [`Answer`]s.
//! - [`mod@file`] reads task files of lm-evaluation-harness, as far as they need no Python.
//! - [`checker`] says whether an answer is right: [`maths`], programs, instructions, a command of the user's own. Foreign
//!   programs run in a [`sandbox`].
//! - [`families`] makes questions from a seed, with a dial of difficulty.
//! - [`suite`] finds tasks by name, and groups of them. The built-in benchmarks are files in `benchmarks/`.
//! - [`stats`] says what scores tell.
//! - [`evaluate`] asks a model, and reports. It is the only module that knows the engine.

pub mod checker;
mod describe;
pub mod error;
pub mod evaluate;
pub mod families;
pub mod file;
pub mod filter;
pub mod maths;
pub mod metric;
pub mod pattern;
pub mod sandbox;
pub mod stats;
pub mod suite;
pub mod task;

pub use describe::list;
pub use error::{Place, Result, TaskError};
pub use suite::Suite;
pub use task::{Answer, Answered, Chat, Options, Outcome, Request, Task};
