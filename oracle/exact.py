"""Replacements for the parts of transformers that hold a precision fixed or lack a case.

transformers computes norms, scores and rotary tables in f32 whatever the model's type. To learn how far its f32 results are
from the exact ones, `widen()` replaces those parts by the same equations in f64. `route` is the gate for every combination of
scoring and selection, written from the equations; it also serves to force the choices of another run.
"""
import contextlib
import math
import types

import torch
import torch.nn.functional as F
from transformers.models.deepseek_v2 import modeling_deepseek_v2 as v2
from transformers.models.deepseek_v3 import modeling_deepseek_v3 as v3
from transformers.models.glm4_moe_lite import modeling_glm4_moe_lite as glm
from transformers.models.youtu import modeling_youtu as youtu


def selection(scores, bias, c):
    """(scores to choose by with closed groups at -inf, group scores or None)."""
    E, G = c["n_routed_experts"], c["n_group"]
    method = c["topk_method"]
    chosen_by = scores + bias if method == "noaux_tc" else scores
    if method == "greedy":
        return chosen_by, None
    members = chosen_by.view(-1, G, E // G)
    groups = members.topk(2, -1).values.sum(-1) if method == "noaux_tc" else members.max(-1).values
    best = groups.sort(dim=-1, descending=True, stable=True).indices[:, : c["topk_group"]]
    is_open = torch.zeros_like(groups, dtype=torch.bool).scatter_(1, best, True)
    return chosen_by.masked_fill(~is_open.repeat_interleave(E // G, 1), -math.inf), groups


def weigh(scores, idx, c):
    """Weights of the chosen experts from the unbiased scores."""
    w = scores.gather(1, idx)
    if c["norm_topk_prob"] and c["num_experts_per_tok"] > 1:
        w = w / (w.sum(-1, keepdim=True) + 1e-20)
        if c["model_type"] == "deepseek_v2":
            return w
    return w * c["routed_scaling_factor"]


def activate(logits, c):
    return logits.sigmoid() if c["scoring_func"] == "sigmoid" else logits.softmax(-1)


def route(gate, hidden, c, dtype, forced=None):
    """Router logits, weights and choices; arithmetic in `dtype`; `forced` replaces the choice."""
    logits = F.linear(hidden.view(-1, hidden.shape[-1]).to(dtype), gate.weight.to(dtype))
    scores = activate(logits, c)
    idx = forced
    if idx is None:
        with torch.no_grad():
            bias = getattr(gate, "e_score_correction_bias", torch.zeros(()))
            by, _ = selection(scores, bias.to(dtype), c)
            idx = by.sort(dim=-1, descending=True, stable=True).indices[:, : c["num_experts_per_tok"]]
    return logits, weigh(scores, idx, c), idx


def install_router(gate, c, dtype, forced=None):
    gate.forward = types.MethodType(lambda self, h: route(self, h, c, dtype, forced), gate)


def frequencies(c, dtype=torch.float64):
    """(inverse rotary frequencies, factor of cos and sin), from the equations of YaRN."""
    rope = c.get("rope_parameters") or dict(rope_theta=c["rope_theta"], **(c["rope_scaling"] or {}))
    dim, theta = c["qk_rope_head_dim"], rope["rope_theta"]
    freq = theta ** (-torch.arange(0, dim, 2, dtype=dtype) / dim)
    if "factor" not in rope:
        return freq, 1.0
    turn = lambda r: dim * math.log(rope["original_max_position_embeddings"] / (2 * math.pi * r)) / (2 * math.log(theta))
    low, high = max(math.floor(turn(rope["beta_fast"])), 0), min(math.ceil(turn(rope["beta_slow"])), dim - 1)
    ramp = ((torch.arange(dim // 2, dtype=dtype) - low) / max(high - low, 1e-3)).clamp(0, 1)
    m = lambda x: 0.1 * x * math.log(rope["factor"]) + 1 if rope["factor"] > 1 else 1.0
    return freq / rope["factor"] * ramp + freq * (1 - ramp), m(rope["mscale"]) / m(rope["mscale_all_dim"])


@contextlib.contextmanager
def widen(c):
    """Inside, models of either family compute in the type of their weights throughout (meant for f64)."""
    freq, factor = frequencies(c)

    def norm(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))

    def table(position_ids):
        return position_ids[..., None].double() * freq

    def rotary3(self, x, position_ids):
        a = torch.cat([table(position_ids)] * 2, -1)
        return a.cos() * factor, a.sin() * factor

    def rotary2(self, x, position_ids):
        a = table(position_ids)
        return torch.polar(torch.full_like(a, factor), a)

    def turn2(q, k, cis):
        f = lambda x: torch.view_as_real(torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2)) * cis.unsqueeze(1)).flatten(3)
        return f(q), f(k)

    def attention(module, q, k, v, mask, scaling, dropout=0.0, **kw):
        p = (q @ k.transpose(2, 3) * scaling + mask).softmax(-1)
        return (p @ v).transpose(1, 2).contiguous(), p

    put = [(v3.DeepseekV3RMSNorm, "forward", norm), (v2.DeepseekV2RMSNorm, "forward", norm), (v3.DeepseekV3RotaryEmbedding, "forward", rotary3),
           (v2.DeepseekV2RotaryEmbedding, "forward", rotary2), (v2, "apply_rotary_emb", turn2),
           (v3, "eager_attention_forward", attention), (v2, "eager_attention_forward", attention)]
    for module, name in ((glm, "Glm4MoeLite"), (youtu, "Youtu")):
        put += [(getattr(module, name + "RMSNorm"), "forward", norm), (getattr(module, name + "RotaryEmbedding"), "forward", rotary3),
                (module, "eager_attention_forward", attention)]
    old = [(o, n, getattr(o, n)) for o, n, _ in put]
    try:
        for o, n, f in put:
            setattr(o, n, f)
        yield
    finally:
        for o, n, f in old:
            setattr(o, n, f)
