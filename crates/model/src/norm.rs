//! RMSNorm layer: `y = x / rms(x) * w` (report 2.1, Pre-Norm).

use crate::param::{Grads, Param};
use hadal_ops::{Acc, Cx, DType, MatMut, MatRef, Tensor, rmsnorm};

/// `y_td = rmsnorm(x_td)` in the compute format, and the reciprocal root mean squares `[T]` that backward needs.
pub(crate) fn forward<'a>(cx: &Cx, x: impl Into<MatRef<'a>>, w: &Param, eps: f32) -> (Tensor, Tensor) {
    let x = x.into();
    let mut y = cx.empty(&[x.rows(), x.cols()], cx.compute());
    let mut rstd = cx.empty(&[x.rows()], DType::F32);
    rmsnorm::forward(cx, x, w.table(), eps, &mut y, &mut rstd);
    (y, rstd)
}

/// The gradient through the norm into `dx` (overwriting or adding), and the gain's gradient.
pub(crate) fn backward<'a>(
    cx: &Cx,
    dy: impl Into<MatRef<'a>>,
    x: impl Into<MatRef<'a>>,
    w: &Param,
    rstd: &Tensor,
    dx: impl Into<MatMut<'a>>,
    dx_acc: Acc,
    grads: &mut Grads,
) {
    if let Some((dw, acc)) = grads.target(w) {
        rmsnorm::backward(cx, dy, x, w.table(), rstd, dx, dx_acc, dw, acc);
    } else {
        // A frozen gain's gradient is computed with that of the input and then dropped.
        let mut dw = cx.empty(w.spec.shape.as_slice(), DType::F32);
        rmsnorm::backward(cx, dy, x, w.table(), rstd, dx, dx_acc, &mut dw, Acc::Write);
    }
}
