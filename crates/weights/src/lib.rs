//! Weights: a model's configuration, the list of its tensors, and reading and writing Hugging Face checkpoints.
//!
//! [`config`] reads `config.json`. From it, [`list`] makes the single list of a model's tensors. [`reader`](Checkpoint)
//! and [`writer`](write_into) handle safetensors in one file or several. [`audit`](Audit) compares a checkpoint with
//! the list. [`convert`](convert_into) converts from file to file. [`PackedFile`] has weights as they are run.
//! [`precision`] has the types of the precision table.

mod audit;
mod beside;
mod check;
pub mod config;
mod config_json;
mod convert;
#[cfg(test)]
mod damaged_tests;
mod decode;
mod error;
mod family;
mod file;
pub mod folder;
mod fp8;
mod gate;
mod header;
pub mod hub;
mod index;
mod keys;
pub mod list;
mod mtp;
mod packed;
pub mod precision;
mod quantization;
mod reader;
mod relative;
mod shard;
#[cfg(test)]
mod tests;
mod writer;
pub mod yarn;

pub use audit::{Audit, Misshaped, Mistyped};
pub use beside::write_folder;
pub use config::{ConfigError, ModelConfig, ModelType, ScoringFunc, TopkMethod};
pub use convert::{Conversion, Converted, convert_into};
pub use error::Error;
pub use file::TensorFile;
pub use fp8::{ScaleFormat, block_scales, scale_name, scale_shape};
pub use header::Dtype;
pub use list::{WeightFormat, expected, is_fp8, is_router_bias};
pub use packed::{PackedFile, PackedSummary, PackedWriter};
pub use quantization::Quantization;
pub use reader::{Checkpoint, Element, Info};
pub use relative::Relative;
pub use writer::{SHARD_BYTES, SaveDtype, SaveOptions, SaveTensor, TensorSource, save, write_into};
pub use yarn::Yarn;
