//! What a configuration means in numbers: parameters, cache, arithmetic, memory. Nothing is built or guessed.
//!
//! Formulas, for T tokens a sequence, L layers, H heads, sizes as in the report's section 2.1:
//!
//! ```text
//! forward FLOPs a token  = 2 * active matrix parameters + L * 2 * H * (d_qk + d_v) * (T + 1) / 2
//! training FLOPs a token = 3 * forward, with every MTP module's block, its eh_proj and its use of the head added
//! cache a token          = L * (d_c + d_R) * 2 bytes
//! ```
//!
//! Active matrix parameters are those a token is multiplied with: the chosen and shared experts, attention, router, the
//! output head; not the embedding (a look-up), norms or biases. A causal token sees (T + 1) / 2 keys on average.
//! Recomputation is not counted, as in the field's MFU.

use hadal_weights::precision::Formats;
use hadal_weights::{ModelConfig, TopkMethod};
use serde::Serialize;

mod memory;
mod table;
#[cfg(test)]
mod tests;

pub use memory::{TrainingMemory, saved_at_the_ends, saved_by_layer, training_memory};

/// Bytes of a number in a cache.
const CACHED: u64 = 2;

/// Parameters of one part of the model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PartCount {
    /// What it is.
    pub name: &'static str,
    /// All parameters.
    pub total: u64,
    /// Those that one token uses.
    pub active: u64,
    /// Those of `active` that are multiplied with, twice in FLOPs.
    pub multiplied: u64,
}

/// Exact parameter counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// The main model by part.
    pub parts: Vec<PartCount>,
    /// The main model, router biases included.
    pub main: u64,
    /// Those of `main` that one token uses, the embedding table as a whole.
    pub active: u64,
    /// The same without the embedding table.
    pub active_without_embedding: u64,
    /// Those of `main` a token is multiplied with.
    pub multiplied: u64,
    /// All MTP modules' own parameters (embedding and head are the main model's).
    pub mtp: u64,
    /// Those of `mtp` that one token uses.
    pub mtp_active: u64,
    /// Those a token is multiplied with in all MTP modules, the shared head counted once for each.
    pub mtp_multiplied: u64,
}

/// Sums by kind, from which a layer's or a model's parts are added up.
#[derive(Clone, Debug, Default)]
struct Tally {
    embedding: u64,
    attention: u64,
    dense: u64,
    routed: u64,
    routed_active: u64,
    shared: u64,
    router: u64,
    router_bias: u64,
    norms: u64,
    head: u64,
    eh_proj: u64,
}

impl Tally {
    fn add_layer(&mut self, c: &ModelConfig, layer: usize) {
        let n = |x: usize| x as u64;
        let (d, heads) = (n(c.hidden_size), n(c.num_attention_heads));
        let query = heads * n(c.qk_head_dim());
        self.attention += match c.q_lora_rank.map(n) {
            Some(rank) => d * rank + rank * query,
            None => d * query,
        };
        self.attention += d * n(c.kv_lora_rank + c.qk_rope_head_dim);
        self.attention += n(c.kv_lora_rank) * heads * n(c.qk_nope_head_dim + c.v_head_dim);
        self.attention += heads * n(c.v_head_dim) * d;
        self.norms += 2 * d + n(c.q_lora_rank.unwrap_or(0)) + n(c.kv_lora_rank);
        if c.is_moe_layer(layer) {
            let expert = 3 * d * n(c.moe_intermediate_size);
            self.routed += n(c.n_routed_experts) * expert;
            self.routed_active += n(c.num_experts_per_tok) * expert;
            self.shared += n(c.n_shared_experts) * expert;
            self.router += n(c.n_routed_experts) * d;
            self.router_bias += if c.topk_method == TopkMethod::NoauxTc { n(c.n_routed_experts) } else { 0 };
        } else {
            self.dense += 3 * d * n(c.intermediate_size);
        }
    }

    fn parts(&self) -> Vec<PartCount> {
        let part = |name, total, active, multiplied| PartCount { name, total, active, multiplied };
        let used = |name, n| part(name, n, n, n);
        let router = self.router + self.router_bias;
        vec![
            part("embedding", self.embedding, self.embedding, 0),
            used("attention", self.attention),
            used("dense FFN", self.dense),
            part("routed experts", self.routed, self.routed_active, self.routed_active),
            used("shared experts", self.shared),
            part("router", router, router, self.router),
            part("norms", self.norms, self.norms, 0),
            used("MTP projection", self.eh_proj),
            used("output head", self.head),
        ]
    }
}

/// Counts a configuration's parameters.
pub fn count(c: &ModelConfig) -> Counts {
    let (d, vocab) = (c.hidden_size as u64, c.vocab_size as u64);
    let mut main = Tally { embedding: vocab * d, norms: d, ..Tally::default() };
    main.head = if c.tie_word_embeddings { 0 } else { vocab * d };
    (0..c.num_hidden_layers).for_each(|l| main.add_layer(c, l));
    let mut mtp = Tally::default();
    for l in c.num_hidden_layers..c.num_hidden_layers + c.num_nextn_predict_layers {
        mtp.add_layer(c, l);
        mtp.eh_proj += 2 * d * d;
        mtp.norms += 3 * d; // enorm, hnorm, shared_head.norm
    }
    let sum = |parts: &[PartCount], of: fn(&PartCount) -> u64| parts.iter().map(of).sum::<u64>();
    let (mut parts, mtp_parts) = (main.parts(), mtp.parts());
    parts.retain(|p| p.name != "MTP projection");
    // A tied head stores nothing, and is multiplied with all the same.
    let head = vocab * d;
    let untold = if c.tie_word_embeddings { head } else { 0 };
    Counts {
        main: sum(&parts, |p| p.total),
        active: sum(&parts, |p| p.active),
        active_without_embedding: sum(&parts, |p| p.active) - main.embedding,
        multiplied: sum(&parts, |p| p.multiplied) + untold,
        mtp: sum(&mtp_parts, |p| p.total),
        mtp_active: sum(&mtp_parts, |p| p.active),
        mtp_multiplied: sum(&mtp_parts, |p| p.multiplied) + head * c.num_nextn_predict_layers as u64,
        parts,
    }
}

/// Arithmetic of one token. Counts are whole numbers, kept as f64 because sequences may be of any length.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Flops {
    /// Sequence length for attention's share.
    pub sequence: usize,
    /// Forward pass of the main model.
    pub forward: f64,
    /// Attention's share of `forward`: scores and weighted sums.
    pub forward_attention: f64,
    /// Forward and backward, MTP modules included.
    pub training: f64,
}

/// See the module's header for the formulas.
pub fn flops(c: &ModelConfig, sequence: usize) -> Flops {
    let counts = count(c);
    let keys = 0.5 * (sequence as f64 + 1.0);
    let layer = 2.0 * c.num_attention_heads as f64 * (c.qk_head_dim() + c.v_head_dim) as f64 * keys;
    let forward_attention = layer * c.num_hidden_layers as f64;
    let forward = 2.0 * counts.multiplied as f64 + forward_attention;
    let mtp = 2.0 * counts.mtp_multiplied as f64 + layer * c.num_nextn_predict_layers as f64;
    Flops { sequence, forward, forward_attention, training: 3.0 * (forward + mtp) }
}

/// Everything `inspect` shows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inspection {
    /// Exact parameter counts.
    pub parameters: Counts,
    /// Layers of the main model.
    pub layers: usize,
    /// MTP modules.
    pub mtp_modules: usize,
    /// Bytes of cache for one token in one layer, in bf16.
    pub cache_per_token_layer: u64,
    /// Bytes of cache for one token in all layers of the main model.
    pub cache_per_token: u64,
    /// Longest context.
    pub max_position_embeddings: usize,
    /// Arithmetic of one token.
    pub flops_per_token: Flops,
    /// Bytes a training step in BF16 holds.
    pub training_memory: TrainingMemory,
    /// The same in FP8.
    pub training_memory_fp8: TrainingMemory,
    /// The same in a recipe's own formats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub training_memory_recipe: Option<TrainingMemory>,
}

/// Works out everything at a sequence length (default: 4,096 or the longest the model takes), memory in BF16, FP8 and the
/// formats of a recipe.
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
