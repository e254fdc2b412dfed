use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

fn read(change: impl FnOnce(&mut serde_json::Map<String, Value>)) -> Result<ModelConfig, ConfigError> {
    let Value::Object(mut map) = ModelConfig::named("small").unwrap().to_value() else { panic!("no object") };
    change(&mut map);
    ModelConfig::from_value(Value::Object(map))
}

fn set(key: &str, value: Value) -> Result<ModelConfig, ConfigError> {
    read(|m| {
        m.insert(key.into(), value);
    })
}

fn refusal(key: &str, value: Value) -> String {
    let text = value.to_string();
    set(key, value).expect_err(&format!("{key}: {text} was accepted")).to_string()
}

#[test]
fn named_configurations_survive_a_round_trip() {
    for name in ModelConfig::names() {
        let config = ModelConfig::named(name).unwrap();
        assert_eq!(ModelConfig::from_json(&config.to_json()).unwrap(), config, "{name}");
        let through_serde: ModelConfig = serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
        assert_eq!(through_serde, config, "{name}");
    }
    assert!(ModelConfig::named("nothing").is_none());
}

#[test]
fn an_almost_empty_file_gets_its_family_s_defaults() {
    for (text, model_type) in [
        (r#"{"model_type":"deepseek_v3"}"#, ModelType::DeepseekV3),
        (r#"{"model_type":"deepseek_v2","num_experts_per_tok":0,"n_routed_experts":null}"#, ModelType::DeepseekV2),
    ] {
        let mut config = ModelConfig::from_json(text).unwrap();
        let mut expected = ModelConfig::defaults(model_type);
        if config.n_routed_experts == 0 {
            config.n_routed_experts = expected.n_routed_experts;
            expected.first_k_dense_replace = expected.num_hidden_layers + expected.num_nextn_predict_layers;
        }
        assert_eq!(config, expected);
    }
}

#[test]
fn both_rotary_layouts_mean_the_same() {
    let yarn = json!({"factor": 40, "original_max_position_embeddings": 4096, "beta_fast": 32, "beta_slow": 1,
        "mscale": 0.707, "mscale_all_dim": 1.0});
    let with = |extra: Value| {
        let mut v = yarn.clone();
        v.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        v
    };
    let old = read(|m| {
        m.insert("rope_theta".into(), json!(50000));
        m.insert("rope_scaling".into(), with(json!({"type": "yarn"})));
    });
    let new = read(|m| {
        m.remove("rope_theta");
        m.insert("rope_parameters".into(), with(json!({"rope_type": "yarn", "rope_theta": 50000.0})));
    });
    let both = read(|m| {
        m.insert("rope_theta".into(), json!(50000));
        m.insert("rope_scaling".into(), with(json!({"type": "yarn"})));
        m.insert("rope_parameters".into(), with(json!({"type": "yarn", "rope_type": "yarn", "rope_theta": 50000.0})));
    });
    let old = old.unwrap();
    assert_eq!(old.rope_theta, 50000.0);
    assert_eq!(old.rope_scaling.as_ref().unwrap().mscale, 0.707);
    assert_eq!(old, new.unwrap());
    assert_eq!(old, both.unwrap());
    let plain = read(|m| {
        m.remove("rope_scaling");
        m.insert("rope_parameters".into(), json!({"rope_type": "default", "rope_theta": 10000.0}));
    });
    assert_eq!(plain.unwrap().rope_scaling, None);
}

#[test]
fn rotary_layouts_that_disagree_are_refused() {
    let error = read(|m| {
        m.insert("rope_scaling".into(), json!({"type": "yarn", "factor": 40}));
        m.insert("rope_parameters".into(), json!({"rope_type": "yarn", "factor": 20}));
    });
    assert!(error.unwrap_err().to_string().contains("`rope_scaling`: differs from `rope_parameters`"));
    assert!(refusal("rope_parameters", json!({"rope_theta": 5})).contains("`rope_theta`"));
    assert!(refusal("rope_scaling", json!({"type": "linear", "factor": 2})).contains("\"linear\": not supported"));
    assert!(refusal("rope_scaling", json!({"factor": 2})).contains("`rope_scaling.rope_type`: is missing"));
    assert!(refusal("rope_scaling", json!({"type": "yarn", "factor": 0.5})).contains("`rope_scaling.factor`"));
    assert!(refusal("rope_scaling", json!("yarn")).contains("must be an object or null"));
}

#[test]
fn refusals_name_the_key_and_the_constraint() {
    for (key, value, part) in [
        ("hidden_size", json!("512"), "must be a whole number, is \"512\""),
        ("hidden_size", json!(-1), "must be a whole number, is -1"),
        ("hidden_size", json!(null), "must be a whole number, is null"),
        ("hidden_size", json!(0), "must be between 1 and"),
        ("vocab_size", json!(u64::MAX), "must be between 1 and"),
        ("qk_rope_head_dim", json!(33), "must be even, is 33"),
        ("n_group", json!(5), "must divide n_routed_experts (32), is 5"),
        ("n_group", json!(0), "must divide"),
        ("n_group", json!(32), "at least 2"),
        ("topk_group", json!(5), "must be between 1 and n_group (4), is 5"),
        ("topk_group", json!(0), "must be between 1 and n_group"),
        ("num_experts_per_tok", json!(33), "must be between 1 and n_routed_experts (32), is 33"),
        ("num_experts_per_tok", json!(17), "at most topk_group * n_routed_experts / n_group (16), is 17"),
        ("num_experts_per_tok", json!(null), "is 0"),
        ("moe_intermediate_size", json!(0), "must be between 1 and"),
        ("hidden_act", json!("gelu"), "must be \"silu\", is \"gelu\": not supported"),
        ("attention_bias", json!(true), "must be false"),
        ("attention_dropout", json!(0.1), "must be 0"),
        ("num_key_value_heads", json!(2), "must be 8, is 2"),
        ("rope_interleave", json!(false), "must be true"),
        ("scoring_func", json!("tanh"), "must be \"sigmoid\" or \"softmax\""),
        ("topk_method", json!("best"), "\"group_limited_greedy\""),
        ("rope_theta", json!(1), "above 1"),
        ("rms_norm_eps", json!(0), "above 0"),
        ("model_type", json!("llama"), "must be one of \"deepseek_v3\""),
        ("num_mtp_layers", json!(3), "other name"),
        ("eos_token_id", json!("end"), "token id"),
        ("q_lora_rank", json!([]), "whole number or null"),
    ] {
        let text = refusal(key, value);
        assert!(text.contains(part), "{key}: {text}");
    }
    let several = read(|m| {
        m.insert("hidden_size".into(), json!(true));
        m.insert("v_head_dim".into(), json!("wide"));
    });
    let text = several.unwrap_err().to_string();
    assert!(text.contains("`hidden_size`") && text.contains("`v_head_dim`"), "{text}");
}

/// Each key is within its bound, but a list of the experts of all layers would not fit into memory.
#[test]
fn many_layers_of_many_experts_are_refused() {
    let sizes = |layers: usize, experts: usize, modules: usize| {
        read(|m| {
            m.insert("num_hidden_layers".into(), layers.into());
            m.insert("n_routed_experts".into(), experts.into());
            m.insert("num_nextn_predict_layers".into(), modules.into());
        })
    };
    for (layers, experts, modules) in [(4096, 8192, 1), (61, 8192, 1), (61, 256, 4096)] {
        let error = sizes(layers, experts, modules).unwrap_err().to_string();
        assert!(error.contains("`n_routed_experts`: times num_hidden_layers"), "{error}");
    }
    assert!(sizes(61, 512, 1).is_ok() && sizes(4096, 0, 0).is_ok());
}

#[test]
fn files_are_named_in_errors() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    assert!(ModelConfig::from_file(&path).unwrap_err().to_string().contains("config.json"));
    for text in ["{", "[]", r#"{"model_type":"deepseek_v3","n_group":3}"#] {
        std::fs::write(&path, text).unwrap();
        let error = ModelConfig::from_file(&path).unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
    }
    std::fs::write(&path, ModelConfig::named("small").unwrap().to_json()).unwrap();
    assert_eq!(ModelConfig::from_file(&path).unwrap(), ModelConfig::named("small").unwrap());
}

#[test]
fn unknown_keys_survive_and_derived_ones_do_not() {
    let config = read(|m| {
        m.insert("aux_loss_alpha".into(), json!(0.001));
        m.insert("use_cache".into(), json!(false));
        m.insert("head_dim".into(), json!(32));
        m.insert("auto_map".into(), json!({"AutoModel": "modeling_deepseek.py"}));
        m.insert("quantization_config".into(), json!({"quant_method": "fp8"}));
        m.insert("rope_scaling".into(), json!({"type": "yarn", "factor": 4, "finetuned": true}));
        m.insert("dtype".into(), json!("bfloat16"));
    });
    let config = config.unwrap();
    let written = config.to_value();
    assert_eq!(written["aux_loss_alpha"], json!(0.001));
    assert_eq!(written["use_cache"], json!(false));
    assert_eq!(written["quantization_config"], json!({"quant_method": "fp8"}));
    assert_eq!(written["rope_scaling"]["finetuned"], json!(true));
    assert_eq!(written["rope_scaling"]["original_max_position_embeddings"], json!(4096));
    assert_eq!(written["torch_dtype"], json!("bfloat16"));
    for gone in ["head_dim", "auto_map", "dtype", "rope_parameters"] {
        assert!(written.get(gone).is_none(), "{gone}");
    }
    assert_eq!(ModelConfig::from_value(written).unwrap(), config);
}

#[test]
fn end_tokens_may_be_none_one_or_many() {
    for (value, ids) in [(json!(null), vec![]), (json!(7), vec![7]), (json!([7, 9]), vec![7, 9])] {
        let config = set("eos_token_id", value.clone()).unwrap();
        assert_eq!(config.eos_token_id, ids);
        assert_eq!(config.to_value()["eos_token_id"], value);
    }
}

#[test]
fn layers_route_as_the_released_code_says() {
    let mut config = ModelConfig::named("deepseek-v3").unwrap();
    assert_eq!((0..62).filter(|l| config.is_moe_layer(*l)).count(), 59);
    assert!(!config.is_moe_layer(2) && config.is_moe_layer(3) && config.is_moe_layer(61));
    config.moe_layer_freq = 2;
    assert!(!config.is_moe_layer(3) && config.is_moe_layer(4) && !config.is_moe_layer(61));
    config.n_routed_experts = 0;
    assert!((0..62).all(|l| !config.is_moe_layer(l)));
    assert_eq!(config.to_value()["first_k_dense_replace"], json!(62));
    assert!(config.gate_scale_after_norm() && !ModelConfig::named("v2-lite-shape").unwrap().gate_scale_after_norm());
}

#[test]
fn a_model_without_experts_is_read_as_it_was_written() {
    let dense = set("n_routed_experts", Value::Null).unwrap();
    assert_eq!(dense.first_k_dense_replace, dense.num_hidden_layers + dense.num_nextn_predict_layers);
    assert_eq!(ModelConfig::from_value(dense.to_value()).unwrap(), dense);
}

#[test]
fn scales_of_the_released_models() {
    // The factors are 192^-1/2 and m = 0.1 ln 40 + 1 for V3, and m with 0.707 for V2-Lite. Neither has a factor of
    // cosine and sine.
    let v3 = ModelConfig::named("deepseek-v3").unwrap();
    assert!((v3.softmax_scale() - 0.135_233_778_860_880_1).abs() < 1e-9, "{}", v3.softmax_scale());
    assert_eq!(v3.rope_attention_factor(), 1.0);
    let lite = ModelConfig::named("v2-lite-shape").unwrap();
    assert!((lite.softmax_scale() - 0.11472138679292611).abs() < 1e-9, "{}", lite.softmax_scale());
    assert_eq!(lite.rope_attention_factor(), 1.0);
    let mut small = ModelConfig::named("small").unwrap();
    assert_eq!(small.softmax_scale(), 96f64.powf(-0.5));
    small.rope_scaling = Some(Yarn { factor: 40.0, mscale: 0.707, mscale_all_dim: 1.0, ..Yarn::default() });
    let (a, b) = (0.0707 * 40f64.ln() + 1.0, 0.1 * 40f64.ln() + 1.0);
    assert!((small.rope_attention_factor() - a / b).abs() < 1e-15);
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (0u32..70).prop_map(Value::from),
        "[a-z_]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map("type|factor|rope_theta|[a-z]{1,5}", inner, 0..4)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

proptest! {
    /// Any file gives either a valid configuration that survives a round trip, or an error. It never causes a panic.
    #[test]
    fn no_value_of_any_key_panics(changes in prop::collection::vec((any::<prop::sample::Index>(), any_json()), 1..4)) {
        let keys: Vec<String> = ModelConfig::named("deepseek-v3").unwrap().to_value().as_object().unwrap().keys()
            .cloned().chain(["rope_parameters", "num_mtp_layers", "dtype"].map(String::from)).collect();
        let read = read(|m| {
            for (i, value) in changes {
                m.insert(i.get(&keys).clone(), value);
            }
        });
        match read {
            Ok(config) => {
                config.validate().unwrap();
                prop_assert!(config.softmax_scale() > 0.0);
                prop_assert_eq!(config.rope_inv_freq().len(), config.qk_rope_head_dim / 2);
                prop_assert_eq!(ModelConfig::from_value(config.to_value()).unwrap(), config);
            }
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}
