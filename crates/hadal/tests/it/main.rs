//! Runs the built program on the model crate's fixtures and on a tiny model with a tokenizer.

mod chat;
#[cfg(target_os = "linux")]
mod conversions;
mod errors;
mod experiments;
mod extensions;
mod foreign;
#[cfg(feature = "hub")]
mod hub;
mod kill;
#[cfg(target_os = "linux")]
mod memory;
mod models;
mod nudge;
mod old_run;
#[cfg(target_os = "linux")]
mod packed;
mod resume;
mod serve;
mod setup;
mod sft;
mod spikes;
mod tasks;
