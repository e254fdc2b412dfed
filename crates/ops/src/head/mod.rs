//! Output head with cross-entropy (report 2.2, eq. 24-25: the loss of the main model and of every MTP module).
//!
//! ```text
//! z_tv = h_t . w_v              loss_t = log sum_v exp z_tv - z_t,target
//! dz_t = scale (softmax(z_t) - onehot(target))     dh = dz W     dW = dz^T h
//! ```
//!
//! T tokens, D hidden, V vocabulary. Tokens are processed in chunks at fixed positions of the batch. So logits and
//! their gradient exist for one chunk at a time, never for all tokens. The products with a chunk's gradients are
//! computed before the next chunk. Products are in the head's format (`PackedWeight::dtype`), sums in f32. The softmax
//! is f32, with the maximum subtracted. dz is rounded to the head's format, because it is an operand of the two
//! products. A target of -1 is ignored: its loss and gradient are 0. Losses are not scaled, because only the caller
//! knows over how many tokens the mean is taken.

mod cpu;
#[cfg(test)]
mod tests;

use crate::kernel::{expect_float, with_elem};
use crate::linear::{self, PackedWeight};
use crate::{Acc, Cx, DType, Device, Tensor};

/// Tokens per chunk. dz exists for this many tokens at a time, and each chunk is one product for dW.
const CHUNK: usize = 512;
/// Number of tokens whose f32 logits exist at a time. It divides a chunk.
const LOGITS: usize = 128;

/// Memory for the gradients.
pub struct HeadGrad<'a> {
    /// f32 or the head's format [T, D].
    pub dh: &'a mut Tensor,
    /// Whether `dh` is overwritten.
    pub dh_acc: Acc,
    /// f32 [V, D], and whether it is overwritten. `None` for a frozen head.
    pub dw: Option<(&'a mut Tensor, Acc)>,
}

/// Computes the losses f32 `[T]` for a head that only runs. A token without a target has loss 0. `product` writes the
/// logits of some rows of `h`, over a vocabulary of `v` tokens.
pub fn losses_by(
    cx: &Cx,
    h: &Tensor,
    v: usize,
    targets: &Tensor,
    losses: &mut Tensor,
    product: &dyn Fn(&Tensor, &mut Tensor),
) {
    let _scope = cx.scope("head", 0, 0);
    let t = h.rows();
    assert!(targets.len() == t && losses.len() == t, "head: targets {targets:?}, losses {losses:?} for {t} tokens");
    for start in (0..t).step_by(LOGITS) {
        let rows = start..(start + LOGITS).min(t);
        let mut z = cx.empty(&[rows.len(), v], DType::F32);
        product(&cpu::rows(cx, h, rows.start, rows.len()), &mut z);
        let factors = cpu::Factors { scale: 0.0, weights: None };
        let losses = &mut losses.f32_mut()[rows.clone()];
        let outputs = cpu::Outputs { losses, pred: None, dz: None };
        cpu::cross_entropy::<f32>(cx, &mut z, &targets.i32()[rows], factors, outputs);
    }
}

/// Losses, and on request gradients and the most likely tokens.
///
/// `h` [T, D] float; `w` [V, D], with its backward form if `grad` is given; `targets` i32 `[T]`, -1 for none. `scale`
/// is the gradient of the total with respect to each loss. If `weights` f32 `[T]` is given, it is multiplied by the
/// token's own factor (a factor of 1 is exact). Losses are written without `scale` and `weights`. Writes `losses` f32
/// `[T]` and `pred` i32 `[T]`, the first index of the largest logit (0 if all are NaN), also for ignored targets.
pub fn loss(
    cx: &Cx,
    h: &Tensor,
    w: &PackedWeight,
    targets: &Tensor,
    scale: f32,
    weights: Option<&Tensor>,
    losses: &mut Tensor,
    mut grad: Option<HeadGrad<'_>>,
    mut pred: Option<&mut Tensor>,
) {
    let _scope = cx.scope("head", 0, 0);
    let op = "head::loss";
    let (t, d, v) = (h.rows(), h.cols(), w.n());
    assert!(w.groups() == 1 && w.k() == d && v > 0, "{op}: h is {h:?}, the weight {} x [{v}, {}]", w.groups(), w.k());
    assert!(targets.len() == t && losses.len() == t, "{op}: targets {targets:?}, losses {losses:?} for {t} tokens");
    if let Some(weights) = weights {
        assert!(weights.len() == t, "{op}: weights {weights:?} for {t} tokens");
    }
    if let Some(pred) = &pred {
        assert!(pred.len() == t, "{op}: pred is {pred:?} for {t} tokens");
    }
    if let Some(HeadGrad { dh, dw, .. }) = &grad {
        assert!((dh.rows(), dh.cols()) == (t, d), "{op}: dh is {dh:?}, h {h:?}");
        if let Some((dw, _)) = dw {
            assert!(dw.len() == v * d && dw.dtype() == DType::F32, "{op}: dw is {dw:?}, expected F32 [{v}, {d}]");
        }
        expect_float(op, dh.dtype());
    }
    for (t, target) in targets.i32().iter().enumerate() {
        assert!(
            (-1..v as i32).contains(target),
            "{op}: target {target} of token {t} is neither -1 nor one of {v} tokens"
        );
    }
    match h.device() {
        Device::Cpu => {}
    }

    for start in (0..t).step_by(CHUNK) {
        let n = CHUNK.min(t - start);
        let silent = pred.is_none() && targets.i32()[start..start + n].iter().all(|target| *target < 0);
        if silent {
            // There is nothing to learn here (a masked prompt): the products would be 0.
            losses.f32_mut()[start..start + n].fill(0.0);
            if let Some(HeadGrad { dh, dh_acc: Acc::Write, .. }) = &mut grad {
                cpu::zero_rows(dh, start, n);
            }
            continue;
        }
        let mut dz = grad.is_some().then(|| cx.empty(&[n, v], w.dtype()));
        for from in (start..start + n).step_by(LOGITS) {
            let rows = from..(from + LOGITS).min(start + n);
            let mut z = cx.empty(&[rows.len(), v], DType::F32);
            linear::forward(cx, &cpu::rows(cx, h, rows.start, rows.len()), w, &mut z, Acc::Write);
            with_elem!(w.dtype(), C => {
                let dz = dz.as_mut().map(|dz| (&mut *dz, from - start));
                let factors = cpu::Factors { scale, weights: weights.map(|w| &w.f32()[rows.clone()]) };
                cpu::cross_entropy::<C>(cx, &mut z, &targets.i32()[rows.clone()], factors, cpu::Outputs {
                    losses: &mut losses.f32_mut()[rows.clone()],
                    pred: pred.as_deref_mut().map(|p| &mut p.i32_mut()[rows]),
                    dz,
                });
            });
        }
        if let (Some(HeadGrad { dh, dh_acc, dw, .. }), Some(dz)) = (&mut grad, dz) {
            let mut dh_chunk = cx.empty(&[n, d], dh.dtype());
            linear::backward_input(cx, &dz, w, &mut dh_chunk, Acc::Write);
            cpu::put_rows(cx, &dh_chunk, dh, start, *dh_acc);
            // The first chunk that has a gradient overwrites dW.
            if let Some((dw, acc)) = dw {
                linear::backward_weight(cx, &dz, &cpu::rows(cx, h, start, n), w.dtype(), dw, *acc);
                *acc = Acc::Add;
            }
        }
    }
    if let Some(HeadGrad { dw: Some((dw, Acc::Write)), .. }) = &mut grad {
        dw.f32_mut().fill(0.0);
    }
}
