//! One training step: micro-batches, gradients, clipping, AdamW, balance update, EMA.
//!
//! Losses are means over the valid targets of the whole step, so their factors are known before the first forward pass.
//! The gradient of a step does not depend on the split into micro-batches, up to the order of f32 sums. There are two
//! exceptions. First, a balance loss over the batch is computed for each micro-batch; plans with this loss do not split
//! batches. Second, in FP8, weight gradients use one scale for 128 tokens of a micro-batch, so a different split rounds
//! differently. Expert loads are integers summed over the step. The selection biases move once, after the update
//! (report 2.1.2).

use crate::adapters::FreshAdapters;
use crate::optim::{Ema, Masters, OptimConfig, Optimizer, clip_scale, grad_norm, unshared};
use hadal_model::{
    BalanceGroups, Grads, Input, LossWeights, Model, Param, Purpose, Segment, StepStats, Values, Workspace, update_bias,
};
use hadal_ops::Cx;
use hadal_recipe::trained::{Lora, Trained};
use hadal_weights::ModelConfig;
use hadal_weights::list::Role;
use hadal_weights::precision::Precision;
use std::ops::Range;

/// The settings of one step, from the schedules.
#[derive(Clone, Copy, Debug)]
pub struct StepSettings {
    /// Learning rate.
    pub lr: f64,
    /// Largest gradient norm (0: no clipping).
    pub clip: f64,
    /// Step of the selection biases (0: they do not change).
    pub gamma: f64,
    /// MTP weight lambda.
    pub mtp_lambda: f64,
    /// Balance loss: the tokens that it groups, and alpha.
    pub balance: Option<(BalanceGroups, f64)>,
    /// Rows per micro-batch.
    pub micro_batch: usize,
}

/// The sequences of one step, one after another.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepBatch {
    /// Tokens of all segments. Within a segment, all tokens except the last are inputs, and all except the first are
    /// targets.
    pub tokens: Vec<i32>,
    /// Weight of each token's loss when the token is a target. If empty, all weights are 1.
    pub weights: Vec<f32>,
    /// Number of inputs of each segment: its tokens minus one. Segments do not attend to each other.
    pub segments: Vec<usize>,
    /// Number of segments in each row. Micro-batches consist of whole rows.
    pub rows: Vec<usize>,
}

impl StepBatch {
    /// Rows that each have one segment of `seq_len` inputs.
    pub fn uniform(tokens: Vec<i32>, seq_len: usize) -> Self {
        let mut batch = Self { tokens, ..Self::default() };
        batch.make_uniform(seq_len);
        batch
    }

    /// Divides the present tokens into rows with one segment of `seq_len` inputs each. All weights are 1.
    pub fn make_uniform(&mut self, seq_len: usize) {
        let (all, stride) = (self.tokens.len(), seq_len + 1);
        assert!(all.is_multiple_of(stride), "step: {all} tokens are not a whole number of sequences of {stride}");
        self.weights.clear();
        self.segments.clear();
        self.rows.clear();
        self.segments.resize(all / stride, seq_len);
        self.rows.resize(all / stride, 1);
    }

    /// Number of inputs in all segments. This is the count of tokens that schedules use.
    pub fn inputs(&self) -> usize {
        self.segments.iter().sum()
    }

    /// The segments in `range`. Their first token has the index `token`.
    fn segments(&self, range: Range<usize>, token: usize) -> impl Iterator<Item = Segment<'_>> + Clone {
        let (tokens, weights) = (&self.tokens[..], &self.weights[..]);
        self.segments[range].iter().scan(token, move |at, inputs| {
            let place = *at..*at + inputs + 1;
            *at = place.end;
            let weights = (!weights.is_empty()).then(|| &weights[place.clone()]);
            Some(Segment { tokens: &tokens[place], weights, inputs: *inputs })
        })
    }

    /// Sum of the weights of all targets that lie `shift` tokens after the next token.
    fn weight(&self, shift: usize) -> f64 {
        let first = shift + 1;
        if self.weights.is_empty() {
            return self.segments.iter().map(|inputs| inputs.saturating_sub(shift)).sum::<usize>() as f64;
        }
        let of = |s: Segment<'_>| s.weights.unwrap_or(&[]).iter().skip(first).map(|w| f64::from(*w)).sum::<f64>();
        self.segments(0..self.segments.len(), 0).map(of).sum()
    }
}

/// A model in training.
pub struct Trainer {
    /// Device, threads, memory.
    pub cx: Cx,
    /// The weights.
    pub model: Model,
    /// f32 masters of the weights.
    pub masters: Masters,
    /// AdamW's state.
    pub optimizer: Optimizer,
    /// Averaged weights, if an average is kept.
    pub ema: Option<Ema>,
    /// Gradients of the last step.
    pub grads: Grads,
    /// Losses and loads of the last step.
    pub stats: StepStats,
    /// The adapters that are trained, if the rest is frozen.
    pub lora: Option<Lora>,
    ws: Workspace,
    input: Input,
    /// Sums of the weights of all targets in the last step: of the main model, and of each MTP module.
    targets: Vec<f64>,
    mtp_weights: Vec<f32>,
}

/// Mean losses of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct StepLosses {
    /// Next-token loss, in nats per token.
    pub main: f64,
    /// Loss of each MTP module, in nats per token.
    pub mtp: Vec<f64>,
    /// Balance loss as it entered the total.
    pub balance: f64,
}

impl Trainer {
    /// A model of `config` with weights from `values`. Moments start at zero. If `ema_decay` is above 0, the average
    /// starts at these weights.
    pub fn new(
        cx: Cx,
        config: &ModelConfig,
        precision: Precision,
        values: &dyn Values,
        optim: OptimConfig,
        ema_decay: f32,
    ) -> Result<Self, hadal_weights::Error> {
        Self::of_parts(cx, config, precision, values, optim, ema_decay, &Trained::default(), 0)
    }

    /// Like [`Trainer::new`], with only some parameters trained. The values of fresh adapters come from `seed`.
    pub fn of_parts(
        cx: Cx,
        config: &ModelConfig,
        precision: Precision,
        values: &dyn Values,
        optim: OptimConfig,
        ema_decay: f32,
        trained: &Trained,
        seed: u64,
    ) -> Result<Self, hadal_weights::Error> {
        let mut model = Model::new(&cx, config, precision);
        if let Some(lora) = &trained.lora {
            let layers: Vec<&str> = lora.layers.iter().map(String::as_str).collect();
            model.attach_adapters(&cx, &layers, lora.rank, lora.alpha, seed, Purpose::Training);
        }
        let masters = Masters::fill(&cx, &mut model, &FreshAdapters { base: values, seed })?;
        let of_mtp = |p: &Param| p.spec.layer.is_some_and(|layer| layer >= config.num_hidden_layers);
        let wanted =
            |p: &Param| (trained.mtp || !of_mtp(p)) && (trained.lora.is_none() || p.spec.role == Role::Adapter);
        let grads = Grads::of(&cx, model.params().into_iter(), wanted);
        let optimizer = Optimizer::new(&cx, &model, &grads, optim);
        let stats = model.stats(&cx);
        let ema = (ema_decay > 0.0).then(|| Ema::new(&cx, &model, &masters, &grads, ema_decay));
        let mtp_weights = vec![0.0; model.mtp.len()];
        let (ws, input) = (Workspace::default(), Input::new(&cx, model.mtp.len()));
        let targets = vec![0.0; 1 + model.mtp.len()];
        let lora = trained.lora.clone();
        Ok(Self { cx, model, masters, optimizer, ema, grads, stats, lora, ws, input, targets, mtp_weights })
    }

    /// Computes the gradients of one step.
    pub fn gradients(&mut self, batch: &StepBatch, settings: &StepSettings) {
        let segments = batch.segments.len();
        assert_eq!(batch.rows.iter().sum::<usize>(), segments, "step: rows of another number of segments");
        let Self { cx, model, grads, stats, ws, input, targets, mtp_weights, .. } = self;
        let depth = model.mtp.len();
        targets.clear();
        targets.extend((0..=depth).map(|k| batch.weight(k)));
        // A factor is computed in f64 and rounded once. Without targets there is no gradient.
        let factor = |share: f64, weight: f64| if weight == 0.0 { 0.0 } else { (share / weight) as f32 };
        for (w, weight) in mtp_weights.iter_mut().zip(&targets[1..]) {
            *w = factor(settings.mtp_lambda / depth as f64, *weight);
        }
        let main = factor(1.0, targets[0]);
        grads.restart();
        stats.clear();
        let (mut first, mut token) = (0, 0);
        for rows in batch.rows.chunks(settings.micro_batch.max(1)) {
            let range = first..first + rows.iter().sum::<usize>();
            let n = range.len();
            first = range.end;
            input.set(batch.segments(range.clone(), token));
            token += batch.segments[range].iter().map(|inputs| inputs + 1).sum::<usize>();
            let balance = settings.balance.map(|(groups, alpha)| {
                let share = match groups {
                    BalanceGroups::Sequences => 1.0 / segments as f64,
                    BalanceGroups::Batch => n as f64 / segments as f64,
                };
                (groups, (alpha * share) as f32)
            });
            let weights = LossWeights { main, mtp: mtp_weights, balance };
            model.forward_backward(cx, input, &weights, None, ws, stats, grads, None);
        }
        grads.finish();
    }

    /// Mean losses of the last step whose gradients were computed, weighted over its targets.
    pub fn losses(&self) -> StepLosses {
        let mean = |sum: f64, k: usize| if self.targets[k] == 0.0 { 0.0 } else { sum / self.targets[k] };
        let mtp = self.stats.mtp.iter().enumerate().map(|(k, s)| mean(*s, k + 1)).collect();
        StepLosses { main: mean(self.stats.main, 0), mtp, balance: self.stats.balance }
    }

    /// Norm of the gradients that were computed last.
    pub fn grad_norm(&self) -> f64 {
        grad_norm(&self.cx, &self.grads)
    }

    /// Applies the gradients that were computed last and have norm `norm`: AdamW, then biases, then EMA.
    pub fn update(&mut self, settings: &StepSettings, norm: f64) {
        let scale = clip_scale(norm, settings.clip);
        let Self { cx, model, masters, optimizer, grads, .. } = self;
        optimizer.update(cx, model, masters, grads, settings.lr as f32, scale);
        if settings.gamma > 0.0 {
            for (block, loads) in self.model.moe_blocks_mut().zip(&self.stats.loads) {
                if let Some(bias) = block.moe_mut().and_then(|m| m.router.bias.as_mut()) {
                    unshared(bias.edit(&self.cx, |bias| update_bias(bias, loads, settings.gamma as f32)));
                }
            }
        }
        if let Some(ema) = &mut self.ema {
            ema.update(&self.cx, &self.model, &self.masters);
        }
    }
}
