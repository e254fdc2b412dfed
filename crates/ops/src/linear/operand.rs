//! The operand of a product besides the weight.

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
    /// Number of rows.
    pub fn rows(&self) -> usize {
        match self {
            Self::Plain(m) => m.rows(),
            Self::Tiles(q) => q.rows(),
        }
    }
    /// Number of columns.
    pub fn cols(&self) -> usize {
        match self {
            Self::Plain(m) => m.cols(),
            Self::Tiles(q) => q.cols(),
        }
    }

    /// The operand as floats. A quantised operand is dequantised to `dtype`, in `kept`.
    pub fn floats<'b>(self, cx: &Cx, dtype: DType, kept: &'b mut Option<Tensor>) -> MatRef<'b>
    where
        'a: 'b,
    {
        match self {
            Self::Plain(m) => m,
            Self::Tiles(q) => kept.insert(q.dequantize(cx, dtype)).mat(),
        }
    }

    /// The operand as codes of `style`, made in `kept` if necessary. Existing codes are used directly if they have
    /// `style`'s format and shape. Their scales may or may not be powers of two, and their rows may have been permuted.
    /// All other codes are converted through floats. Blocks that are made here do not extend over the end of a group.
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
