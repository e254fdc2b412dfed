//! `quantization_config` of `config.json`: which quantised weights can be read, and what is written about ours.

use crate::config::{ConfigError, ModelConfig, Problem};
use crate::fp8::ScaleFormat;
use hadal_ops::fp8::TILE;
use serde_json::{Map, Value, json};

/// Names of the lists of modules that are not quantised, in transformers and vLLM.
const LEFT_OUT: [&str; 2] = ["modules_to_not_convert", "ignored_layers"];

/// What a `quantization_config` says about FP8 weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quantization {
    /// `scale_fmt` is `ue8m0`: scales should be powers of two, however they are stored. This is only a hint.
    /// DeepSeek-V3.1 says so, but some of its scales are not powers of two.
    pub ue8m0: bool,
}

impl Quantization {
    /// Checks and reads a `quantization_config`. The error names every key that is not supported. If the block size is
    /// missing, blocks are 128 by 128, as in transformers. A block size of null means one scale per tensor, which is
    /// not supported.
    pub fn parse(config: &Value) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let Value::Object(map) = config else {
            let problem = Problem::new("quantization_config", "must be an object or null");
            return Err(ConfigError::Invalid(vec![problem]));
        };
        let mut require = |key: &str, must: &str, fits: &dyn Fn(Option<&Value>) -> bool| {
            let value = map.get(key);
            if !fits(value) {
                let is = match value.map(Value::to_string) {
                    None => "is missing".into(),
                    Some(text) if text.len() > 60 => "is something else".into(),
                    Some(text) => format!("is {text}"),
                };
                let reason = format!("must be {must}, {is}: other quantised weights are not read");
                problems.push(Problem { key: format!("quantization_config.{key}"), reason });
            }
        };
        // Keys that may be missing or null, or must have one of these values.
        let one_of = |names: &'static [&str]| {
            move |value: Option<&Value>| value.is_none_or(|v| v.is_null() || names.iter().any(|name| v == name))
        };
        let names = |value: Option<&Value>| {
            let list = |list: &Vec<Value>| list.iter().all(Value::is_string);
            value.is_none_or(|v| v.is_null() || v.as_array().is_some_and(list))
        };
        require("quant_method", "\"fp8\"", &|value| value.is_some_and(|v| v == "fp8"));
        require("fmt", "\"e4m3\"", &one_of(&["e4m3"]));
        require("weight_block_size", "[128, 128]", &|value| value.is_none_or(|v| *v == json!([TILE, TILE])));
        require("activation_scheme", "\"dynamic\"", &one_of(&["dynamic"]));
        require("scale_fmt", "\"float\" or \"ue8m0\"", &one_of(&["float", "ue8m0"]));
        for list in LEFT_OUT {
            require(list, "a list of names", &names);
        }
        let ue8m0 = map.get("scale_fmt").is_some_and(|v| v == "ue8m0");
        if problems.is_empty() { Ok(Self { ue8m0 }) } else { Err(ConfigError::Invalid(problems)) }
    }

    /// The entry for FP8 weights with such scales. Keys of `kept` that have no effect here are kept.
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
        // The released weights with f32 scales lack this key, and some programs do not know the value "float".
        map.remove("scale_fmt");
        if scales.powers_of_two() {
            map.insert("scale_fmt".into(), json!("ue8m0"));
        }
        Value::Object(map)
    }
}

/// Whether the configuration leaves the tensor's module unquantised. That is so if one of the lists has its name, or
/// the beginning or end of its name.
pub(crate) fn is_left_out(tensor: &str, config: &ModelConfig) -> bool {
    let module = tensor.strip_suffix(".weight").unwrap_or(tensor);
    let part_of = |key: &str| {
        let rest = module.strip_prefix(key).or_else(|| module.strip_suffix(key));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.') || rest.ends_with('.'))
    };
    LEFT_OUT.iter().any(|list| {
        let keys = config.quantization_config.as_ref().and_then(|q| q.get(list)?.as_array());
        keys.into_iter().flatten().filter_map(Value::as_str).any(|key| !key.is_empty() && part_of(key))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys that are missing, null, of another type or with another value, and the result for the whole object.
    #[test]
    fn every_key_but_the_method_may_be_absent() {
        let whole = json!({
            "quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128], "activation_scheme": "dynamic",
            "scale_fmt": "float", "modules_to_not_convert": ["lm_head"], "ignored_layers": [], "dequantize": false,
        });
        let plain = Ok(Quantization { ue8m0: false });
        let parse = |config: &Value| Quantization::parse(config).map_err(|e| e.to_string());
        assert_eq!(parse(&whole), plain);
        let Value::Object(map) = &whole else { panic!("no object") };
        for key in map.keys() {
            let with = |value: Value| {
                let mut config = whole.clone();
                config[key] = value;
                parse(&config)
            };
            let mut without = map.clone();
            without.remove(key);
            // Null as block size means one scale for a whole tensor.
            let needed = key == "quant_method";
            for (found, refused) in
                [(parse(&Value::Object(without)), needed), (with(Value::Null), needed || key == "weight_block_size")]
            {
                match found {
                    Err(error) => {
                        assert!(refused && error.contains(&format!("`quantization_config.{key}`")), "{error}");
                    }
                    found => assert!(!refused && found == plain, "{key}"),
                }
            }
            for value in [json!("x"), json!(7), json!([7]), json!({})] {
                let shown = value.to_string();
                match with(value) {
                    Err(error) => assert!(error.contains(&format!("`quantization_config.{key}`: must be")), "{error}"),
                    // Keys without effect may have any value.
                    Ok(_) => assert_eq!(key, "dequantize", "{shown}"),
                }
            }
        }
        for wrong in [json!("fp8"), json!(7), json!([]), json!(true)] {
            assert!(parse(&wrong).unwrap_err().contains("`quantization_config`: must be an object or null"));
        }
        assert_eq!(parse(&json!({"quant_method": "fp8", "scale_fmt": "ue8m0"})), Ok(Quantization { ue8m0: true }));
        assert!(
            parse(&json!({})).unwrap_err().contains("`quantization_config.quant_method`: must be \"fp8\", is missing")
        );
    }

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
