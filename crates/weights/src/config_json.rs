//! Reads and writes `config.json`: both layouts of the rotary keys, aliases, and the defaults of each family.
//!
//! Reading accepts `rope_scaling` + `rope_theta` (released checkpoints) and `rope_parameters` (transformers 5), `type`
//! and `rope_type`, `num_mtp_layers`, `num_local_experts`, `mlp_layer_types`. A missing key has the default of
//! transformers' configuration class for the family (`family.rs`). The exception is `num_nextn_predict_layers`: if it is
//! missing, it is 0, as in every other program. Null is accepted where transformers accepts it. It means "none" if the
//! value may be none, false for `norm_topk_prob`, and otherwise the same as a missing key.
//!
//! Writing uses the old layout, because transformers, vLLM, SGLang and llama.cpp all read it. Keys that have no effect
//! here are kept.

use crate::config::{ConfigError, MAX_LAYERS, ModelConfig, ModelType, Problem, ScoringFunc, TopkMethod};
use crate::keys::Keys;
use crate::relative::not_computed;
use serde_json::{Map, Value, json};

/// Keys that follow from others, or that name files which are not exported. They are ignored and never written back.
const DERIVED: [&str; 4] = ["head_dim", "qk_head_dim", "auto_map", "architectures"];

/// Keys that some programs require. They are written if the file did not have them.
const ADDED: [(&str, bool); 1] = [("use_cache", true)];

impl ModelConfig {
    /// A configuration with the family's default for every key.
    pub fn defaults(model_type: ModelType) -> Self {
        let v3 = Self {
            model_type: ModelType::DeepseekV3,
            vocab_size: 129280,
            hidden_size: 7168,
            intermediate_size: 18432,
            moe_intermediate_size: 2048,
            num_hidden_layers: 61,
            num_nextn_predict_layers: 0,
            num_attention_heads: 128,
            n_shared_experts: 1,
            n_routed_experts: 256,
            num_experts_per_tok: 8,
            first_k_dense_replace: 3,
            moe_layer_freq: 1,
            q_lora_rank: Some(1536),
            kv_lora_rank: 512,
            qk_nope_head_dim: 128,
            qk_rope_head_dim: 64,
            v_head_dim: 128,
            n_group: 8,
            topk_group: 4,
            scoring_func: ScoringFunc::Sigmoid,
            topk_method: TopkMethod::NoauxTc,
            norm_topk_prob: true,
            routed_scaling_factor: 2.5,
            rms_norm_eps: 1e-6,
            rope_theta: 10000.0,
            rope_scaling: None,
            max_position_embeddings: 4096,
            tie_word_embeddings: false,
            rope_interleave: true,
            initializer_range: 0.02,
            bos_token_id: Some(0),
            eos_token_id: vec![1],
            dtype: None,
            quantization_config: None,
            extra: Map::new(),
        };
        match model_type {
            ModelType::DeepseekV3 => v3,
            ModelType::DeepseekV2 => Self {
                model_type,
                vocab_size: 102400,
                hidden_size: 4096,
                intermediate_size: 11008,
                moe_intermediate_size: 1407,
                num_hidden_layers: 32,
                num_attention_heads: 32,
                n_shared_experts: 2,
                n_routed_experts: 64,
                num_experts_per_tok: 0,
                first_k_dense_replace: 0,
                n_group: 1,
                topk_group: 1,
                scoring_func: ScoringFunc::Softmax,
                topk_method: TopkMethod::Greedy,
                norm_topk_prob: false,
                routed_scaling_factor: 1.0,
                max_position_embeddings: 2048,
                bos_token_id: Some(1),
                eos_token_id: vec![2],
                ..v3
            },
        }
    }

    /// Reads a parsed `config.json` and checks it.
    pub fn from_value(value: Value) -> Result<Self, ConfigError> {
        let Value::Object(map) = value else {
            return Err(ConfigError::Invalid(vec![Problem::new("config.json", "is not a JSON object")]));
        };
        let mut keys = Keys::new(map);
        let family = keys.family();
        let d = family.defaults();
        let not_computed = not_computed(family, &mut keys.map);
        keys.missing.extend(not_computed);
        let max_position_embeddings = keys.size("max_position_embeddings", d.max_position_embeddings, None);
        let num_attention_heads = keys.size("num_attention_heads", d.num_attention_heads, None);
        keys.alias("num_nextn_predict_layers", "num_mtp_layers");
        keys.alias("n_routed_experts", "num_local_experts");
        for (key, other) in family.aliases {
            keys.alias(key, other);
        }
        keys.alias("torch_dtype", "dtype");
        let (rope_theta, rope_scaling, rope_rest) = keys.rope(d.rope_theta, max_position_embeddings);
        keys.unsupported(num_attention_heads);
        let num_hidden_layers = keys.size("num_hidden_layers", d.num_hidden_layers, None);
        let num_nextn_predict_layers = keys.size("num_nextn_predict_layers", d.num_nextn_predict_layers, Some(0));
        let layer_types = keys.layer_types(num_hidden_layers, num_nextn_predict_layers);
        // What the list of layers says, where there is one, is what the two numbers mean when they are left out.
        let (first, every) = layer_types.unwrap_or((d.first_k_dense_replace, d.moe_layer_freq));
        let mut config = Self {
            model_type: d.model_type,
            vocab_size: keys.size("vocab_size", d.vocab_size, None),
            hidden_size: keys.size("hidden_size", d.hidden_size, None),
            intermediate_size: keys.size("intermediate_size", d.intermediate_size, None),
            moe_intermediate_size: keys.size("moe_intermediate_size", d.moe_intermediate_size, None),
            num_hidden_layers,
            num_nextn_predict_layers,
            num_attention_heads,
            n_shared_experts: keys.size("n_shared_experts", d.n_shared_experts, Some(0)),
            n_routed_experts: keys.size("n_routed_experts", d.n_routed_experts, Some(0)),
            num_experts_per_tok: keys.size("num_experts_per_tok", d.num_experts_per_tok, Some(0)),
            first_k_dense_replace: keys.size("first_k_dense_replace", first, Some(0)),
            moe_layer_freq: keys.size("moe_layer_freq", every, Some(1)),
            q_lora_rank: keys.nullable("q_lora_rank", d.q_lora_rank, "a whole number or null"),
            kv_lora_rank: keys.size("kv_lora_rank", d.kv_lora_rank, None),
            qk_nope_head_dim: keys.size("qk_nope_head_dim", d.qk_nope_head_dim, None),
            qk_rope_head_dim: keys.size("qk_rope_head_dim", d.qk_rope_head_dim, None),
            v_head_dim: keys.size("v_head_dim", d.v_head_dim, None),
            n_group: keys.size("n_group", d.n_group, Some(1)),
            topk_group: keys.size("topk_group", d.topk_group, Some(1)),
            scoring_func: keys.or_null("scoring_func", d.scoring_func, d.scoring_func, "\"sigmoid\" or \"softmax\""),
            topk_method: keys.or_null(
                "topk_method",
                d.topk_method,
                d.topk_method,
                "\"greedy\", \"group_limited_greedy\" or \"noaux_tc\"",
            ),
            norm_topk_prob: keys.or_null("norm_topk_prob", d.norm_topk_prob, false, "true or false"),
            routed_scaling_factor: keys.typed("routed_scaling_factor", d.routed_scaling_factor, "a number"),
            rms_norm_eps: keys.typed("rms_norm_eps", d.rms_norm_eps, "a number"),
            rope_theta,
            rope_scaling,
            max_position_embeddings,
            tie_word_embeddings: keys.typed("tie_word_embeddings", d.tie_word_embeddings, "true or false"),
            rope_interleave: keys.typed("rope_interleave", d.rope_interleave, "true or false"),
            initializer_range: keys.typed("initializer_range", d.initializer_range, "a number"),
            bos_token_id: keys.nullable("bos_token_id", d.bos_token_id, "a token id or null"),
            eos_token_id: keys.eos(d.eos_token_id),
            dtype: keys.nullable("torch_dtype", None, "a string"),
            quantization_config: keys.object("quantization_config").map(Value::Object),
            extra: Map::new(),
        };
        for key in DERIVED {
            keys.map.remove(key);
        }
        // A key that the writer adds by itself says nothing about the model either.
        keys.map.retain(|key, value| ADDED.iter().all(|(k, v)| k != key || *value != json!(v)));
        if !rope_rest.is_empty() {
            keys.map.insert("rope_scaling".into(), Value::Object(rope_rest));
        }
        config.extra = std::mem::take(&mut keys.map);
        config.first_k_dense_replace = config.dense_by_index();
        if let Some((first, every)) = layer_types
            && (0..num_hidden_layers.min(MAX_LAYERS)).any(|l| {
                config.is_moe_layer(l) != (config.n_routed_experts > 0 && l >= first && l.is_multiple_of(every))
            })
        {
            keys.wrong(
                "mlp_layer_types",
                "differs from `first_k_dense_replace` and `moe_layer_freq`; keep what is right",
            );
        }
        // A key of the wrong type was replaced by its default. Only values that were really written can be judged.
        let (wrong, missing) = (std::mem::take(&mut keys.problems), std::mem::take(&mut keys.missing));
        if !family.missing.is_empty() || (wrong.is_empty() && !missing.is_empty()) {
            let mut all: Vec<Problem> = Vec::new();
            for problem in missing.into_iter().chain(wrong) {
                if all.iter().all(|p| p.key != problem.key) {
                    all.push(problem);
                }
            }
            return Err(ConfigError::NotComputed(all));
        }
        let problems: Vec<Problem> = if wrong.is_empty() {
            config.problems().into_iter().map(|p| keys.as_written(p)).collect()
        } else {
            wrong.into_iter().chain(missing).collect()
        };
        if problems.is_empty() { Ok(config) } else { Err(ConfigError::Invalid(problems)) }
    }

    /// `first_k_dense_replace` as other programs expect it. They decide by the index alone whether a layer is dense. So
    /// for a model without experts, this says that all layers are dense.
    fn dense_by_index(&self) -> usize {
        let all_layers = self.num_hidden_layers.saturating_add(self.num_nextn_predict_layers);
        if self.n_routed_experts == 0 { self.first_k_dense_replace.max(all_layers) } else { self.first_k_dense_replace }
    }

    /// A `config.json` that transformers, vLLM, SGLang and llama.cpp read.
    pub fn to_json(&self) -> String {
        format!("{:#}\n", self.to_value())
    }

    /// Like [`ModelConfig::to_json`], but parsed.
    pub fn to_value(&self) -> Value {
        let mut map = self.extra.clone();
        let architecture = match self.model_type {
            ModelType::DeepseekV3 => "DeepseekV3ForCausalLM",
            ModelType::DeepseekV2 => "DeepseekV2ForCausalLM",
        };
        let eos = match self.eos_token_id.as_slice() {
            [] => Value::Null,
            [one] => json!(one),
            many => json!(many),
        };
        let known = json!({
            "architectures": [architecture],
            "model_type": self.model_type,
            "hidden_act": "silu",
            "attention_bias": false,
            "attention_dropout": 0.0,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "moe_intermediate_size": self.moe_intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_nextn_predict_layers": self.num_nextn_predict_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_attention_heads,
            "n_shared_experts": self.n_shared_experts,
            "n_routed_experts": self.n_routed_experts,
            "num_experts_per_tok": self.num_experts_per_tok,
            "first_k_dense_replace": self.dense_by_index(),
            "moe_layer_freq": self.moe_layer_freq,
            "q_lora_rank": self.q_lora_rank,
            "kv_lora_rank": self.kv_lora_rank,
            "qk_nope_head_dim": self.qk_nope_head_dim,
            "qk_rope_head_dim": self.qk_rope_head_dim,
            "v_head_dim": self.v_head_dim,
            "n_group": self.n_group,
            "topk_group": self.topk_group,
            "scoring_func": self.scoring_func,
            "topk_method": self.topk_method,
            "norm_topk_prob": self.norm_topk_prob,
            "routed_scaling_factor": self.routed_scaling_factor,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "rope_scaling": self.rope_scaling_json(),
            "rope_interleave": self.rope_interleave,
            "max_position_embeddings": self.max_position_embeddings,
            "tie_word_embeddings": self.tie_word_embeddings,
            "initializer_range": self.initializer_range,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": eos,
        });
        let Value::Object(known) = known else { unreachable!("an object was written") };
        map.extend(known);
        for (key, value) in ADDED {
            map.entry(key).or_insert(json!(value));
        }
        for (key, value) in [
            ("torch_dtype", self.dtype.as_ref().map(|d| json!(d))),
            ("quantization_config", self.quantization_config.clone()),
        ] {
            if let Some(value) = value {
                map.insert(key.into(), value);
            }
        }
        Value::Object(map)
    }

    fn rope_scaling_json(&self) -> Value {
        let Some(y) = &self.rope_scaling else { return Value::Null };
        let mut map = match self.extra.get("rope_scaling") {
            Some(Value::Object(rest)) => rest.clone(),
            _ => Map::new(),
        };
        for (key, value) in [
            ("type", json!("yarn")),
            ("rope_type", json!("yarn")),
            ("factor", json!(y.factor)),
            ("original_max_position_embeddings", json!(y.original_max_position_embeddings)),
            ("beta_fast", json!(y.beta_fast)),
            ("beta_slow", json!(y.beta_slow)),
            ("mscale", json!(y.mscale)),
            ("mscale_all_dim", json!(y.mscale_all_dim)),
        ] {
            map.insert(key.into(), value);
        }
        if let Some(factor) = y.attention_factor {
            map.insert("attention_factor".into(), json!(factor));
        }
        Value::Object(map)
    }
}

impl From<ModelConfig> for Value {
    fn from(config: ModelConfig) -> Self {
        config.to_value()
    }
}
