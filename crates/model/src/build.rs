//! Makes parameters in the checkpoint's naming and numbers them.

use crate::param::{Kind, Param, Part};
use hadal_ops::fp8::{Shape, Style};
use hadal_ops::{Cx, DType, linear::PackedWeight};
use hadal_weights::precision::{Gradients, Precision, Product};

/// Hands out parameters with consecutive slots.
pub(crate) struct Builder<'a> {
    pub(crate) cx: &'a Cx,
    /// Formats of the products.
    pub(crate) precision: Precision,
    next: usize,
}

/// A matrix part: (name, rows).
pub(crate) type Rows = (String, usize);

impl<'a> Builder<'a> {
    pub(crate) fn new(cx: &'a Cx, precision: Precision) -> Self {
        Self { cx, precision, next: 0 }
    }

    fn param(&mut self, shape: &[usize], parts: Vec<Part>, kind: Kind, packed: Option<PackedWeight>) -> Param {
        let slot = self.next;
        self.next += 1;
        Param { value: self.cx.zeros(shape, DType::F32), parts, kind, packed, slot }
    }

    /// A gain of `n` elements.
    pub(crate) fn norm(&mut self, name: String, n: usize) -> Param {
        let part = Part { name, aliases: vec![], shape: vec![n], start: 0 };
        self.param(&[n], vec![part], Kind::Norm, None)
    }

    /// A router's selection bias.
    pub(crate) fn bias(&mut self, name: String, n: usize) -> Param {
        let part = Part { name, aliases: vec![], shape: vec![n], start: 0 };
        self.param(&[n], vec![part], Kind::Bias, None)
    }

    /// Matrices `[rows, cols]` stacked in one `[groups * n, cols]` tensor. `product`: the format it is multiplied
    /// in; none for a table that is only looked up.
    pub(crate) fn matrix(&mut self, rows: Vec<Rows>, cols: usize, groups: usize, product: Option<Product>) -> Param {
        let mut start = 0;
        let parts = rows
            .into_iter()
            .map(|(name, n)| {
                let part = Part { name, aliases: vec![], shape: vec![n, cols], start };
                start += n * cols;
                part
            })
            .collect();
        let total = start / cols;
        let packed = product.map(|p| self.weight(p, groups, total / groups, cols));
        self.param(&[total, cols], parts, Kind::Matrix, packed)
    }

    /// One linear layer `name.weight` of shape `[n, k]`.
    pub(crate) fn linear(&mut self, name: &str, n: usize, k: usize, product: Product) -> Param {
        self.matrix(vec![(format!("{name}.weight"), n)], k, 1, Some(product))
    }

    /// Room for a weight whose products are in `product`'s format.
    fn weight(&self, product: Product, groups: usize, n: usize, k: usize) -> PackedWeight {
        let dtype = match product {
            Product::Compute => self.cx.compute(),
            Product::Fp8 => DType::U8,
            Product::F32 => DType::F32,
        };
        let shape = if self.precision.gradients == Gradients::Block { Shape::Block } else { Shape::Tile };
        PackedWeight::new(self.cx, groups, n, k, dtype, true).with_gradients(Style { shape, ..Style::TILES })
    }
}
