//! Multi-head Latent Attention (report 2.1.1, eq. 1-11), decompressed form: training and prefill.
//!
//! ```text
//! [c_q ; c_kv ; k_rope] = W_a n            one product: q_a_proj and kv_a_proj_with_mqa side by side
//! q    = W_UQ RMSNorm(c_q)                 per head [nope | rope]
//! [k_nope | v] = W_UKV RMSNorm(c_kv)       per head
//! o    = softmax((q_nope.k_nope + rope(q_rope).rope(k_rope)) * s) v
//! x'   = x + W_O o
//! ```
//! Without a query latent (`q_lora_rank` null), the query is a separate product. Shapes: `t` tokens, `d` hidden.
//! Activations are in the compute format, the residual stream and its gradient are f32.
//!
//! Passes that continue sequences, and the absorbed form, are in [`absorbed`].

pub(crate) mod absorbed;
pub(crate) mod heads;

use crate::build::Builder;
use crate::kept::Kept;
use crate::linear::Linear;
use crate::norm;
use crate::param::{Grads, Param};
use crate::pass::Pass;
use hadal_ops::{Acc, Cx, DType, Tensor, attention, attention::AttnShape, elementwise, rope};
use hadal_weights::config::{MLA_NORM_EPS, ModelConfig};
use hadal_weights::list::Role;
use hadal_weights::precision::Keep;

/// How the query is computed.
pub enum Query {
    /// Through a normalised latent of rank d'_c. Its down-projection is part of `Mla::down`.
    Latent {
        /// `q_a_layernorm`
        norm: Param,
        /// `q_b_proj`
        up: Linear,
        /// d'_c
        rank: usize,
    },
    /// With one full matrix, `q_proj`.
    Full(Linear),
}

/// The layer's parameters and sizes.
pub struct Mla {
    /// `input_layernorm`
    pub norm: Param,
    /// `kv_a_proj_with_mqa`, and `q_a_proj` if the query has a latent, stacked.
    pub down: Linear,
    /// How the query is computed.
    pub query: Query,
    /// `kv_a_layernorm`
    pub kv_norm: Param,
    /// `kv_b_proj`
    pub kv_up: Linear,
    /// `o_proj`
    pub out: Linear,
    /// Head count and sizes, softmax scale.
    pub shape: AttnShape,
    /// d_c
    pub kv_rank: usize,
    eps: f32,
    keep_out: Keep,
    recompute: bool,
}

/// All activations that backward needs.
pub struct MlaSaved {
    pub(crate) x: Tensor,
    /// `[c_q | c_kv | k_rope]` before norms and rotation.
    pub(crate) a: Tensor,
    /// `None` if it is computed again.
    pub(crate) expanded: Option<Expanded>,
    /// Rotated shared key `[T, d_R]`.
    pub(crate) k_rope: Tensor,
    pub(crate) o: Kept,
    lse: Tensor,
}

/// Outputs of the norms and of the up-projections. They are most of an attention layer's activations, and can be
/// computed quickly from `x` and the latents in `a`.
pub(crate) struct Expanded {
    pub(crate) n: Tensor,
    rstd: Tensor,
    pub(crate) q: Tensor,
    /// The query's normalised latent and its reciprocal root mean squares.
    query: Option<(Tensor, Tensor)>,
    /// Normalised latent `[T, d_c]` of keys and values.
    pub(crate) c_kv: Tensor,
    rstd_kv: Tensor,
    pub(crate) kv: Tensor,
}

/// Operands of the weight products.
pub struct MlaDeferred {
    d_x: Tensor,
    o: Kept,
    d_kv: Tensor,
    c_kv: Tensor,
    d_q: Tensor,
    c_q: Option<Tensor>,
    d_a: Tensor,
    n: Tensor,
}

impl Mla {
    pub(crate) fn new(b: &mut Builder<'_>, cfg: &ModelConfig) -> Self {
        let (dn, dr, dv) = (cfg.qk_nope_head_dim, cfg.qk_rope_head_dim, cfg.v_head_dim);
        let norm = b.norm();
        let down = b.linear(Role::AttentionDown);
        let query = match cfg.q_lora_rank {
            Some(rank) => Query::Latent { norm: b.norm(), up: b.linear(Role::QueryUp), rank },
            None => Query::Full(b.linear(Role::Query)),
        };
        let scale = cfg.softmax_scale() as f32;
        Self {
            norm,
            down,
            query,
            kv_norm: b.norm(),
            kv_up: b.linear(Role::KeyValueUp),
            out: b.linear(Role::AttentionOut),
            shape: AttnShape { heads: cfg.num_attention_heads, d_nope: dn, d_rope: dr, d_v: dv, scale },
            kv_rank: cfg.kv_lora_rank,
            eps: cfg.rms_norm_eps as f32,
            keep_out: b.precision.attn_out_input,
            recompute: b.precision.recompute,
        }
    }

    /// Visits its parameters in the list's order.
    pub(crate) fn visit<'a>(&'a self, f: &mut dyn FnMut(&'a Param)) {
        f(&self.norm);
        f(&self.down.param);
        match &self.query {
            Query::Latent { norm, up, .. } => {
                f(norm);
                f(&up.param);
            }
            Query::Full(q) => f(&q.param),
        }
        f(&self.kv_norm);
        f(&self.kv_up.param);
        f(&self.out.param);
    }
    pub(crate) fn visit_mut(&mut self, f: &mut dyn FnMut(&mut Param)) {
        f(&mut self.norm);
        f(&mut self.down.param);
        match &mut self.query {
            Query::Latent { norm, up, .. } => {
                f(norm);
                f(&mut up.param);
            }
            Query::Full(q) => f(&mut q.param),
        }
        f(&mut self.kv_norm);
        f(&mut self.kv_up.param);
        f(&mut self.out.param);
    }
    pub(crate) fn linears(&self) -> impl Iterator<Item = &Linear> {
        let query = match &self.query {
            Query::Latent { up, .. } => up,
            Query::Full(q) => q,
        };
        [&self.down, query, &self.kv_up, &self.out].into_iter()
    }
    pub(crate) fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        let query = match &mut self.query {
            Query::Latent { up, .. } => up,
            Query::Full(q) => q,
        };
        [&mut self.down, query, &mut self.kv_up, &mut self.out].into_iter()
    }

    /// Number of columns of the query latent in `a`.
    fn query_rank(&self) -> usize {
        match self.query {
            Query::Latent { rank, .. } => rank,
            Query::Full(_) => 0,
        }
    }

    /// The projections before attention: everything about a token that does not depend on other tokens.
    fn project(&self, cx: &Cx, x: Tensor, pass: &Pass<'_>) -> Projected {
        let (n, rstd, a) = self.project_down(cx, &x);
        let (q, query) = self.queries(cx, &n, &a, pass);
        let (c_kv, rstd_kv) = self.latent(cx, &a);
        let k_rope = self.shared_key(cx, &a, pass);
        Projected { x, rstd, n, a, query, c_kv, rstd_kv, q, k_rope }
    }

    /// The normalised input, its reciprocal root mean squares, and `a`.
    fn project_down(&self, cx: &Cx, x: &Tensor) -> (Tensor, Tensor, Tensor) {
        let (n, rstd) = norm::forward(cx, x, &self.norm, self.eps);
        let mut a = cx.empty(&[x.rows(), self.query_rank() + self.kv_rank + self.shape.d_rope], cx.compute());
        self.down.forward(cx, &n, &mut a, Acc::Write);
        (n, rstd, a)
    }

    /// The rotated key that all heads share, computed from `a`.
    fn shared_key(&self, cx: &Cx, a: &Tensor, pass: &Pass<'_>) -> Tensor {
        let (first, d_rope) = (self.query_rank() + self.kv_rank, self.shape.d_rope);
        let mut k_rope = cx.empty(&[a.rows(), d_rope], cx.compute());
        elementwise::cast(cx, a.columns(first..first + d_rope), &mut k_rope);
        rope::apply(cx, &mut k_rope, 1, d_rope, 0, pass.positions, pass.rope, false);
        k_rope
    }

    /// Rotated queries, from the normalised input or the latent in `a`. Also returns the norm of the latent, if there
    /// is one.
    fn queries(&self, cx: &Cx, n: &Tensor, a: &Tensor, pass: &Pass<'_>) -> (Tensor, Option<(Tensor, Tensor)>) {
        let AttnShape { heads, d_nope, d_rope, .. } = self.shape;
        let dq = d_nope + d_rope;
        let mut q = cx.empty(&[n.rows(), heads * dq], cx.compute());
        let query = match &self.query {
            Query::Latent { norm, up, rank } => {
                let (c_q, rstd_q) = norm::forward(cx, a.columns(0..*rank), norm, MLA_NORM_EPS as f32);
                up.forward(cx, &c_q, &mut q, Acc::Write);
                Some((c_q, rstd_q))
            }
            Query::Full(w) => {
                w.forward(cx, n, &mut q, Acc::Write);
                None
            }
        };
        rope::apply(cx, &mut q, heads, dq, d_nope, pass.positions, pass.rope, false);
        (q, query)
    }

    /// The normalised latent of keys and values, computed from `a`, and its reciprocal root mean squares.
    fn latent(&self, cx: &Cx, a: &Tensor) -> (Tensor, Tensor) {
        let first = self.query_rank();
        norm::forward(cx, a.columns(first..first + self.kv_rank), &self.kv_norm, MLA_NORM_EPS as f32)
    }

    /// Keys without position, and values: `[k_nope | v]` for each head.
    fn keys_and_values(&self, cx: &Cx, c_kv: &Tensor) -> Tensor {
        let s = &self.shape;
        let mut kv = cx.empty(&[c_kv.rows(), s.heads * (s.d_nope + s.d_v)], cx.compute());
        self.kv_up.forward(cx, c_kv, &mut kv, Acc::Write);
        kv
    }

    /// Computes again what forward did not keep. It uses the same operations, so the bits are the same.
    fn expand(&self, cx: &Cx, x: &Tensor, a: &Tensor, pass: &Pass<'_>) -> Expanded {
        let (n, rstd) = norm::forward(cx, x, &self.norm, self.eps);
        let (q, query) = self.queries(cx, &n, a, pass);
        let (c_kv, rstd_kv) = self.latent(cx, a);
        let kv = self.keys_and_values(cx, &c_kv);
        Expanded { n, rstd, q, query, c_kv, rstd_kv, kv }
    }

    /// `x_td + MLA(RMSNorm(x_td))`, f32 in and out.
    pub fn forward(&self, cx: &Cx, x: Tensor, pass: &Pass<'_>) -> (Tensor, MlaSaved) {
        let s = &self.shape;
        let Projected { x, rstd, n, a, query, c_kv, rstd_kv, q, k_rope } = self.project(cx, x, pass);
        let t = x.rows();
        let kv = self.keys_and_values(cx, &c_kv);
        let mut o = cx.empty(&[t, s.heads * s.d_v], cx.compute());
        let mut lse = cx.empty(&[s.heads, t], DType::F32);
        attention::forward(cx, &q, &kv, k_rope.mat(), pass.seg, s, &mut o, &mut lse);
        let mut y = cx.copy(&x);
        self.out.forward(cx, &o, &mut y, Acc::Add);
        let o = Kept::new(cx, o, self.keep_out.style(true));
        let expanded = (!self.recompute).then_some(Expanded { n, rstd, q, query, c_kv, rstd_kv, kv });
        (y, MlaSaved { x, a, expanded, k_rope, o, lse })
    }

    /// `d_td` is the gradient of the output on entry, and of the input on return. The residual path is the identity.
    pub fn backward_input(
        &self,
        cx: &Cx,
        d: &mut Tensor,
        saved: MlaSaved,
        pass: &Pass<'_>,
        grads: &mut Grads,
    ) -> MlaDeferred {
        let MlaSaved { x, a, expanded, k_rope, o, lse } = saved;
        let expanded = expanded.unwrap_or_else(|| self.expand(cx, &x, &a, pass));
        let Expanded { n, rstd, q, query, c_kv, rstd_kv, kv } = expanded;
        let AttnShape { heads, d_nope, d_rope, .. } = self.shape;
        let (t, qr, dc, dq) = (x.rows(), self.query_rank(), self.kv_rank, d_nope + d_rope);
        let mut d_x = cx.empty(x.shape(), cx.compute());
        elementwise::cast(cx, &*d, &mut d_x);
        let mut d_o = cx.empty(&[t, o.cols()], cx.compute());
        self.out.backward_input(cx, &d_x, &mut d_o, Acc::Write);
        let mut d_q = cx.empty(q.shape(), cx.compute());
        let mut d_kv = cx.empty(kv.shape(), cx.compute());
        let mut d_a = cx.empty(a.shape(), cx.compute());
        let key = qr + dc..qr + dc + d_rope;
        let mut floats = None;
        attention::backward(
            cx,
            &d_o,
            &q,
            &kv,
            k_rope.mat(),
            o.floats(cx, &mut floats),
            &lse,
            pass.seg,
            &self.shape,
            &mut d_q,
            &mut d_kv,
            d_a.columns_mut(key.clone()),
        );
        drop((d_o, q, kv, k_rope, lse, floats));
        rope::apply(cx, d_a.columns_mut(key), 1, d_rope, 0, pass.positions, pass.rope, true);
        rope::apply(cx, &mut d_q, heads, dq, d_nope, pass.positions, pass.rope, true);
        // Latents: the gradients go through their up-projections and norms into their columns of d_a.
        let mut d_c = cx.empty(&[t, dc], cx.compute());
        self.kv_up.backward_input(cx, &d_kv, &mut d_c, Acc::Write);
        let columns = qr..qr + dc;
        let latent = a.columns(columns.clone());
        norm::backward(cx, &d_c, latent, &self.kv_norm, &rstd_kv, d_a.columns_mut(columns), Acc::Write, grads);
        let mut d_n = cx.empty(x.shape(), DType::F32);
        let c_q = match (&self.query, query) {
            (Query::Latent { norm, up, rank }, Some((c_q, rstd_q))) => {
                let mut d_c = cx.empty(c_q.shape(), cx.compute());
                up.backward_input(cx, &d_q, &mut d_c, Acc::Write);
                let (latent, into) = (a.columns(0..*rank), d_a.columns_mut(0..*rank));
                norm::backward(cx, &d_c, latent, norm, &rstd_q, into, Acc::Write, grads);
                self.down.backward_input(cx, &d_a, &mut d_n, Acc::Write);
                Some(c_q)
            }
            (Query::Full(w), _) => {
                self.down.backward_input(cx, &d_a, &mut d_n, Acc::Write);
                w.backward_input(cx, &d_q, &mut d_n, Acc::Add);
                None
            }
            (Query::Latent { .. }, None) => unreachable!("forward saves the query latent"),
        };
        norm::backward(cx, &d_n, &x, &self.norm, &rstd, &mut *d, Acc::Add, grads);
        MlaDeferred { d_x, o, d_kv, c_kv, d_q, c_q, d_a, n }
    }

    /// The weight products.
    pub fn backward_weight(&self, cx: &Cx, deferred: MlaDeferred, grads: &mut Grads) {
        let MlaDeferred { d_x, o, d_kv, c_kv, d_q, c_q, d_a, n } = deferred;
        self.out.backward_weight(cx, &d_x, o.operand(), grads);
        self.kv_up.backward_weight(cx, &d_kv, &c_kv, grads);
        match (&self.query, &c_q) {
            (Query::Latent { up, .. }, Some(c_q)) => up.backward_weight(cx, &d_q, c_q, grads),
            (Query::Full(w), _) => w.backward_weight(cx, &d_q, &n, grads),
            (Query::Latent { .. }, None) => unreachable!("forward saves the query latent"),
        }
        self.down.backward_weight(cx, &d_a, &n, grads);
    }
}

/// Results of [`Mla::project`].
struct Projected {
    x: Tensor,
    rstd: Tensor,
    n: Tensor,
    a: Tensor,
    query: Option<(Tensor, Tensor)>,
    c_kv: Tensor,
    rstd_kv: Tensor,
    q: Tensor,
    k_rope: Tensor,
}
