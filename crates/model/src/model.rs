//! The whole model: embedding, blocks, final norm, MTP modules, and the shared output head with its losses.
//!
//! `L = L_main + lambda/D * sum_k L_k + alpha * sum_layers L_bal` (report 2.1.2, 2.2). Each cross-entropy is the mean
//! over its own valid targets in the whole step. The caller knows the step, so it supplies the factors.

use crate::batch::{Input, Targets};
use crate::block::{Block, BlockSaved};
use crate::build::Builder;
use crate::cached::Cache;
use crate::linear::Linear;
use crate::mtp::{Mtp, MtpSaved};
use crate::norm;
use crate::param::{Grads, Param, Purpose, embed, embed_backward};
use crate::pass::{BalancePass, Pass};
use crate::router::Routing;
use crate::values::{Fresh, Values};
use hadal_ops::head::{self, HeadGrad};
use hadal_ops::{Acc, Cx, DType, Tensor, bandwidth, moe, reduce, rope::RopeTable};
use hadal_weights::Error;
use hadal_weights::ModelConfig;
use hadal_weights::list::{Role, parameters};
use hadal_weights::precision::{Keep, Precision};

/// A model of the DeepSeek-V3 or V2 family.
pub struct Model {
    /// The configuration it was built from.
    pub config: ModelConfig,
    /// `model.embed_tokens`. It is also the output head if the two are tied.
    pub embed: Param,
    /// Decoder blocks.
    pub blocks: Vec<Block>,
    /// `model.norm`
    pub norm: Param,
    /// `lm_head`. `None` if it is tied to the embedding.
    pub head: Option<Linear>,
    /// MTP modules.
    pub mtp: Vec<Mtp>,
    /// Cosines and sines up to `max_position_embeddings`.
    pub rope: RopeTable,
}

/// The tokens over which the balance loss is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BalanceGroups {
    /// Each sequence separately (report eq. 17-20).
    Sequences,
    /// All tokens of the micro-batch together (report 4.5.3).
    Batch,
}

/// Factors of the losses in the total of a step.
#[derive(Clone, Copy, Debug)]
pub struct LossWeights<'a> {
    /// For each main target, to be multiplied by its own weight: 1 over the sum of all targets' weights in the step.
    pub main: f32,
    /// For each target of module k, to be multiplied by its own weight: `lambda / D` over the sum of their weights in
    /// the step.
    pub mtp: &'a [f32],
    /// For the balance loss: the groups, and alpha over the number of groups in the step.
    pub balance: Option<(BalanceGroups, f32)>,
}

/// Sums over the micro-batches of a step.
pub struct StepStats {
    /// Sum of the main next-token losses in nats. Each is multiplied by its target's weight.
    pub main: f64,
    /// The same sum for each MTP module.
    pub mtp: Vec<f64>,
    /// The balance loss as it entered the total.
    pub balance: f64,
    /// Tokens that each expert received, i32 `[E]` for each MoE layer. MTP modules follow the main layers.
    pub loads: Vec<Tensor>,
}

impl StepStats {
    /// Sets everything to zero.
    pub fn clear(&mut self) {
        self.main = 0.0;
        self.balance = 0.0;
        self.mtp.fill(0.0);
        self.loads.iter_mut().for_each(|l| l.i32_mut().fill(0));
    }
}

/// Lists that a pass fills and empties. They are reused, so a step allocates nothing.
#[derive(Default)]
pub struct Workspace {
    blocks: Vec<BlockSaved>,
    mtp: Vec<MtpSaved>,
    /// Gradients of the modules' head inputs.
    d_z: Vec<Tensor>,
}

/// Activations that the forward pass keeps outside of blocks and MTP modules.
pub(crate) struct EndsSaved {
    /// The final norm's input and its reciprocal root mean squares.
    x: Tensor,
    rstd: Tensor,
    /// Gradient of the norm's output from the main loss.
    d_h: Tensor,
}

/// An intermediate result that a dump records.
pub enum Probe<'a> {
    /// Residual stream, f32 `[T, D]`, after block `i - 1` (0: the embedding).
    Hidden(usize, &'a Tensor),
    /// The main model's output after its final norm `[T, D]`.
    Final(&'a Tensor),
    /// A router's decision. The number is the layer in the checkpoint.
    Routing(usize, &'a Routing),
    /// At depth k: the block's output f32, and the head's input (after `shared_head.norm`), both `[R, D]`.
    Mtp(usize, &'a Tensor, &'a Tensor),
}

/// A callback that receives [`Probe`]s.
pub type Observer<'a> = &'a mut dyn FnMut(Probe<'_>);

impl Model {
    /// A model for training with zero weights; see [`Model::fresh`] and [`Model::load`].
    pub fn new(cx: &Cx, config: &ModelConfig, precision: Precision) -> Self {
        let list = parameters(config).into_iter().enumerate();
        let params = list.map(|(index, spec)| Param::new(cx, spec, index, &precision, Purpose::Training)).collect();
        Self::of_params(cx, config, precision, params)
    }

    /// A model for training with initial weights: normal(0, std) for matrices, one for norms, zero for biases. They
    /// depend only on the seed and the names.
    pub fn fresh(cx: &Cx, config: &ModelConfig, precision: Precision, fresh: Fresh) -> Self {
        let mut model = Self::new(cx, config, precision);
        model.fill(cx, &fresh).expect("fresh values are always there");
        model
    }

    /// A model of the parameters of its list.
    pub(crate) fn of_params(cx: &Cx, config: &ModelConfig, precision: Precision, params: Vec<Param>) -> Self {
        assert!(precision.dispatch != Keep::E5m6, "model: rows are sent in the compute format or in fp8, not in e5m6");
        let mut b = Builder::new(cx, precision, params);
        let layers = config.num_hidden_layers;
        let embed = b.take(Role::Embedding);
        let mut moe_layers = 0..;
        let mut moe_index = |l: usize| if config.is_moe_layer(l) { moe_layers.next() } else { None };
        let blocks = (0..layers).map(|l| Block::new(&mut b, config, moe_index(l))).collect();
        let norm = b.norm();
        let head = (!config.tie_word_embeddings).then(|| b.linear(Role::Head));
        let depths = layers..layers + config.num_nextn_predict_layers;
        let mtp = depths.map(|l| Mtp::new(&mut b, config, moe_index(l))).collect();
        b.finish();
        let (freqs, factor) = (config.rope_inv_freq(), config.rope_attention_factor() as f32);
        let rope = RopeTable::new(cx, &freqs, config.max_position_embeddings, factor);
        Self { config: config.clone(), embed, blocks, norm, head, mtp, rope }
    }

    /// Reads all weights from `values` and packs them while they are read.
    pub fn fill(&mut self, cx: &Cx, values: &dyn Values) -> Result<(), Error> {
        let mut result = Ok(());
        self.visit_mut(&mut |p| {
            if result.is_ok() {
                result = p.fill(cx, values);
            }
        });
        result
    }

    /// Bytes of all stored weights.
    pub fn bytes(&self) -> usize {
        self.params().iter().map(|p| p.stored().bytes()).sum()
    }

    /// Bytes per second at which the memory of the weights can be read, measured now.
    pub fn read_rate(&self, cx: &Cx, rounds: usize) -> f64 {
        let arrays: Vec<&Tensor> =
            self.params().iter().flat_map(|p| p.stored().arrays()).map(|(_, array)| array).collect();
        bandwidth::read_rate(cx, &arrays, rounds)
    }

    /// Visits every parameter in the order of the list, then those of adapters. This is the order of their indices.
    pub fn visit<'a>(&'a self, f: &mut dyn FnMut(&'a Param)) {
        f(&self.embed);
        self.blocks.iter().for_each(|b| b.visit(f));
        f(&self.norm);
        self.head.iter().for_each(|h| f(&h.param));
        self.mtp.iter().for_each(|m| m.visit(f));
        self.linears(&mut |layer| layer.adapters.iter().for_each(|a| [&a.down, &a.up].into_iter().for_each(&mut *f)));
    }
    /// Like [`Model::visit`], but mutable.
    pub fn visit_mut(&mut self, f: &mut dyn FnMut(&mut Param)) {
        f(&mut self.embed);
        self.blocks.iter_mut().for_each(|b| b.visit_mut(f));
        f(&mut self.norm);
        self.head.iter_mut().for_each(|h| f(&mut h.param));
        self.mtp.iter_mut().for_each(|m| m.visit_mut(f));
        self.linears_mut(&mut |layer| {
            layer.adapters.iter_mut().for_each(|a| [&mut a.down, &mut a.up].into_iter().for_each(&mut *f));
        });
    }
    /// Visits every linear layer of blocks and MTP modules to which adapters may attach. Routers are not among them.
    pub(crate) fn linears<'a>(&'a self, f: &mut dyn FnMut(&'a Linear)) {
        self.blocks.iter().chain(self.mtp.iter().map(|m| &m.block)).for_each(|b| b.linears(f));
    }
    /// Like [`Model::linears`], but mutable.
    pub(crate) fn linears_mut(&mut self, f: &mut dyn FnMut(&mut Linear)) {
        self.blocks.iter_mut().chain(self.mtp.iter_mut().map(|m| &mut m.block)).for_each(|b| b.linears_mut(f));
    }

    /// All parameters in the order of the list.
    pub fn params(&self) -> Vec<&Param> {
        let mut all = Vec::new();
        self.visit(&mut |p| all.push(p));
        all
    }

    /// The MoE blocks, main model first, in the order of their `moe_index`.
    pub fn moe_blocks(&self) -> impl Iterator<Item = &Block> {
        self.blocks.iter().chain(self.mtp.iter().map(|m| &m.block)).filter(|b| b.moe_index.is_some())
    }
    /// Like [`Model::moe_blocks`], but mutable.
    pub fn moe_blocks_mut(&mut self) -> impl Iterator<Item = &mut Block> {
        self.blocks.iter_mut().chain(self.mtp.iter_mut().map(|m| &mut m.block)).filter(|b| b.moe_index.is_some())
    }

    /// The output head's weight `[V, D]`.
    pub fn head(&self) -> &Param {
        self.head.as_ref().map_or(&self.embed, |h| &h.param)
    }

    /// Empty statistics for a step.
    pub fn stats(&self, cx: &Cx) -> StepStats {
        let loads = self.moe_blocks().map(|_| cx.zeros(&[self.config.n_routed_experts], DType::I32)).collect();
        StepStats { main: 0.0, mtp: vec![0.0; self.mtp.len()], balance: 0.0, loads }
    }

    pub(crate) fn pass<'a>(
        &'a self,
        input: &'a Input,
        weights: Option<&LossWeights<'_>>,
        replay: Option<&'a [Tensor]>,
    ) -> Pass<'a> {
        let balance = weights.and_then(|w| w.balance).map(|(groups, coef)| match groups {
            BalanceGroups::Sequences => BalancePass { seg: &input.seg, coef },
            BalanceGroups::Batch => BalancePass { seg: &input.whole, coef },
        });
        Pass { rope: &self.rope, positions: &input.positions, seg: &input.seg, balance, replay }
    }

    fn mtp_pass<'a>(main: &Pass<'a>, input: &'a Input, k: usize) -> Pass<'a> {
        let m = &input.mtp[k];
        let per_sequence = main.balance.is_some_and(|b| std::ptr::eq(b.seg, &raw const input.seg));
        let balance = main.balance.map(|b| BalancePass { seg: if per_sequence { &m.seg } else { &m.whole }, ..b });
        Pass { positions: &m.positions, seg: &m.seg, balance, ..*main }
    }

    /// Embedding and blocks. Training, evaluation, prefill and decoding all go through this function. With a cache, the
    /// rows continue sequences. Each block's saved state is stored in `saved` if it is given. Returns the residual
    /// stream.
    pub(crate) fn trunk(
        &self,
        cx: &Cx,
        ids: &Tensor,
        pass: &Pass<'_>,
        mut cache: Option<&mut Cache<'_>>,
        mut saved: Option<&mut Vec<BlockSaved>>,
        observer: &mut Option<Observer<'_>>,
    ) -> Tensor {
        let mut x = cx.empty(&[ids.len(), self.config.hidden_size], DType::F32);
        embed(cx, &self.embed, ids, &mut x);
        show(observer, Probe::Hidden(0, &x));
        for (l, block) in self.blocks.iter().enumerate() {
            let layer = cache.as_deref_mut().map(|cache| cache.layer(l));
            let (y, s) = block.forward(cx, x, pass, layer, observer.is_some());
            x = y;
            if let Some(cache) = cache.as_deref_mut() {
                cache.loads.count(block.moe_index, &s);
            }
            if let Some(moe) = s.moe() {
                show(observer, Probe::Routing(l, &moe.routing));
            }
            show(observer, Probe::Hidden(l + 1, &x));
            if let Some(saved) = saved.as_deref_mut() {
                saved.push(s);
            }
        }
        x
    }

    /// `model.norm`. Returns the head's input of the main model, and the reciprocal root mean squares.
    pub(crate) fn final_norm(&self, cx: &Cx, x: &Tensor) -> (Tensor, Tensor) {
        norm::forward(cx, x, &self.norm, self.config.rms_norm_eps as f32)
    }

    /// Runs the MTP modules. Each reads the output of the previous one, and the first reads `h`. Passes each head input
    /// `z_rd` to `head`. Stores each module's saved state in `saved`, which keeps either all of them or only the last.
    pub(crate) fn modules(
        &self,
        cx: &Cx,
        h: &Tensor,
        input: &Input,
        pass: &Pass<'_>,
        (saved, keep): (&mut Vec<MtpSaved>, bool),
        observer: &mut Option<Observer<'_>>,
        head: &mut dyn FnMut(usize, &Tensor),
    ) {
        for (k, (module, m)) in self.mtp.iter().zip(&input.mtp).enumerate() {
            if m.rows.is_empty() {
                break;
            }
            let pass = Self::mtp_pass(pass, input, k);
            let previous = saved.last().map_or(h, MtpSaved::hidden);
            let shown = observer.is_some();
            let (z, s) = module.forward(cx, &self.embed, previous, &m.rows, &m.ids, &pass, None, shown);
            if let Some(moe) = s.block.moe() {
                show(observer, Probe::Routing(self.blocks.len() + k, &moe.routing));
            }
            show(observer, Probe::Mtp(k + 1, s.hidden(), &z));
            head(k, &z);
            if !keep {
                saved.clear();
            }
            saved.push(s);
        }
    }

    /// One micro-batch of a training step: forward, losses, backward. Results are added to `stats` and `grads`.
    pub fn forward_backward(
        &self,
        cx: &Cx,
        input: &Input,
        weights: &LossWeights<'_>,
        replay: Option<&[Tensor]>,
        ws: &mut Workspace,
        stats: &mut StepStats,
        grads: &mut Grads,
        mut observer: Option<Observer<'_>>,
    ) {
        let pass = self.pass(input, Some(weights), replay);
        let saved = self.forward(cx, input, &pass, weights, ws, stats, grads, &mut observer);
        self.backward(cx, input, &pass, saved, ws, stats, grads);
    }

    /// The first half: forward and losses. The head computes the gradients of the losses at once. What backward needs
    /// is in `ws` and in the result.
    pub(crate) fn forward(
        &self,
        cx: &Cx,
        input: &Input,
        pass: &Pass<'_>,
        weights: &LossWeights<'_>,
        ws: &mut Workspace,
        stats: &mut StepStats,
        grads: &mut Grads,
        observer: &mut Option<Observer<'_>>,
    ) -> EndsSaved {
        let Workspace { blocks, mtp, d_z } = ws;
        let x = self.trunk(cx, &input.ids, pass, None, Some(blocks), observer);
        let (h, rstd) = self.final_norm(cx, &x);
        show(observer, Probe::Final(&h));
        let mut d_h = cx.empty(h.shape(), DType::F32);
        stats.main += self.head_loss(cx, &h, &input.targets, weights.main, Some((&mut d_h, grads)));
        self.modules(cx, &h, input, pass, (mtp, true), observer, &mut |k, z| {
            let mut d = cx.empty(z.shape(), DType::F32);
            let weight = weights.mtp.get(k).copied().unwrap_or(0.0);
            stats.mtp[k] += self.head_loss(cx, z, &input.mtp[k].targets, weight, Some((&mut d, grads)));
            d_z.push(d);
        });
        EndsSaved { x, rstd, d_h }
    }

    /// The second half: backward through MTP modules and blocks. It consumes everything in `ws`.
    fn backward(
        &self,
        cx: &Cx,
        input: &Input,
        pass: &Pass<'_>,
        saved: EndsSaved,
        ws: &mut Workspace,
        stats: &mut StepStats,
        grads: &mut Grads,
    ) {
        let EndsSaved { x, rstd, mut d_h } = saved;
        let mut d_next = None;
        while let Some((saved, d_z)) = ws.mtp.pop().zip(ws.d_z.pop()) {
            let k = ws.mtp.len();
            Self::count(cx, &self.mtp[k].block, &saved.block, pass, stats);
            let pass = Self::mtp_pass(pass, input, k);
            let mut d_hidden = ws.mtp.last().map(|s| cx.zeros(s.hidden().shape(), DType::F32));
            let d_previous = d_hidden.as_mut().unwrap_or(&mut d_h);
            let module = &self.mtp[k];
            let deferred =
                module.backward_input(cx, &self.embed, &d_z, d_next, saved, &input.mtp[k], &pass, d_previous, grads);
            module.backward_weight(cx, deferred, grads);
            d_next = d_hidden;
        }

        let mut d = cx.empty(x.shape(), DType::F32);
        norm::backward(cx, &d_h, &x, &self.norm, &rstd, &mut d, Acc::Write, grads);
        drop((d_h, x));
        for block in self.blocks.iter().rev() {
            let saved = ws.blocks.pop().expect("one saved state for each block");
            Self::count(cx, block, &saved, pass, stats);
            let deferred = block.backward_input(cx, &mut d, saved, pass, grads);
            block.backward_weight(cx, deferred, grads);
        }
        embed_backward(cx, &d, &input.ids, &self.embed, grads);
    }

    /// Adds a block's expert loads and balance loss to the statistics.
    fn count(cx: &Cx, block: &Block, saved: &BlockSaved, pass: &Pass<'_>, stats: &mut StepStats) {
        let (Some(moe), Some(i)) = (saved.moe(), block.moe_index) else { return };
        moe::loads(cx, &moe.dispatched.plan, &mut stats.loads[i], Acc::Add);
        if let (Some((_, loss)), Some(b)) = (&moe.routing.balance, pass.balance) {
            stats.balance += f64::from(b.coef) * reduce::sum(cx, loss);
        }
    }

    /// Weighted sum of the losses of `targets` at the head. With `grad`, the gradient of `factor * sum` is added to d_h
    /// and the head.
    fn head_loss(
        &self,
        cx: &Cx,
        h: &Tensor,
        targets: &Targets,
        factor: f32,
        grad: Option<(&mut Tensor, &mut Grads)>,
    ) -> f64 {
        let head = self.head();
        let mut losses = cx.empty(&[h.rows()], DType::F32);
        let grad = grad.map(|(dh, grads)| HeadGrad { dh, dh_acc: Acc::Write, dw: grads.target(head) });
        head::loss(cx, h, head.weight(), &targets.ids, factor, Some(&targets.weights), &mut losses, grad, None);
        reduce::dot(cx, &losses, &targets.weights)
    }
}

pub(crate) fn show(observer: &mut Option<Observer<'_>>, probe: Probe<'_>) {
    if let Some(f) = observer {
        f(probe);
    }
}
