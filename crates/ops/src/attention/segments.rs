//! `Segments`: where each document of a flattened batch starts, for queries and for keys.

use super::BLOCK;
use crate::{Cx, DType, Tensor};

/// Segment starts `[S + 1]`. Tokens `starts[s]..starts[s + 1]` attend causally to each other, and to no other tokens. A
/// segment may be empty.
///
/// A segment may continue an earlier one. Then it has more keys than queries, and its queries are the last of its
/// tokens.
pub struct Segments {
    starts: Tensor,
    /// The starts of the keys, which are the queries' tokens and the tokens before them.
    keys: Tensor,
    /// `[blocks, 2]`: (segment, number of the block inside it) of every block of `BLOCK` queries.
    blocks: Tensor,
}

impl Segments {
    /// Makes segments from their starts and the end of the last one: `[0, 5, 12]` are two segments with 12 tokens in
    /// total.
    pub fn new(cx: &Cx, starts: &[usize]) -> Self {
        let ascending = starts.first() == Some(&0) && starts.windows(2).all(|w| w[0] <= w[1]);
        assert!(ascending, "segments: starts must begin with 0 and ascend: {starts:?}");
        Self::of(cx, starts.windows(2).map(|w| w[1] - w[0]))
    }

    /// `n` segments of `len` tokens.
    pub fn uniform(cx: &Cx, n: usize, len: usize) -> Self {
        Self::of(cx, std::iter::repeat_n(len, n))
    }

    /// Makes segments from their lengths.
    pub fn of(cx: &Cx, lens: impl Iterator<Item = usize> + Clone) -> Self {
        let ints = |shape: &[usize]| cx.empty(shape, DType::I32);
        let mut segments = Self { starts: ints(&[0]), keys: ints(&[0]), blocks: ints(&[0, 2]) };
        segments.set(lens);
        segments
    }

    /// Replaces the segments by others with these lengths. The memory is reused if it is large enough.
    pub fn set(&mut self, lens: impl Iterator<Item = usize> + Clone) {
        self.set_continued(lens.map(|len| (0, len)));
    }

    /// Like [`Segments::set`], but from the number of earlier tokens and of new tokens of each segment. The new tokens
    /// are queries.
    pub fn set_continued(&mut self, lens: impl Iterator<Item = (usize, usize)> + Clone) {
        put_starts(&mut self.keys, lens.clone().map(|(before, len)| before + len));
        let lens = lens.map(|(_, len)| len);
        let blocks = |len: usize| len.div_ceil(BLOCK);
        let n = lens.clone().map(blocks).sum();
        put_starts(&mut self.starts, lens.clone());
        self.blocks.resize(&[n, 2]);
        let pairs = lens.enumerate().flat_map(|(s, len)| (0..blocks(len)).map(move |b| [s as i32, b as i32]));
        self.blocks.i32_mut().chunks_exact_mut(2).zip(pairs).for_each(|(d, p)| d.copy_from_slice(&p));
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
    /// Number of keys.
    pub fn keys(&self) -> usize {
        self.keys.i32()[self.count()] as usize
    }
    /// First key of segment `s`, and how many of its keys come before its first query.
    pub(crate) fn before(&self, s: usize) -> (usize, usize) {
        let w = &self.keys.i32()[s..s + 2];
        (w[0] as usize, (w[1] - w[0]) as usize - self.span(s).1)
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
    /// The segment of query block `i`, and the number of the block inside it.
    pub(crate) fn block(&self, i: usize) -> (usize, usize) {
        let p = &self.blocks.i32()[2 * i..2 * i + 2];
        (p[0] as usize, p[1] as usize)
    }
}

/// Writes the starts of segments with these lengths, and the end of the last one.
fn put_starts(into: &mut Tensor, lens: impl Iterator<Item = usize> + Clone) {
    into.resize(&[lens.clone().count() + 1]);
    let starts = into.i32_mut();
    starts[0] = 0;
    let mut end = 0usize;
    for (start, len) in starts[1..].iter_mut().zip(lens) {
        end += len;
        *start = i32::try_from(end).expect("segments: too many tokens");
    }
}
