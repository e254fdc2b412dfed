//! Makes parameters in the checkpoint's naming and numbers them.

use crate::param::{Kind, Param, Part};
use hadal_ops::{Cx, DType, linear::PackedWeight};

/// Hands out parameters with consecutive slots.
pub(crate) struct Builder<'a> {
    pub(crate) cx: &'a Cx,
    next: usize,
}

/// A matrix part: (name, rows).
pub(crate) type Rows = (String, usize);

impl<'a> Builder<'a> {
    pub(crate) fn new(cx: &'a Cx) -> Self {
        Self { cx, next: 0 }
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

    /// Matrices `[rows, cols]` stacked in one `[groups * n, cols]` tensor. `format` is the packed forms' element type;
    /// none for a table that is only looked up.
    pub(crate) fn matrix(&mut self, rows: Vec<Rows>, cols: usize, groups: usize, format: Option<DType>) -> Param {
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
        let packed = format.map(|f| PackedWeight::new(self.cx, groups, total / groups, cols, f, true));
        self.param(&[total, cols], parts, Kind::Matrix, packed)
    }

    /// One linear layer `name.weight` of shape `[n, k]` in the compute format.
    pub(crate) fn linear(&mut self, name: &str, n: usize, k: usize) -> Param {
        self.matrix(vec![(format!("{name}.weight"), n)], k, 1, Some(self.cx.compute()))
    }
}
