//! Text to batches (report, section 4.1): documents, the tokenizer, packed token files, the resumable loader.
//!
//! In the order of the data's way: [`source`] and [`cargo_sources`] read documents, [`filter`] leaves out what is not
//! worth learning ([`pieces`] cuts what is too long), [`split`] holds out whole packages, [`tokenizer`] turns text into ids, [`pack`] stores them in
//! [`shard`] files, and [`loader`] gives batches, with fill-in-middle ([`fim`]) and boundary splits ([`boundary`])
//! applied on the way. [`needle`] makes texts with facts to look up. [`eval`] lays windows over held-out documents; [`baseline`] says
//! what a model must beat.
//!
//! Everything is a function of its inputs and a seed: no order of threads or of files on disk changes a token. Random
//! numbers are counter-based ([`hash`]). Nothing panics on bad input: errors name file, line or key ([`DataError`]).

pub mod baseline;
pub mod boundary;
pub mod cargo_sources;
pub mod error;
pub mod eval;
pub mod filter;
pub mod fim;
pub mod hash;
pub mod loader;
pub mod minhash;
pub mod needle;
pub mod pack;
pub mod pieces;
pub mod shard;
pub mod source;
pub mod split;
pub mod tokenizer;

pub use error::{DataError, Result};
pub use eval::{EvalOptions, EvalSet, EvalWindow};
pub use loader::{Batch, Cursor, Loader, Share, StreamOptions};
pub use pack::Packed;
pub use source::{Document, LeftOut, SourceOptions, Texts, read_paths};
pub use tokenizer::Tokenizer;

#[cfg(test)]
mod testing;
