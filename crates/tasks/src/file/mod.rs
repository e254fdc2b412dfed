//! Task files as they are written: YAML with includes.
//!
//! The files are those of lm-evaluation-harness. `yaml.rs` reads one file, with the line of every value. `include.rs`
//! merges the files that it includes.

mod include;
mod scalar;
mod yaml;

pub use include::load;
pub(crate) use include::override_with;
pub use yaml::{Entry, Node, Yaml, parse};

#[cfg(test)]
mod tests;
