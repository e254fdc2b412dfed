//! Inference: sampling and cached generation.

mod acceptance;
mod generate;
mod sample;

pub use acceptance::{Acceptance, mtp_acceptance};
pub use generate::{Generation, Stop, generate};
pub use sample::{SampleParams, Sampler, argmax};
