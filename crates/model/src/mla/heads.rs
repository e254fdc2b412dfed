//! Row orders of `[B * H, ...]` tensors: token-major as projections make them, head-major as products of each head need.

use hadal_ops::{Cx, DType, MatRef, Tensor, elementwise};

/// The way from one order to the other. It is filled again and again without allocating.
pub(crate) struct HeadMajor {
    rows: usize,
    /// Row of the token-major order for each row of the head-major one, and the way back, i32 `[B * H]`.
    forth: Tensor,
    back: Tensor,
    /// Group boundaries of the head-major order, i32 `[H + 1]`.
    offsets: Tensor,
}

impl HeadMajor {
    /// No rows.
    pub(crate) fn new(cx: &Cx) -> Self {
        let ints = || cx.empty(&[0], DType::I32);
        Self { rows: 0, forth: ints(), back: ints(), offsets: ints() }
    }

    /// Makes it the orders of `b` rows of `heads` heads.
    pub(crate) fn set(&mut self, b: usize, heads: usize) {
        self.rows = b;
        [&mut self.forth, &mut self.back].into_iter().for_each(|t| t.resize(&[b * heads]));
        self.offsets.resize(&[heads + 1]);
        let (forth, back) = (self.forth.i32_mut(), self.back.i32_mut());
        for (i, h) in (0..b).flat_map(|i| (0..heads).map(move |h| (i, h))) {
            forth[h * b + i] = (i * heads + h) as i32;
            back[i * heads + h] = (h * b + i) as i32;
        }
        self.offsets.i32_mut().iter_mut().enumerate().for_each(|(h, o)| *o = (h * b) as i32);
    }

    /// Group boundaries of the head-major order, i32 `[H + 1]`.
    pub(crate) fn offsets(&self) -> &Tensor {
        &self.offsets
    }

    pub(crate) fn to_heads(&self, cx: &Cx, x: MatRef<'_>) -> Tensor {
        let mut out = cx.empty(&[x.rows(), x.cols()], x.dtype());
        // One row: both orders are the same.
        if self.rows > 1 {
            elementwise::gather_rows(cx, x, &self.forth, &mut out);
        } else {
            elementwise::cast(cx, x, &mut out);
        }
        out
    }

    pub(crate) fn to_tokens(&self, cx: &Cx, x: Tensor) -> Tensor {
        if self.rows <= 1 {
            return x;
        }
        let mut out = cx.empty(x.shape(), x.dtype());
        elementwise::gather_rows(cx, &x, &self.back, &mut out);
        out
    }
}
