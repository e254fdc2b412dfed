//! Activations that wait for backward, as the precision table says (report 3.3.1, 3.3.2).

use hadal_ops::fp8::{Quantized, Style};
use hadal_ops::linear::Operand;
use hadal_ops::{Cx, Tensor};

/// An activation kept for backward.
pub enum Kept {
    /// As it was.
    Plain(Tensor),
    /// In tiles.
    Tiles(Quantized),
}

impl Kept {
    /// Keeps `x` in tiles of `style`, or as it is.
    pub(crate) fn new(cx: &Cx, x: Tensor, style: Option<Style>) -> Self {
        match style {
            Some(style) => Self::Tiles(Quantized::new(cx, &x, style)),
            None => Self::Plain(x),
        }
    }

    /// Rows.
    pub(crate) fn rows(&self) -> usize {
        self.operand().rows()
    }
    /// Columns.
    pub(crate) fn cols(&self) -> usize {
        self.operand().cols()
    }

    /// For a product.
    pub(crate) fn operand(&self) -> Operand<'_> {
        match self {
            Self::Plain(t) => t.into(),
            Self::Tiles(q) => q.into(),
        }
    }

    /// As floats in the compute format; `kept` holds them if they must be made.
    pub(crate) fn floats<'a>(&'a self, cx: &Cx, kept: &'a mut Option<Tensor>) -> &'a Tensor {
        match self {
            Self::Plain(t) => t,
            Self::Tiles(q) => kept.insert(q.dequantize(cx, cx.compute())),
        }
    }
}
