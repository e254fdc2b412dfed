//! Multi-Token Prediction (report 2.2, eq. 21-25).
//!
//! Module k at position i: `h' = W_eh [RMSNorm_e(Emb(t_{i+k})) ; RMSNorm_h(h^{k-1}_i)]`, with the embedding first as in
//! the checkpoint. One more block and its norm follow, then the main model's head predicts `t_{i+k+1}`. `h^0` is the
//! main model's output after its final norm. For k >= 1, `h^k` is the block's output before `shared_head.norm`. Shapes:
//! `r` rows of this depth (T - k of each sequence), `d` hidden.

use crate::batch::MtpInput;
use crate::block::{Block, BlockDeferred, BlockSaved};
use crate::build::Builder;
use crate::cached::LayerCache;
use crate::linear::Linear;
use crate::norm;
use crate::param::{Grads, Param, embed, embed_backward};
use crate::pass::Pass;
use hadal_ops::{Acc, Cx, DType, Tensor, elementwise, rmsnorm};
use hadal_weights::ModelConfig;
use hadal_weights::list::Role;

/// The parameters of one module. Embedding and head belong to the main model.
pub struct Mtp {
    /// `enorm`
    pub enorm: Param,
    /// `hnorm`
    pub hnorm: Param,
    /// `eh_proj`: `[D, 2D]`
    pub eh_proj: Linear,
    /// The Transformer block.
    pub block: Block,
    /// `shared_head.norm`
    pub norm: Param,
    eps: f32,
    recompute: bool,
}

/// All activations that backward needs.
pub struct MtpSaved {
    e: Tensor,
    h: Tensor,
    /// `None` if it is computed again.
    pub(crate) normed: Option<Normed>,
    /// The block's saved state.
    pub block: BlockSaved,
    y: Tensor,
    rstd: Tensor,
}

/// A module's inputs and how they are joined.
struct Joined {
    e: Tensor,
    h: Tensor,
    normed: Normed,
    x: Tensor,
}

/// Outputs of the two norms side by side, and their reciprocal root mean squares.
pub(crate) struct Normed {
    pub(crate) cat: Tensor,
    rstd_e: Tensor,
    rstd_h: Tensor,
}

/// Operands of the weight products.
pub struct MtpDeferred {
    d: Tensor,
    cat: Tensor,
    block: BlockDeferred,
}

impl Mtp {
    pub(crate) fn new(b: &mut Builder<'_>, cfg: &ModelConfig, moe_index: Option<usize>) -> Self {
        Self {
            enorm: b.norm(),
            hnorm: b.norm(),
            eh_proj: b.linear(Role::MtpProjection),
            block: Block::new(b, cfg, moe_index),
            norm: b.norm(),
            eps: cfg.rms_norm_eps as f32,
            recompute: b.precision.recompute,
        }
    }

    pub(crate) fn visit<'a>(&'a self, f: &mut dyn FnMut(&'a Param)) {
        f(&self.enorm);
        f(&self.hnorm);
        f(&self.eh_proj.param);
        self.block.visit(f);
        f(&self.norm);
    }
    pub(crate) fn visit_mut(&mut self, f: &mut dyn FnMut(&mut Param)) {
        f(&mut self.enorm);
        f(&mut self.hnorm);
        f(&mut self.eh_proj.param);
        self.block.visit_mut(f);
        f(&mut self.norm);
    }

    /// `[RMSNorm_e(e) ; RMSNorm_h(h)]` in the compute format.
    fn norms(&self, cx: &Cx, e: &Tensor, h: &Tensor) -> Normed {
        let (r, d) = (e.rows(), e.cols());
        let mut cat = cx.empty(&[r, 2 * d], cx.compute());
        let (mut rstd_e, mut rstd_h) = (cx.empty(&[r], DType::F32), cx.empty(&[r], DType::F32));
        rmsnorm::forward(cx, e, self.enorm.table(), self.eps, cat.columns_mut(0..d), &mut rstd_e);
        rmsnorm::forward(cx, h, self.hnorm.table(), self.eps, cat.columns_mut(d..2 * d), &mut rstd_h);
        Normed { cat, rstd_e, rstd_h }
    }

    /// `W_eh [RMSNorm_e(e) ; RMSNorm_h(h)]`, the block's input. `rows` selects the rows of `previous`, and `ids` are the
    /// tokens that they look at.
    fn join(&self, cx: &Cx, table: &Param, previous: &Tensor, rows: &Tensor, ids: &Tensor) -> Joined {
        let (r, d) = (ids.len(), previous.cols());
        let mut e = cx.empty(&[r, d], DType::F32);
        embed(cx, table, ids, &mut e);
        let mut h = cx.empty(&[r, d], previous.dtype());
        elementwise::gather_rows(cx, previous, rows, &mut h);
        let normed = self.norms(cx, &e, &h);
        let mut x = cx.empty(&[r, d], DType::F32);
        self.eh_proj.forward(cx, &normed.cat, &mut x, Acc::Write);
        Joined { e, h, normed, x }
    }

    /// Stores the latents of rows that continue sequences, and computes nothing else. The arguments are those of
    /// [`Mtp::forward`].
    pub(crate) fn keep_latents(
        &self,
        cx: &Cx,
        table: &Param,
        previous: &Tensor,
        rows: &Tensor,
        ids: &Tensor,
        pass: &Pass<'_>,
        cache: LayerCache<'_>,
    ) {
        let Joined { x, .. } = self.join(cx, table, previous, rows, ids);
        self.block.attn.keep_latents(cx, &x, pass, cache);
    }

    /// From the previous depth's `h_td` (any format), computes the head's input `z_rd` (compute format) and the saved
    /// state. `h^k` itself is [`MtpSaved::hidden`]. `rows` selects this depth's rows of `h`. `ids` are the tokens that
    /// the rows look at.
    pub fn forward(
        &self,
        cx: &Cx,
        table: &Param,
        previous: &Tensor,
        rows: &Tensor,
        ids: &Tensor,
        pass: &Pass<'_>,
        cache: Option<LayerCache<'_>>,
        keep_logits: bool,
    ) -> (Tensor, MtpSaved) {
        let Joined { e, h, normed, x } = self.join(cx, table, previous, rows, ids);
        let normed = (!self.recompute).then_some(normed);
        let (y, block) = self.block.forward(cx, x, pass, cache, keep_logits);
        let (z, rstd) = norm::forward(cx, &y, &self.norm, self.eps);
        (z, MtpSaved { e, h, normed, block, y, rstd })
    }

    /// `d_z` is the gradient of the head's input. `d_next` is the gradient of `h^k` from the next depth, if there is
    /// one. Adds the gradient of the previous depth's output to `d_previous` (f32), and the embedding's to its own.
    pub fn backward_input(
        &self,
        cx: &Cx,
        table: &Param,
        d_z: &Tensor,
        d_next: Option<Tensor>,
        saved: MtpSaved,
        input: &MtpInput,
        pass: &Pass<'_>,
        d_previous: &mut Tensor,
        grads: &mut Grads,
    ) -> MtpDeferred {
        let MtpSaved { e, h, normed, block, y, rstd } = saved;
        let width = y.cols();
        let (mut d, acc) = d_next.map_or_else(|| (cx.empty(y.shape(), DType::F32), Acc::Write), |d| (d, Acc::Add));
        norm::backward(cx, d_z, &y, &self.norm, &rstd, &mut d, acc, grads);
        drop(y);
        let block = self.block.backward_input(cx, &mut d, block, pass, grads);
        let mut d_c = cx.empty(d.shape(), cx.compute());
        elementwise::cast(cx, &d, &mut d_c);
        let Normed { cat, rstd_e, rstd_h } = normed.unwrap_or_else(|| self.norms(cx, &e, &h));
        let mut d_cat = cx.empty(cat.shape(), cx.compute());
        self.eh_proj.backward_input(cx, &d_c, &mut d_cat, Acc::Write);
        // `d` is no longer needed. It holds the gradients of the two halves in turn.
        norm::backward(cx, d_cat.columns(0..width), &e, &self.enorm, &rstd_e, &mut d, Acc::Write, grads);
        embed_backward(cx, &d, &input.ids, table, grads);
        norm::backward(cx, d_cat.columns(width..2 * width), &h, &self.hnorm, &rstd_h, &mut d, Acc::Write, grads);
        elementwise::scatter_add_rows(cx, &d, &input.rows, d_previous);
        MtpDeferred { d: d_c, cat, block }
    }

    /// The weight products.
    pub fn backward_weight(&self, cx: &Cx, deferred: MtpDeferred, grads: &mut Grads) {
        let MtpDeferred { d, cat, block } = deferred;
        self.block.backward_weight(cx, block, grads);
        self.eh_proj.backward_weight(cx, &d, &cat, grads);
    }
}

impl MtpSaved {
    /// `h^k`: the block's output before `shared_head.norm`, f32 `[R, D]`.
    pub fn hidden(&self) -> &Tensor {
        &self.y
    }
}
