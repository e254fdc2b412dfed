//! Tests of whole tasks: against the harness, on the built-in benchmarks, and with mistakes.

mod benchmarks;
mod harness;
mod mistakes;
mod recorded;
