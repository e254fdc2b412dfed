#!/usr/bin/env python3
"""A tiny FP8 checkpoint and what DeepSeek's own inference/model.py computes from it in f32, FP8 weights de-quantised:
crates/model/tests/fixtures/fp8/official. Most matrices have blocks at the edges that are not whole.

usage: DEEPSEEK_INFERENCE=<inference/ of a checkout of deepseek-ai/DeepSeek-V3> make_fp8_model.py OUT
OUT gets config.json, model.safetensors and logits.safetensors (input_ids [B, T], logits [B, T, vocabulary])."""
import json
import os
import sys
import types

import torch
from safetensors.torch import save_file

torch.manual_seed(11)
torch.set_num_threads(1)

CONFIG = dict(
    architectures=["DeepseekV3ForCausalLM"], model_type="deepseek_v3", vocab_size=96, hidden_size=136, intermediate_size=260,
    moe_intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4, n_shared_experts=1,
    n_routed_experts=8, routed_scaling_factor=2.5, kv_lora_rank=64, q_lora_rank=130, qk_rope_head_dim=16, v_head_dim=24,
    qk_nope_head_dim=24, n_group=4, topk_group=2, num_experts_per_tok=2, first_k_dense_replace=1, norm_topk_prob=True,
    scoring_func="sigmoid", topk_method="noaux_tc", max_position_embeddings=2560, rms_norm_eps=1e-6, rope_theta=10000.0,
    rope_scaling=dict(type="yarn", factor=40, original_max_position_embeddings=64, beta_fast=32, beta_slow=1, mscale=1.0,
                      mscale_all_dim=1.0),
    hidden_act="silu", attention_bias=False, tie_word_embeddings=False, num_nextn_predict_layers=0, moe_layer_freq=1,
    bos_token_id=0, eos_token_id=1, torch_dtype="bfloat16",
    quantization_config=dict(activation_scheme="dynamic", fmt="e4m3", quant_method="fp8", weight_block_size=[128, 128]))

NAMES = dict(
    embed_tokens="embed", input_layernorm="attn_norm", post_attention_layernorm="ffn_norm", q_a_proj="wq_a",
    q_a_layernorm="q_norm", q_b_proj="wq_b", kv_a_proj_with_mqa="wkv_a", kv_a_layernorm="kv_norm", kv_b_proj="wkv_b",
    o_proj="wo", gate="gate", gate_proj="w1", down_proj="w2", up_proj="w3", norm="norm", lm_head="head")


def quantise(w):
    """Blocks of 128x128: scale = amax / 448, code = w / scale."""
    rows, cols = w.shape
    down, across = -(-rows // 128), -(-cols // 128)
    padded = torch.zeros(down * 128, across * 128)
    padded[:rows, :cols] = w
    blocks = padded.view(down, 128, across, 128)
    scale = blocks.abs().amax((1, 3)) / 448.0
    codes = (blocks / scale[:, None, :, None]).to(torch.float8_e4m3fn).view(down * 128, across * 128)
    return codes[:rows, :cols].contiguous(), scale.contiguous()


def dequantise(w, scale, block_size=128):
    full = scale.repeat_interleave(block_size, 0)[: w.shape[0]].repeat_interleave(block_size, 1)[:, : w.shape[1]]
    return w.float() * full


def weights(c):
    """A random checkpoint by the released names, in the released types."""
    sd, d, heads, inner = {}, c["hidden_size"], c["num_attention_heads"], c["moe_intermediate_size"]

    def linear(name, rows, cols):
        sd[f"{name}.weight"], sd[f"{name}.weight_scale_inv"] = quantise(torch.randn(rows, cols) / cols ** 0.5)

    def plain(name, value):
        sd[name] = value.bfloat16()

    def norm(name, width):
        plain(f"{name}.weight", 1 + 0.2 * torch.randn(width))

    def mlp(name, width):
        linear(f"{name}.gate_proj", width, d)
        linear(f"{name}.up_proj", width, d)
        linear(f"{name}.down_proj", d, width)

    plain("model.embed_tokens.weight", torch.randn(c["vocab_size"], d))
    plain("lm_head.weight", torch.randn(c["vocab_size"], d) / d ** 0.5)
    norm("model.norm", d)
    query = c["qk_nope_head_dim"] + c["qk_rope_head_dim"]
    for layer in range(c["num_hidden_layers"]):
        p = f"model.layers.{layer}"
        a, m = f"{p}.self_attn", f"{p}.mlp"
        for name, width in ((f"{p}.input_layernorm", d), (f"{p}.post_attention_layernorm", d),
                            (f"{a}.q_a_layernorm", c["q_lora_rank"]), (f"{a}.kv_a_layernorm", c["kv_lora_rank"])):
            norm(name, width)
        linear(f"{a}.q_a_proj", c["q_lora_rank"], d)
        linear(f"{a}.q_b_proj", heads * query, c["q_lora_rank"])
        linear(f"{a}.kv_a_proj_with_mqa", c["kv_lora_rank"] + c["qk_rope_head_dim"], d)
        linear(f"{a}.kv_b_proj", heads * (c["qk_nope_head_dim"] + c["v_head_dim"]), c["kv_lora_rank"])
        linear(f"{a}.o_proj", d, heads * c["v_head_dim"])
        if layer < c["first_k_dense_replace"]:
            mlp(m, c["intermediate_size"])
            continue
        plain(f"{m}.gate.weight", torch.randn(c["n_routed_experts"], d) / d ** 0.5)
        sd[f"{m}.gate.e_score_correction_bias"] = torch.randn(c["n_routed_experts"]) * 0.15
        for expert in range(c["n_routed_experts"]):
            mlp(f"{m}.experts.{expert}", inner)
        mlp(f"{m}.shared_experts", inner * c["n_shared_experts"])
    return sd


def official(c, sd):
    """The official model with these weights, on a CPU: its kernels replaced by the function above."""
    kernel = types.ModuleType("kernel")
    kernel.weight_dequant, kernel.act_quant, kernel.fp8_gemm = dequantise, None, None
    sys.modules["kernel"] = kernel
    sys.path.insert(0, os.environ["DEEPSEEK_INFERENCE"])
    import model
    model.attn_impl, model.gemm_impl = "naive", "bf16"
    torch.set_default_dtype(torch.float32)
    rope = c["rope_scaling"]
    args = model.ModelArgs(
        max_batch_size=2, max_seq_len=c["max_position_embeddings"], dtype="fp8", scale_fmt=None, vocab_size=c["vocab_size"],
        dim=c["hidden_size"], inter_dim=c["intermediate_size"], moe_inter_dim=c["moe_intermediate_size"],
        n_layers=c["num_hidden_layers"], n_dense_layers=c["first_k_dense_replace"], n_heads=c["num_attention_heads"],
        n_routed_experts=c["n_routed_experts"], n_shared_experts=c["n_shared_experts"],
        n_activated_experts=c["num_experts_per_tok"], n_expert_groups=c["n_group"], n_limited_groups=c["topk_group"],
        score_func="sigmoid", route_scale=c["routed_scaling_factor"], q_lora_rank=c["q_lora_rank"],
        kv_lora_rank=c["kv_lora_rank"], qk_nope_head_dim=c["qk_nope_head_dim"], qk_rope_head_dim=c["qk_rope_head_dim"],
        v_head_dim=c["v_head_dim"], original_seq_len=rope["original_max_position_embeddings"], rope_theta=c["rope_theta"],
        rope_factor=rope["factor"], mscale=rope["mscale_all_dim"])
    net = model.Transformer(args)
    for layer in net.layers:  # the official code has this bias at the full width only
        if hasattr(layer.ffn, "gate"):
            layer.ffn.gate.bias = torch.nn.Parameter(torch.zeros(c["n_routed_experts"]))
    renamed = {}
    for name, value in sd.items():
        name = name.removeprefix("model.").replace("self_attn", "attn").replace("mlp", "ffn")
        name = name.replace("weight_scale_inv", "scale").replace("e_score_correction_bias", "bias")
        key = name.split(".")[-2]
        renamed[name.replace(key, NAMES[key])] = value if value.dtype == torch.float8_e4m3fn else value.float()
    for name, parameter in net.named_parameters():
        if parameter.dtype == torch.bfloat16:
            parameter.data = parameter.data.float()
    net.load_state_dict(renamed, strict=True)
    return net


def main():
    out = sys.argv[1]
    os.makedirs(out, exist_ok=True)
    sd = weights(CONFIG)
    net = official(CONFIG, sd)
    ids = torch.randint(2, CONFIG["vocab_size"], (2, 40))
    with torch.inference_mode():  # the official forward gives the last position only: its loop, for all
        length = ids.shape[1]
        mask = torch.full((length, length), float("-inf")).triu_(1)
        h = net.embed(ids)
        for layer in net.layers:
            h = layer(h, 0, net.freqs_cis[:length], mask)
        logits = net.head(net.norm(h))
    with open(f"{out}/config.json", "w") as file:
        json.dump(CONFIG, file, indent=1)
    save_file(sd, f"{out}/model.safetensors", metadata={"format": "pt"})
    save_file({"input_ids": ids, "logits": logits.float().clone()}, f"{out}/logits.safetensors")
    print("logits", tuple(logits.shape), "rms", logits.pow(2).mean().sqrt().item())


if __name__ == "__main__":
    main()
