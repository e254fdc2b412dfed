//! Inference: the engine, what goes into it and what comes out (tokens, text, log-probabilities), and questions about
//! long texts.

mod acceptance;
pub mod bench;
mod engine;
mod generate;
mod grammar;
mod loaded;
mod needle;
mod pattern;
mod sample;
mod score;
mod text;

pub use acceptance::{Acceptance, acceptance_along, generate_with_drafts, mtp_acceptance};
pub use engine::{
    Engine, EngineOptions, Event, Load, Logprob, NewToken, Request, RequestError, RequestId, Reuse, Speculation, Usage,
};
pub use generate::{Generation, Stop, generate, run, run_while};
pub use grammar::{Constraint, Grammar, GrammarError, Grammars};
pub use hadal_model::ExpertLoads;
pub use hadal_ops::reduce::argmax;
pub use loaded::{LoadError, Loaded};
pub use needle::{Retrieval, retrieve};
pub use sample::{Adjust, SampleParams, Sampler};
pub use score::{Score, ScoredToken, score};
pub use text::{Piece, TextOptions};
