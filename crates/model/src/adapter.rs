//! Low-rank adapters (LoRA): `y += s (x A^T) B^T` on the outputs of one part of a linear layer.
//!
//! Gate and up are one product, as are `q_a_proj` and `kv_a_proj_with_mqa`. So an adapter attaches to a part, whose
//! outputs are some of the product's columns. With experts, each expert has its own pair of matrices. Shapes: T rows, n
//! outputs of the part, k inputs, r the rank; A `[groups * r, k]`, B `[groups * n, r]`. `x A^T` is small and is
//! computed again in backward.

use crate::linear::Linear;
use crate::model::Model;
use crate::param::{Grads, Param, Purpose};
use crate::values::Fresh;
use hadal_ops::linear::{self, Operand};
use hadal_ops::{Acc, Cx, MatMut, MatRef, Tensor, elementwise};
use hadal_weights::list::{Parameter, Part, Role};
use hadal_weights::precision::Precision;
use std::ops::Range;

/// How the names of the matrices A end, in PEFT's files as well.
pub const LORA_A: &str = ".lora_A.weight";
/// How the names of the matrices B end.
pub const LORA_B: &str = ".lora_B.weight";

/// The adapter of one part.
pub struct Adapter {
    /// A.
    pub down: Param,
    /// B, initially zero.
    pub up: Param,
    /// The part's columns of the product.
    pub columns: Range<usize>,
    /// `s`: alpha divided by r.
    pub scale: f32,
}

impl Adapter {
    /// `s x A^T`, `[T, r]` in the compute format.
    fn low(&self, cx: &Cx, x: MatRef<'_>, offsets: Option<&Tensor>) -> Tensor {
        let mut t = cx.empty(&[x.rows(), self.down.spec.n()], cx.compute());
        linear::grouped_forward(cx, x, self.down.weight(), offsets, &mut t, Acc::Write);
        elementwise::scale(cx, &mut t, self.scale);
        t
    }

    /// `s dy B`, `[T, r]`, from the gradient of the product's outputs.
    fn d_low(&self, cx: &Cx, dy: MatRef<'_>, offsets: Option<&Tensor>) -> Tensor {
        let mut d = cx.empty(&[dy.rows(), self.down.spec.n()], cx.compute());
        let dy = dy.columns(self.columns.clone());
        linear::grouped_backward_input(cx, dy, self.up.weight(), offsets, &mut d, Acc::Write);
        elementwise::scale(cx, &mut d, self.scale);
        d
    }

    pub(crate) fn forward(&self, cx: &Cx, x: Operand<'_>, offsets: Option<&Tensor>, y: &mut MatMut<'_>) {
        let mut kept = None;
        let t = self.low(cx, x.floats(cx, cx.compute(), &mut kept), offsets);
        let y = y.columns_mut(self.columns.clone());
        linear::grouped_forward(cx, &t, self.up.weight(), offsets, y, Acc::Add);
    }

    pub(crate) fn backward_input(&self, cx: &Cx, dy: Operand<'_>, offsets: Option<&Tensor>, dx: &mut MatMut<'_>) {
        let mut kept = None;
        let d = self.d_low(cx, dy.floats(cx, cx.compute(), &mut kept), offsets);
        let k = dx.cols();
        linear::grouped_backward_input(cx, &d, self.down.weight(), offsets, dx.columns_mut(0..k), Acc::Add);
    }

    pub(crate) fn backward_weight(
        &self,
        cx: &Cx,
        dy: Operand<'_>,
        x: Operand<'_>,
        offsets: Option<&Tensor>,
        grads: &mut Grads,
    ) {
        let (mut kept_x, mut kept_dy) = (None, None);
        let x = x.floats(cx, cx.compute(), &mut kept_x);
        let dy = dy.floats(cx, cx.compute(), &mut kept_dy);
        let mut product = |param: &Param, dy: MatRef<'_>, x: MatRef<'_>| {
            if let Some((dw, acc)) = grads.target(param) {
                linear::grouped_backward_weight(cx, dy, x, offsets, cx.compute(), dw, acc);
            }
        };
        product(&self.up, dy.columns(self.columns.clone()), self.low(cx, x, offsets).mat());
        product(&self.down, self.d_low(cx, dy, offsets).mat(), x);
    }
}

/// The columns of a layer's product that belong to a part of this kind (`gate_proj`, `q_a_proj`, ...), if it has such a
/// part.
fn columns(spec: &Parameter, kind: &str) -> Option<Range<usize>> {
    let end = format!(".{kind}.weight");
    let part = spec.parts.iter().find(|part| part.name.ends_with(&end))?;
    let first = part.start / spec.k() % spec.n();
    Some(first..first + part.shape[0])
}

impl Linear {
    /// Attaches an adapter of rank `r` to its parts of this kind. The new parameters have the indices from `next` on.
    fn attach(&mut self, cx: &Cx, kind: &str, r: usize, scale: f32, next: &mut usize, purpose: Purpose) {
        let spec = &self.param.spec;
        let Some(columns) = columns(spec, kind) else { return };
        let end = format!(".{kind}.weight");
        let names: Vec<&str> = spec.parts.iter().filter_map(|part| part.name.strip_suffix(&end)).collect();
        let mut param = |which: &str, rows: usize, k: usize| {
            let part = |(i, name): (usize, &&str)| Part {
                name: format!("{name}.{kind}{which}"),
                aliases: Vec::new(),
                shape: vec![rows, k],
                start: i * rows * k,
            };
            let parts: Vec<Part> = names.iter().enumerate().map(part).collect();
            let (layer, groups, shape) = (spec.layer, spec.groups, vec![parts.len() * rows, k]);
            let spec = Parameter { role: Role::Adapter, layer, parts, groups, shape, tied: false };
            *next += 1;
            Param::new(cx, spec, *next - 1, &Precision::COMPUTE, purpose)
        };
        let (down, up) = (param(LORA_A, r, spec.k()), param(LORA_B, columns.len(), r));
        self.adapters.push(Adapter { down, up, columns, scale });
    }
}

impl Model {
    /// Attaches adapters of rank `r` to all parts of these kinds (`q_a_proj`, `gate_proj`, ...) in attention, dense
    /// layers and experts, MTP modules included. They have fresh values: B is zero, so the model's results do not
    /// change. The indices of their parameters follow those of the list. Call it only once.
    pub fn attach_adapters(&mut self, cx: &Cx, kinds: &[&str], r: usize, alpha: f32, seed: u64, purpose: Purpose) {
        let (mut next, scale) = (self.params().len(), alpha / r as f32);
        self.linears_mut(&mut |layer| {
            kinds.iter().for_each(|kind| layer.attach(cx, kind, r, scale, &mut next, purpose));
            for Adapter { down, up, .. } in &mut layer.adapters {
                for param in [down, up] {
                    param.fill(cx, &Fresh { seed, std: 0.0 }).expect("fresh values are always there");
                }
            }
        });
    }
}
