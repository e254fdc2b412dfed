//! `Segments`: where each document of a flattened batch starts.

use super::BLOCK;
use crate::{Cx, DType, Tensor};

/// Segment starts `[S + 1]`: tokens `starts[s]..starts[s + 1]` attend among themselves, causally, and to no others.
/// A segment may be empty.
pub struct Segments {
    starts: Tensor,
    /// `[blocks, 2]`: (segment, number of the block inside it) of every block of `BLOCK` queries.
    blocks: Tensor,
}

impl Segments {
    /// From the starts, the end of the last segment included: `[0, 5, 12]` are two segments of 12 tokens.
    pub fn new(cx: &Cx, starts: &[usize]) -> Self {
        assert!(
            starts.first() == Some(&0) && starts.windows(2).all(|w| w[0] <= w[1]),
            "segments: starts must begin with 0 and ascend: {starts:?}"
        );
        assert!(i32::try_from(starts[starts.len() - 1]).is_ok(), "segments: too many tokens");
        let mut t = cx.empty(&[starts.len()], DType::I32);
        t.i32_mut().iter_mut().zip(starts).for_each(|(d, s)| *d = *s as i32);
        Self::with_starts(cx, t)
    }

    /// `n` segments of `len` tokens.
    pub fn uniform(cx: &Cx, n: usize, len: usize) -> Self {
        assert!(i32::try_from(n * len).is_ok(), "segments: too many tokens");
        let mut t = cx.empty(&[n + 1], DType::I32);
        t.i32_mut().iter_mut().enumerate().for_each(|(i, d)| *d = (i * len) as i32);
        Self::with_starts(cx, t)
    }

    fn with_starts(cx: &Cx, starts: Tensor) -> Self {
        let count = |w: &[i32]| ((w[1] - w[0]) as usize).div_ceil(BLOCK);
        let n = starts.i32().windows(2).map(count).sum();
        let mut blocks = cx.empty(&[n, 2], DType::I32);
        let pairs =
            starts.i32().windows(2).enumerate().flat_map(|(s, w)| (0..count(w)).map(move |b| [s as i32, b as i32]));
        blocks.i32_mut().chunks_exact_mut(2).zip(pairs).for_each(|(d, p)| d.copy_from_slice(&p));
        Self { starts, blocks }
    }

    /// The starts, end included.
    pub fn starts(&self) -> &[i32] {
        self.starts.i32()
    }
    /// The starts as a tensor.
    pub fn tensor(&self) -> &Tensor {
        &self.starts
    }
    /// Number of segments.
    pub fn count(&self) -> usize {
        self.starts.len() - 1
    }
    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.starts()[self.count()] as usize
    }
    /// First token and length of segment `s`.
    pub(crate) fn span(&self, s: usize) -> (usize, usize) {
        let w = &self.starts()[s..s + 2];
        (w[0] as usize, (w[1] - w[0]) as usize)
    }
    /// Length of the longest segment.
    pub(crate) fn longest(&self) -> usize {
        (0..self.count()).map(|s| self.span(s).1).max().unwrap_or(0)
    }
    /// Number of query blocks of all segments.
    pub(crate) fn blocks(&self) -> usize {
        self.blocks.dim(0)
    }
    /// Segment and number inside it of query block `i`.
    pub(crate) fn block(&self, i: usize) -> (usize, usize) {
        let p = &self.blocks.i32()[2 * i..2 * i + 2];
        (p[0] as usize, p[1] as usize)
    }
}
