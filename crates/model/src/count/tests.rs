use super::*;
use crate::{BalanceGroups, Grads, Input, LossWeights, Model, Stored, Workspace};
use hadal_ops::{Cx, DType};
use hadal_weights::Checkpoint;
use hadal_weights::precision::{Keep, Precision, Product};
use std::path::Path;

const BF16: Formats = Formats::BF16;

#[test]
fn the_full_size_model_has_exactly_the_report_s_parameters() {
    let c = count(&ModelConfig::named("deepseek-v3").unwrap());
    assert_eq!(c.main, 671_026_419_200);
    assert_eq!(c.active, 37_552_297_472);
    assert_eq!(c.active_without_embedding, 36_625_618_432);
    assert_eq!(c.mtp, 11_610_068_224);
}

#[test]
fn v2_lite_has_exactly_the_released_model_s_parameters() {
    let c = count(&ModelConfig::named("v2-lite-shape").unwrap());
    assert_eq!(c.main, 15_706_484_224);
    assert_eq!(c.mtp, 0);
}

/// For every fixture, the tensors add up to what its configuration says, if copies of shared tensors are not counted.
#[test]
fn counts_agree_with_stored_checkpoints() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut seen = 0;
    for dir in std::fs::read_dir(fixtures).unwrap() {
        let dir = dir.unwrap().path();
        if !dir.join("config.json").exists() {
            continue;
        }
        let checkpoint = Checkpoint::open(&dir).unwrap();
        let c = checkpoint.config();
        let copy = |name: &str| {
            name.contains("layers")
                && (name.ends_with("embed_tokens.weight") || name.ends_with("shared_head.head.weight"))
                || c.tie_word_embeddings && name == "lm_head.weight"
        };
        let stored: usize =
            checkpoint.names().filter(|n| !copy(n)).map(|n| checkpoint.info(n).unwrap().elements()).sum();
        let counts = count(c);
        assert_eq!(counts.main + counts.mtp, stored as u64, "{}", dir.display());
        seen += 1;
    }
    assert!(seen > 0, "no fixtures found");
}

#[test]
fn arithmetic_of_the_small_model() {
    let config = ModelConfig::named("small").unwrap();
    let (c, x) = (count(&config), flops(&config, 512));
    assert_eq!(c.main, 115_666_144);
    let attention = 8.0 * 2.0 * 8.0 * (96.0 + 64.0) * 256.5;
    assert_eq!(x.forward_attention, attention);
    assert_eq!(x.training, 6.0 * c.multiplied as f64 + 3.0 * attention);
    assert!((x.training / 1e6 - 197.0).abs() < 1.0, "{}", x.training);
}

#[test]
fn a_tied_head_is_stored_once_and_multiplied_with_all_the_same() {
    let untied = ModelConfig::named("small").unwrap();
    let tied = ModelConfig { tie_word_embeddings: true, ..untied.clone() };
    let head = (untied.vocab_size * untied.hidden_size) as u64;
    assert_eq!(count(&tied).main + head, count(&untied).main);
    assert_eq!(count(&tied).multiplied, count(&untied).multiplied);
    assert_eq!(training_memory(&tied, &BF16).packed, training_memory(&untied, &BF16).packed);
}

#[test]
fn memory_adds_up() {
    for name in ModelConfig::names() {
        let config = ModelConfig::named(name).unwrap();
        let (c, m) = (count(&config), training_memory(&config, &BF16));
        let all = c.main + c.mtp;
        assert_eq!(m.state, m.master + m.gradients + m.moments + m.packed);
        assert_eq!(m.master, 4 * all);
        // Nearly all parameters are matrices of bf16 products: 4 bytes per parameter in packed forms.
        assert!(m.packed < 4 * all && m.packed > 3 * all, "{name}: {} of {all}", m.packed);
    }
    let small = ModelConfig::named("small").unwrap();
    let dense: u64 = saved_by_layer(&small, 0, &BF16).iter().map(|s| s.1).sum();
    // 4 * 512 + 4 twice, n and u, a, c_q, c_kv, q, kv, k_rope, o, lse, gu
    let expected = 2 * 2052 + 2 * 1024 + 704 + 388 + 260 + 1536 + 2048 + 64 + 1024 + 32 + 5632;
    assert_eq!(dense, expected);
}

#[test]
fn the_table_reads_well() {
    let text = inspect(&ModelConfig::named("deepseek-v3").unwrap(), None, None).to_string();
    for part in [
        "main model                 671,026,419,200      37,552,297,472",
        "MTP module                  11,610,068,224",
        "per token and layer                1,152 B",
        "per token                         70,272 B  61 layers",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert!(text.lines().all(|l| l.len() <= 80 && l.trim_end() == l), "{text}");
    let json = serde_json::to_value(inspect(&ModelConfig::named("small").unwrap(), Some(512), None)).unwrap();
    assert_eq!(json["parameters"]["main"], 115_666_144);
    assert_eq!(json["flops_per_token"]["sequence"], 512);
    assert!(!inspect(&ModelConfig::named("small").unwrap(), None, None).to_string().contains("MTP"));
}

/// A small model with every kind of layer: dense layers, MoE layers, two MTP modules. Few sizes are multiples of 16 or
/// 128.
fn every_kind() -> ModelConfig {
    ModelConfig {
        vocab_size: 70,
        hidden_size: 150,
        intermediate_size: 206,
        moe_intermediate_size: 45,
        num_hidden_layers: 3,
        num_nextn_predict_layers: 2,
        num_attention_heads: 3,
        n_shared_experts: 2,
        n_routed_experts: 8,
        num_experts_per_tok: 3,
        first_k_dense_replace: 1,
        q_lora_rank: Some(42),
        kv_lora_rank: 52,
        qk_nope_head_dim: 20,
        qk_rope_head_dim: 6,
        v_head_dim: 22,
        n_group: 1,
        topk_group: 1,
        ..ModelConfig::named("small").unwrap()
    }
}

/// Both columns of the precision table, f32, and single rows.
fn formats() -> Vec<Formats> {
    let (bf16, fp8) = (Precision::COMPUTE, Precision::FP8);
    let f32 = Formats { compute: DType::F32, table: bf16 };
    let tables = [
        bf16,
        fp8,
        Precision { recompute: true, ..bf16 },
        Precision { recompute: false, ..fp8 },
        Precision { dispatch: Keep::Fp8, expert_gate_up: Product::F32, ..bf16 },
        Precision { swiglu_input: Keep::E5m6, expert_down: Product::Fp8, mtp_proj: Product::Fp8, ..bf16 },
        Precision { attn_out_input: Keep::Fp8, attn_down: Product::F32, gate_up: Product::Fp8, ..bf16 },
        Precision { attn_out_input: Keep::Compute, query_up: Product::F32, kv_up: Product::Compute, ..fp8 },
        Precision { swiglu_input: Keep::Compute, attn_out: Product::F32, down: Product::Compute, ..fp8 },
    ];
    let f32_again = Formats { table: Precision { recompute: true, ..bf16 }, ..f32 };
    tables.map(|table| Formats { compute: DType::Bf16, table }).into_iter().chain([f32, f32_again]).collect()
}

/// Between the two halves of a pass over one sequence, the pool holds exactly the predicted number of bytes.
#[test]
fn activations_take_what_is_predicted() {
    let full_query = ModelConfig { q_lora_rank: None, n_shared_experts: 0, ..every_kind() };
    for config in [every_kind(), full_query] {
        for f in formats() {
            let cx = Cx::cpu(1, f.compute);
            let model = Model::new(&cx, &config, f.table);
            let kept = |tokens: i32| {
                let ids: Vec<i32> = (0..tokens).map(|i| i * 7 % 70).collect();
                let input = Input::of(&cx, &[&ids], model.mtp.len());
                let (mut ws, mut stats) = (Workspace::default(), model.stats(&cx));
                let mut grads = Grads::new(&cx, model.params().into_iter());
                let weights =
                    LossWeights { main: 1.0, mtp: &[0.1, 0.1], balance: Some((BalanceGroups::Sequences, 0.1)) };
                let pass = model.pass(&input, Some(&weights), None);
                let before = cx.pool().requested();
                let ends = model.forward(&cx, &input, &pass, &weights, &mut ws, &mut stats, &mut grads, &mut None);
                let after = cx.pool().requested();
                drop((ends, ws));
                assert_eq!(cx.pool().requested(), before, "{f:?}");
                (after - before) as u64
            };
            // What an MoE layer keeps independent of the length, and MTP's missing rows, are the same in both.
            let (short, long) = (kept(23), kept(90));
            let predicted = training_memory(&config, &f).activations_per_token;
            assert_eq!(long - short, 67 * predicted, "{f:?}: {} of {predicted}", (long - short) as f64 / 67.0);
        }
    }
}

#[test]
fn packed_weights_take_what_is_predicted() {
    let base = every_kind();
    let tied = ModelConfig { tie_word_embeddings: true, q_lora_rank: None, n_shared_experts: 0, ..base.clone() };
    for config in [base, tied] {
        for f in formats() {
            let model = Model::new(&Cx::cpu(1, f.compute), &config, f.table);
            let bytes = |p: &&crate::Param| match p.stored() {
                Stored::Packed(packed) | Stored::Both(_, packed) => packed.bytes(),
                _ => 0,
            };
            let packed: usize = model.params().iter().map(bytes).sum();
            assert_eq!(packed as u64, training_memory(&config, &f).packed, "{f:?}");
        }
    }
}

/// With the report's table, little more than half as much is kept as with bf16.
#[test]
fn fp8_takes_less() {
    let small = ModelConfig::named("small").unwrap();
    let [bf16, fp8] = [Formats::BF16, Formats::FP8].map(|f| training_memory(&small, &f));
    println!("{bf16:?}\n{fp8:?}");
    assert!(fp8.activations_per_token * 100 < bf16.activations_per_token * 55);
    assert!(fp8.packed * 100 < bf16.packed * 60);
}
