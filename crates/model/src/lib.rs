//! hadal.

pub mod config;
pub mod count;
pub mod hf;
pub mod yarn;

pub use config::{ConfigError, ModelConfig, ModelType, ScoringFunc, TopkMethod};
pub use yarn::Yarn;
