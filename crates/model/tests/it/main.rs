//! Integration tests of the model: parity with an independent implementation, and the invariants of ARCHITECTURE.md.

mod balance;
mod bf16;
mod finite;
mod fixtures;
mod fp8;
mod halves;
mod invariants;
mod operations;
mod parity;
mod precision;
