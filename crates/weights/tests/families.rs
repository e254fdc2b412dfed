//! The `config.json` of released models: what each is read as, and whether its parameters are as many as were published.
//!
//! The files in `families/` hold the released keys and values, as far as public copies of them have these keys:
//!
//! | file | source |
//! | --- | --- |
//! | `deepseek-*` | DeepSeek's released files (V2, V2-Lite, R1, V3.1, V3.2-Exp) |
//! | `moonlight` | Moonlight-16B-A3B-Instruct at revision 4e735b07, every key |
//! | `kimi-k2` | Kimi-K2-Instruct |
//! | `glm-4.7-flash` | vLLM's test of this model and the sizes in NVIDIA's aiconfigurator |
//! | `youtu-llm` | a published audit of tencent/Youtu-LLM-2B against its `config.json` |
//! | `gigachat3` | the metadata of the published GGUF file; `num_nextn_predict_layers` from the model card |
//! | `sarvam-*` | a published reading of both releases; keys as transformers' classes translate them |
//! | `a.x-k1` | transformers' `AXK1Config` and the pull request that added it |

use hadal_weights::list::{Kind, parameters};
use hadal_weights::{ModelConfig, ModelType, Relative, ScoringFunc, TopkMethod};
use serde_json::{Value, json};
use std::path::PathBuf;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/families/{name}.json"))
}

fn config(name: &str) -> ModelConfig {
    ModelConfig::from_file(path(name)).unwrap_or_else(|e| panic!("{e}"))
}

/// Parameters of the main model and of the MTP modules; selection biases are buffers and do not count.
fn counts(config: &ModelConfig) -> (usize, usize) {
    let all = parameters(config);
    let sum = |mtp: bool| {
        let in_module = |layer: Option<usize>| layer.is_some_and(|l| l >= config.num_hidden_layers);
        let counted = all.iter().filter(|p| p.kind() != Kind::Bias && in_module(p.layer) == mtp);
        counted.map(hadal_weights::list::Parameter::len).sum()
    };
    (sum(false), sum(true))
}

#[test]
fn released_models_have_the_published_number_of_parameters() {
    // In billions, as published: with how many digits, and for the main model alone.
    for (name, published, digits) in [
        ("deepseek-v2", 236.0, 0),     // "236B total parameters", arXiv 2405.04434
        ("deepseek-v2-lite", 15.7, 1), // "15.7B total parameters", appendix B of the same
        ("deepseek-r1", 671.0, 0),     // "671B", arXiv 2412.19437
        ("deepseek-v3.1", 671.0, 0),   // the same
        ("moonlight", 15.96, 2),       // "15.29B without embeddings" and "16B", arXiv 2502.16982; 15.96B on the hub
        ("kimi-k2", 1026.0, 0),        // "1T"; 1026B where tools count it
        ("gigachat3", 10.7, 1),        // "10B"; the bf16 GGUF of its 26 layers has 21.36 GB
        ("glm-4.7-flash", 30.0, 0),    // "30B-A3B"
        ("youtu-llm", 1.96156, 5),     // 1,961,560,064 on the hub
        ("sarvam-105b", 106.0, 0),     // "105B"; 106.0 by its published shape
    ] {
        let (main, _) = counts(&config(name));
        let billions = main as f64 / 1e9;
        let scale = 10f64.powi(digits);
        assert_eq!((billions * scale).round() / scale, published, "{name}: {main}");
    }
    // To the last one, where that is published.
    assert_eq!(counts(&config("youtu-llm")), (1_961_560_064, 0));
}

#[test]
fn moonlight_is_read_as_it_was_written() {
    let c = config("moonlight");
    assert_eq!(c.model_type, ModelType::DeepseekV3);
    assert_eq!((c.q_lora_rank, c.n_group, c.topk_group, c.rope_scaling.clone()), (None, 1, 1, None));
    assert_eq!((c.rope_theta, c.rms_norm_eps, c.routed_scaling_factor), (50000.0, 1e-5, 2.446));
    assert_eq!((c.bos_token_id, c.eos_token_id.clone()), (Some(163_584), vec![163_586]));
    assert_eq!(c.extra["seq_aux"], json!(true));
}

#[test]
fn families_differ_where_they_do() {
    let v2 = config("deepseek-v2");
    assert_eq!((v2.model_type, v2.topk_method), (ModelType::DeepseekV2, TopkMethod::GroupLimitedGreedy));
    assert!(!v2.gate_scale_after_norm());
    let lite = config("deepseek-v2-lite");
    assert_eq!(
        (lite.topk_method, lite.scoring_func, lite.q_lora_rank),
        (TopkMethod::Greedy, ScoringFunc::Softmax, None)
    );

    let kimi = config("kimi-k2");
    assert_eq!((kimi.model_type, kimi.n_routed_experts, kimi.n_group), (ModelType::DeepseekV3, 384, 1));
    // Both betas are 1: the ramp of YaRN is between two neighbouring pairs.
    let yarn = kimi.rope_scaling.as_ref().unwrap();
    assert_eq!((yarn.beta_fast, yarn.beta_slow, yarn.factor), (1.0, 1.0, 32.0));
    assert!(kimi.rope_inv_freq().iter().all(|f| f.is_finite() && *f > 0.0));

    let giga = config("gigachat3");
    assert_eq!((giga.v_head_dim, giga.qk_nope_head_dim, giga.q_lora_rank), (192, 128, None));
    assert_eq!((giga.num_nextn_predict_layers, giga.is_moe_layer(26)), (1, true));

    let glm = config("glm-4.7-flash");
    assert_eq!(
        (glm.model_type, glm.scoring_func, glm.topk_method),
        (ModelType::DeepseekV3, ScoringFunc::Sigmoid, TopkMethod::NoauxTc)
    );
    assert_eq!((glm.qk_nope_head_dim, glm.v_head_dim, glm.rms_norm_eps, glm.rope_theta), (192, 256, 1e-5, 1e6));
    assert!(!glm.is_moe_layer(0) && glm.is_moe_layer(1) && glm.is_moe_layer(47));

    let youtu = config("youtu-llm");
    assert!(youtu.tie_word_embeddings && (0..32).all(|l| !youtu.is_moe_layer(l)));
    assert_eq!((youtu.n_routed_experts, youtu.rope_theta, youtu.q_lora_rank), (0, 1_600_000.0, Some(1536)));

    let sarvam = config("sarvam-105b");
    assert_eq!((sarvam.n_routed_experts, sarvam.n_shared_experts, sarvam.q_lora_rank), (128, 1, None));
    // Absent in its file. Transformers and SGLang route over all experts then.
    assert_eq!((sarvam.n_group, sarvam.topk_group), (1, 1));
    assert_eq!(sarvam.rope_scaling.as_ref().unwrap().factor, 40.0);
}

/// What is written says everything by itself, in the layout of DeepSeek-V3 or V2, which have no other defaults then.
#[test]
fn every_family_survives_being_written() {
    for name in
        ["deepseek-v2", "deepseek-r1", "moonlight", "kimi-k2", "gigachat3", "glm-4.7-flash", "youtu-llm", "sarvam-105b"]
    {
        let c = config(name);
        let value = c.to_value();
        assert!(["deepseek_v3", "deepseek_v2"].map(Value::from).contains(&value["model_type"]), "{name}");
        assert_eq!(ModelConfig::from_value(value).unwrap(), c, "{name}");
    }
}

/// Older and newer spellings of one model.
#[test]
fn old_and_new_keys_mean_the_same() {
    let mut new: Value = serde_json::from_slice(&std::fs::read(path("glm-4.7-flash")).unwrap()).unwrap();
    let map = new.as_object_mut().unwrap();
    for key in ["first_k_dense_replace", "n_routed_experts", "num_nextn_predict_layers", "rope_theta", "rope_scaling"] {
        map.remove(key);
    }
    let types: Vec<&str> = std::iter::once("dense").chain(std::iter::repeat_n("sparse", 46)).collect();
    map.insert("mlp_layer_types".into(), json!(types));
    map.insert("num_local_experts".into(), json!(64));
    map.insert("num_mtp_layers".into(), json!(1));
    map.insert(
        "rope_parameters".into(),
        json!({"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 1.0}),
    );
    assert_eq!(ModelConfig::from_value(new).unwrap(), config("glm-4.7-flash"));

    let mut old: Value = serde_json::from_slice(&std::fs::read(path("youtu-llm")).unwrap()).unwrap();
    let map = old.as_object_mut().unwrap();
    map.remove("rope_parameters");
    map.insert("model_type".into(), json!("youtu_llm"));
    map.extend([("rope_theta".to_owned(), json!(1_600_000)), ("rope_scaling".to_owned(), Value::Null)]);
    assert_eq!(ModelConfig::from_value(old).unwrap(), config("youtu-llm"));
}

#[test]
fn layer_types_are_layers_that_two_numbers_can_say() {
    let glm = |types: Value, more: Value| {
        let mut value: Value = json!({"model_type": "glm4_moe_lite", "num_hidden_layers": 6, "mlp_layer_types": types});
        value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        ModelConfig::from_value(value).map_err(|e| e.to_string())
    };
    let list = |text: &str| json!(text.chars().map(|c| if c == 'd' { "dense" } else { "sparse" }).collect::<Vec<_>>());
    for (text, first, every) in
        [("dsssss", 1, 1), ("ssssss", 0, 1), ("dddsss", 3, 1), ("ddsdsd", 2, 2), ("dddsdd", 3, 3), ("dddddd", 6, 1)]
    {
        let c = glm(list(text), json!({})).unwrap();
        assert_eq!((c.first_k_dense_replace, c.moe_layer_freq), (first, every), "{text}");
        let read: String = (0..6).map(|l| if c.is_moe_layer(l) { 's' } else { 'd' }).collect();
        assert_eq!(read, text);
    }
    for (types, more, part) in [
        (list("dsdsss"), json!({}), "`mlp_layer_types`: must be dense layers"),
        (list("dss"), json!({}), "`mlp_layer_types`: must have an entry for each of num_hidden_layers (6), has 3"),
        (
            list("dsssss"),
            json!({"first_k_dense_replace": 2}),
            "`mlp_layer_types`: differs from `first_k_dense_replace`",
        ),
        (json!(["dense", "sparse", "linear", "sparse", "sparse", "sparse"]), json!({}), "holds \"linear\""),
        (json!("dense"), json!({}), "`mlp_layer_types`: must be a list"),
        (json!([1, 2]), json!({}), "`mlp_layer_types`: must be a list"),
    ] {
        let error = glm(types, more).expect_err(part);
        assert!(error.contains(part), "{error}");
    }
    let error = glm(list("dsssss"), json!({"mtp_mlp_layer_types": ["dense"]})).unwrap_err();
    assert!(error.contains("`mtp_mlp_layer_types`: must hold \"sparse\" only"), "{error}");
    assert!(glm(list("dsssss"), json!({"mtp_mlp_layer_types": ["sparse"]})).is_ok());
    // The modules of MTP may be in the list.
    assert!(glm(list("dssssss"), json!({"num_mtp_layers": 1})).is_ok());
    assert!(glm(Value::Null, json!({})).unwrap().first_k_dense_replace == 1);
}

/// The relatives that are refused, and the key each refusal names.
#[test]
fn relatives_say_what_is_missing() {
    let refused = |name: &str| {
        let error = ModelConfig::from_file(path(name)).expect_err(name).to_string();
        let relative = Relative::from_file(&path(name)).unwrap_or_else(|| panic!("{name}: {error}"));
        for problem in &relative.missing {
            assert!(error.contains(&format!("`{}`: {}", problem.key, problem.reason)), "{error}");
        }
        assert!(error.contains(&format!("{name}.json")), "{error}");
        relative
    };
    let keys = |r: &Relative| r.missing.iter().map(|p| p.key.clone()).collect::<Vec<_>>();
    let v32 = refused("deepseek-v3.2");
    assert_eq!(keys(&v32), ["index_topk", "index_n_heads", "index_head_dim"]);
    assert!(v32.missing[0].reason.starts_with("is 2048: sparse attention"));
    let text = v32.to_string();
    assert!(text.contains("deepseek_v32 (DeepSeek-V3.2)") && text.contains("\n  index_head_dim  is 128: "), "{text}");
    assert_eq!(v32.to_value()["missing"][0]["key"], json!("index_topk"));

    let axk1 = refused("a.x-k1");
    assert_eq!((axk1.model_type.as_str(), keys(&axk1)), ("AXK1", vec!["model_type".to_owned()]));
    assert!(axk1.missing[0].reason.contains("`post_mlp_layernorm`"), "{}", axk1.missing[0].reason);

    let moe = refused("sarvam-30b");
    assert_eq!(keys(&moe), ["num_key_value_heads", "use_qk_norm"]);

    // A model that can be read is not a relative. Neither is an unknown one.
    for name in ["deepseek-r1", "glm-4.7-flash"] {
        assert_eq!(Relative::from_file(&path(name)), None);
    }
    assert_eq!(Relative::of(&json!({"model_type": "llama"})), None);
    assert_eq!(Relative::of(&json!({"model_type": "deepseek_v3", "hidden_size": "x", "index_topk": 3})), None);
}

/// A known family with a switch that the model does not have.
#[test]
fn switches_of_a_readable_family_are_refused_by_name() {
    let glm: Value = serde_json::from_slice(&std::fs::read(path("glm-4.7-flash")).unwrap()).unwrap();
    let with = |key: &str, value: Value| {
        let mut glm = glm.clone();
        glm[key] = value;
        glm
    };
    for (key, value) in [
        ("attention_bias", json!(true)),
        ("mlp_bias", json!(true)),
        ("use_qk_norm", json!(true)),
        ("index_topk", json!(2048)),
        ("sliding_window", json!(4096)),
        ("hidden_act", json!("gelu")),
        ("partial_rotary_factor", json!(0.5)),
        ("num_key_value_heads", json!(4)),
        ("swiglu_limit", json!(10.0)),
    ] {
        let relative = Relative::of(&with(key, value)).unwrap_or_else(|| panic!("{key} is read"));
        assert_eq!(relative.missing.len(), 1, "{relative}");
        assert_eq!((relative.missing[0].key.as_str(), relative.model), (key, "GLM-4.7-Flash"));
    }
    for (key, value) in [
        ("attention_bias", json!(null)),
        ("sliding_window", json!(null)),
        ("zero_expert_num", json!(0)),
        ("scale_emb", json!(1)),
        ("use_bias", json!(false)),
    ] {
        let found = ModelConfig::from_value(with(key, value)).unwrap();
        assert_eq!(found, config("glm-4.7-flash"), "{key}");
    }
    // sarvam-105b's code does not read this key; its sibling's does.
    let mut sarvam: Value = serde_json::from_slice(&std::fs::read(path("sarvam-105b")).unwrap()).unwrap();
    sarvam["use_qk_norm"] = json!(true);
    assert_eq!(ModelConfig::from_value(sarvam).unwrap(), config("sarvam-105b"));
}

/// Relatives whose files were not at hand: their `model_type` alone is enough to say what they have.
#[test]
fn every_known_relative_is_recognised_by_its_type() {
    for (name, key) in [
        ("deepseek_v32", "index_topk"),
        ("deepseek_v4", "hc_mult"),
        ("glm_moe_dsa", "index_topk"),
        ("axk1", "model_type"),
        ("axk2", "gated_norm_rank"),
        ("sarvam_moe", "num_key_value_heads"),
        ("kimi_k25", "text_config"),
        ("kimi_vl", "text_config"),
        ("kimi_linear", "linear_attn_config"),
        ("bailing_hybrid", "layer_types"),
        ("longcat_flash", "zero_expert_num"),
        ("mistral4", "rope_parameters.llama_4_scaling_beta"),
        ("minicpm3", "scale_emb"),
        ("deepseek_vl_v2", "language_config"),
        ("youtu_vl", "vision_config"),
    ] {
        let relative = Relative::of(&json!({"model_type": name})).unwrap_or_else(|| panic!("{name}"));
        assert_eq!(relative.missing[0].key, key, "{name}");
        assert!(relative.missing.iter().all(|p| p.reason.ends_with(": not supported")), "{relative}");
    }
    let mistral = json!({"model_type": "mistral4", "rope_parameters": {"llama_4_scaling_beta": 0.1, "type": "yarn",
        "rope_type": "yarn", "factor": 128.0, "original_max_position_embeddings": 8192, "partial_rotary_factor": 0.5}});
    let text = Relative::of(&mistral).unwrap().to_string();
    assert!(text.contains("rope_parameters.llama_4_scaling_beta   is 0.1: queries"), "{text}");
}
