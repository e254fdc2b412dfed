"""One forward pass with everything worth comparing, and the gradients of every parameter."""
import torch

import exact

MTP_WEIGHT = 0.3


def mean_nll(logits, targets):
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return torch.nn.functional.cross_entropy(wide.reshape(-1, logits.shape[-1]), targets.reshape(-1))


def forward(net, ids):
    """(tensors by name, losses with their graph, router outputs by layer)."""
    out, routed, hooks, blocks = {}, {}, [], []
    keep = lambda where, key: lambda mod, args, res: where.__setitem__(key, res)
    for i, g in net.gates().items():
        hooks.append(g.register_forward_hook(keep(routed, i)))
    for l in net.main.model.layers:
        hooks.append(l.register_forward_hook(lambda mod, args, res: blocks.append(res if torch.is_tensor(res) else res[0])))
    inner = {}
    for k in range(net.depth):
        hooks.append(net.mtp.layers[k].mtp_block.register_forward_hook(keep(inner, k)))
    try:
        # The hidden state that enters block 0 is the embedding itself.
        out["hidden.0"] = net.main.model.embed_tokens(ids)
        final = net.main.model(input_ids=ids, use_cache=False).last_hidden_state
        out["logits"] = net.main.lm_head(final)
        out["hidden.final"] = final
        out.update({f"hidden.{i + 1}": h for i, h in enumerate(blocks)})
        losses = {"main": mean_nll(out["logits"][:, :-1], ids[:, 1:])}
        T, previous = ids.shape[1], final
        for k in range(1, net.depth + 1):
            # Module k at position i sees token i+k and predicts token i+k+1; h^(k-1) of positions that have such a token.
            n = T - k
            positions = torch.arange(k, T).unsqueeze(0)
            h = net.mtp.forward_layer(k - 1, previous[:, :n], positions, None, input_ids=ids[:, k:])
            logits = net.mtp.shared_head(h)
            name = "mtp." if k == 1 else f"mtp.{k}."
            out[name + "logits"], out[name + "hidden"] = logits, h
            block = inner[k - 1]
            out[name + "block"] = previous = block if torch.is_tensor(block) else block[0]
            losses[f"mtp{k}"] = mean_nll(logits[:, :-1], ids[:, k + 1 :])
    finally:
        for h in hooks:
            h.remove()
    for i, (logits, w, idx) in routed.items():
        order = idx.argsort(-1)
        out[f"router.{i}.logits"], out[f"router.{i}.topk_idx"], out[f"router.{i}.topk_w"] = logits, idx.gather(1, order), w.gather(1, order)
    return out, losses, routed


def total(net, losses):
    """Main loss plus the prediction modules' share of it."""
    return losses["main"] + MTP_WEIGHT / max(net.depth, 1) * sum(v for k, v in losses.items() if k != "main")


def gradients(net, loss, prefix, only=None):
    """d loss / d parameter by checkpoint name; parameters that the loss cannot reach are left out."""
    for _, p in net.parameters():
        p.grad = None
    loss.backward(retain_graph=True)
    out = {}
    for n, p in net.parameters():
        if p.grad is None:
            continue
        for k, v in net.split(n, p.grad):
            if only is None or only(k):
                out[prefix + k] = v.detach().clone()
    return out


def balance(net, routed, batch):
    """Sequence-wise balance loss without its factor: layer -> [batch]. Gradient through the mean scores only."""
    E, K, per = net.c["n_routed_experts"], net.c["num_experts_per_tok"], {}
    for i, (logits, _, _) in routed.items():
        s = exact.activate(logits, net.c).view(batch, -1, E)
        with torch.no_grad():
            top = s.sort(dim=-1, descending=True, stable=True).indices[..., :K]
            f = torch.zeros_like(s).scatter_(-1, top, 1.0).sum(1) * (E / (K * s.shape[1]))
        per[i] = (f * (s / s.sum(-1, keepdim=True)).mean(1)).sum(-1)
    return per


def margins(net, routed):
    """How near the nearest discrete choice is to flipping, per layer: best groups, best experts, best by score alone.

    Softmax keeps the order of the logits, and its small scores lie close together; where no bias is added the distance between
    logits is what tells.
    """
    out, c = {}, net.c
    K = c["num_experts_per_tok"]
    gap = lambda t, k: (t.sort(-1, descending=True).values[:, k - 1 : k + 1] @ torch.tensor([1.0, -1.0], dtype=t.dtype)).min().item()
    for i, (logits, _, _) in routed.items():
        s, plain = exact.activate(logits.detach(), c), logits.detach()
        if c["scoring_func"] == "sigmoid" or c["topk_method"] == "noaux_tc":
            plain = s
        bias = getattr(net.gates()[i], "e_score_correction_bias", torch.zeros(()))
        by, groups = exact.selection(plain, bias, c)
        out[i] = dict(expert=gap(by, K), score=gap(s if c["scoring_func"] == "sigmoid" else logits.detach(), K))
        if groups is not None and c["n_group"] > c["topk_group"]:
            out[i]["group"] = gap(groups, c["topk_group"])
    return out


def everything(net, ids, which):
    """All tensors of one run, the losses as numbers, and the router outputs."""
    out, losses, routed = forward(net, ids)
    if "grad." in which:
        out.update(gradients(net, losses["main"], "grad."))
    if net.depth:
        out.update(gradients(net, total(net, losses), "mtp_grad."))
    if routed:
        per = balance(net, routed, len(ids))
        telling = lambda n: n.endswith(("mlp.gate.weight", "layers.0.input_layernorm.weight"))
        main = sum(v.mean() for i, v in per.items() if i < net.layers)
        out.update({f"balance.{i}": v for i, v in per.items()})
        out.update(gradients(net, main, "balance_grad.", telling))
        if net.depth:
            out.update(gradients(net, sum(v.mean() for v in per.values()), "mtp_balance_grad.", telling))
    return {k: v.detach() for k, v in out.items()}, {k: v.item() for k, v in losses.items()}, routed


def distance(a, b):
    """Relative distance of a from b in the 2-norm (0 when both are zero)."""
    a, b = a.double(), b.double()
    d, n = (a - b).norm().item(), b.norm().item()
    return d / n if n > 0 else (0.0 if d == 0 else float("inf"))
