//! Relatives of the models that are computed: files of a known family that ask for something this program does not have.

use crate::config::{ConfigError, ModelConfig, Problem, read_json};
use crate::family::Family;
use crate::keys::short;
use serde_json::{Map, Value, json};
use std::fmt;
use std::path::Path;

/// Keys for what the model does not compute, with the values that ask for nothing, in words for people. Null asks for
/// nothing either. Keys that mean nothing here are not in this list: they are kept and written back.
const NOT_COMPUTED: &[(&str, &[Neutral], &str)] = &[
    ("attention_bias", &[Neutral::False], "biases of the attention's projections"),
    ("use_qkv_bias", &[Neutral::False], "biases of the attention's projections"),
    ("use_bias", &[Neutral::False], "biases"),
    ("mlp_bias", &[Neutral::False], "biases of the feed-forward layers"),
    ("use_qk_norm", &[Neutral::False], "norms of queries and keys"),
    ("qk_layernorm", &[Neutral::False], "norms of queries and keys"),
    ("index_topk", &[], "sparse attention, in which an indexer chooses the tokens to read"),
    ("index_n_heads", &[], "the heads of that indexer"),
    ("index_head_dim", &[], "the width of that indexer's heads"),
    ("sliding_window", &[], "attention to a window only"),
    ("linear_attn_config", &[], "layers of linear attention"),
    ("mla_use_nope", &[Neutral::False], "MLA without positions"),
    ("llama_4_scaling", &[], "queries that are scaled by their position"),
    ("attn_logit_softcapping", &[], "capped attention scores"),
    ("final_logit_softcapping", &[], "capped logits"),
    ("hc_mult", &[Neutral::One], "several residual streams (hyper-connections)"),
    ("swiglu_limit", &[], "a limit on the inputs of SwiGLU"),
    ("zero_expert_num", &[Neutral::Zero], "experts that copy their input"),
    ("scale_emb", &[Neutral::One], "scaled embeddings"),
    ("scale_depth", &[], "scaled residuals"),
    ("gated_norm_rank", &[Neutral::Zero], "norms with a gate"),
    ("text_config", &[], "a language model inside a model for images"),
    ("vision_config", &[], "a part for images"),
];

/// A value that asks for nothing.
#[derive(Clone, Copy)]
enum Neutral {
    False,
    Zero,
    One,
}

impl Neutral {
    fn name(self) -> &'static str {
        match self {
            Self::False => "false",
            Self::Zero => "0",
            Self::One => "1",
        }
    }

    fn is(self, value: &Value) -> bool {
        match self {
            Self::False => *value == json!(false),
            Self::Zero => value.as_f64() == Some(0.0),
            Self::One => value.as_f64() == Some(1.0),
        }
    }
}

/// What a file asks for and the model does not compute, by key: what its family is known for, then what its keys say.
pub(crate) fn not_computed(family: &Family, map: &mut Map<String, Value>) -> Vec<Problem> {
    let mut found: Vec<Problem> = Vec::new();
    for (key, what) in family.missing {
        let (outer, inner) = key.split_once('.').map_or((*key, None), |(outer, inner)| (outer, Some(inner)));
        let value = map.get(outer).and_then(|value| inner.map_or(Some(value), |inner| value.get(inner)));
        let reason = match value.filter(|v| !v.is_null()) {
            _ if *key == "model_type" => format!("{} has {what}: not supported", family.model),
            Some(value) => format!("is {}: {what}: not supported", short(value)),
            None => format!("is missing, but {} has {what}: not supported", family.model),
        };
        found.push(Problem::new(key, reason));
    }
    for (key, neutral, what) in NOT_COMPUTED {
        let Some(value) = map.remove(*key) else { continue };
        // What asks for nothing is not written back either.
        let asks = !value.is_null() && !neutral.iter().any(|n| n.is(&value)) && !family.unread.contains(key);
        if asks && found.iter().all(|p| p.key != *key) {
            let must = neutral.first().map_or(String::new(), |n| format!("must be {}, ", n.name()));
            found.push(Problem::new(key, format!("{must}is {}: {what}: not supported", short(&value))));
        }
    }
    found
}

/// A `config.json` of a known family which asks for something that is not computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relative {
    /// As the file has it.
    pub model_type: String,
    /// A model of this family.
    pub model: &'static str,
    /// What is missing, by key.
    pub missing: Vec<Problem>,
}

impl Relative {
    /// What a parsed `config.json` is, if it is a relative. `None` for what can be read, for unknown families, and for files
    /// in which something else is wrong.
    pub fn of(value: &Value) -> Option<Self> {
        let model_type = value["model_type"].as_str()?.to_owned();
        let family = Family::of(&model_type)?;
        match ModelConfig::from_value(value.clone()) {
            Err(ConfigError::NotComputed(missing)) => Some(Self { model_type, model: family.model, missing }),
            _ => None,
        }
    }

    /// As [`Relative::of`], from a file.
    pub fn from_file(path: &Path) -> Option<Self> {
        Self::of(&read_json(path).ok()?)
    }

    /// For programs.
    pub fn to_value(&self) -> Value {
        let missing: Vec<Value> = self.missing.iter().map(|p| json!({"key": p.key, "reason": p.reason})).collect();
        json!({"model_type": self.model_type, "model": self.model, "missing": missing})
    }
}

impl fmt::Display for Relative {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "a relative of DeepSeek-V3 that this program cannot compute: {} ({})",
            self.model_type, self.model
        )?;
        writeln!(f, "what is missing, by key of config.json:")?;
        let width = self.missing.iter().map(|p| p.key.len()).max().unwrap_or(0);
        for Problem { key, reason } in &self.missing {
            let reason = reason.strip_suffix(": not supported").unwrap_or(reason);
            writeln!(f, "  {key:width$}  {reason}")?;
        }
        Ok(())
    }
}
