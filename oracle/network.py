"""Building transformers' models for a variant, and the way between its tensor names and those of a checkpoint."""
import copy
import json
import os

import torch
from safetensors.torch import save_file
from transformers import (DeepseekV2Config, DeepseekV2ForCausalLM, DeepseekV3Config, DeepseekV3ForCausalLM, Glm4MoeLiteConfig,
                          Glm4MoeLiteForCausalLM, YoutuConfig, YoutuForCausalLM)
from transformers.modeling_layers import MtpModel

import exact

V3 = (DeepseekV3Config, DeepseekV3ForCausalLM)
# Kimi-K2 is a DeepSeek-V3 by its makers' word, and has no class of its own.
FAMILIES = {"deepseek_v2": (DeepseekV2Config, DeepseekV2ForCausalLM), "deepseek_v3": V3, "kimi_k2": V3,
            "glm4_moe_lite": (Glm4MoeLiteConfig, Glm4MoeLiteForCausalLM), "youtu": (YoutuConfig, YoutuForCausalLM)}
# Keys that are not arguments of a family's configuration, or that mean nothing to it.
NOT_ARGUMENTS = {"deepseek_v2": (), "youtu": ("n_routed_experts", "n_shared_experts", "n_group", "topk_group", "routed_scaling_factor",
                 "topk_method", "norm_topk_prob", "first_k_dense_replace", "moe_intermediate_size", "num_experts_per_tok",
                 "num_nextn_predict_layers"), "glm4_moe_lite": ("topk_method", "first_k_dense_replace")}


class Network:
    """The main model, its prediction modules (or None) and the config they were made from."""

    def __init__(self, c, dtype=torch.float32):
        self.c, self.dtype, self.layers, self.depth = c, dtype, c["num_hidden_layers"], c["num_nextn_predict_layers"]
        family = FAMILIES[c["model_type"]]
        skip = ("architectures", "model_type", "torch_dtype", "moe_layer_freq", "scoring_func") + NOT_ARGUMENTS.get(c["model_type"], ("topk_method",))
        hf = family[0](**{k: copy.deepcopy(v) for k, v in c.items() if k not in skip})
        hf._attn_implementation = hf._experts_implementation = "eager"
        if self.depth and "mlp_layer_types" in c:
            # transformers leaves out the MTP module of this family; its own generic class builds it from these two.
            hf.num_mtp_layers, hf.mtp_mlp_layer_types = self.depth, ["sparse"] * self.depth
        self.main = family[1](hf).to(dtype).eval()
        self.mtp = MtpModel(self.main, self.depth).to(dtype).eval() if self.depth else None
        native = c["scoring_func"] == "sigmoid" or (c["model_type"] == "deepseek_v2" and not c["norm_topk_prob"])
        if dtype == torch.float64 or not native:
            self.replace_routers(torch.float64 if dtype == torch.float64 else torch.float32)

    def gates(self):
        """Layer index -> router; prediction modules follow the main layers."""
        found = {i: l.mlp.gate for i, l in enumerate(self.main.model.layers) if hasattr(l.mlp, "gate")}
        for k in range(self.depth):
            found[self.layers + k] = self.mtp.layers[k].mtp_block.mlp.gate
        return found

    def replace_routers(self, dtype, forced=None):
        for i, g in self.gates().items():
            exact.install_router(g, self.c, dtype, None if forced is None else forced[i])

    def mtp_name(self, n):
        """A prediction module's tensor by its name in a checkpoint; None for what it shares with the main model."""
        if not n.startswith("layers."):
            return None
        _, k, rest = n.split(".", 2)
        rest = rest.removeprefix("mtp_block.") if rest.startswith("mtp_block.") else rest.replace("post_norm.", "shared_head.norm.")
        return f"model.layers.{self.layers + int(k)}.{rest}"

    def split(self, name, t):
        """(checkpoint name, tensor) pairs: experts are packed in memory and separate on disk."""
        if name.endswith("mlp.experts.gate_up_proj"):
            base, half = name.removesuffix("gate_up_proj"), t.shape[1] // 2
            return [(f"{base}{e}.{p}_proj.weight", t[e, s]) for e in range(len(t)) for p, s in (("gate", slice(half)), ("up", slice(half, None)))]
        if name.endswith("mlp.experts.down_proj"):
            base = name.removesuffix("down_proj")
            return [(f"{base}{e}.down_proj.weight", t[e]) for e in range(len(t))]
        return [(name, t)]

    def parameters(self):
        """(checkpoint name before splitting, parameter), each once."""
        own = list(self.main.named_parameters())
        if self.mtp is not None:
            own += [(self.mtp_name(n), p) for n, p in self.mtp.named_parameters() if self.mtp_name(n)]
        return own

    def state(self):
        """Checkpoint name -> tensor, without MTP's copies."""
        out = {}
        biases = [(f"model.layers.{i}.mlp.gate.e_score_correction_bias", g.e_score_correction_bias) for i, g in self.gates().items() if hasattr(g, "e_score_correction_bias")]
        for n, p in self.parameters() + biases:
            for k, v in self.split(n, p.detach()):
                out[k] = v.clone().contiguous()
        return out

    def randomise(self, seed, how):
        """Random weights with visible effect everywhere; BF16 numbers when the checkpoint is to be BF16."""
        g = torch.Generator().manual_seed(seed)
        narrow = self.c["torch_dtype"] == "bfloat16"
        normal = lambda p: torch.randn(p.shape, generator=g, dtype=torch.float32)
        with torch.no_grad():
            for n, p in self.parameters():
                if "norm" in n:
                    w = 1 + 0.2 * normal(p)
                elif "embed_tokens" in n:
                    w = normal(p) * (p.shape[-1] ** -0.5 if self.c["tie_word_embeddings"] else 1.0)
                else:
                    w = normal(p) * (2.0 if ".gate.weight" in n else 1.0) / p.shape[-1] ** 0.5
                p.copy_(w.bfloat16() if narrow else w)
            for gate in self.gates().values():
                if hasattr(gate, "e_score_correction_bias"):
                    b = how.get("_bias", 0.0) + 0.15 * normal(gate.e_score_correction_bias)
                    if "_dead" in how:
                        b[how["_dead"]] = -9.0
                    gate.e_score_correction_bias.copy_(b)

    def copy_of(self, dtype):
        """The same weights in another type."""
        other = Network(self.c, dtype)
        with torch.no_grad():
            for (_, a), (_, b) in zip(self.parameters(), other.parameters(), strict=True):
                b.copy_(a)
            for i, g in self.gates().items():
                if hasattr(g, "e_score_correction_bias"):
                    og = other.gates()[i]
                    og.e_score_correction_bias = g.e_score_correction_bias.detach().clone()
        return other

    def save(self, folder, how):
        """config.json and model.safetensors in the layout of released checkpoints."""
        os.makedirs(folder, exist_ok=True)
        sd = self.state()
        if how.get("_copies"):
            for k in range(self.depth):
                sd[f"model.layers.{self.layers + k}.embed_tokens.weight"] = sd["model.embed_tokens.weight"].clone()
                sd[f"model.layers.{self.layers + k}.shared_head.head.weight"] = sd["lm_head.weight"].clone()
        if self.c["torch_dtype"] == "bfloat16":
            sd = {k: v if k.endswith("e_score_correction_bias") else v.bfloat16() for k, v in sd.items()}
        save_file(sd, f"{folder}/model.safetensors", metadata={"format": "pt"})
        with open(f"{folder}/config.json", "w") as f:
            json.dump({k: v for k, v in self.c.items() if k not in how.get("_omit", ())}, f, indent=1)
            f.write("\n")
