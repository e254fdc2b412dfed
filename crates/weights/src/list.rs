//! The single list of a model's parameters, made from its configuration alone: names, shapes, and roles.
//!
//! Constructors, audits, conversions, counts and memory estimates all read this list. The position of a parameter in it
//! is its index everywhere. Matrices that multiply the same input are parts of one parameter, so that a single product
//! computes them all. The full model's list takes milliseconds, and no weight is allocated.

use crate::config::{ModelConfig, TopkMethod};
use crate::fp8::ScaleFormat;
use crate::header::SaveDtype;
use crate::precision::{Precision, Product, RunFormat, RunFormats};
use std::fmt;
use std::ops::Range;

/// The kind of a parameter. It decides initialisation, weight decay, and whether there is a gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A weight matrix or an embedding table: initialised from a normal distribution, with weight decay.
    Matrix,
    /// A normalisation gain: initialised to one, without weight decay.
    Norm,
    /// A router's selection bias (`e_score_correction_bias`): initialised to zero, without gradient. Only the balance
    /// rule changes it.
    Bias,
}

/// The role of a parameter in the architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// `embed_tokens`. It is also the output head if the two are tied.
    Embedding,
    /// `lm_head`.
    Head,
    /// Any normalisation gain.
    Norm,
    /// `kv_a_proj_with_mqa`, and `q_a_proj` if the query has a latent.
    AttentionDown,
    /// `q_b_proj`.
    QueryUp,
    /// `q_proj`, for a query without a latent.
    Query,
    /// `kv_b_proj`.
    KeyValueUp,
    /// `o_proj`.
    AttentionOut,
    /// `gate_proj` and `up_proj` of a dense layer.
    DenseGateUp,
    /// `down_proj` of a dense layer.
    DenseDown,
    /// `gate_proj` and `up_proj` of the shared experts.
    SharedGateUp,
    /// `down_proj` of the shared experts.
    SharedDown,
    /// `gate_proj` and `up_proj` of every routed expert.
    ExpertGateUp,
    /// `down_proj` of every routed expert.
    ExpertDown,
    /// `mlp.gate.weight`.
    Router,
    /// `mlp.gate.e_score_correction_bias`.
    RouterBias,
    /// `eh_proj` of an MTP module.
    MtpProjection,
    /// One of the two matrices of a low-rank adapter. Adapters are added to a model, so no list contains them.
    Adapter,
}

impl Role {
    /// The kind of a parameter with this role.
    pub fn kind(self) -> Kind {
        match self {
            Self::Norm => Kind::Norm,
            Self::RouterBias => Kind::Bias,
            _ => Kind::Matrix,
        }
    }
}

/// A named part of a parameter: consecutive elements that are one tensor of a Hugging Face checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// Other names under which a checkpoint repeats the same tensor (MTP's copies of embedding and head).
    pub aliases: Vec<String>,
    /// Its shape.
    pub shape: Vec<usize>,
    /// The index of its first element in the parameter.
    pub start: usize,
}

impl Part {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The range of its elements in the parameter.
    pub fn range(&self) -> Range<usize> {
        self.start..self.start + self.len()
    }
}

/// One parameter of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its role.
    pub role: Role,
    /// Layer number as in the checkpoint. `None` outside of layers.
    pub layer: Option<usize>,
    /// Named parts that cover the parameter, in order.
    pub parts: Vec<Part>,
    /// Number of matrices of the same shape that lie one after another (experts). 1 for everything else.
    pub groups: usize,
    /// Rows and columns of all parts together, `[groups * n, k]`, or `[n]`.
    pub shape: Vec<usize>,
    /// Whether it is an embedding that also serves as the output head.
    pub tied: bool,
}

impl Parameter {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        self.role.kind()
    }
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Number of outputs of one of its matrices.
    pub fn n(&self) -> usize {
        self.shape[0] / self.groups
    }
    /// Number of inputs of one of its matrices.
    pub fn k(&self) -> usize {
        self.shape[1..].iter().product()
    }
    /// Whether an optimiser updates it.
    pub fn trainable(&self) -> bool {
        self.kind() != Kind::Bias
    }
    /// Whether weight decay applies. Only matrices decay (report 4.2).
    pub fn decays(&self) -> bool {
        self.kind() == Kind::Matrix
    }
    /// Format of the products with it. `None` if there are no products with it.
    pub fn product(&self, table: &Precision) -> Option<Product> {
        Some(match self.role {
            Role::Norm | Role::RouterBias => return None,
            Role::Embedding => return self.tied.then_some(Product::Compute),
            Role::Head | Role::Adapter => Product::Compute,
            Role::AttentionDown | Role::Query => table.attn_down,
            Role::QueryUp => table.query_up,
            Role::KeyValueUp => table.kv_up,
            Role::AttentionOut => table.attn_out,
            Role::DenseGateUp | Role::SharedGateUp => table.gate_up,
            Role::DenseDown | Role::SharedDown => table.down,
            Role::ExpertGateUp => table.expert_gate_up,
            Role::ExpertDown => table.expert_down,
            Role::Router => Product::F32,
            Role::MtpProjection => table.mtp_proj,
        })
    }
    /// How a model that only runs stores it, if there are products with it.
    pub fn run_format(&self, formats: &RunFormats) -> RunFormat {
        match self.role {
            Role::Norm | Role::RouterBias | Role::Router | Role::Adapter => RunFormat::Compute,
            Role::Embedding | Role::Head => formats.head,
            Role::AttentionDown
            | Role::Query
            | Role::QueryUp
            | Role::KeyValueUp
            | Role::AttentionOut
            | Role::MtpProjection => formats.attention,
            Role::DenseGateUp
            | Role::DenseDown
            | Role::SharedGateUp
            | Role::SharedDown
            | Role::ExpertGateUp
            | Role::ExpertDown => formats.experts,
        }
    }
    /// Its name in messages: the name of its first part.
    pub fn name(&self) -> &str {
        &self.parts[0].name
    }
}

/// Every parameter of a model, main model first, in the order of its layers.
pub fn parameters(config: &ModelConfig) -> Vec<Parameter> {
    let mut list = List { config, layer: None, all: Vec::new() };
    let (layers, d, vocab) = (config.num_hidden_layers, config.hidden_size, config.vocab_size);
    list.matrix(Role::Embedding, 1, vec![("model.embed_tokens".into(), vocab)], d);
    (0..layers).for_each(|l| list.block(l));
    list.norm("model.norm".into(), d);
    let mut head = 0;
    if config.tie_word_embeddings {
        list.all[0].tied = true;
    } else {
        head = list.all.len();
        list.matrix(Role::Head, 1, vec![("lm_head".into(), vocab)], d);
    }
    for l in layers..layers + config.num_nextn_predict_layers {
        let p = format!("model.layers.{l}");
        list.layer = Some(l);
        list.norm(format!("{p}.enorm"), d);
        list.norm(format!("{p}.hnorm"), d);
        list.matrix(Role::MtpProjection, 1, vec![(format!("{p}.eh_proj"), d)], 2 * d);
        list.block(l);
        list.layer = Some(l);
        list.norm(format!("{p}.shared_head.norm"), d);
        list.layer = None;
        list.all[0].parts[0].aliases.push(format!("{p}.embed_tokens.weight"));
        list.all[head].parts[0].aliases.push(format!("{p}.shared_head.head.weight"));
    }
    list.all
}

/// Every tensor that a checkpoint of `config` needs, in the order of [`parameters`].
pub fn expected(config: &ModelConfig) -> Vec<Part> {
    parameters(config).into_iter().flat_map(|p| p.parts).collect()
}

struct List<'a> {
    config: &'a ModelConfig,
    layer: Option<usize>,
    all: Vec<Parameter>,
}

impl List<'_> {
    fn vector(&mut self, role: Role, name: String, n: usize) {
        let part = Part { name, aliases: Vec::new(), shape: vec![n], start: 0 };
        let (layer, shape) = (self.layer, vec![n]);
        self.all.push(Parameter { role, layer, parts: vec![part], groups: 1, shape, tied: false });
    }

    fn norm(&mut self, name: String, n: usize) {
        self.vector(Role::Norm, format!("{name}.weight"), n);
    }

    /// Adds matrices given by name and rows, one below the other. Each has `k` columns.
    fn matrix(&mut self, role: Role, groups: usize, rows: Vec<(String, usize)>, k: usize) {
        let mut start = 0;
        let part = |(name, n): (String, usize)| {
            let part = Part { name: format!("{name}.weight"), aliases: Vec::new(), shape: vec![n, k], start };
            start += n * k;
            part
        };
        let parts: Vec<Part> = rows.into_iter().map(part).collect();
        let (layer, shape) = (self.layer, vec![start / k, k]);
        self.all.push(Parameter { role, layer, parts, groups, shape, tied: false });
    }

    fn block(&mut self, layer: usize) {
        let (c, d) = (self.config, self.config.hidden_size);
        let (heads, rank) = (c.num_attention_heads, c.kv_lora_rank);
        let query = heads * c.qk_head_dim();
        let (p, a) = (format!("model.layers.{layer}"), format!("model.layers.{layer}.self_attn"));
        self.layer = Some(layer);
        self.norm(format!("{p}.input_layernorm"), d);
        let down_kv = (format!("{a}.kv_a_proj_with_mqa"), rank + c.qk_rope_head_dim);
        if let Some(q) = c.q_lora_rank {
            self.matrix(Role::AttentionDown, 1, vec![(format!("{a}.q_a_proj"), q), down_kv], d);
            self.norm(format!("{a}.q_a_layernorm"), q);
            self.matrix(Role::QueryUp, 1, vec![(format!("{a}.q_b_proj"), query)], q);
        } else {
            self.matrix(Role::AttentionDown, 1, vec![down_kv], d);
            self.matrix(Role::Query, 1, vec![(format!("{a}.q_proj"), query)], d);
        }
        self.norm(format!("{a}.kv_a_layernorm"), rank);
        let up = heads * (c.qk_nope_head_dim + c.v_head_dim);
        self.matrix(Role::KeyValueUp, 1, vec![(format!("{a}.kv_b_proj"), up)], rank);
        self.matrix(Role::AttentionOut, 1, vec![(format!("{a}.o_proj"), d)], heads * c.v_head_dim);
        self.norm(format!("{p}.post_attention_layernorm"), d);
        let m = format!("{p}.mlp");
        if c.is_moe_layer(layer) {
            self.experts(&m);
        } else {
            self.ffn([Role::DenseGateUp, Role::DenseDown], &m, c.intermediate_size);
        }
        self.layer = None;
    }

    fn experts(&mut self, prefix: &str) {
        let (c, d, inner) = (self.config, self.config.hidden_size, self.config.moe_intermediate_size);
        let experts = c.n_routed_experts;
        self.matrix(Role::Router, 1, vec![(format!("{prefix}.gate"), experts)], d);
        if c.topk_method == TopkMethod::NoauxTc {
            self.vector(Role::RouterBias, format!("{prefix}.gate.e_score_correction_bias"), experts);
        }
        let name = |e: usize, what: &str| format!("{prefix}.experts.{e}.{what}");
        let gate_up = (0..experts).flat_map(|e| ["gate_proj", "up_proj"].map(|what| (name(e, what), inner)));
        self.matrix(Role::ExpertGateUp, experts, gate_up.collect(), d);
        let down = (0..experts).map(|e| (name(e, "down_proj"), d));
        self.matrix(Role::ExpertDown, experts, down.collect(), inner);
        if c.n_shared_experts > 0 {
            let roles = [Role::SharedGateUp, Role::SharedDown];
            self.ffn(roles, &format!("{prefix}.shared_experts"), c.shared_intermediate_size());
        }
    }

    fn ffn(&mut self, [gate_up, down]: [Role; 2], prefix: &str, inner: usize) {
        let d = self.config.hidden_size;
        let rows = ["gate_proj", "up_proj"].map(|what| (format!("{prefix}.{what}"), inner)).to_vec();
        self.matrix(gate_up, 1, rows, d);
        self.matrix(down, 1, vec![(format!("{prefix}.down_proj"), d)], inner);
    }
}

/// The format in which weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightFormat {
    /// f32, exact.
    F32,
    /// BF16, with router biases in f32.
    Bf16,
    /// FP8 for the tensors that are FP8 in the released weights ([`is_fp8`]), the rest as for `Bf16`.
    Fp8(ScaleFormat),
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Fp8(ScaleFormat::F32) => "fp8 with f32 scales",
            Self::Fp8(ScaleFormat::Ue8m0) => "fp8 with ue8m0 scales",
            Self::Fp8(ScaleFormat::Ue8m0Byte) => "fp8 with ue8m0 scales in bytes",
            Self::Fp8(ScaleFormat::Bf16) => "fp8 with bf16 scales",
        })
    }
}

impl WeightFormat {
    /// The stored type of a tensor with this name.
    pub fn of(self, name: &str) -> SaveDtype {
        match self {
            Self::Fp8(scales) if is_fp8(name) => SaveDtype::F8E4M3(scales),
            Self::F32 => SaveDtype::F32,
            _ if is_router_bias(name) => SaveDtype::F32,
            _ => SaveDtype::Bf16,
        }
    }
}

/// Whether the released FP8 weights quantise this tensor. These are the projections of attention, dense layers and
/// experts. Embedding, output head, norms, MTP's `eh_proj` and the gate stay in BF16. Rounding the gate's weights would
/// change its choices.
pub fn is_fp8(name: &str) -> bool {
    let inside = name.contains(".self_attn.") || name.contains(".mlp.");
    inside && (name.ends_with("_proj.weight") || name.ends_with("_proj_with_mqa.weight"))
}

/// Selection biases are f32 in every format, because their steps of 0.001 are too small for BF16.
pub fn is_router_bias(name: &str) -> bool {
    name.ends_with(".e_score_correction_bias")
}
