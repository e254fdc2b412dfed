//! Text to batches: reading and filtering documents, the tokenizer, packed token files, and the resumable loader.
//!
//! The order of the modules is the order of the data's way: [`source`] and [`cargo_sources`] read documents,
//! [`filter`] leaves out what is not worth learning, [`split`] holds out whole packages.

mod atomic;
pub mod boundary;
pub mod cargo_sources;
pub mod error;
pub mod filter;
pub mod fim;
pub mod hash;
pub mod minhash;
pub mod pack;
#[cfg(feature = "parquet")]
mod parquet;
pub mod shard;
pub mod source;
pub mod split;
pub mod tokenizer;

pub use error::{DataError, Result};
pub use source::{Document, SourceOptions, Texts, read_paths};
pub use tokenizer::Tokenizer;

#[cfg(test)]
mod testing;
