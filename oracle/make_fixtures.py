#!/usr/bin/env python3
"""Tiny checkpoints with the results an independent implementation (transformers on PyTorch) gets from them. See README.md.

usage: make_fixtures.py OUT [--variant NAME ...] [--size tiny|full] [--seed N] [--no-extras]
"""
import argparse
import json
import os

import torch
import transformers
from safetensors.torch import save_file

import evaluate as ev
import exact
import extras
from evaluate import distance, everything
from network import Network
from variants import COMMITTED, VARIANTS, config

MARGIN = 1e-4
FLOOR = 1e-5  # of the accepted distance; smaller errors of the oracle do not move the bound and are left out


def greedy(net, prompt, new):
    """Greedy continuation without a cache, and the smallest lead of a winning token."""
    seq, lead = prompt.clone(), float("inf")
    with torch.no_grad():
        for _ in range(new):
            two = net.main(input_ids=seq, use_cache=False).logits[:, -1].topk(2)
            lead = min(lead, (two.values[:, 0] - two.values[:, 1]).min().item())
            seq = torch.cat([seq, two.indices[:, :1]], 1)
    return seq, lead


def make(variant, size, seed, out_dir, with_extras):
    c, how, run = config(variant, size)
    which = how.get("_grads", ("grad.", "mtp_grad."))
    for seed in range(seed, seed + 1000):
        net = Network(c)
        net.randomise(seed, how)
        ids = torch.randint(2, c["vocab_size"], (run["batch"], run["tokens"]), generator=torch.Generator().manual_seed(seed + 10_000))
        with torch.no_grad():
            _, _, routed = ev.forward(net, ids)
        margin = ev.margins(net, routed)
        seq, lead = greedy(net, ids[:1, : run["prompt"]], run["new"])
        if lead > 1e-3 and all(v > MARGIN for m in margin.values() for v in m.values()):
            break
    else:
        raise SystemExit(f"{variant}: no seed with safe margins")
    res, losses, routed = everything(net, ids, which)
    with exact.widen(c):
        wide_net = net.copy_of(torch.float64)
        wide, wide_losses, _ = everything(wide_net, ids, which)
    for i in routed:
        assert torch.equal(res[f"router.{i}.topk_idx"], wide[f"router.{i}.topk_idx"]), f"layer {i} routes differently in f64"
    err = {k: distance(v, wide[k]) for k, v in res.items() if v.is_floating_point()}
    freq, factor = exact.frequencies(c)
    rotary = net.main.model.rotary_emb
    assert distance(rotary.inv_freq, freq) < 1e-6 and abs(rotary.attention_scaling - factor) < 1e-6
    net.save(out_dir, how)
    stored = {k: v.contiguous().clone() for k, v in res.items()}
    stored.update({"input_ids": ids, "greedy.ids": seq})
    save_file(stored, f"{out_dir}/oracle.safetensors")
    info = dict(variant=variant, size=size, seed=seed, torch=torch.__version__, transformers=transformers.__version__,
                losses=losses, losses_f64=wide_losses, mtp_weight=ev.MTP_WEIGHT, total=losses["main"] + ev.MTP_WEIGHT / max(net.depth, 1) * (sum(losses.values()) - losses["main"]),
                greedy_prompt=run["prompt"], greedy_lead=lead, margins=margin, softmax_scale=net.main.model.layers[0].self_attn.scaling,
                cos_sin_factor=rotary.attention_scaling, inv_freq=freq.tolist(), parameters=sum(v.numel() for v in net.state().values()), f32_err={k: v for k, v in err.items() if 4 * v > FLOOR})
    with open(f"{out_dir}/oracle.json", "w") as f:
        json.dump(info, f, indent=1)
        f.write("\n")
    if with_extras:
        extras.write(variant, net, ids, which, MARGIN, out_dir)
    worst = max(err, key=err.get)
    print(f"{variant:12} seed {seed}  " + "  ".join(f"{k} {v:.5f}" for k, v in losses.items()) + f"  worst f32 error {err[worst]:.1e} ({worst})", flush=True)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("out")
    ap.add_argument("--variant", nargs="*", choices=list(VARIANTS), default=COMMITTED)
    ap.add_argument("--size", choices=["tiny", "full"], default="tiny")
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--no-extras", action="store_true", help="leave out bf16.json and train.json")
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for v in a.variant:
        make(v, a.size, a.seed, os.path.join(a.out, v), not a.no_extras)


if __name__ == "__main__":
    main()
