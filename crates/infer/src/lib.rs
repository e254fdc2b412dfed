//! Inference: sampling, cached generation, and questions about long texts.

mod acceptance;
pub mod bench;
mod engine;
mod generate;
mod loaded;
mod needle;
mod sample;

pub use acceptance::{Acceptance, acceptance_along, generate_with_drafts, mtp_acceptance};
pub use engine::{
    Engine, EngineOptions, Event, Load, Logprob, NewToken, Request, RequestError, RequestId, Reuse, Speculation, Usage,
};
pub use generate::{Generation, Stop, generate};
pub use loaded::{LoadError, Loaded};
pub use needle::{Retrieval, retrieve};
pub use sample::{Adjust, SampleParams, Sampler, argmax};
