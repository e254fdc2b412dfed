//! `quantization_config` of `config.json`: which quantised weights can be read, and what is written about ours.

use super::fp8::ScaleFormat;
use crate::config::{ConfigError, Problem};
use hadal_ops::fp8::TILE;
use serde_json::{Map, Value, json};

/// What a `quantization_config` says of FP8 weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quantization {
    /// `scale_fmt` is `ue8m0`: scales are powers of two, whatever they are stored as.
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
    pub(super) fn describe(scales: ScaleFormat, kept: Option<&Value>) -> Value {
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
