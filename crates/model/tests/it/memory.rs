//! The memory of a pass grows linearly with its tokens, and does not include the logits of all tokens.

use hadal_model::{Fresh, Grads, Input, LossWeights, Model, Workspace};
use hadal_ops::{Cx, DType};
use hadal_weights::ModelConfig;
use hadal_weights::precision::Precision;

/// A narrow model. The scores of all pairs, or the logits of all tokens if there are many, would need more memory than
/// everything kept.
fn config(vocab_size: usize) -> ModelConfig {
    ModelConfig {
        vocab_size,
        hidden_size: 32,
        intermediate_size: 64,
        moe_intermediate_size: 16,
        num_hidden_layers: 2,
        num_nextn_predict_layers: 1,
        num_attention_heads: 2,
        n_routed_experts: 4,
        num_experts_per_tok: 2,
        first_k_dense_replace: 1,
        q_lora_rank: Some(16),
        kv_lora_rank: 16,
        qk_nope_head_dim: 8,
        qk_rope_head_dim: 8,
        v_head_dim: 8,
        n_group: 1,
        topk_group: 1,
        max_position_embeddings: 4096,
        ..ModelConfig::named("small").unwrap()
    }
}

/// The largest memory of a pass over one sequence, besides weights and gradients.
fn peak(precision: Precision, vocab: usize, tokens: usize) -> usize {
    let (cx, config) = (Cx::cpu(2, DType::Bf16), config(vocab));
    let model = Model::fresh(&cx, &config, precision, Fresh { seed: 1, std: 0.02 });
    let ids: Vec<i32> = (0..tokens as i32).map(|i| i * 7 % vocab as i32).collect();
    let input = Input::of(&cx, &[&ids], 1);
    let (mut ws, mut stats) = (Workspace::default(), model.stats(&cx));
    let mut grads = Grads::new(&cx, model.params().into_iter());
    let weights = LossWeights { main: 1.0, mtp: &[0.1], balance: None };
    let before = cx.pool().usage().0;
    model.forward_backward(&cx, &input, &weights, None, &mut ws, &mut stats, &mut grads, None);
    cx.pool().usage().1 - before
}

#[test]
fn a_pass_takes_memory_in_proportion_to_its_tokens() {
    for precision in [Precision::COMPUTE, Precision::FP8] {
        let [one, two, four] = [512, 1024, 2048].map(|tokens| peak(precision, 64, tokens));
        println!("{one} {two} {four} bytes of 512, 1024, 2048 tokens");
        // The differences do not contain what does not grow with the tokens. The scores of all pairs, in bf16 and for
        // one head, would add 1.5 and 6 MB to them.
        let (first, second) = ((two - one) as f64, (four - two) as f64);
        assert!(second <= 2.1 * first, "{first} and {second} bytes more");
    }
}

#[test]
fn logits_of_all_tokens_never_exist() {
    let vocab = 8192;
    for precision in [Precision::COMPUTE, Precision::FP8] {
        // Both have the same chunk of logits.
        let [one, two] = [512, 1024].map(|tokens| peak(precision, vocab, tokens));
        let each = (two - one) as f64 / 512.0;
        println!("{each} bytes per token");
        assert!(each < 2.0 * vocab as f64, "{each} bytes per token, logits in bf16 would be {}", 2 * vocab);
    }
}
