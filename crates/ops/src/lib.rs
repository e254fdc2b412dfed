//! Tensors and every kernel of the system, with one folder per operation.
//!
//! `mod.rs` of an operation states its contract (shapes, layout, precision, overwrite or accumulate) and checks it.
//! `cpu.rs` computes the result. Functions do not return errors: a wrong shape is a bug in this program, and panics
//! with the operation's name and the shapes.
//!
//! The results for a token depend only on its content. Tiles, blocks and the order of every summation are functions of
//! shapes and absolute positions, never of the number of threads. Threads only decide who computes a tile.

pub mod adamw;
#[cfg(target_arch = "x86_64")]
mod amx;
pub mod attention;
mod bands;
pub mod bandwidth;
mod cx;
pub mod elementwise;
pub mod embedding;
mod fixed;
pub mod fp8;
pub mod gate;
pub mod gemm;
pub mod head;
mod isa;
mod kernel;
pub mod latent;
#[cfg(test)]
mod layout_tests;
pub mod linear;
mod mapping;
mod math;
pub mod moe;
mod par;
mod pool;
mod profile;
pub mod quant;
pub mod reduce;
pub mod rmsnorm;
pub mod rope;
mod slots;
pub mod swiglu;
mod team;
mod tensor;
#[cfg(test)]
mod testing;

pub use cx::Cx;
pub use hadal_base::{Purpose, Rng};
pub use half::bf16;
pub use isa::Isa;
pub use mapping::{LAYOUT, Mapping};
pub use par::{Chunks, DisjointMut, Threads};
pub use pool::Pool;
pub use profile::{ProfileRow, Scope};
pub use tensor::{DType, Device, MatMut, MatRef, Room, Tensor};

/// Whether an operation overwrites its output or adds to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acc {
    /// `out = value`
    Write,
    /// `out += value`
    Add,
}
