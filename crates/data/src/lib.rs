//! Text to batches (report, section 4.1): documents, the tokenizer, packed token files, the resumable loader.
//!
//! In the order in which data flows:
//!
//! - [`source`] and [`cargo_sources`] read documents.
//! - [`filter`] removes what is not worth learning; [`pieces`] cuts long documents.
//! - [`split`] holds out whole packages.
//! - [`tokenizer`] turns text into ids.
//! - [`pack`] stores them in [`shard`] files.
//! - [`loader`] gives batches. It applies fill-in-middle ([`fim`]) and boundary splits ([`boundary`]).
//!
//! [`chat`] writes conversations as prompts and takes apart what models answer.
//!
//! [`needle`] makes texts with facts to look up. [`eval`] places windows over held-out documents. [`baseline`] says what
//! a model must beat.
//!
//! Everything is a function of its inputs and a seed: the order of threads or of files on disk does not change a token.
//! Random numbers are counter-based ([`hash`]). Bad input never causes a panic: errors name file, line or key
//! ([`DataError`]).

pub mod baseline;
pub mod boundary;
pub mod cargo_sources;
pub mod chat;
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

pub use error::{DataError, Result, SampleError, TemplateError};
pub use eval::{EvalOptions, EvalSet, EvalWindow};
pub use loader::{Batch, Cursor, Loader, Share, StreamOptions};
pub use pack::Packed;
pub use source::{Document, LeftOut, SourceOptions, Texts, read_paths};
pub use tokenizer::Tokenizer;

#[cfg(test)]
mod testing;
