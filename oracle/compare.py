#!/usr/bin/env python3
"""Compares a dump of ours with a folder of reference results, tensor by tensor.

usage: compare.py DUMP.safetensors ORACLE_DIR [--all] [--bf16]     table of the worst (or all) tensors; exit status 1 if one fails
       compare.py --ids ORACLE_DIR                                 the token ids as JSON, for `hadal dump --ids`

A tensor passes when |ours - reference| <= max(1e-5, 4 * f32_err) * |reference| in the 2-norm; choices of experts and tokens
must be equal. With --bf16 the bound is 1.5 times the larger of PyTorch's two BF16 distances (bf16.json), and routing must have
been replayed.
"""
import argparse
import json
import sys

from safetensors import safe_open
from safetensors.torch import load_file

from evaluate import distance

OPTIONAL = ("balance", "mtp_balance", "greedy.")


def read(path):
    with safe_open(path, "pt") as f:
        return {k: f.get_tensor(k) for k in f.keys()}


def rows(ours, ref, bound):
    """(name, distance, bound, verdict) for every reference tensor."""
    for name in sorted(ref):
        r = ref[name]
        optional = name.startswith(OPTIONAL) or name.endswith(".block")
        if name not in ours:
            if not optional:
                yield name, float("inf"), 0.0, "MISSING"
            continue
        o = ours[name]
        if o.numel() != r.numel():
            yield name, float("inf"), 0.0, f"SHAPE {tuple(o.shape)} for {tuple(r.shape)}"
            continue
        o = o.reshape(r.shape)
        if name.endswith(".topk_w"):
            o = o.gather(1, ours[name[:-1] + "idx"].reshape(r.shape).long().argsort(-1))
        if not r.is_floating_point():
            o = o.long().sort(-1).values if name.endswith(".topk_idx") else o.long()
            wrong = (o != r).sum().item()
            yield name, float(wrong), 0.0, "ok" if wrong == 0 else f"{wrong} DIFFER"
            continue
        d, b = distance(o, r), bound(name)
        yield name, d, b, "ok" if d <= b else "FAIL"


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("dump", nargs="?")
    ap.add_argument("oracle")
    ap.add_argument("--ids", action="store_true")
    ap.add_argument("--all", action="store_true")
    ap.add_argument("--bf16", action="store_true")
    a = ap.parse_args()
    ref = load_file(f"{a.oracle}/oracle.safetensors")
    if a.ids:
        print(json.dumps(ref["input_ids"].tolist()))
        return 0
    if a.bf16:
        with open(f"{a.oracle}/bf16.json") as f:
            theirs = json.load(f)["first"]
        bound = lambda n: 1.5 * max(theirs[n]) if n in theirs else float("inf")
    else:
        with open(f"{a.oracle}/oracle.json") as f:
            err = json.load(f)["f32_err"]
        bound = lambda n: max(1e-5, 4 * err.get(n, 0.0))
    ours = read(a.dump)
    table = list(rows(ours, ref, bound))
    failed = [r for r in table if r[3] != "ok"]
    shown = table if a.all else failed + sorted((r for r in table if r[3] == "ok"), key=lambda r: -r[1])[:10]
    for name, d, b, verdict in shown:
        print(f"{verdict:8} {d:9.2e} / {b:8.1e}  {name}")
    extra = sorted(k for k in ours if k not in ref)
    if extra:
        print(f"not in the reference: {len(extra)}, such as {', '.join(extra[:5])}")
    print(f"{len(table) - len(failed)} of {len(table)} tensors agree")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
