//! Integration tests of the model: parity with an independent implementation, and the invariants of ARCHITECTURE.md.

mod fixtures;
mod invariants;
mod parity;
