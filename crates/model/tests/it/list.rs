//! The list of tensors is that of a model that was built, and counts what the counter counts.

use hadal_model::{Model, count::count};
use hadal_ops::{Cx, DType};
use hadal_weights::{Expected, ModelConfig, expected, is_fp8};

/// Names, shapes and aliases of a model that was built.
fn built(config: &ModelConfig) -> Vec<Expected> {
    let mut all = Vec::new();
    Model::new(&Cx::cpu(1, DType::F32), config).visit(&mut |p| {
        all.extend(p.parts.iter().map(|part| Expected {
            name: part.name.clone(),
            shape: part.shape.clone(),
            aliases: part.aliases.clone(),
        }));
    });
    all
}

#[test]
fn the_list_is_that_of_the_model() {
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/../model/tests/fixtures");
    let mut seen = 0;
    for folder in std::fs::read_dir(fixtures).unwrap().map(|e| e.unwrap().path()) {
        let Ok(config) = ModelConfig::from_file(folder.join("config.json")) else { continue };
        assert_eq!(expected(&config), built(&config), "{}", folder.display());
        for change in [
            |c: &mut ModelConfig| c.n_shared_experts = 0,
            |c: &mut ModelConfig| c.q_lora_rank = None,
            |c: &mut ModelConfig| c.moe_layer_freq = 2,
            |c: &mut ModelConfig| c.num_nextn_predict_layers = 3,
        ] {
            let mut config = config.clone();
            change(&mut config);
            assert_eq!(expected(&config), built(&config), "{}", folder.display());
        }
        seen += 1;
    }
    assert!(seen > 3);
}

#[test]
fn the_full_size_is_counted_without_a_model() {
    let mut config = ModelConfig::named("deepseek-v3").unwrap();
    config.num_nextn_predict_layers = 1;
    let all = expected(&config);
    let counts = count(&config);
    let elements: u64 = all.iter().map(|t| t.shape.iter().product::<usize>() as u64).sum();
    assert_eq!(elements, counts.main + counts.mtp);
    let fp8: u64 = all.iter().filter(|t| is_fp8(&t.name)).map(|t| t.shape.iter().product::<usize>() as u64).sum();
    // All but embedding, head, gates, norms and `eh_proj`, and the same of the MTP module's block.
    let part = |name: &str| counts.parts.iter().find(|p| p.name == name).unwrap().total;
    let moe_layers = 61 - 3;
    let block = part("attention") / 61 + (part("routed experts") + part("shared experts")) / moe_layers;
    let main = ["attention", "dense FFN", "routed experts", "shared experts"].map(part).iter().sum::<u64>();
    assert_eq!(fp8, main + block);
}

#[test]
fn what_the_released_weights_quantise() {
    for (name, fp8) in [
        ("model.layers.3.self_attn.kv_a_proj_with_mqa.weight", true),
        ("model.layers.3.self_attn.q_proj.weight", true),
        ("model.layers.61.mlp.experts.255.down_proj.weight", true),
        ("model.layers.3.mlp.shared_experts.up_proj.weight", true),
        ("model.layers.0.mlp.gate_proj.weight", true),
        ("model.layers.3.mlp.gate.weight", false),
        ("model.layers.61.eh_proj.weight", false),
        ("model.layers.61.shared_head.head.weight", false),
        ("model.layers.3.self_attn.q_a_layernorm.weight", false),
        ("model.embed_tokens.weight", false),
        ("lm_head.weight", false),
    ] {
        assert_eq!(is_fp8(name), fp8, "{name}");
    }
}
