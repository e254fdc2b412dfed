//! How many tokens each routed expert gets in passes that continue sequences. Training counts the same of its steps
//! ([`StepStats::loads`](crate::StepStats)).
//!
//! One thread counts, with plain stores. Others may read at any time. So counting costs no lock and no memory, and nobody
//! has to wait for a pass to end.

use crate::block::BlockSaved;
use crate::model::Model;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Tokens of each routed expert since the start, by layer.
#[derive(Debug)]
pub struct ExpertLoads {
    /// The MoE layers in the order of their `moe_index`: each one's number in the model. Layers from `blocks` on are MTP
    /// modules.
    layers: Vec<usize>,
    blocks: usize,
    experts: usize,
    /// `[layers, experts]`
    tokens: Vec<AtomicU64>,
    used: AtomicU64,
}

impl ExpertLoads {
    /// Nothing counted yet.
    pub fn new(model: &Model) -> Self {
        let blocks = model.blocks.iter().chain(model.mtp.iter().map(|m| &m.block));
        let layers: Vec<usize> = blocks.enumerate().filter(|(_, b)| b.moe_index.is_some()).map(|(l, _)| l).collect();
        let experts = model.config.n_routed_experts;
        let tokens = (0..layers.len() * experts).map(|_| AtomicU64::new(0)).collect();
        Self { layers, blocks: model.blocks.len(), experts, tokens, used: AtomicU64::new(0) }
    }

    /// The MoE layers: number in the model, whether it is an MTP module, and the tokens of each expert.
    pub fn layers(&self) -> impl Iterator<Item = (usize, bool, impl Iterator<Item = u64>)> {
        self.layers.iter().enumerate().map(|(i, layer)| {
            let tokens = &self.tokens[i * self.experts..][..self.experts];
            (*layer, *layer >= self.blocks, tokens.iter().map(|tokens| tokens.load(Relaxed)))
        })
    }

    /// Distinct experts that passes used, summed over layers and passes.
    pub fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    /// Counts the rows that a block has sent to its experts. It is called by one thread.
    pub(crate) fn count(&self, index: Option<usize>, block: &BlockSaved) {
        let Some((index, moe)) = index.zip(block.moe()) else { return };
        let layer = &self.tokens[index * self.experts..][..self.experts];
        let mut used = 0;
        for (tokens, ends) in layer.iter().zip(moe.dispatched.plan.offsets.i32().windows(2)) {
            if ends[0] < ends[1] {
                add(tokens, (ends[1] - ends[0]) as u64);
                used += 1;
            }
        }
        add(&self.used, used);
    }
}

/// Adds to a counter that no other thread writes.
fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Relaxed) + more, Relaxed);
}
