//! The model's shape: everything `config.json` says that changes a number.
//!
//! Field names are those of Hugging Face. So files, error messages and this struct use the same words. `config_json.rs`
//! handles the different layouts of the JSON: old `rope_scaling`, new `rope_parameters`, aliases, defaults by family.
//! Here each setting has exactly one form. Report: 2.1 (MLA, DeepSeekMoE), 2.2 (MTP), 4.2 (sizes), 4.3 (YaRN).

use crate::yarn::{self, Yarn};
use hadal_base::{IoContext, IoError, foreign, read_small};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};

/// Epsilon of the two norms inside MLA. The released code fixes it, whatever the value of `rms_norm_eps`.
pub const MLA_NORM_EPS: f64 = 1e-6;

/// The family of a checkpoint. It decides the values of keys that a file leaves out. For V2's two methods of choosing
/// experts, it also decides the use of `routed_scaling_factor` ([`ModelConfig::gate_scale_after_norm`]). The keys
/// decide everything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ModelType {
    /// DeepSeek-V3, R1, Moonlight and others of that layout.
    #[serde(rename = "deepseek_v3")]
    DeepseekV3,
    /// DeepSeek-V2, V2-Lite, V2.5.
    #[serde(rename = "deepseek_v2")]
    DeepseekV2,
}

/// How router logits become affinities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScoringFunc {
    /// Each expert on its own, as in V3.
    Sigmoid,
    /// Over all experts, as in V2.
    Softmax,
}

/// How experts are chosen from the affinities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TopkMethod {
    /// The best `num_experts_per_tok` experts of all.
    Greedy,
    /// First the `topk_group` groups with the best single expert are chosen (V2).
    GroupLimitedGreedy,
    /// First the groups with the best two biased scores are chosen. A bias balances the load (V3).
    NoauxTc,
}

/// A model's configuration. It comes from [`ModelConfig::from_file`], [`ModelConfig::named`], from JSON, or from
/// changing [`ModelConfig::defaults`]. Call [`ModelConfig::validate`] after changing fields directly.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "serde_json::Value", into = "serde_json::Value")]
pub struct ModelConfig {
    /// Family.
    pub model_type: ModelType,
    /// Rows of embedding and output head.
    pub vocab_size: usize,
    /// Width of the residual stream, d.
    pub hidden_size: usize,
    /// Width of the dense feed-forward layers.
    pub intermediate_size: usize,
    /// Width of one expert. All shared experts together form one expert that is `n_shared_experts` times as wide.
    pub moe_intermediate_size: usize,
    /// Layers of the main model.
    pub num_hidden_layers: usize,
    /// Depth of Multi-Token Prediction. It is 0 if the file does not have the key.
    pub num_nextn_predict_layers: usize,
    /// Heads, n_h.
    pub num_attention_heads: usize,
    /// Number of shared experts, N_s. Every token goes to them.
    pub n_shared_experts: usize,
    /// Number of routed experts. 0 means that every layer is dense.
    pub n_routed_experts: usize,
    /// Number of routed experts per token, K_r.
    pub num_experts_per_tok: usize,
    /// Layers before this one are dense.
    pub first_k_dense_replace: usize,
    /// From `first_k_dense_replace` on, the layers whose index is a multiple of this have experts.
    pub moe_layer_freq: usize,
    /// Rank of the query latent, d'_c. `None` means one full matrix `q_proj`.
    pub q_lora_rank: Option<usize>,
    /// Width of the cached latent, d_c.
    pub kv_lora_rank: usize,
    /// Width of the part of a head without position, d_h.
    pub qk_nope_head_dim: usize,
    /// Width of the rotary part, d_R. It must be even.
    pub qk_rope_head_dim: usize,
    /// Width of a value, d_v.
    pub v_head_dim: usize,
    /// Number of groups of experts (nodes).
    pub n_group: usize,
    /// Number of groups that a token may go to, M.
    pub topk_group: usize,
    /// How logits become affinities.
    pub scoring_func: ScoringFunc,
    /// How experts are chosen from the affinities.
    pub topk_method: TopkMethod,
    /// Whether gate values are divided by their sum.
    pub norm_topk_prob: bool,
    /// Factor of the gate values, also after a division ([`ModelConfig::gate_scale_after_norm`]).
    pub routed_scaling_factor: f64,
    /// Epsilon of all norms except those inside MLA ([`MLA_NORM_EPS`]).
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// YaRN, if any.
    pub rope_scaling: Option<Yarn>,
    /// Longest context.
    pub max_position_embeddings: usize,
    /// Whether the output head is the embedding table.
    pub tie_word_embeddings: bool,
    /// Rotary pairs are (2i, 2i + 1). Nothing else is supported.
    pub rope_interleave: bool,
    /// Standard deviation of fresh weights.
    pub initializer_range: f64,
    /// The token that begins a text.
    pub bos_token_id: Option<u32>,
    /// The tokens that end a text. Empty if the file says null.
    pub eos_token_id: Vec<u32>,
    /// `torch_dtype` or `dtype`: the format of the stored weights. It is only information.
    pub dtype: Option<String>,
    /// The `quantization_config` as written in the file.
    pub quantization_config: Option<serde_json::Value>,
    /// Keys that have no effect here. They are kept and written back.
    pub extra: serde_json::Map<String, serde_json::Value>,
}

/// One thing wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key of `config.json`.
    pub key: String,
    /// What it must be and what it is.
    pub reason: String,
}

impl Problem {
    pub(crate) fn new(key: &str, reason: impl Into<String>) -> Self {
        Self { key: key.into(), reason: reason.into() }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The file is of another kind.
    #[error("{path} is not a configuration: it is {what}", path = path.display())]
    Foreign {
        /// Which file.
        path: PathBuf,
        /// What it is, and what to do.
        what: &'static str,
    },
    /// The file is not JSON.
    #[error("{path} is not valid JSON: {error}", path = path.display())]
    Json {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        error: serde_json::Error,
    },
    /// Keys of the wrong type, or values that do not make a model.
    #[error("{}", Problems(.0))]
    Invalid(Vec<Problem>),
    /// Keys ask for something that the model does not compute. Nothing else is wrong, or the family is known to need it.
    #[error("{}", Problems(.0))]
    NotComputed(Vec<Problem>),
    /// Like `Invalid`, for a file.
    #[error("{path}: {error}", path = path.display())]
    InFile {
        /// Which file.
        path: PathBuf,
        /// What is wrong in it.
        error: Box<ConfigError>,
    },
}

/// The content of a `config.json`.
pub(crate) fn read_json(path: &Path) -> Result<serde_json::Value, ConfigError> {
    let text = read_small(path, MAX_CONFIG).at("read", path)?;
    serde_json::from_slice(&text).map_err(|error| match foreign(&text) {
        Some(what) => ConfigError::Foreign { path: path.into(), what },
        None => ConfigError::Json { path: path.into(), error },
    })
}

struct Problems<'a>(&'a [Problem]);
impl fmt::Display for Problems<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, p) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { "; " };
            write!(f, "{separator}`{}`: {}", p.key, p.reason)?;
        }
        Ok(())
    }
}

const NAMED: [(&str, &str); 3] = [
    ("deepseek-v3", include_str!("../configs/deepseek-v3.json")),
    ("v2-lite-shape", include_str!("../configs/v2-lite-shape.json")),
    ("small", include_str!("../configs/small.json")),
];

impl ModelConfig {
    /// Names that [`ModelConfig::named`] knows.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMED.iter().map(|(name, _)| *name)
    }

    /// A configuration that comes with the program.
    pub fn named(name: &str) -> Option<Self> {
        let (_, text) = NAMED.iter().find(|(n, _)| *n == name)?;
        Some(Self::from_json(text).expect("embedded configurations are valid"))
    }

    /// Reads a `config.json` and checks it.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        Self::from_value(read_json(path)?).map_err(|e| ConfigError::InFile { path: path.into(), error: Box::new(e) })
    }

    /// Reads the text of a `config.json` and checks it.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let path = PathBuf::from("configuration");
        Self::from_value(serde_json::from_str(text).map_err(|error| ConfigError::Json { path, error })?)
    }

    /// Width of a query or key: the part without position and the rotary part.
    pub fn qk_head_dim(&self) -> usize {
        self.qk_nope_head_dim + self.qk_rope_head_dim
    }

    /// Width of the shared experts when they are seen as one feed-forward layer.
    pub fn shared_intermediate_size(&self) -> usize {
        self.n_shared_experts * self.moe_intermediate_size
    }

    /// Whether layer `l` has experts. MTP modules are the layers from `num_hidden_layers` on.
    pub fn is_moe_layer(&self, l: usize) -> bool {
        self.n_routed_experts > 0 && l >= self.first_k_dense_replace && l.is_multiple_of(self.moe_layer_freq)
    }

    /// Factor of attention scores: `qk_head_dim^-1/2`, and with YaRN also `m(mscale_all_dim)^2`.
    pub fn softmax_scale(&self) -> f64 {
        let m = self.rope_scaling.as_ref().map_or(1.0, |y| yarn::mscale(y.factor, y.mscale_all_dim));
        (self.qk_head_dim() as f64).powf(-0.5) * m * m
    }

    /// Factor of cosine and sine. It is 1 for V3.
    pub fn rope_attention_factor(&self) -> f64 {
        self.rope_scaling.as_ref().map_or(1.0, Yarn::cos_sin_factor)
    }

    /// The angle per position of each of the `qk_rope_head_dim / 2` rotary pairs.
    pub fn rope_inv_freq(&self) -> Vec<f64> {
        yarn::inv_freq(self.qk_rope_head_dim, self.rope_theta, self.rope_scaling.as_ref())
    }

    /// Whether gate values are multiplied by `routed_scaling_factor` even after `norm_topk_prob` has normalised them.
    /// This is so wherever `noaux_tc` chooses, in any family (DeepSeek-VL2 is a V2 with it), and in all of V3's code.
    /// In V2's own code, which has only V2's two methods, the two exclude each other.
    pub fn gate_scale_after_norm(&self) -> bool {
        self.topk_method == TopkMethod::NoauxTc || self.model_type == ModelType::DeepseekV3
    }
}

/// Size in bytes of the largest `config.json`.
pub(crate) const MAX_CONFIG: u64 = 10_000_000;
/// Largest value of any single size, so that products of a few of them do not overflow.
const MAX_SIZE: usize = 1 << 18;
pub(crate) const MAX_LAYERS: usize = 1 << 12;
const MAX_EXPERTS: usize = 1 << 13;
/// Largest number of experts in all layers together. Each tensor has an entry in a list, and the list must fit into
/// memory. The full model has 15 thousand.
const MAX_ALL_EXPERTS: usize = 1 << 17;

impl ModelConfig {
    /// Checks that the values make a model. The error names every key that does not.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let problems = self.problems();
        if problems.is_empty() { Ok(()) } else { Err(ConfigError::Invalid(problems)) }
    }

    pub(crate) fn problems(&self) -> Vec<Problem> {
        let mut found = Vec::new();
        self.check_sizes(&mut found);
        self.check_numbers(&mut found);
        if self.n_routed_experts > 0 {
            self.check_experts(&mut found);
        }
        found
    }

    fn check_sizes(&self, found: &mut Vec<Problem>) {
        let sizes = [
            ("vocab_size", self.vocab_size, 1, 1 << 24),
            ("hidden_size", self.hidden_size, 1, MAX_SIZE),
            ("intermediate_size", self.intermediate_size, 1, MAX_SIZE),
            ("num_hidden_layers", self.num_hidden_layers, 1, MAX_LAYERS),
            ("num_nextn_predict_layers", self.num_nextn_predict_layers, 0, MAX_LAYERS),
            ("num_attention_heads", self.num_attention_heads, 1, MAX_EXPERTS),
            ("q_lora_rank", self.q_lora_rank.unwrap_or(1), 1, MAX_SIZE),
            ("kv_lora_rank", self.kv_lora_rank, 1, MAX_SIZE),
            ("qk_nope_head_dim", self.qk_nope_head_dim, 1, MAX_EXPERTS),
            ("qk_rope_head_dim", self.qk_rope_head_dim, 2, MAX_EXPERTS),
            ("v_head_dim", self.v_head_dim, 1, MAX_EXPERTS),
            ("n_routed_experts", self.n_routed_experts, 0, MAX_EXPERTS),
            ("n_shared_experts", self.n_shared_experts, 0, MAX_EXPERTS),
            ("moe_layer_freq", self.moe_layer_freq, 1, MAX_LAYERS),
            ("max_position_embeddings", self.max_position_embeddings, 1, 1 << 30),
        ];
        for (key, value, low, high) in sizes {
            require(found, (low..=high).contains(&value), key, || {
                format!("must be between {low} and {high}, is {value}")
            });
        }
        let rope = self.qk_rope_head_dim;
        require(found, rope.is_multiple_of(2), "qk_rope_head_dim", || format!("must be even, is {rope}"));
        require(found, self.rope_interleave, "rope_interleave", || {
            "must be true, is false: rotary pairs of halves are not supported".into()
        });
    }

    fn check_numbers(&self, found: &mut Vec<Problem>) {
        let mut number = |key: &str, value: f64, low: f64, open: bool| {
            let fits = value.is_finite() && if open { value > low } else { value >= low };
            let bound = if open { "above" } else { "at least" };
            require(found, fits, key, || format!("must be a number {bound} {low}, is {value}"));
        };
        number("rms_norm_eps", self.rms_norm_eps, 0.0, true);
        number("rope_theta", self.rope_theta, 1.0, true);
        number("routed_scaling_factor", self.routed_scaling_factor, 0.0, true);
        number("initializer_range", self.initializer_range, 0.0, false);
        if let Some(y) = &self.rope_scaling {
            number("rope_scaling.factor", y.factor, 1.0, false);
            number(
                "rope_scaling.original_max_position_embeddings",
                y.original_max_position_embeddings as f64,
                1.0,
                false,
            );
            number("rope_scaling.beta_slow", y.beta_slow, 0.0, true);
            number("rope_scaling.beta_fast", y.beta_fast, y.beta_slow, false);
            number("rope_scaling.mscale", y.mscale, 0.0, false);
            number("rope_scaling.mscale_all_dim", y.mscale_all_dim, 0.0, false);
            number("rope_scaling.attention_factor", y.attention_factor.unwrap_or(1.0), 0.0, true);
        }
    }

    fn check_experts(&self, found: &mut Vec<Problem>) {
        let (experts, groups, kept) = (self.n_routed_experts, self.n_group, self.topk_group);
        let (top_k, width) = (self.num_experts_per_tok, self.moe_intermediate_size);
        require(found, (1..=MAX_SIZE).contains(&width), "moe_intermediate_size", || {
            format!("must be between 1 and {MAX_SIZE}, is {width}")
        });
        let shared = self.n_shared_experts.saturating_mul(width);
        require(found, shared <= MAX_SIZE, "n_shared_experts", || {
            format!("times moe_intermediate_size must be at most {MAX_SIZE}, is {shared}")
        });
        let layers = self.num_hidden_layers.saturating_add(self.num_nextn_predict_layers);
        let all = layers.saturating_mul(experts);
        require(found, all <= MAX_ALL_EXPERTS, "n_routed_experts", || {
            format!("times num_hidden_layers and num_nextn_predict_layers must be at most {MAX_ALL_EXPERTS}, is {all}")
        });
        require(found, (1..=experts).contains(&top_k), "num_experts_per_tok", || {
            format!("must be between 1 and n_routed_experts ({experts}), is {top_k}")
        });
        if self.topk_method == TopkMethod::Greedy {
            return; // groups have no effect
        }
        require(found, groups >= 1 && experts.is_multiple_of(groups), "n_group", || {
            format!("must divide n_routed_experts ({experts}), is {groups}")
        });
        require(found, (1..=groups).contains(&kept), "topk_group", || {
            format!("must be between 1 and n_group ({groups}), is {kept}")
        });
        let in_group = experts / groups.max(1);
        require(found, self.topk_method != TopkMethod::NoauxTc || groups <= 1 || in_group >= 2, "n_group", || {
            format!("must leave at least 2 of the {experts} experts in a group for noaux_tc, is {groups}")
        });
        require(found, top_k <= kept.saturating_mul(in_group), "num_experts_per_tok", || {
            format!(
                "must be at most topk_group * n_routed_experts / n_group ({}), is {top_k}",
                kept.saturating_mul(in_group)
            )
        });
    }
}

fn require(found: &mut Vec<Problem>, holds: bool, key: &str, reason: impl FnOnce() -> String) {
    if !holds {
        found.push(Problem { key: key.into(), reason: reason() });
    }
}

impl TryFrom<serde_json::Value> for ModelConfig {
    type Error = ConfigError;
    fn try_from(value: serde_json::Value) -> Result<Self, ConfigError> {
        Self::from_value(value)
    }
}

#[cfg(test)]
mod optional_tests;
#[cfg(test)]
mod tests;
