//! Rotary position embedding of the decoupled query and key parts (report 2.1.1, eq. 3 and 8; 4.3 for YaRN).
//!
//! `(a, b) -> (a cos - b sin, a sin + b cos)` on INTERLEAVED pairs, elements 2i and 2i + 1, as in the released weights.
//! The angle is `position * freq_i`. The caller supplies the frequencies, which YaRN changes, and the factor of cosine
//! and sine. The backward pass is the rotation by the negative angle.
//!
//! Elements are F32 or Bf16, rotated in place in f32. The table is f32, computed from angles in f64.

mod cpu;
#[cfg(test)]
mod tests;

use crate::kernel::expect_float;
use crate::{Cx, DType, Device, MatMut, Tensor};

/// Cosines and sines of every position, each f32 [max_pos, pairs].
pub struct RopeTable {
    cos: Tensor,
    sin: Tensor,
}

impl RopeTable {
    /// The table for positions `0..max_pos`. `factor` multiplies cosine and sine. It is 1 except for some uses of YaRN.
    pub fn new(cx: &Cx, freqs: &[f64], max_pos: usize, factor: f32) -> Self {
        let shape = [max_pos, freqs.len()];
        let (mut cos, mut sin) = (cx.empty(&shape, DType::F32), cx.empty(&shape, DType::F32));
        for (i, (c, s)) in cos.f32_mut().iter_mut().zip(sin.f32_mut()).enumerate() {
            let (pos, pair) = (i / freqs.len(), i % freqs.len());
            let (sin, cos) = (pos as f64 * freqs[pair]).sin_cos();
            (*c, *s) = ((cos * f64::from(factor)) as f32, (sin * f64::from(factor)) as f32);
        }
        Self { cos, sin }
    }
    /// Number of positions in the table.
    pub fn max_pos(&self) -> usize {
        self.cos.rows()
    }
    /// Number of rotated pairs: half the rotary size.
    pub fn pairs(&self) -> usize {
        self.cos.cols()
    }
}

/// Rotates, in each row t of `x` and each head h, the `2 * table.pairs()` elements from `h * head_stride + off`, by the
/// angle of `positions[t]`, or by its negative if `inverse`. `positions` i32 `[T]`.
pub fn apply<'a>(
    cx: &Cx,
    x: impl Into<MatMut<'a>>,
    heads: usize,
    head_stride: usize,
    off: usize,
    positions: &Tensor,
    table: &RopeTable,
    inverse: bool,
) {
    let _scope = cx.scope("rope", 0, 0);
    let (x, size) = (x.into(), 2 * table.pairs());
    expect_float("rope", x.dtype());
    assert_eq!(positions.len(), x.rows(), "rope: positions for rows");
    assert!(heads <= 1 || size <= head_stride, "rope: {size} elements of a head of {head_stride}");
    let end = if heads == 0 { 0 } else { (heads - 1) * head_stride + off + size };
    assert!(end <= x.cols(), "rope: {heads} heads of {head_stride}, {size} from {off}, in {} columns", x.cols());
    let max = table.max_pos();
    for p in positions.i32() {
        assert!((0..max as i64).contains(&i64::from(*p)), "rope: position {p} of a table of {max}");
    }
    match x.device() {
        Device::Cpu => cpu::apply(cx, x, heads, head_stride, off, positions, table, inverse),
    }
}
