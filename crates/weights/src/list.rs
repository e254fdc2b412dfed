//! Which tensors a checkpoint of a configuration holds, from the configuration alone: names, shapes, and which of them the
//! released weights store in FP8. The full model's list takes milliseconds; nothing of the model is allocated.
//!
//! The order is that of a model's parameters, which are made from it.

use crate::config::{ModelConfig, TopkMethod};
use crate::fp8::ScaleFormat;
use crate::header::SaveDtype;

/// A tensor that a model needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Other names under which the checkpoint repeats it (MTP's copies of embedding and head).
    pub aliases: Vec<String>,
}

/// What weights are stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightFormat {
    /// f32, exact.
    F32,
    /// BF16; router biases f32.
    Bf16,
    /// FP8 where the released weights are ([`is_fp8`]), else as `Bf16`.
    Fp8(ScaleFormat),
}

impl WeightFormat {
    /// What a tensor of this name is stored as.
    pub fn of(self, name: &str) -> SaveDtype {
        match self {
            Self::Fp8(scales) if is_fp8(name) => SaveDtype::F8E4M3(scales),
            Self::F32 => SaveDtype::F32,
            _ if is_router_bias(name) => SaveDtype::F32,
            _ => SaveDtype::Bf16,
        }
    }
}

/// Whether the released FP8 weights quantise the tensor: the projections of attention, dense layers and experts. In BF16
/// stay embedding, output head, norms and MTP's `eh_proj`, and the gate, whose choices a rounded weight would change.
pub fn is_fp8(name: &str) -> bool {
    let inside = name.contains(".self_attn.") || name.contains(".mlp.");
    inside && (name.ends_with("_proj.weight") || name.ends_with("_proj_with_mqa.weight"))
}

/// Selection biases are f32 in every format: their steps of 0.001 are below what BF16 tells apart.
pub fn is_router_bias(name: &str) -> bool {
    name.ends_with(".e_score_correction_bias")
}

/// Every tensor that `config` needs, in the order of visiting.
pub fn expected(config: &ModelConfig) -> Vec<Expected> {
    let mut list = List { config, all: Vec::new() };
    let (layers, d, vocab) = (config.num_hidden_layers, config.hidden_size, config.vocab_size);
    list.add("model.embed_tokens.weight".into(), &[vocab, d]);
    (0..layers).for_each(|l| list.block(l));
    list.add("model.norm.weight".into(), &[d]);
    let mut head = 0;
    if !config.tie_word_embeddings {
        head = list.all.len();
        list.add("lm_head.weight".into(), &[vocab, d]);
    }
    for l in layers..layers + config.num_nextn_predict_layers {
        let p = format!("model.layers.{l}");
        list.add(format!("{p}.enorm.weight"), &[d]);
        list.add(format!("{p}.hnorm.weight"), &[d]);
        list.add(format!("{p}.eh_proj.weight"), &[d, 2 * d]);
        list.block(l);
        list.add(format!("{p}.shared_head.norm.weight"), &[d]);
        list.all[0].aliases.push(format!("{p}.embed_tokens.weight"));
        list.all[head].aliases.push(format!("{p}.shared_head.head.weight"));
    }
    list.all
}

struct List<'a> {
    config: &'a ModelConfig,
    all: Vec<Expected>,
}

impl List<'_> {
    fn add(&mut self, name: String, shape: &[usize]) {
        self.all.push(Expected { name, shape: shape.into(), aliases: Vec::new() });
    }

    fn block(&mut self, layer: usize) {
        let (c, d) = (self.config, self.config.hidden_size);
        let (heads, rank) = (c.num_attention_heads, c.kv_lora_rank);
        let query = heads * c.qk_head_dim();
        let (p, a) = (format!("model.layers.{layer}"), format!("model.layers.{layer}.self_attn"));
        self.add(format!("{p}.input_layernorm.weight"), &[d]);
        if let Some(q) = c.q_lora_rank {
            self.add(format!("{a}.q_a_proj.weight"), &[q, d]);
        }
        self.add(format!("{a}.kv_a_proj_with_mqa.weight"), &[rank + c.qk_rope_head_dim, d]);
        match c.q_lora_rank {
            Some(q) => {
                self.add(format!("{a}.q_a_layernorm.weight"), &[q]);
                self.add(format!("{a}.q_b_proj.weight"), &[query, q]);
            }
            None => self.add(format!("{a}.q_proj.weight"), &[query, d]),
        }
        self.add(format!("{a}.kv_a_layernorm.weight"), &[rank]);
        self.add(format!("{a}.kv_b_proj.weight"), &[heads * (c.qk_nope_head_dim + c.v_head_dim), rank]);
        self.add(format!("{a}.o_proj.weight"), &[d, heads * c.v_head_dim]);
        self.add(format!("{p}.post_attention_layernorm.weight"), &[d]);
        let m = format!("{p}.mlp");
        if c.is_moe_layer(layer) {
            self.experts(&m);
        } else {
            self.ffn(&m, c.intermediate_size);
        }
    }

    fn experts(&mut self, prefix: &str) {
        let (c, d, inner) = (self.config, self.config.hidden_size, self.config.moe_intermediate_size);
        self.add(format!("{prefix}.gate.weight"), &[c.n_routed_experts, d]);
        if c.topk_method == TopkMethod::NoauxTc {
            self.add(format!("{prefix}.gate.e_score_correction_bias"), &[c.n_routed_experts]);
        }
        for e in 0..c.n_routed_experts {
            self.add(format!("{prefix}.experts.{e}.gate_proj.weight"), &[inner, d]);
            self.add(format!("{prefix}.experts.{e}.up_proj.weight"), &[inner, d]);
        }
        for e in 0..c.n_routed_experts {
            self.add(format!("{prefix}.experts.{e}.down_proj.weight"), &[d, inner]);
        }
        if c.n_shared_experts > 0 {
            self.ffn(&format!("{prefix}.shared_experts"), c.shared_intermediate_size());
        }
    }

    fn ffn(&mut self, prefix: &str, inner: usize) {
        let d = self.config.hidden_size;
        self.add(format!("{prefix}.gate_proj.weight"), &[inner, d]);
        self.add(format!("{prefix}.up_proj.weight"), &[inner, d]);
        self.add(format!("{prefix}.down_proj.weight"), &[d, inner]);
    }
}
