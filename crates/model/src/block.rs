//! One Transformer block (report 2.1): `x += MLA(RMSNorm(x)); x += FFN(RMSNorm(x))`. The FFN is dense or DeepSeekMoE.

use crate::build::Builder;
use crate::cached::LayerCache;
use crate::ffn::{Ffn, FfnDeferred, FfnSaved};
use crate::linear::Linear;
use crate::mla::{Mla, MlaDeferred, MlaSaved};
use crate::moe::{Moe, MoeDeferred, MoeSaved};
use crate::norm;
use crate::param::{Grads, Param};
use crate::pass::Pass;
use hadal_ops::{Acc, Cx, DType, Tensor, elementwise};
use hadal_weights::ModelConfig;
use hadal_weights::list::Role;

/// The second half of a block.
pub enum Mlp {
    /// A dense feed-forward layer: the first `first_k_dense_replace` layers.
    Dense(Ffn),
    /// A DeepSeekMoE layer: all other layers.
    Moe(Moe),
}

/// A block's parameters.
pub struct Block {
    /// Attention with its input norm.
    pub attn: Mla,
    /// `post_attention_layernorm`
    pub norm: Param,
    /// Feed-forward.
    pub mlp: Mlp,
    /// Index of this block among the MoE blocks of the model. It is used for replayed routing and load statistics.
    pub moe_index: Option<usize>,
    eps: f32,
    recompute: bool,
}

pub(crate) enum MlpSaved {
    Dense(FfnSaved),
    Moe(MoeSaved),
}

/// All activations that a block's backward needs.
pub struct BlockSaved {
    /// `None` in a pass that continues sequences.
    pub(crate) attn: Option<MlaSaved>,
    pub(crate) x: Tensor,
    /// The norm's output and its reciprocal root mean squares. `None` if they are computed again.
    pub(crate) norm: Option<(Tensor, Tensor)>,
    pub(crate) mlp: MlpSaved,
}

pub(crate) enum MlpDeferred {
    Dense(FfnDeferred),
    Moe(MoeDeferred),
}

/// Operands of a block's weight products.
pub struct BlockDeferred {
    attn: MlaDeferred,
    pub(crate) mlp: MlpDeferred,
    d: Tensor,
    u: Tensor,
}

impl BlockSaved {
    /// The saved state of the MoE half. `None` for a dense block.
    pub fn moe(&self) -> Option<&MoeSaved> {
        match &self.mlp {
            MlpSaved::Moe(m) => Some(m),
            MlpSaved::Dense(_) => None,
        }
    }
}

impl Block {
    pub(crate) fn new(b: &mut Builder<'_>, cfg: &ModelConfig, moe_index: Option<usize>) -> Self {
        let attn = Mla::new(b, cfg);
        let norm = b.norm();
        let mlp = match moe_index {
            Some(_) => Mlp::Moe(Moe::new(b, cfg)),
            None => Mlp::Dense(Ffn::new(b, [Role::DenseGateUp, Role::DenseDown])),
        };
        Self { attn, norm, mlp, moe_index, eps: cfg.rms_norm_eps as f32, recompute: b.precision.recompute }
    }

    /// The MoE half, if this block has one.
    pub fn moe(&self) -> Option<&Moe> {
        match &self.mlp {
            Mlp::Moe(m) => Some(m),
            Mlp::Dense(_) => None,
        }
    }
    /// Like `moe`, but mutable.
    pub fn moe_mut(&mut self) -> Option<&mut Moe> {
        match &mut self.mlp {
            Mlp::Moe(m) => Some(m),
            Mlp::Dense(_) => None,
        }
    }

    pub(crate) fn visit<'a>(&'a self, f: &mut dyn FnMut(&'a Param)) {
        self.attn.visit(f);
        f(&self.norm);
        match &self.mlp {
            Mlp::Dense(m) => m.params().for_each(f),
            Mlp::Moe(m) => m.params().for_each(f),
        }
    }
    pub(crate) fn visit_mut(&mut self, f: &mut dyn FnMut(&mut Param)) {
        self.attn.visit_mut(f);
        f(&mut self.norm);
        match &mut self.mlp {
            Mlp::Dense(m) => m.params_mut().for_each(f),
            Mlp::Moe(m) => m.params_mut().for_each(f),
        }
    }

    pub(crate) fn linears<'a>(&'a self, f: &mut dyn FnMut(&'a Linear)) {
        self.attn.linears().for_each(&mut *f);
        match &self.mlp {
            Mlp::Dense(m) => m.linears().for_each(f),
            Mlp::Moe(m) => m.linears().for_each(f),
        }
    }
    pub(crate) fn linears_mut(&mut self, f: &mut dyn FnMut(&mut Linear)) {
        self.attn.linears_mut().for_each(&mut *f);
        match &mut self.mlp {
            Mlp::Dense(m) => m.linears_mut().for_each(f),
            Mlp::Moe(m) => m.linears_mut().for_each(f),
        }
    }

    /// Runs `x_td` f32 through the block. With a cache, the rows continue sequences, and there is no backward pass.
    pub fn forward(
        &self,
        cx: &Cx,
        x: Tensor,
        pass: &Pass<'_>,
        cache: Option<LayerCache<'_>>,
        keep_logits: bool,
    ) -> (Tensor, BlockSaved) {
        let (x, attn) = if let Some(cache) = cache {
            (self.attn.forward_cached(cx, x, pass, cache), None)
        } else {
            let (x, saved) = self.attn.forward(cx, x, pass);
            (x, Some(saved))
        };
        let (u, rstd) = norm::forward(cx, &x, &self.norm, self.eps);
        let mut y = cx.copy(&x);
        let mlp = match &self.mlp {
            Mlp::Dense(ffn) => MlpSaved::Dense(ffn.forward(cx, &u, &mut y)),
            Mlp::Moe(moe) => {
                let replay = pass.replay.zip(self.moe_index).map(|(r, i)| &r[i]);
                MlpSaved::Moe(moe.forward(cx, &u, &mut y, pass.balance, replay, keep_logits))
            }
        };
        (y, BlockSaved { attn, x, norm: (!self.recompute).then_some((u, rstd)), mlp })
    }

    /// `d_td` f32 is the gradient of the block's output on entry, and of its input on return.
    pub fn backward_input(
        &self,
        cx: &Cx,
        d: &mut Tensor,
        saved: BlockSaved,
        pass: &Pass<'_>,
        grads: &mut Grads,
    ) -> BlockDeferred {
        let BlockSaved { attn, x, norm, mlp } = saved;
        let (u, rstd) = norm.unwrap_or_else(|| norm::forward(cx, &x, &self.norm, self.eps));
        let mut d_c = cx.empty(d.shape(), cx.compute());
        elementwise::cast(cx, &*d, &mut d_c);
        let mut d_u = cx.empty(d.shape(), DType::F32);
        let mlp = match (&self.mlp, mlp) {
            (Mlp::Dense(ffn), MlpSaved::Dense(saved)) => {
                MlpDeferred::Dense(ffn.backward_input(cx, &d_c, saved, &mut d_u, Acc::Write))
            }
            (Mlp::Moe(moe), MlpSaved::Moe(saved)) => {
                MlpDeferred::Moe(moe.backward_input(cx, &d_c, saved, &mut d_u, pass.balance))
            }
            _ => unreachable!("a block's saved state is of its own kind"),
        };
        norm::backward(cx, &d_u, &x, &self.norm, &rstd, &mut *d, Acc::Add, grads);
        drop((d_u, x));
        let attn = attn.expect("a pass that continues sequences has no backward");
        let attn = self.attn.backward_input(cx, d, attn, pass, grads);
        BlockDeferred { attn, mlp, d: d_c, u }
    }

    /// The weight products.
    pub fn backward_weight(&self, cx: &Cx, deferred: BlockDeferred, grads: &mut Grads) {
        let BlockDeferred { attn, mlp, d, u } = deferred;
        match (&self.mlp, mlp) {
            (Mlp::Dense(ffn), MlpDeferred::Dense(m)) => ffn.backward_weight(cx, m, &d, &u, grads),
            (Mlp::Moe(moe), MlpDeferred::Moe(m)) => moe.backward_weight(cx, m, &d, &u, grads),
            _ => unreachable!("a block's deferred state is of its own kind"),
        }
        self.attn.backward_weight(cx, attn, grads);
    }
}
