//! DeepSeekMoE (report 2.1.2): `y = x + sum_shared FFN(u) + sum_selected g_i FFN_i(u)`. No token is dropped.
//!
//! The gate value multiplies the expert's inner activation (`down(g h) = g down(h)`). So combining is a plain sum, and
//! its gradient needs no saved expert output. The phases (route, dispatch, experts, combine) are separate functions, so
//! that an overlapping schedule can interleave them. There is one row for each (token, chosen expert), sorted by
//! expert.

use crate::build::Builder;
use crate::ffn::{Ffn, FfnDeferred, FfnSaved};
use crate::kept::Kept;
use crate::linear::Linear;
use crate::param::{Grads, Param};
use crate::pass::BalancePass;
use crate::router::{Router, Routing};
use hadal_ops::fp8::{Quantized, Shape, Style};
use hadal_ops::moe::{self, Plan};
use hadal_ops::{Acc, Cx, DType, Tensor, swiglu};
use hadal_weights::ModelConfig;
use hadal_weights::list::Role;
use hadal_weights::precision::Keep;

/// Parameters of one MoE layer.
pub struct Moe {
    /// The gate.
    pub router: Router,
    /// `gate_proj` and `up_proj` of every expert: E groups of `[2I, D]`.
    pub gate_up: Linear,
    /// `down_proj` of every expert: E groups of `[D, I]`.
    pub down: Linear,
    /// Shared experts as a single SwiGLU, if there are any.
    pub shared: Option<Ffn>,
    dispatch: Keep,
    keep: Keep,
}

/// Rows sent to the experts.
pub struct Dispatched {
    /// The source token and the expert of each row.
    pub plan: Plan,
    /// Inputs `[R, D]`.
    pub(crate) x: Kept,
    /// Gate values f32 `[R]`.
    g: Tensor,
}

/// What backward needs.
pub struct MoeSaved {
    /// The router's decision.
    pub routing: Routing,
    /// Rows sent to the experts.
    pub dispatched: Dispatched,
    pub(crate) gu: Kept,
    pub(crate) shared: Option<FfnSaved>,
}

/// Operands of the weight products. The caller keeps `u` and the output's gradient.
pub struct MoeDeferred {
    d_logits: Tensor,
    plan: Plan,
    pub(crate) d_y: Kept,
    h: Tensor,
    d_gu: Tensor,
    x: Kept,
    shared: Option<FfnDeferred>,
}

impl Moe {
    pub(crate) fn new(b: &mut Builder<'_>, cfg: &ModelConfig) -> Self {
        let router = Router::new(b, cfg);
        let (gate_up, down) = (b.linear(Role::ExpertGateUp), b.linear(Role::ExpertDown));
        let shared = (cfg.n_shared_experts > 0).then(|| Ffn::new(b, [Role::SharedGateUp, Role::SharedDown]));
        Self { router, gate_up, down, shared, dispatch: b.precision.dispatch, keep: b.precision.swiglu_input }
    }

    pub(crate) fn params(&self) -> impl Iterator<Item = &Param> {
        let shared = self.shared.iter().flat_map(Ffn::params);
        self.router.params().chain([&self.gate_up.param, &self.down.param]).chain(shared)
    }
    pub(crate) fn params_mut(&mut self) -> impl Iterator<Item = &mut Param> {
        let shared = self.shared.iter_mut().flat_map(Ffn::params_mut);
        self.router.params_mut().chain([&mut self.gate_up.param, &mut self.down.param]).chain(shared)
    }
    pub(crate) fn linears(&self) -> impl Iterator<Item = &Linear> {
        [&self.gate_up, &self.down].into_iter().chain(self.shared.iter().flat_map(Ffn::linears))
    }
    pub(crate) fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        [&mut self.gate_up, &mut self.down].into_iter().chain(self.shared.iter_mut().flat_map(Ffn::linears_mut))
    }

    /// Phase dispatch: sorts tokens by expert and gathers their rows.
    pub fn dispatch(&self, cx: &Cx, u: &Tensor, routing: &Routing) -> Dispatched {
        let plan = moe::plan(cx, &routing.idx, self.router.cfg.experts);
        let x = self.send(cx, u, &plan, Shape::Tile);
        let mut g = cx.empty(&[plan.rows()], DType::F32);
        moe::gather_scale(cx, &routing.weight, &plan, &mut g);
        Dispatched { plan, x, g }
    }

    /// One row of `u` for each of its experts, in the format of dispatch (report 3.3.3). The same function serves
    /// activations before the up-projections and gradients before the down-projections. Blocks consist of neighbouring
    /// rows of `u`, that is of the batch, not of the rows at an expert.
    fn send(&self, cx: &Cx, u: &Tensor, plan: &Plan, shape: Shape) -> Kept {
        if let Some(style) = self.dispatch.style(true) {
            return Kept::Tiles(Quantized::new(cx, u, Style { shape, ..style }).permute(cx, plan));
        }
        let mut x = cx.empty(&[plan.rows(), u.cols()], cx.compute());
        moe::permute(cx, u, plan, &mut x);
        Kept::Plain(x)
    }

    /// Phase experts: each expert computes on its rows. Returns outputs `[R, D]` and the gate-up products `[R, 2I]`.
    pub fn experts(&self, cx: &Cx, rows: &Dispatched) -> (Tensor, Kept) {
        let (r, wide) = (rows.x.rows(), self.gate_up.param.spec.n());
        let mut gu = cx.empty(&[r, wide], cx.compute());
        self.gate_up.grouped_forward(cx, rows.x.operand(), &rows.plan.offsets, &mut gu, Acc::Write);
        let mut h = cx.empty(&[r, wide / 2], cx.compute());
        swiglu::forward(cx, &gu, Some(&rows.g), &mut h);
        let mut y = cx.empty(&[r, rows.x.cols()], cx.compute());
        self.down.grouped_forward(cx, &h, &rows.plan.offsets, &mut y, Acc::Write);
        (y, Kept::new(cx, gu, self.keep.style(false)))
    }

    /// `y_td += MoE(u_td)`.
    pub fn forward(
        &self,
        cx: &Cx,
        u: &Tensor,
        y: &mut Tensor,
        balance: Option<BalancePass<'_>>,
        replay: Option<&Tensor>,
        keep_logits: bool,
    ) -> MoeSaved {
        let routing = self.router.forward(cx, u, balance, replay, keep_logits);
        let dispatched = self.dispatch(cx, u, &routing);
        let (out, gu) = self.experts(cx, &dispatched);
        moe::combine(cx, &out, &dispatched.plan, &mut *y, Acc::Add);
        drop(out);
        let shared = self.shared.as_ref().map(|s| s.forward(cx, u, y));
        MoeSaved { routing, dispatched, gu, shared }
    }

    /// Computes the gradient of `u` from `d_td` (compute format), and overwrites `d_u` f32 with it.
    pub fn backward_input(
        &self,
        cx: &Cx,
        d: &Tensor,
        saved: MoeSaved,
        d_u: &mut Tensor,
        balance: Option<BalancePass<'_>>,
    ) -> MoeDeferred {
        let MoeSaved { routing, dispatched: Dispatched { plan, x, g }, gu, shared } = saved;
        // The reverse of combine: every row receives its token's gradient. Blocks, the report's counter-example, are
        // only for the input gradient. The weight gradient always reads tiles.
        let d_y = self.send(cx, d, &plan, Shape::Tile);
        let (shape, codes) = (self.down.weight().gradients().shape, self.down.weight().dtype() == DType::U8);
        let blocks =
            (shape == Shape::Block && codes && self.dispatch == Keep::Fp8).then(|| self.send(cx, d, &plan, shape));
        let d_sent = blocks.as_ref().unwrap_or(&d_y).operand();
        let mut floats = None;
        let gate_up = gu.floats(cx, &mut floats);
        // The reverse of experts.
        let mut d_h = cx.empty(&[x.rows(), gu.cols() / 2], cx.compute());
        self.down.grouped_backward_input(cx, d_sent, &plan.offsets, &mut d_h, Acc::Write);
        drop(blocks);
        let mut d_gu = cx.empty(gate_up.shape(), cx.compute());
        let mut h = cx.empty(d_h.shape(), cx.compute());
        let mut d_g = cx.empty(g.shape(), DType::F32);
        swiglu::backward(cx, &d_h, gate_up, Some(&g), &mut d_gu, &mut h, Some(&mut d_g));
        drop((d_h, gu, floats));
        let mut d_x = cx.empty(&[x.rows(), x.cols()], cx.compute());
        self.gate_up.grouped_backward_input(cx, &d_gu, &plan.offsets, &mut d_x, Acc::Write);
        // The reverse of dispatch.
        moe::combine(cx, &d_x, &plan, &mut *d_u, Acc::Write);
        drop(d_x);
        let shared = self.shared.as_ref().zip(shared).map(|(s, saved)| s.backward_input(cx, d, saved, d_u, Acc::Add));
        let mut d_weight = cx.empty(routing.weight.shape(), DType::F32);
        moe::scatter_scale(cx, &d_g, &plan, &mut d_weight);
        let d_logits = self.router.backward_input(cx, &d_weight, &routing, balance, d_u);
        MoeDeferred { d_logits, plan, d_y, h, d_gu, x, shared }
    }

    /// The weight products, from the same `d` and `u`.
    pub fn backward_weight(&self, cx: &Cx, deferred: MoeDeferred, d: &Tensor, u: &Tensor, grads: &mut Grads) {
        let MoeDeferred { d_logits, plan, d_y, h, d_gu, x, shared } = deferred;
        self.down.grouped_backward_weight(cx, d_y.operand(), &h, &plan.offsets, grads);
        self.gate_up.grouped_backward_weight(cx, &d_gu, x.operand(), &plan.offsets, grads);
        if let Some((ffn, deferred)) = self.shared.as_ref().zip(shared) {
            ffn.backward_weight(cx, deferred, d, u, grads);
        }
        self.router.backward_weight(cx, &d_logits, u, grads);
    }
}
