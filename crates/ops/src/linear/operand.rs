//! What a product reads beside weights.

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
    pub(super) fn floats<'b>(self, cx: &Cx, dtype: DType, kept: &'b mut Option<Tensor>) -> MatRef<'b>
    where
        'a: 'b,
    {
        match self {
            Self::Plain(m) => m,
            Self::Tiles(q) => kept.insert(q.dequantize(cx, dtype)).mat(),
        }
    }

    /// As codes of `style`'s format: made in `kept` where they are not there.
    pub(super) fn tiles<'b>(self, cx: &Cx, style: Style, kept: &'b mut Option<Quantized>) -> &'b Quantized
    where
        'a: 'b,
    {
        match self {
            Self::Tiles(q) if q.format() == style.format => q,
            Self::Tiles(q) => kept.insert(Quantized::new(cx, &q.dequantize(cx, DType::F32), style)),
            Self::Plain(m) => kept.insert(Quantized::new(cx, m, style)),
        }
    }
}
