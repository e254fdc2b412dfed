//! Hugging Face checkpoints: `config.json`, safetensors in one file or many, written so that other programs load them.

pub mod atomic;
mod audit;
mod config_json;
mod convert;
mod decode;
mod error;
mod fp8;
mod header;
mod index;
mod keys;
mod layout;
mod place;
mod quantization;
mod reader;
mod shard;
mod small;
#[cfg(test)]
mod tests;
mod writer;

pub use audit::{Audit, Misshaped, Mistyped};
pub use convert::{Conversion, Converted, convert_into};
pub use error::Error;
pub use fp8::{ScaleFormat, scale_name, scale_shape};
pub use header::Dtype;
pub use layout::{Expected, WeightFormat, expected, is_fp8, is_router_bias};
pub use place::place;
pub use quantization::Quantization;
pub use reader::{Checkpoint, Element, Info};
pub(crate) use small::read_small;
pub use writer::{SHARD_BYTES, SaveDtype, SaveOptions, SaveTensor, Source, save, write_into};
