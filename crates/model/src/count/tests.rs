use super::*;
use crate::hf::Checkpoint;
use std::path::Path;

const BF16: Precision = Precision::COMPUTE;

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

/// Every fixture's tensors, copies of shared ones left out, add up to what its configuration says.
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
        // Nearly all parameters are matrices of bf16 products: 4 bytes a parameter in packed forms.
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
    let text = inspect(&ModelConfig::named("deepseek-v3").unwrap(), None).to_string();
    for part in [
        "main model                 671,026,419,200      37,552,297,472",
        "MTP module                  11,610,068,224",
        "per token and layer                1,152 B",
        "per token                         70,272 B  61 layers",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert!(text.lines().all(|l| l.len() <= 80 && l.trim_end() == l), "{text}");
    let json = serde_json::to_value(inspect(&ModelConfig::named("small").unwrap(), Some(512))).unwrap();
    assert_eq!(json["parameters"]["main"], 115_666_144);
    assert_eq!(json["flops_per_token"]["sequence"], 512);
    assert!(!inspect(&ModelConfig::named("small").unwrap(), None).to_string().contains("MTP"));
}

/// A block's saved state as the pool has it against the prediction: buffers come in sizes a quarter of a power of two apart,
/// so that a tenth more than asked for is to be expected.
#[test]
fn activations_take_what_is_predicted() {
    use crate::{Input, Model};
    use hadal_ops::{Cx, DType};
    let config = ModelConfig { num_hidden_layers: 2, vocab_size: 64, ..ModelConfig::named("small").unwrap() };
    let ids: Vec<i32> = (0..256).map(|i| i % 64).collect();
    let mut total = [0; 2];
    for (which, precision) in [Precision::COMPUTE, Precision::FP8].into_iter().enumerate() {
        let cx = Cx::cpu(1, DType::Bf16);
        let mut model = Model::with_precision(&cx, &config, precision);
        model.init(&cx, 1, 0.02);
        let input = Input::of(&cx, &[&ids], 0);
        for (l, block) in model.blocks.iter().enumerate() {
            let x = cx.zeros(&[ids.len(), config.hidden_size], DType::F32);
            let before = cx.pool().usage().0 - x.bytes();
            let (y, saved) = block.forward(&cx, x, &model.pass(&input, None, None), false);
            let measured = cx.pool().usage().0 - before - y.bytes();
            let predicted: u64 = saved_by_layer(&config, l, &precision).iter().map(|s| s.1 * ids.len() as u64).sum();
            let ratio = measured as f64 / predicted as f64;
            assert!((0.99..1.15).contains(&ratio), "layer {l}, {precision:?}: {measured} of {predicted}");
            total[which] += measured;
            drop(saved);
        }
    }
    // The report's table keeps less than 0.7 of what bf16 keeps.
    assert!(total[1] * 10 < total[0] * 7, "{total:?}");
    println!("bytes of {} tokens in two layers: {total:?}", ids.len());
}
