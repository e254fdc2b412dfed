//! What a product reads beside weights.

use super::Groups;
use crate::fp8::{Quantized, Style};
use crate::{Cx, DType, MatRef, Tensor};

/// An operand of a linear layer: floats, or codes with scales.
#[derive(Clone, Copy)]
pub enum Operand<'a> {
    /// A matrix of f32 or bf16.
    Plain(MatRef<'a>),
    /// A quantised matrix.
    Tiles(&'a Quantized),
}

impl<'a, T: Into<MatRef<'a>>> From<T> for Operand<'a> {
    fn from(m: T) -> Self {
        Self::Plain(m.into())
    }
}
impl<'a> From<&'a Quantized> for Operand<'a> {
    fn from(q: &'a Quantized) -> Self {
        Self::Tiles(q)
    }
}

impl<'a> Operand<'a> {
    /// Rows.
    pub fn rows(&self) -> usize {
        match self {
            Self::Plain(m) => m.rows(),
            Self::Tiles(q) => q.rows(),
        }
    }
    /// Columns.
    pub fn cols(&self) -> usize {
        match self {
            Self::Plain(m) => m.cols(),
            Self::Tiles(q) => q.cols(),
        }
    }

    /// As floats: what is quantised is taken back to `dtype`, in `kept`.
    pub fn floats<'b>(self, cx: &Cx, dtype: DType, kept: &'b mut Option<Tensor>) -> MatRef<'b>
    where
        'a: 'b,
    {
        match self {
            Self::Plain(m) => m,
            Self::Tiles(q) => kept.insert(q.dequantize(cx, dtype)).mat(),
        }
    }

    /// As codes of `style`, made in `kept` where they are not there. Codes are taken as they are if format and shape are
    /// `style`'s, whether or not their scales are powers of two, and whatever rows of a matrix they were before a
    /// permutation; any others go by way of floats. Blocks made here do not reach over the end of a group.
    pub(super) fn tiles<'b>(
        self,
        cx: &Cx,
        style: Style,
        groups: (usize, &Groups<'_>),
        kept: &'b mut Option<Quantized>,
    ) -> &'b Quantized
    where
        'a: 'b,
    {
        let (count, groups) = groups;
        let ranges = (0..count).map(|g| groups.range(g));
        match self {
            Self::Tiles(q) if (q.style().format, q.style().shape) == (style.format, style.shape) => q,
            Self::Tiles(q) => {
                let floats = q.dequantize(cx, DType::F32);
                kept.insert(Quantized::in_groups(cx, &floats.mat(), style, ranges))
            }
            Self::Plain(m) => kept.insert(Quantized::in_groups(cx, &m, style, ranges)),
        }
    }
}
