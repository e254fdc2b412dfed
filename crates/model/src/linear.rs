//! A linear layer with its three passes: `y = x W^T`, `dx = dy W`, `dW = dy^T x`, in the format of the stored weight.
//!
//! One matrix, or one of each expert over rows that lie together (grouped). Shapes: T rows, n outputs, k inputs.

use crate::param::{Grads, Param};
use hadal_ops::linear::{self, Operand, PackedWeight};
use hadal_ops::{Acc, Cx, MatMut, Tensor};

/// The layer: its parameter is all it has.
pub struct Linear {
    /// `[groups * n, k]`.
    pub param: Param,
}

impl Linear {
    /// The panels that products read.
    pub fn weight(&self) -> &PackedWeight {
        self.param.weight()
    }

    /// `y_tn (acc)= x_tk W^T`
    pub fn forward<'a, 'b>(&self, cx: &Cx, x: impl Into<Operand<'a>>, y: impl Into<MatMut<'b>>, acc: Acc) {
        linear::forward(cx, x, self.weight(), y, acc);
    }

    /// `dx_tk (acc)= dy_tn W`
    pub fn backward_input<'a, 'b>(&self, cx: &Cx, dy: impl Into<Operand<'a>>, dx: impl Into<MatMut<'b>>, acc: Acc) {
        linear::backward_input(cx, dy, self.weight(), dx, acc);
    }

    /// `dW (+)= dy_tn^T x_tk`, if anybody wants it.
    pub fn backward_weight<'a, 'b>(
        &self,
        cx: &Cx,
        dy: impl Into<Operand<'a>>,
        x: impl Into<Operand<'b>>,
        grads: &mut Grads,
    ) {
        if let Some((dw, acc)) = grads.target(&self.param) {
            linear::backward_weight(cx, dy, x, self.weight().dtype(), dw, acc);
        }
    }

    /// As [`Linear::forward`], each group on its rows `offsets[g]..offsets[g + 1]`.
    pub fn grouped_forward<'a, 'b>(
        &self,
        cx: &Cx,
        x: impl Into<Operand<'a>>,
        offsets: &Tensor,
        y: impl Into<MatMut<'b>>,
        acc: Acc,
    ) {
        linear::grouped_forward(cx, x, self.weight(), offsets, y, acc);
    }

    /// As [`Linear::backward_input`], each group on its rows.
    pub fn grouped_backward_input<'a, 'b>(
        &self,
        cx: &Cx,
        dy: impl Into<Operand<'a>>,
        offsets: &Tensor,
        dx: impl Into<MatMut<'b>>,
        acc: Acc,
    ) {
        linear::grouped_backward_input(cx, dy, self.weight(), offsets, dx, acc);
    }

    /// As [`Linear::backward_weight`], each group over its rows.
    pub fn grouped_backward_weight<'a, 'b>(
        &self,
        cx: &Cx,
        dy: impl Into<Operand<'a>>,
        x: impl Into<Operand<'b>>,
        offsets: &Tensor,
        grads: &mut Grads,
    ) {
        if let Some((dw, acc)) = grads.target(&self.param) {
            linear::grouped_backward_weight(cx, dy, x, offsets, self.weight().dtype(), dw, acc);
        }
    }
}
