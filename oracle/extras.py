"""What else is kept for some variants: distances of PyTorch's BF16 from f32 (bf16.json), ten training steps (train.json)."""
import json

import torch

import evaluate as ev
import exact
from evaluate import distance, everything

BF16, BATCHES = ("yarn", "moonlight"), 8
TRAINED = ("yarn", "tied")
STEPS, WARM, LR, CLIP = 10, 5, 1e-3, 1.0
# Smallest routing margin allowed in any of the steps: far above what f32 rounding moves a score in ten steps.
STEP_MARGIN = 2e-5


def write(variant, net, ids, which, margin, out_dir):
    """The files that this variant has."""
    if variant in BF16:
        dump(f"{out_dir}/bf16.json", bf16(net, ids, which, margin))
    if variant in TRAINED:
        dump(f"{out_dir}/train.json", training(net, ids.shape))


def dump(path, content):
    # One line for each entry of the outer two levels keeps the files small and still readable in a diff.
    def text(v, depth):
        if isinstance(v, dict) and depth < 2:
            pad = " " * (depth + 1)
            return "{\n" + ",\n".join(f"{pad}{json.dumps(k)}: {text(x, depth + 1)}" for k, x in v.items()) + "\n" + " " * depth + "}"
        return json.dumps(v)

    with open(path, "w") as f:
        f.write(text(content, 0) + "\n")


def bf16(net, ids, which, margin):
    """Relative distances from the f32 result, [model in BF16, autocast], with the choices of the f32 run forced.

    `first`: on the variant's own tokens; `rms`: root of the mean square over several batches, which luck moves less.
    """
    batches, g = [ids], torch.Generator().manual_seed(77)
    while len(batches) < BATCHES:
        more = torch.randint(2, net.c["vocab_size"], ids.shape, generator=g)
        with torch.no_grad():
            near = ev.margins(net, ev.forward(net, more)[2])
        if all(v > margin for m in near.values() for v in m.values()):
            batches.append(more)
    each = [replayed(net, b, which) for b in batches]
    rms = {k: [(sum(e[k][m] ** 2 for e in each) / len(each)) ** 0.5 for m in (0, 1)] for k in each[0]}
    short = lambda d: {k: [float(f"{x:.4g}") for x in v] for k, v in d.items()}
    return {"first": short(each[0]), "rms": short(rms), "input_ids": {str(i): b.tolist() for i, b in enumerate(batches)}}


def replayed(net, ids, which):
    """Name -> [distance of the BF16 model, distance under autocast] for one batch."""
    res, losses, routed = everything(net, ids, which)
    names = [k for k, v in res.items() if v.is_floating_point() and "balance" not in k]
    forced = {i: idx for i, (_, _, idx) in routed.items()}
    runs = []
    for dtype in (torch.bfloat16, torch.float32):
        other = net.copy_of(dtype)
        other.main.model.rotary_emb.inv_freq = net.main.model.rotary_emb.inv_freq  # kept in f32, as a loaded model has it
        other.replace_routers(torch.float32, forced)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.float32):
            got, got_losses, _ = everything(other, ids, which)
        d = {k: distance(got[k], res[k]) for k in names}
        d.update({f"loss.{k}": abs(got_losses[k] - v) / v for k, v in losses.items()})
        for p in ("grad.", "mtp_grad."):
            of = [k for k in names if k.startswith(p)]
            if of:
                flat = lambda t: torch.cat([t[k].double().flatten() for k in of])
                d[p + "*"] = distance(flat(got), flat(res))
        runs.append(d)
    return {k: [r[k] for r in runs] for k in runs[0]}


def training(net, shape):
    for seed in range(100):
        g = torch.Generator().manual_seed(seed)
        batches = torch.randint(2, net.c["vocab_size"], (STEPS, *shape), generator=g)
        plan = {"constant": [LR] * STEPS, "warm_up": [LR * min(1.0, (t + 1) / WARM) for t in range(STEPS)]}
        runs = {k: steps(net.copy_of(torch.float32), batches, v) for k, v in plan.items()}
        if min(r["margin"] for r in runs.values()) > STEP_MARGIN:
            break
    else:
        raise SystemExit("no batches with safe margins")
    with exact.widen(net.c):
        for k, v in plan.items():
            wide = steps(net.copy_of(torch.float64), batches, v)
            runs[k]["total_f64"], runs[k]["grad_norm_f64"] = wide["total"], wide["grad_norm"]
    settings = dict(betas=[0.9, 0.95], eps=1e-8, weight_decay=0.1, clip=CLIP, mtp_weight=ev.MTP_WEIGHT, seed=seed)
    return {"settings": settings, **runs, "input_ids": {str(t): b.tolist() for t, b in enumerate(batches)}}


def steps(net, batches, rates):
    """AdamW over the batches; decay on everything with two dimensions (experts are packed to three here), never on norms."""
    params = [p for _, p in net.parameters()]
    groups = [dict(params=[p for p in params if p.dim() > 1], weight_decay=0.1), dict(params=[p for p in params if p.dim() == 1], weight_decay=0.0)]
    opt = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.95), eps=1e-8)
    out = dict(lr=rates, total=[], main=[], mtp=[], grad_norm=[], margin=float("inf"))
    for ids, lr in zip(batches, rates, strict=True):
        for group in opt.param_groups:
            group["lr"] = lr
        opt.zero_grad(set_to_none=True)
        _, losses, routed = ev.forward(net, ids)
        total = ev.total(net, losses)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(params, CLIP)
        opt.step()
        out["total"].append(total.item())
        out["main"].append(losses["main"].item())
        out["mtp"].append([v.item() for k, v in losses.items() if k != "main"])
        out["grad_norm"].append(norm.item())
        # Softmax scores without group or bias are fine too: the margins are those of the choice itself.
        for m in ev.margins(net, routed).values():
            out["margin"] = min([out["margin"], m["expert"], m.get("group", 1.0)])
    out["final_norm"] = {k: v.double().norm().item() for k, v in net.state().items() if not k.endswith("bias")}
    return out
