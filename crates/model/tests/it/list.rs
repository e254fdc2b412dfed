//! The list of tensors at full size, and which of them the released weights quantise.

use hadal_model::count::count;
use hadal_weights::{ModelConfig, expected, is_fp8};

#[test]
fn the_full_size_is_counted_without_a_model() {
    let mut config = ModelConfig::named("deepseek-v3").unwrap();
    config.num_nextn_predict_layers = 1;
    let all = expected(&config);
    let counts = count(&config);
    let elements: u64 = all.iter().map(|t| t.shape.iter().product::<usize>() as u64).sum();
    assert_eq!(elements, counts.main + counts.mtp);
    let fp8: u64 = all.iter().filter(|t| is_fp8(&t.name)).map(|t| t.shape.iter().product::<usize>() as u64).sum();
    // Everything except embedding, head, gates, norms and `eh_proj`, and the same for the MTP module's block.
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
