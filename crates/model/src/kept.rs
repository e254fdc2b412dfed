//! Activations kept for backward in the format of the precision table (report 3.3.1, 3.3.2).

use hadal_ops::fp8::{Quantized, Style};
use hadal_ops::linear::Operand;
use hadal_ops::{Cx, Tensor};

/// An activation kept for backward.
pub enum Kept {
    /// Unchanged.
    Plain(Tensor),
    /// Quantised in tiles.
    Tiles(Quantized),
}

impl Kept {
    /// Keeps `x` in tiles of `style`, or unchanged.
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

    /// The operand for a product.
    pub(crate) fn operand(&self) -> Operand<'_> {
        match self {
            Self::Plain(t) => t.into(),
            Self::Tiles(q) => q.into(),
        }
    }

    /// The values as floats in the compute format. If they must be computed, `kept` holds them.
    pub(crate) fn floats<'a>(&'a self, cx: &Cx, kept: &'a mut Option<Tensor>) -> &'a Tensor {
        match self {
            Self::Plain(t) => t,
            Self::Tiles(q) => kept.insert(q.dequantize(cx, cx.compute())),
        }
    }
}
