//! `quantization_config` of `config.json`: which quantised weights can be read, and what is written about ours.

use crate::config::{ConfigError, ModelConfig, Problem};
use crate::fp8::ScaleFormat;
use hadal_ops::fp8::TILE;
use serde_json::{Map, Value, json};

/// What a `quantization_config` says of FP8 weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quantization {
    /// `scale_fmt` is `ue8m0`: scales should be powers of two, whatever they are stored as. A hint: DeepSeek-V3.1 says so,
    /// and some of its scales are not.
    pub ue8m0: bool,
}

impl Quantization {
    /// Checks and reads a `quantization_config`; the error names every key that is not supported.
    pub fn parse(config: &Value) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let mut require = |key: &str, fits: bool, must: &str, value: &Value| {
            if !fits {
                let is = match value.to_string() {
                    text if text == "null" => "missing".into(),
                    text if text.len() > 60 => "something else".into(),
                    text => text,
                };
                let reason = format!("must be {must}, is {is}: other quantised weights are not read");
                problems.push(Problem { key: format!("quantization_config.{key}"), reason });
            }
        };
        let get = |key: &str| config.get(key).unwrap_or(&Value::Null);
        let (method, fmt, block) = (get("quant_method"), get("fmt"), get("weight_block_size"));
        let (activations, scales) = (get("activation_scheme"), get("scale_fmt"));
        require("quant_method", *method == "fp8", "\"fp8\"", method);
        require("fmt", fmt.is_null() || *fmt == "e4m3", "\"e4m3\"", fmt);
        require("weight_block_size", *block == json!([TILE, TILE]), "[128, 128]", block);
        let dynamic = activations.is_null() || *activations == "dynamic";
        require("activation_scheme", dynamic, "\"dynamic\"", activations);
        let known = scales.is_null() || *scales == "float" || *scales == "ue8m0";
        require("scale_fmt", known, "\"float\" or \"ue8m0\"", scales);
        if problems.is_empty() { Ok(Self { ue8m0: *scales == "ue8m0" }) } else { Err(ConfigError::Invalid(problems)) }
    }

    /// What to write about FP8 weights with such scales. Keys of `kept` that mean nothing here survive.
    pub fn describe(scales: ScaleFormat, kept: Option<&Value>) -> Value {
        let mut map = match kept {
            Some(Value::Object(map)) => map.clone(),
            _ => Map::new(),
        };
        for (key, value) in [
            ("activation_scheme", json!("dynamic")),
            ("fmt", json!("e4m3")),
            ("quant_method", json!("fp8")),
            ("weight_block_size", json!([TILE, TILE])),
        ] {
            map.insert(key.into(), value);
        }
        // The released weights with f32 scales lack the key, and not every program knows another value.
        map.remove("scale_fmt");
        if scales.powers_of_two() {
            map.insert("scale_fmt".into(), json!("ue8m0"));
        }
        Value::Object(map)
    }
}

/// Whether a configuration wants the tensor's module left unquantised: its name, what its name begins or ends with stands in
/// `modules_to_not_convert` (transformers) or `ignored_layers` (vLLM).
pub(crate) fn is_left_out(tensor: &str, config: &ModelConfig) -> bool {
    let module = tensor.strip_suffix(".weight").unwrap_or(tensor);
    let part_of = |key: &str| {
        let rest = module.strip_prefix(key).or_else(|| module.strip_suffix(key));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.') || rest.ends_with('.'))
    };
    ["modules_to_not_convert", "ignored_layers"].iter().any(|list| {
        let keys = config.quantization_config.as_ref().and_then(|q| q.get(list)?.as_array());
        keys.into_iter().flatten().filter_map(Value::as_str).any(|key| !key.is_empty() && part_of(key))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_left_out_by_name_beginning_or_end() {
        let named = |list: &str, keys: Value| {
            let config = json!({"quant_method": "fp8", list: keys});
            ModelConfig { quantization_config: Some(config), ..ModelConfig::named("small").unwrap() }
        };
        for (key, left_out) in [
            ("model.layers.1.self_attn.o_proj", true),
            ("model.layers.1", true),
            ("o_proj", true),
            ("self_attn.o_proj", true),
            ("model.layers.1.self_attn.o", false),
            ("proj", false),
            ("model.layers.11", false),
            ("lm_head", false),
            ("", false),
        ] {
            for list in ["modules_to_not_convert", "ignored_layers"] {
                let config = named(list, json!(["lm_head", key]));
                assert_eq!(is_left_out("model.layers.1.self_attn.o_proj.weight", &config), left_out, "{key}");
            }
        }
        assert!(!is_left_out(
            "model.layers.12.mlp.up_proj.weight",
            &named("modules_to_not_convert", json!(["model.layers.1"]))
        ));
        assert!(!is_left_out("lm_head.weight", &named("modules_to_not_convert", Value::Null)));
    }
}
