//! The `model_type`s of `config.json`: which are read, what their files leave out, and which are known but not computed.
//!
//! A family that is read differs from DeepSeek-V3 or V2 in the values of keys alone: in defaults, and in names for the same
//! thing. Sources: the configuration and model classes of transformers 5.24 (`deepseek_v2`, `deepseek_v3`, `glm4_moe_lite`,
//! `youtu`, `sarvam_mla`, and the relatives below), Moonshot's README for `kimi_k2`, and for `youtu_llm` the first releases
//! of Youtu-LLM. All of them use epsilon 1e-6 in the norms inside attention, whatever `rms_norm_eps` is.

use crate::config::{ModelConfig, ModelType};

/// A `model_type`, or several names of one.
pub(crate) struct Family {
    /// What files call it, in lower case.
    names: &'static [&'static str],
    /// A model of it, for people.
    pub(crate) model: &'static str,
    /// Whose arithmetic it has.
    pub(crate) arithmetic: ModelType,
    /// Changes that family's defaults.
    adjust: fn(&mut ModelConfig),
    /// Keys and the names that this family has for them.
    pub(crate) aliases: &'static [(&'static str, &'static str)],
    /// Keys that its own code does not read, so that their values do not matter.
    pub(crate) unread: &'static [&'static str],
    /// What is not computed, by the key that says so: for a relative at least one.
    pub(crate) missing: &'static [(&'static str, &'static str)],
}

const AS_IT_IS: fn(&mut ModelConfig) = |_| {};

/// Sparse attention, by each of the keys of its indexer.
const INDEXER: (&str, &str) = ("index_topk", "sparse attention, in which an indexer chooses the tokens to read");
const WRAPPER: (&str, &str) = ("text_config", "a language model inside a model for images");
const LINEAR: (&str, &str) = ("layer_types", "layers of linear attention");

const READ: &[Family] = &[
    family(&["deepseek_v3"], "DeepSeek-V3", ModelType::DeepseekV3),
    family(&["kimi_k2"], "Kimi-K2", ModelType::DeepseekV3),
    Family {
        // Transformers' name in this family; the others do not have it.
        aliases: &[("n_routed_experts", "num_experts")],
        ..family(&["deepseek_v2"], "DeepSeek-V2", ModelType::DeepseekV2)
    },
    Family {
        adjust: |c| {
            (c.vocab_size, c.hidden_size, c.intermediate_size) = (154_880, 2048, 10_240);
            (c.moe_intermediate_size, c.num_hidden_layers, c.num_attention_heads) = (1536, 47, 20);
            (c.n_routed_experts, c.num_experts_per_tok, c.first_k_dense_replace) = (64, 4, 1);
            (c.q_lora_rank, c.qk_nope_head_dim, c.v_head_dim) = (Some(768), 192, 256);
            (c.n_group, c.topk_group, c.routed_scaling_factor) = (1, 1, 1.8);
            (c.max_position_embeddings, c.rms_norm_eps) = (202_752, 1e-5);
        },
        ..family(&["glm4_moe_lite"], "GLM-4.7-Flash", ModelType::DeepseekV3)
    },
    Family {
        adjust: |c| {
            (c.vocab_size, c.hidden_size, c.intermediate_size) = (128_256, 2048, 6144);
            (c.num_hidden_layers, c.num_attention_heads) = (32, 16);
            (c.n_routed_experts, c.n_shared_experts, c.num_experts_per_tok) = (0, 0, 0);
            (c.max_position_embeddings, c.tie_word_embeddings) = (131_072, true);
            c.initializer_range = 2.0 / (5.0 * 2048_f64).sqrt();
            (c.bos_token_id, c.eos_token_id) = (Some(128_000), vec![128_001]);
        },
        ..family(&["youtu", "youtu_llm"], "Youtu-LLM", ModelType::DeepseekV3)
    },
    Family {
        adjust: |c| {
            (c.vocab_size, c.hidden_size, c.intermediate_size) = (262_144, 4096, 16_384);
            (c.num_hidden_layers, c.num_attention_heads) = (32, 64);
            (c.n_routed_experts, c.first_k_dense_replace) = (128, 1);
            (c.q_lora_rank, c.n_group, c.topk_group, c.initializer_range) = (None, 1, 1, 0.006);
        },
        aliases: &[
            ("n_routed_experts", "num_experts"),
            ("n_shared_experts", "num_shared_experts"),
            ("scoring_func", "score_function"),
        ],
        // Its sibling with grouped-query attention has these norms.
        unread: &["use_qk_norm"],
        ..family(&["sarvam_mla"], "sarvam-105b", ModelType::DeepseekV3)
    },
];

const RELATIVES: &[Family] = &[
    relative(&["deepseek_v32"], "DeepSeek-V3.2", &[INDEXER]),
    relative(
        &["deepseek_v4"],
        "DeepSeek-V4",
        &[
            ("hc_mult", "several residual streams (hyper-connections)"),
            ("o_lora_rank", "one head of keys and values, with an output projection of low rank"),
            ("layer_types", "layers that compress their cache along the sequence"),
            INDEXER,
        ],
    ),
    relative(&["glm_moe_dsa"], "GLM-5", &[INDEXER]),
    relative(
        &["axk1"],
        "A.X-K1",
        &[("model_type", "a norm behind the experts (`post_mlp_layernorm`), and routers without a selection bias")],
    ),
    relative(
        &["axk2"],
        "A.X-K2",
        &[("gated_norm_rank", "norms with a gate"), ("model_type", "attention with an output gate"), INDEXER],
    ),
    relative(
        &["sarvam_moe"],
        "sarvam-30b",
        &[
            ("num_key_value_heads", "grouped-query attention instead of MLA"),
            ("use_qk_norm", "norms of queries and keys"),
        ],
    ),
    relative(&["kimi_k25"], "Kimi-K2.5", &[WRAPPER]),
    relative(&["kimi_vl"], "Kimi-VL", &[WRAPPER]),
    relative(&["youtu_vl"], "Youtu-VL", &[("vision_config", "a language model inside a model for images")]),
    relative(&["deepseek_vl_v2"], "DeepSeek-VL2", &[("language_config", "a language model inside a model for images")]),
    relative(
        &["kimi_linear"],
        "Kimi-Linear",
        &[("linear_attn_config", "layers of linear attention"), ("mla_use_nope", "MLA without positions")],
    ),
    relative(&["bailing_hybrid"], "Ling-3.0-Flash", &[LINEAR]),
    relative(
        &["longcat_flash"],
        "LongCat-Flash",
        &[("zero_expert_num", "experts that copy their input"), ("model_type", "two attentions in each layer")],
    ),
    relative(
        &["mistral4"],
        "Mistral-Small-4",
        &[("rope_parameters.llama_4_scaling_beta", "queries that are scaled by their position")],
    ),
    relative(
        &["minicpm3"],
        "MiniCPM3",
        &[("scale_emb", "scaled embeddings, residuals and logits"), ("model_type", "rotary pairs of halves")],
    ),
];

const fn family(names: &'static [&'static str], model: &'static str, arithmetic: ModelType) -> Family {
    Family { names, model, arithmetic, adjust: AS_IT_IS, aliases: &[], unread: &[], missing: &[] }
}

const fn relative(
    names: &'static [&'static str],
    model: &'static str,
    missing: &'static [(&'static str, &'static str)],
) -> Family {
    Family { missing, ..family(names, model, ModelType::DeepseekV3) }
}

impl Family {
    /// The family that a file's `model_type` names. A.X-K1's first files have it in capitals.
    pub(crate) fn of(model_type: &str) -> Option<&'static Self> {
        let name = model_type.to_ascii_lowercase();
        READ.iter().chain(RELATIVES).find(|family| family.names.contains(&name.as_str()))
    }

    /// The names of all that are read, for a message.
    pub(crate) fn names_read() -> String {
        let names: Vec<String> = READ.iter().flat_map(|f| f.names).map(|name| format!("\"{name}\"")).collect();
        names.join(", ")
    }

    /// Every key at its default.
    pub(crate) fn defaults(&self) -> ModelConfig {
        let mut config = ModelConfig::defaults(self.arithmetic);
        (self.adjust)(&mut config);
        config
    }
}

impl Default for &'static Family {
    fn default() -> Self {
        &READ[0]
    }
}
