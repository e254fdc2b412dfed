//! One training step: micro-batches, gradients, clipping, AdamW, balance update, EMA.
//!
//! Losses are means over the valid targets of the whole step, so their factors are known before the first forward
//! pass, and a step gives the same gradient however it is cut into micro-batches, up to the order of f32 sums. There are two
//! exceptions. A balance loss over the batch is one over each micro-batch (plans with it do not cut batches). And in FP8
//! weight gradients give 128 tokens of a micro-batch one scale, so that a cut elsewhere rounds otherwise. Expert loads are
//! integers summed over the step; the selection biases move once, after the update (report 2.1.2).

use crate::optim::{Ema, Masters, OptimConfig, Optimizer, clip_scale, grad_norm};
use hadal_model::{BalanceGroups, Grads, Input, LossWeights, Model, StepStats, Values, Workspace, update_bias};
use hadal_ops::Cx;
use hadal_weights::ModelConfig;
use hadal_weights::precision::Precision;

/// What the schedules say about one step.
#[derive(Clone, Copy, Debug)]
pub struct StepSettings {
    /// Learning rate.
    pub lr: f64,
    /// Largest gradient norm (0: no clipping).
    pub clip: f64,
    /// Step of the selection biases (0: they stay).
    pub gamma: f64,
    /// MTP weight lambda.
    pub mtp_lambda: f64,
    /// Balance loss: over what, and alpha.
    pub balance: Option<(BalanceGroups, f64)>,
    /// Sequences of one micro-batch.
    pub micro_batch: usize,
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
    /// Averaged weights, if wanted.
    pub ema: Option<Ema>,
    /// Gradients of the last step.
    pub grads: Grads,
    /// Losses and loads of the last step.
    pub stats: StepStats,
    ws: Workspace,
    inputs: Vec<Input>,
    mtp_weights: Vec<f32>,
}

/// Mean losses of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct StepLosses {
    /// Next-token loss, nats.
    pub main: f64,
    /// Loss of each MTP module, nats.
    pub mtp: Vec<f64>,
    /// Balance loss as it entered the total.
    pub balance: f64,
}

impl Trainer {
    /// A model of `config` with the weights that `values` gives; moments start at zero, the EMA (if `ema_decay` > 0) at these
    /// weights.
    pub fn new(
        cx: Cx,
        config: &ModelConfig,
        precision: Precision,
        values: &dyn Values,
        optim: OptimConfig,
        ema_decay: f32,
    ) -> Result<Self, hadal_weights::Error> {
        let mut model = Model::new(&cx, config, precision);
        let masters = Masters::fill(&cx, &mut model, values)?;
        let grads = Grads::new(&cx, model.params().into_iter());
        let optimizer = Optimizer::new(&cx, &model, &grads, optim);
        let stats = model.stats(&cx);
        let ema = (ema_decay > 0.0).then(|| Ema::new(&cx, &model, &masters, &grads, ema_decay));
        let mtp_weights = vec![0.0; model.mtp.len()];
        let (ws, inputs) = (Workspace::default(), Vec::new());
        Ok(Self { cx, model, masters, optimizer, ema, grads, stats, ws, inputs, mtp_weights })
    }

    /// Gradients of one step over `tokens`: sequences of `seq_len + 1` tokens one after the other.
    pub fn gradients(&mut self, tokens: &[i32], seq_len: usize, settings: &StepSettings) {
        let stride = seq_len + 1;
        assert_eq!(tokens.len() % stride, 0, "step: {} tokens are no whole sequences of {stride}", tokens.len());
        let sequences = tokens.len() / stride;
        let depth = self.model.mtp.len();
        let Self { cx, model, grads, stats, ws, inputs, mtp_weights, .. } = self;
        for (k, w) in mtp_weights.iter_mut().enumerate() {
            let targets = sequences * seq_len.saturating_sub(k + 1);
            *w = if targets == 0 { 0.0 } else { (settings.mtp_lambda / depth as f64 / targets as f64) as f32 };
        }
        grads.restart();
        stats.clear();
        for micro in tokens.chunks(settings.micro_batch.max(1) * stride) {
            let n = micro.len() / stride;
            let at =
                inputs.iter().position(|i| i.seg.count() == n && i.ids.len() == n * seq_len).unwrap_or_else(|| {
                    inputs.push(Input::new(cx, &vec![seq_len; n], depth));
                    inputs.len() - 1
                });
            let input = &mut inputs[at];
            input.fill(micro.chunks(stride));
            let balance = settings.balance.map(|(groups, alpha)| {
                let share = match groups {
                    BalanceGroups::Sequences => 1.0 / sequences as f64,
                    BalanceGroups::Batch => n as f64 / sequences as f64,
                };
                (groups, (alpha * share) as f32)
            });
            let main = (1.0 / (sequences * seq_len) as f64) as f32;
            let weights = LossWeights { main, mtp: mtp_weights, balance };
            model.forward_backward(cx, input, &weights, None, ws, stats, grads, None);
        }
        grads.finish();
    }

    /// Mean losses of the step whose gradients were taken last, over `sequences` of `seq_len` tokens.
    pub fn losses(&self, sequences: usize, seq_len: usize) -> StepLosses {
        let mean = |sum: f64, k: usize| sum / (sequences * seq_len.saturating_sub(k)).max(1) as f64;
        let mtp = self.stats.mtp.iter().enumerate().map(|(k, s)| mean(*s, k + 1)).collect();
        StepLosses { main: mean(self.stats.main, 0), mtp, balance: self.stats.balance }
    }

    /// Norm of the gradients taken last.
    pub fn grad_norm(&self) -> f64 {
        grad_norm(&self.cx, &self.grads)
    }

    /// Applies the gradients taken last, whose norm is `norm`: AdamW, then biases, then EMA.
    pub fn update(&mut self, settings: &StepSettings, norm: f64) {
        let scale = clip_scale(norm, settings.clip);
        let Self { cx, model, masters, optimizer, grads, .. } = self;
        optimizer.update(cx, model, masters, grads, settings.lr as f32, scale);
        if settings.gamma > 0.0 {
            for (block, loads) in self.model.moe_blocks_mut().zip(&self.stats.loads) {
                if let Some(bias) = block.moe_mut().and_then(|m| m.router.bias.as_mut()) {
                    let moved = bias.edit(&self.cx, |bias| update_bias(bias, loads, settings.gamma as f32));
                    moved.unwrap_or_else(|shared| panic!("training: {shared}"));
                }
            }
        }
        if let Some(ema) = &mut self.ema {
            ema.update(&self.cx, &self.model, &self.masters);
        }
    }
}
