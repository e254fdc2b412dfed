//! FP8 and its neighbours (report 3.3): formats, scales, quantisation by tiles and blocks.
//!
//! A value is `code * scale`. Scales are f32. There is one for each tile of 1x128 (a token's activations and
//! gradients), 128x1 (the same for weight gradients) or 128x128 (weights). It is `amax` over the format's largest value
//! (448 for E4M3), or that rounded up to a power of two. It is never less than 2^-126, the smallest normal number.
//! Inference code limits amax to at least 1e-4, which would erase gradients. A tile of zeros has scale 1. A tile with
//! an infinity has an infinite scale and only NaN values. A tile with a NaN has scale 1, and the NaN stays NaN. With
//! powers of two, a number may round up to 2^128, which is infinity in f32. The same can happen in bf16.

pub(crate) mod codec;
pub(crate) mod columns;
#[cfg(test)]
pub(crate) mod definition;
mod format;
pub(crate) mod grid;
#[cfg(target_arch = "x86_64")]
mod rows512;
mod tiles;
pub(crate) mod widen;

pub use codec::{encode, scale_of};
pub use format::{E4M3, E5M2, E5M6, MiniFloat, scale_from_ue8m0, ue8m0_from_scale};
pub use tiles::{Quantized, Shape, Style};
pub(crate) use tiles::{Reader, amax};

/// Number of values along the long side of a tile, and number of rows and columns in a block of weights.
pub const TILE: usize = 128;

#[cfg(test)]
mod columns_tests;
#[cfg(test)]
mod dense_tests;
#[cfg(test)]
mod ends_tests;
#[cfg(test)]
mod special_tests;
#[cfg(test)]
mod tests;
