//! Hugging Face checkpoints: `config.json`, safetensors in one file or many, written so that other programs load them.

pub mod atomic;
mod audit;
mod config_json;
mod error;
mod header;
mod keys;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub use audit::{Audit, Misshaped};
pub use error::Error;
pub use header::Dtype;
pub use reader::{Checkpoint, Element, Info};
pub use writer::{Fill, SHARD_BYTES, SaveDtype, SaveOptions, SaveTensor, save, write_into};
