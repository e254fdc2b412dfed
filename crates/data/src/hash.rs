//! Hashes of bytes, and the random streams of `hadal_base` under this crate's names.

pub use hadal_base::{Permutation, Purpose, Rng, mix};
use xxhash_rust::xxh3;

/// A 64-bit hash of bytes (XXH3), the same on every machine.
pub fn hash_bytes(bytes: &[u8]) -> u64 {
    xxh3::xxh3_64(bytes)
}
