//! Every key of `config.json` missing, null, and of a wrong type, in both families. The results are compared with
//! `DeepseekV2Config` and `DeepseekV3Config` of transformers 5.24.

use super::*;
use serde_json::{Map, Value, json};

/// What null means.
enum Null {
    /// An error. Transformers rejects it as well, or cannot build a model from it.
    Refused,
    /// The same as a missing key.
    Absent,
    /// The same as this value.
    Is(Value),
}
use Null::{Absent, Is, Refused};

/// The kind of values that a key takes.
#[derive(Clone, Copy)]
enum Kind {
    Size,
    Number,
    Flag,
    Text,
    /// A name from a short list.
    Name,
    Id,
    Object,
    /// A single neutral value. Everything else is unsupported.
    Only,
}

impl Kind {
    /// Values of other types.
    fn wrong(self) -> Vec<Value> {
        let shared = [json!({"a": 1}), json!("x"), json!(true), json!([]), json!(1.5)];
        let fits: &[usize] = match self {
            Self::Number => &[4],
            Self::Flag => &[2],
            Self::Text => &[1],
            Self::Object => &[0],
            Self::Size | Self::Name | Self::Id | Self::Only => &[],
        };
        let mut wrong: Vec<Value> =
            shared.into_iter().enumerate().filter(|(i, _)| !fits.contains(i)).map(|(_, v)| v).collect();
        match self {
            Self::Size => wrong.extend([json!(-1), json!(64.0), json!("64")]),
            // An empty list of end tokens is valid.
            Self::Id => wrong.retain(|v| *v != json!([])),
            Self::Flag | Self::Text | Self::Name => wrong.push(json!(64)),
            _ => {}
        }
        wrong
    }
}

fn table() -> Vec<(&'static str, Kind, Null)> {
    let sizes = "vocab_size hidden_size intermediate_size moe_intermediate_size num_hidden_layers num_attention_heads \
        kv_lora_rank qk_nope_head_dim qk_rope_head_dim v_head_dim max_position_embeddings";
    let neutral = "hidden_act attention_bias mlp_bias attention_dropout partial_rotary_factor num_key_value_heads";
    let mut all: Vec<_> = sizes.split_whitespace().map(|key| (key, Kind::Size, Refused)).collect();
    all.extend(neutral.split_whitespace().map(|key| (key, Kind::Only, Absent)));
    all.extend([
        ("model_type", Kind::Name, Refused),
        // Transformers rejects null here, or cannot build its model. In DeepSeek's own code it means zero.
        ("n_shared_experts", Kind::Size, Is(json!(0))),
        ("n_routed_experts", Kind::Size, Is(json!(0))),
        ("num_experts_per_tok", Kind::Size, Is(json!(0))),
        ("first_k_dense_replace", Kind::Size, Is(json!(0))),
        ("num_nextn_predict_layers", Kind::Size, Is(json!(0))),
        ("moe_layer_freq", Kind::Size, Is(json!(1))),
        ("n_group", Kind::Size, Is(json!(1))),
        ("topk_group", Kind::Size, Is(json!(1))),
        ("num_mtp_layers", Kind::Size, Absent),
        ("num_local_experts", Kind::Size, Absent),
        // Here null is a value of its own: no latent, or no token.
        ("q_lora_rank", Kind::Size, Is(Value::Null)),
        ("bos_token_id", Kind::Id, Is(Value::Null)),
        ("eos_token_id", Kind::Id, Is(json!([]))),
        // Transformers ignores these two. It accepts null for the flag, which then means false.
        ("scoring_func", Kind::Name, Absent),
        ("topk_method", Kind::Name, Absent),
        ("norm_topk_prob", Kind::Flag, Is(json!(false))),
        ("rope_interleave", Kind::Flag, Refused),
        ("tie_word_embeddings", Kind::Flag, Refused),
        ("routed_scaling_factor", Kind::Number, Refused),
        ("rms_norm_eps", Kind::Number, Refused),
        ("initializer_range", Kind::Number, Refused),
        ("rope_theta", Kind::Number, Absent),
        ("rope_scaling", Kind::Object, Absent),
        ("rope_parameters", Kind::Object, Absent),
        ("torch_dtype", Kind::Text, Absent),
        ("dtype", Kind::Text, Absent),
        ("quantization_config", Kind::Object, Absent),
    ]);
    all
}

/// Files that contain every key, one for each family. The values are not the family's defaults.
fn files() -> [Map<String, Value>; 2] {
    ["small", "v2-lite-shape"].map(|name| {
        let Value::Object(mut map) = ModelConfig::named(name).unwrap().to_value() else { panic!("no object") };
        let other = [("vocab_size", json!(320)), ("initializer_range", json!(0.01)), ("rms_norm_eps", json!(1e-5))];
        map.extend(other.map(|(key, value)| (key.to_owned(), value)));
        map
    })
}

fn outcome(map: &Map<String, Value>) -> Result<ModelConfig, String> {
    ModelConfig::from_value(Value::Object(map.clone())).map_err(|e| e.to_string())
}

fn with(map: &Map<String, Value>, key: &str, value: Value) -> Result<ModelConfig, String> {
    let mut map = map.clone();
    map.insert(key.into(), value);
    outcome(&map)
}

fn without(map: &Map<String, Value>, key: &str) -> Map<String, Value> {
    let mut map = map.clone();
    map.remove(key);
    map
}

/// A file with a key only under `name`, without the aliases that would have to agree with it.
fn alone(map: &Map<String, Value>, name: &str) -> Map<String, Value> {
    let other = match name {
        "num_mtp_layers" => "num_nextn_predict_layers",
        "num_local_experts" | "num_experts" => "n_routed_experts",
        "dtype" => "torch_dtype",
        "rope_parameters" => "rope_scaling",
        _ => return map.clone(),
    };
    without(map, other)
}

#[test]
fn every_key_may_be_absent_or_null_as_transformers_has_it() {
    for file in files() {
        let whole = outcome(&file).unwrap();
        let default = ModelConfig::defaults(whole.model_type).to_value();
        for (key, kind, null) in table() {
            let file = alone(&file, key);
            let absent = outcome(&without(&file, key));
            // The family has no default. The number of key-value heads defaults to the number of heads.
            let has_default = !["model_type", "num_key_value_heads"].contains(&key);
            if let Some(default) = default.get(key).filter(|_| has_default) {
                assert_eq!(absent, with(&file, key, default.clone()), "{key} absent");
            }
            let found = with(&file, key, Value::Null);
            match null {
                Refused => {
                    let error = found.expect_err(key);
                    assert!(error.contains(&format!("`{key}`")), "{key} null: {error}");
                }
                Absent => assert_eq!(found, absent, "{key} null"),
                Is(Value::Null) => {
                    let found = found.unwrap();
                    assert!(found.to_value()[key].is_null(), "{key} null");
                }
                Is(value) => assert_eq!(found, with(&file, key, value), "{key} null"),
            }
            for value in kind.wrong() {
                let shown = value.to_string();
                let error = with(&file, key, value).expect_err(&format!("{key}: {shown} was accepted"));
                assert!(error.contains(&format!("`{key}`")), "{key}: {shown}: {error}");
            }
        }
    }
}

#[test]
fn the_table_has_every_key() {
    let table = table();
    for file in files() {
        for key in file.keys().filter(|key| !["architectures", "use_cache"].contains(&key.as_str())) {
            assert!(table.iter().any(|row| row.0 == key), "{key}");
        }
    }
}

/// Keys inside the rotary object, in its old and its new place.
#[test]
fn every_rotary_key_may_be_absent_or_null() {
    let yarn = json!({
        "rope_type": "yarn", "factor": 40, "original_max_position_embeddings": 77, "beta_fast": 31, "beta_slow": 2,
        "mscale": 0.7, "mscale_all_dim": 0.6, "attention_factor": 1.25, "truncate": true, "partial_rotary_factor": 1.0,
        "rope_theta": 5000,
    });
    let Value::Object(yarn) = yarn else { panic!("no object") };
    for file in files() {
        for place in ["rope_scaling", "rope_parameters"] {
            let file = without(&without(&file, "rope_theta"), "rope_scaling");
            let read = |rope: &Map<String, Value>| with(&file, place, Value::Object(rope.clone()));
            let whole = read(&yarn).unwrap();
            assert_eq!((whole.rope_theta, whole.rope_scaling.as_ref().unwrap().beta_fast), (5000.0, 31.0));
            for key in yarn.keys() {
                let absent = read(&without(&yarn, key));
                let null = with_in(&yarn, key, Value::Null);
                assert_eq!(read(&null), absent, "{place}.{key}");
                assert_eq!(absent.is_err(), key == "rope_type", "{place}.{key}");
                for wrong in [json!("x"), json!([]), json!({}), json!(true)] {
                    if wrong == yarn[key] {
                        continue;
                    }
                    let error = read(&with_in(&yarn, key, wrong.clone())).expect_err(key);
                    assert!(error.contains(&format!("`{place}.{key}`")), "{place}.{key} {wrong}: {error}");
                }
            }
            // An error about a value out of range also names its place.
            let error = read(&with_in(&yarn, "factor", json!(0.5))).unwrap_err();
            assert!(error.contains(&format!("`{place}.factor`: must be a number at least 1")), "{error}");
        }
    }
}

fn with_in(map: &Map<String, Value>, key: &str, value: Value) -> Map<String, Value> {
    let mut map = map.clone();
    map.insert(key.into(), value);
    map
}

/// One function under two names, and empty entries beside full ones.
#[test]
fn rotary_types_that_mean_the_same_are_read_together() {
    let [file, _] = files();
    let file = without(&without(&file, "rope_scaling"), "rope_theta");
    let read = |scaling: Value, parameters: Value| {
        with(&with_in(&file, "rope_parameters", parameters), "rope_scaling", scaling)
    };
    let yarn = |names: Value| {
        let Value::Object(names) = names else { panic!("no object") };
        names.into_iter().chain([("factor".to_owned(), json!(40))]).collect::<Value>()
    };
    let expected = read(yarn(json!({"type": "yarn"})), Value::Null).unwrap();
    assert_eq!(expected.rope_scaling.as_ref().unwrap().factor, 40.0);
    for names in [
        json!({"type": "yarn", "rope_type": "yarn"}),
        json!({"type": "deepseek_yarn", "rope_type": "yarn"}),
        json!({"type": "yarn", "rope_type": "deepseek_yarn"}),
        json!({"type": "deepseek_yarn"}),
        json!({"rope_type": "deepseek_yarn"}),
        json!({"type": "yarn", "rope_type": null}),
        json!({"type": null, "rope_type": "yarn"}),
    ] {
        assert_eq!(read(yarn(names.clone()), Value::Null).as_ref(), Ok(&expected), "{names}");
        assert_eq!(read(Value::Null, yarn(names.clone())).as_ref(), Ok(&expected), "{names}");
        assert_eq!(read(json!({}), yarn(names.clone())).as_ref(), Ok(&expected), "{names}");
        assert_eq!(read(yarn(names.clone()), json!({})).as_ref(), Ok(&expected), "{names}");
        assert_eq!(read(yarn(names.clone()), yarn(json!({"type": "yarn"}))).as_ref(), Ok(&expected), "{names}");
    }
    let plain = read(Value::Null, Value::Null).unwrap();
    assert_eq!(plain.rope_scaling, None);
    for object in [json!({}), json!({"type": "default"}), json!({"rope_type": "default"}), json!({"rope_type": null})] {
        assert_eq!(read(object.clone(), Value::Null).as_ref(), Ok(&plain), "{object}");
        assert_eq!(read(Value::Null, object.clone()).as_ref(), Ok(&plain), "{object}");
    }
    // Theta in one place, or in both.
    for (top, inside) in [(json!(5e4), json!({})), (Value::Null, json!(5e4)), (json!(50000), json!(5e4))] {
        let inside = if inside.is_object() { Value::Null } else { inside };
        let file = with_in(&file, "rope_theta", top);
        let found = with(&file, "rope_parameters", json!({"rope_type": "default", "rope_theta": inside})).unwrap();
        assert_eq!(found.rope_theta, 5e4);
    }
    // Two different functions are an error.
    let error = read(yarn(json!({"type": "default", "rope_type": "yarn"})), Value::Null).unwrap_err();
    assert!(
        error.contains("`rope_scaling.rope_type`: is \"yarn\" but its other name `type` is \"default\""),
        "{error}"
    );
}

/// The name in transformers for the number of experts in V2. In V3 the key has no meaning.
#[test]
fn experts_have_another_name_in_v2() {
    let [v3, v2] = files().map(|file| without(&file, "n_routed_experts"));
    let read = |value: Value| with(&v2, "num_experts", value);
    assert_eq!(read(json!(32)).unwrap().n_routed_experts, 32);
    assert_eq!(read(Value::Null), outcome(&v2));
    assert!(read(json!("x")).unwrap_err().contains("`num_experts`: must be a whole number"));
    let both = with(&with_in(&v2, "n_routed_experts", json!(64)), "num_experts", json!(32)).unwrap_err();
    assert!(both.contains("`n_routed_experts`: is 64 but its other name `num_experts` is 32"), "{both}");
    let kept = with(&v3, "num_experts", json!(32)).unwrap();
    assert_eq!((kept.n_routed_experts, &kept.extra["num_experts"]), (256, &json!(32)));
}

/// The families differ only in defaults, and in V2's own two ways to choose experts.
#[test]
fn what_a_file_says_does_not_depend_on_its_family() {
    for file in files() {
        for (method, experts) in [("noaux_tc", true), ("noaux_tc", false), ("greedy", false)] {
            let file = with_in(&file, "topk_method", json!(method));
            let file = if experts { file } else { with_in(&file, "norm_topk_prob", json!(false)) };
            let read = |family: &str| with(&file, "model_type", json!(family)).unwrap();
            let (v3, v2) = (read("deepseek_v3"), read("deepseek_v2"));
            assert_eq!(v3, ModelConfig { model_type: ModelType::DeepseekV3, ..v2.clone() });
            let (a, b) = (v3.gate(), v2.gate());
            assert!(!a.norm_topk_prob || a.scale_after_norm == b.scale_after_norm, "{method}");
        }
    }
    // The language model of DeepSeek-VL2.
    let vl2 = r#"{"model_type":"deepseek_v2","topk_method":"noaux_tc","scoring_func":"sigmoid","norm_topk_prob":true,
        "routed_scaling_factor":2.0,"num_experts_per_tok":6,"n_routed_experts":72}"#;
    assert!(ModelConfig::from_json(vl2).unwrap().gate_scale_after_norm());
    let own = vl2.replace("noaux_tc", "greedy").replace("sigmoid", "softmax");
    assert!(!ModelConfig::from_json(&own).unwrap().gate_scale_after_norm());
}
