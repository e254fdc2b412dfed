//! Integration tests of the model: parity with an independent implementation, and the invariants of ARCHITECTURE.md.

mod adapters;
mod balance;
mod bf16;
mod bf16_scales;
mod cached;
mod checkpoints;
mod coded;
mod finite;
mod fixtures;
mod foreign;
mod fp8;
mod fp8_invariants;
mod halves;
mod invariants;
mod list;
mod memory;
mod official;
mod operations;
mod packed;
mod parity;
mod precision;
mod quantised;
mod verbatim;
