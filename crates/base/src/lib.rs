//! The base of all other crates: files that appear whole or not at all, one I/O error that names path and action, a
//! checksum, and one counter-based random generator.

pub mod atomic;
mod checksum;
mod foreign;
mod io;
mod place;
mod rng;
mod small;

pub use checksum::checksum;
pub use foreign::{FIRST, foreign};
pub use io::{IoContext, IoError};
pub use place::place;
pub use rng::{Permutation, Purpose, Rng, mix, name_key};
pub use small::{open_regular, read_exact_at, read_small, short};
