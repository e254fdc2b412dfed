"""The model variants: what each one is there to tell apart, as a config in the layout of the released checkpoints."""

YARN = dict(type="yarn", factor=40.0, original_max_position_embeddings=64, beta_fast=32, beta_slow=1, mscale=1.0, mscale_all_dim=1.0)

# Sizes. `tiny` is what the repository holds: odd numbers on purpose, no dimension of a head equal to another one.
TINY = dict(vocab_size=72, hidden_size=24, intermediate_size=40, moe_intermediate_size=8, num_hidden_layers=2, num_attention_heads=3,
            q_lora_rank=20, kv_lora_rank=16, qk_nope_head_dim=12, qk_rope_head_dim=8, v_head_dim=10, n_routed_experts=8, num_experts_per_tok=3)
FULL = dict(vocab_size=512, hidden_size=128, intermediate_size=256, moe_intermediate_size=48, num_hidden_layers=4, num_attention_heads=8,
            q_lora_rank=48, kv_lora_rank=32, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=12, n_routed_experts=16, num_experts_per_tok=4)
SIZES = {"tiny": (TINY, dict(batch=2, tokens=16, prompt=8, new=8)), "full": (FULL, dict(batch=2, tokens=96, prompt=32, new=16))}

BASE = dict(architectures=["DeepseekV3ForCausalLM"], model_type="deepseek_v3", n_shared_experts=1, n_group=4, topk_group=2,
            routed_scaling_factor=2.5, scoring_func="sigmoid", topk_method="noaux_tc", norm_topk_prob=True, first_k_dense_replace=1,
            moe_layer_freq=1, max_position_embeddings=2560, rms_norm_eps=1e-6, rope_theta=10000.0, rope_scaling=YARN, hidden_act="silu",
            attention_bias=False, tie_word_embeddings=False, num_nextn_predict_layers=0, bos_token_id=0, eos_token_id=1,
            initializer_range=0.02, torch_dtype="bfloat16")
V2 = dict(architectures=["DeepseekV2ForCausalLM"], model_type="deepseek_v2", scoring_func="softmax", norm_topk_prob=False, n_shared_experts=2,
          num_nextn_predict_layers=0, num_attention_heads=2)

# Keys that start with "_" direct this script and are no part of the config:
#   _bias      mean of the router bias          _dead     this expert is never chosen
#   _copies    store MTP's copies of the embedding and the head, as released checkpoints do
#   _grads     which gradients to store         _new_rope write `rope_parameters` as recent transformers do
#   _omit      keys that the released file of this family leaves out     _layer_types   write `mlp_layer_types`
VARIANTS = {
    # V3 as released; f32 weights (the others hold BF16 weights).
    "yarn": dict(num_nextn_predict_layers=1, torch_dtype="float32", _copies=True),
    "norope": dict(num_nextn_predict_layers=1, rope_scaling=None),
    "noqlora": dict(num_nextn_predict_layers=1, q_lora_rank=None),
    # mscale and mscale_all_dim differ, so cos and sin are scaled too.
    "yarn_mscale": dict(num_nextn_predict_layers=1, rope_scaling={**YARN, "mscale": 0.707}, _new_rope=True),
    # Negative selection scores: masked groups must be -inf, not zero. One expert gets no token at all.
    "negbias": dict(num_nextn_predict_layers=1, _bias=-1.0, _dead=5),
    "moonlight": dict(q_lora_rank=None, n_group=1, topk_group=1, n_shared_experts=2, routed_scaling_factor=2.446, rope_scaling=None),
    # Two prediction modules, cos/sin factor, negative bias and an idle expert in one.
    "mtp2": dict(num_nextn_predict_layers=2, rope_scaling={**YARN, "mscale": 0.707}, _new_rope=True, _bias=-1.0, _dead=5, _grads=("mtp_grad.",)),
    # Softmax scores under the V3 selection, embedding and head tied, weights not normalised.
    "tied": dict(num_nextn_predict_layers=1, tie_word_embeddings=True, scoring_func="softmax", norm_topk_prob=False, _grads=("mtp_grad.",)),
    "softmax": dict(num_nextn_predict_layers=1, scoring_func="softmax"),
    "dense": dict(first_k_dense_replace=99, rope_scaling=None, rms_norm_eps=1e-5),
    # GLM-4.7-Flash: a wide value, epsilon 1e-5 outside of MLA, the list of layers, and a file without `scoring_func`.
    "glm": dict(architectures=["Glm4MoeLiteForCausalLM"], model_type="glm4_moe_lite", n_group=1, topk_group=1, num_nextn_predict_layers=1, v_head_dim=16, intermediate_size=24,
                num_attention_heads=2, num_experts_per_tok=2, rms_norm_eps=1e-5, routed_scaling_factor=1.8, rope_theta=1000000.0, rope_scaling=None, n_routed_experts=4,
                _omit=("scoring_func", "first_k_dense_replace", "moe_layer_freq"), _layer_types=True, _grads=("mtp_grad.",)),
    # GigaChat3: no query latent, values wider than the part without position, one group, MTP.
    "gigachat": dict(q_lora_rank=None, n_group=1, topk_group=1, num_nextn_predict_layers=1, v_head_dim=18, num_experts_per_tok=2, n_routed_experts=4, intermediate_size=24, num_attention_heads=2,
                     rope_theta=100000.0, rope_scaling={**YARN, "factor": 64.0}, _grads=("mtp_grad.",)),
    # Youtu-LLM: dense, tied; its file has no key for experts.
    "youtu": dict(architectures=["YoutuForCausalLM"], model_type="youtu", n_routed_experts=0, first_k_dense_replace=99, tie_word_embeddings=True,
                  rope_theta=1600000.0, rope_scaling=None, _new_rope=True,
                  _omit=("n_routed_experts", "n_shared_experts", "n_group", "topk_group", "routed_scaling_factor", "scoring_func", "topk_method",
                         "norm_topk_prob", "first_k_dense_replace", "moe_layer_freq", "moe_intermediate_size", "num_experts_per_tok",
                         "num_nextn_predict_layers")),
    # Kimi-K2: many experts in one group, both betas of YaRN the same.
    "kimi": dict(model_type="kimi_k2", n_group=1, topk_group=1, n_routed_experts=24, num_experts_per_tok=6, moe_intermediate_size=4,
                 routed_scaling_factor=2.827, rope_theta=50000.0, rope_scaling={**YARN, "beta_fast": 1.0, "factor": 32.0}),
    # DeepSeek-V2: softmax, no bias; the Lite model picks greedily and has no query latent.
    "v2_lite": {**V2, **dict(q_lora_rank=None, topk_method="greedy", n_group=1, topk_group=1, routed_scaling_factor=1.0)},
    "v2_group": {**V2, **dict(topk_method="group_limited_greedy", routed_scaling_factor=16.0, rope_scaling={**YARN, "mscale": 0.707, "mscale_all_dim": 0.707})},
    # V2's own code normalises INSTEAD of scaling; no released checkpoint has it on, and transformers ignores the switch.
    "v2_norm": {**V2, **dict(topk_method="group_limited_greedy", routed_scaling_factor=16.0, norm_topk_prob=True)},
}
# Those kept in the repository (tiny, seed 0 and up).
COMMITTED = ["yarn", "moonlight", "mtp2", "tied", "dense", "v2_group", "glm", "gigachat", "youtu", "kimi"]


def config(variant, size):
    """(config.json's content, directions, run sizes)."""
    sizes, run = SIZES[size]
    both = {**BASE, **sizes, **VARIANTS[variant]}
    c = {k: v for k, v in both.items() if not k.startswith("_")}
    c["num_key_value_heads"] = c["num_attention_heads"]
    c["first_k_dense_replace"] = min(c["first_k_dense_replace"], c["num_hidden_layers"])
    if both.get("_new_rope"):
        scaling = c.pop("rope_scaling")
        c["rope_parameters"] = {"rope_theta": c.pop("rope_theta"), "rope_type": "yarn" if scaling else "default"}
        c["rope_parameters"].update({k: v for k, v in (scaling or {}).items() if k != "type"})
    if both.get("_layer_types"):
        dense = c["first_k_dense_replace"]
        c["mlp_layer_types"] = ["dense"] * dense + ["sparse"] * (c["num_hidden_layers"] - dense)
    return c, {k: v for k, v in both.items() if k.startswith("_")}, run
