//! Computes the numbers of a configuration: parameters, cache, arithmetic, memory. It builds no model, and it estimates
//! nothing.
//!
//! Formulas for T tokens per sequence, L layers, H heads, and sizes as in the report's section 2.1:
//!
//! ```text
//! forward FLOPs per token  = 2 * active matrix parameters + L * 2 * H * (d_qk + d_v) * (T + 1) / 2
//! training FLOPs per token = 3 * forward, with every MTP module's block, its eh_proj and its use of the head added
//! cache per token          = L * (d_c + d_R) * 2 bytes
//! ```
//!
//! Active matrix parameters are those that a token is multiplied with: the chosen and shared experts, attention,
//! router, and the output head. They do not include the embedding (a look-up), norms or biases.
//! A causal token sees (T + 1) / 2 keys on average. Recomputation is not counted, as is usual for MFU.

use hadal_weights::ModelConfig;
use hadal_weights::list::{Parameter, Role, parameters};
use hadal_weights::precision::Formats;
use serde::Serialize;

mod memory;
mod table;
#[cfg(test)]
mod tests;

pub use memory::{TrainingMemory, saved_at_the_ends, saved_by_layer, training_memory};

/// Bytes per number in a cache.
const CACHED: u64 = 2;

/// Parameters of one part of the model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PartCount {
    /// Name of the part.
    pub name: &'static str,
    /// Number of parameters.
    pub total: u64,
    /// Parameters that one token uses.
    pub active: u64,
    /// Parameters of `active` that are used in products. They count twice in FLOPs.
    pub multiplied: u64,
}

/// Exact parameter counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// The parts of the main model.
    pub parts: Vec<PartCount>,
    /// The main model, router biases included.
    pub main: u64,
    /// Parameters of `main` that one token uses. The embedding table counts as a whole.
    pub active: u64,
    /// `active` without the embedding table.
    pub active_without_embedding: u64,
    /// Parameters of `main` that a token is multiplied with.
    pub multiplied: u64,
    /// Parameters of all MTP modules. Embedding and head belong to the main model.
    pub mtp: u64,
    /// Parameters of `mtp` that one token uses.
    pub mtp_active: u64,
    /// Parameters that a token is multiplied with in all MTP modules. The shared head counts once for each.
    pub mtp_multiplied: u64,
}

/// Names of the parts, in the table's order.
const PARTS: [&str; 9] = [
    "embedding",
    "attention",
    "dense FFN",
    "routed experts",
    "shared experts",
    "router",
    "norms",
    "MTP projection",
    "output head",
];

fn part_of(role: Role) -> &'static str {
    match role {
        Role::Embedding => "embedding",
        Role::AttentionDown | Role::QueryUp | Role::Query | Role::KeyValueUp | Role::AttentionOut => "attention",
        Role::DenseGateUp | Role::DenseDown => "dense FFN",
        Role::ExpertGateUp | Role::ExpertDown => "routed experts",
        Role::SharedGateUp | Role::SharedDown => "shared experts",
        Role::Router | Role::RouterBias => "router",
        Role::Norm => "norms",
        Role::MtpProjection => "MTP projection",
        Role::Head => "output head",
        Role::Adapter => unreachable!("adapters are in no list"),
    }
}

/// Adds up parameters by part.
fn tally<'a>(c: &ModelConfig, parameters: impl Iterator<Item = &'a Parameter>) -> Vec<PartCount> {
    let mut parts = PARTS.map(|name| PartCount { name, ..PartCount::default() });
    for p in parameters {
        let at = PARTS.iter().position(|name| *name == part_of(p.role)).expect("every role has a part");
        let (part, n) = (&mut parts[at], p.len() as u64);
        // A token uses only some of the experts.
        let chosen = matches!(p.role, Role::ExpertGateUp | Role::ExpertDown);
        let active = if chosen { n / p.groups as u64 * c.num_experts_per_tok as u64 } else { n };
        let looked_up = matches!(p.role, Role::Embedding | Role::Norm | Role::RouterBias);
        part.total += n;
        part.active += active;
        part.multiplied += if looked_up { 0 } else { active };
    }
    parts.into()
}

/// Counts a configuration's parameters.
pub fn count(c: &ModelConfig) -> Counts {
    let list = parameters(c);
    let (mtp, main): (Vec<_>, Vec<_>) = list.iter().partition(|p| p.layer.is_some_and(|l| l >= c.num_hidden_layers));
    let (mut parts, mtp_parts) = (tally(c, main.into_iter()), tally(c, mtp.into_iter()));
    let sum = |parts: &[PartCount], of: fn(&PartCount) -> u64| parts.iter().map(of).sum::<u64>();
    parts.retain(|p| p.name != "MTP projection");
    // A tied head has no weights of its own but is used in products.
    let head = (c.vocab_size * c.hidden_size) as u64;
    let untold = if c.tie_word_embeddings { head } else { 0 };
    Counts {
        main: sum(&parts, |p| p.total),
        active: sum(&parts, |p| p.active),
        active_without_embedding: sum(&parts, |p| p.active) - head,
        multiplied: sum(&parts, |p| p.multiplied) + untold,
        mtp: sum(&mtp_parts, |p| p.total),
        mtp_active: sum(&mtp_parts, |p| p.active),
        mtp_multiplied: sum(&mtp_parts, |p| p.multiplied) + head * c.num_nextn_predict_layers as u64,
        parts,
    }
}

/// Arithmetic for one token. Counts are whole numbers, stored as f64 because sequences may have any length.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Flops {
    /// Sequence length for the attention's FLOPs.
    pub sequence: usize,
    /// Forward pass of the main model.
    pub forward: f64,
    /// The part of `forward` for attention: scores and weighted sums.
    pub forward_attention: f64,
    /// Forward and backward, MTP modules included.
    pub training: f64,
}

/// The FLOPs of a token. The module's header has the formulas.
pub fn flops(c: &ModelConfig, sequence: usize) -> Flops {
    let counts = count(c);
    let keys = 0.5 * (sequence as f64 + 1.0);
    let layer = 2.0 * c.num_attention_heads as f64 * (c.qk_head_dim() + c.v_head_dim) as f64 * keys;
    let forward_attention = layer * c.num_hidden_layers as f64;
    let forward = 2.0 * counts.multiplied as f64 + forward_attention;
    let mtp = 2.0 * counts.mtp_multiplied as f64 + layer * c.num_nextn_predict_layers as f64;
    Flops { sequence, forward, forward_attention, training: 3.0 * (forward + mtp) }
}

/// Everything that `inspect` shows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inspection {
    /// Exact parameter counts.
    pub parameters: Counts,
    /// Layers of the main model.
    pub layers: usize,
    /// MTP modules.
    pub mtp_modules: usize,
    /// Bytes of cache per token and layer, in bf16.
    pub cache_per_token_layer: u64,
    /// Bytes of cache per token in all layers of the main model.
    pub cache_per_token: u64,
    /// Longest context.
    pub max_position_embeddings: usize,
    /// Arithmetic for one token.
    pub flops_per_token: Flops,
    /// Memory of a training step in BF16, in bytes.
    pub training_memory: TrainingMemory,
    /// The same in FP8.
    pub training_memory_fp8: TrainingMemory,
    /// The same in the formats of a recipe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub training_memory_recipe: Option<TrainingMemory>,
}

/// Computes everything at a sequence length. The default is 4,096 or the model's longest context. Memory is given in
/// BF16, FP8 and the formats of a recipe.
pub fn inspect(c: &ModelConfig, sequence: Option<usize>, recipe: Option<&Formats>) -> Inspection {
    let sequence = sequence.unwrap_or(c.max_position_embeddings.min(4096));
    let cache = CACHED * (c.kv_lora_rank + c.qk_rope_head_dim) as u64;
    Inspection {
        parameters: count(c),
        layers: c.num_hidden_layers,
        mtp_modules: c.num_nextn_predict_layers,
        cache_per_token_layer: cache,
        cache_per_token: cache * c.num_hidden_layers as u64,
        max_position_embeddings: c.max_position_embeddings,
        flops_per_token: flops(c, sequence),
        training_memory: training_memory(c, &Formats::BF16),
        training_memory_fp8: training_memory(c, &Formats::FP8),
        training_memory_recipe: recipe.map(|formats| training_memory(c, formats)),
    }
}
