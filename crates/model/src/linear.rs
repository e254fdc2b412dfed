//! A linear layer with its three passes: `y = x W^T`, `dx = dy W`, `dW = dy^T x`, in the format of the stored weight.
//!
//! It has one matrix, or one per expert over consecutive rows (grouped). Shapes: T rows, n outputs, k inputs. Low-rank
//! adapters ([`Adapter`]) add to the outputs of the parts to which they are attached.

use crate::adapter::Adapter;
use crate::param::{Grads, Param};
use hadal_ops::linear::{self, Operand, PackedWeight};
use hadal_ops::{Acc, Cx, MatMut, Tensor};

/// The layer.
pub struct Linear {
    /// `[groups * n, k]`.
    pub param: Param,
    /// Adapters on parts of its outputs.
    pub adapters: Vec<Adapter>,
}

impl Linear {
    pub(crate) fn new(param: Param) -> Self {
        Self { param, adapters: Vec::new() }
    }

    /// The panels that products read.
    pub fn weight(&self) -> &PackedWeight {
        self.param.weight()
    }

    /// `y_tn (acc)= x_tk W^T`
    pub fn forward<'a, 'b>(&self, cx: &Cx, x: impl Into<Operand<'a>>, y: impl Into<MatMut<'b>>, acc: Acc) {
        self.grouped_forward(cx, x, None, y, acc);
    }

    /// `dx_tk (acc)= dy_tn W`
    pub fn backward_input<'a, 'b>(&self, cx: &Cx, dy: impl Into<Operand<'a>>, dx: impl Into<MatMut<'b>>, acc: Acc) {
        self.grouped_backward_input(cx, dy, None, dx, acc);
    }

    /// `dW (+)= dy_tn^T x_tk`, unless the parameter is frozen, and the gradients of the adapters.
    pub fn backward_weight<'a, 'b>(
        &self,
        cx: &Cx,
        dy: impl Into<Operand<'a>>,
        x: impl Into<Operand<'b>>,
        grads: &mut Grads,
    ) {
        self.grouped_backward_weight(cx, dy, x, None, grads);
    }

    /// Like [`Linear::forward`], with each group on its rows `offsets[g]..offsets[g + 1]`. Without offsets there is one
    /// group of all rows.
    pub fn grouped_forward<'a, 'b, 'c>(
        &self,
        cx: &Cx,
        x: impl Into<Operand<'a>>,
        offsets: impl Into<Option<&'c Tensor>>,
        y: impl Into<MatMut<'b>>,
        acc: Acc,
    ) {
        let (x, offsets, mut y) = (x.into(), offsets.into(), y.into());
        let n = y.cols();
        self.param.stored().forward(cx, x, offsets, y.columns_mut(0..n), acc);
        self.adapters.iter().for_each(|a| a.forward(cx, x, offsets, &mut y));
    }

    /// Like [`Linear::backward_input`], with each group on its rows.
    pub fn grouped_backward_input<'a, 'b, 'c>(
        &self,
        cx: &Cx,
        dy: impl Into<Operand<'a>>,
        offsets: impl Into<Option<&'c Tensor>>,
        dx: impl Into<MatMut<'b>>,
        acc: Acc,
    ) {
        let (dy, offsets, mut dx) = (dy.into(), offsets.into(), dx.into());
        let k = dx.cols();
        linear::grouped_backward_input(cx, dy, self.weight(), offsets, dx.columns_mut(0..k), acc);
        self.adapters.iter().for_each(|a| a.backward_input(cx, dy, offsets, &mut dx));
    }

    /// Like [`Linear::backward_weight`], with each group over its rows.
    pub fn grouped_backward_weight<'a, 'b, 'c>(
        &self,
        cx: &Cx,
        dy: impl Into<Operand<'a>>,
        x: impl Into<Operand<'b>>,
        offsets: impl Into<Option<&'c Tensor>>,
        grads: &mut Grads,
    ) {
        let (dy, x, offsets) = (dy.into(), x.into(), offsets.into());
        if let Some((dw, acc)) = grads.target(&self.param) {
            linear::grouped_backward_weight(cx, dy, x, offsets, self.weight().dtype(), dw, acc);
        }
        self.adapters.iter().for_each(|a| a.backward_weight(cx, dy, x, offsets, grads));
    }
}
