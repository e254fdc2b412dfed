#!/usr/bin/env python3
"""Loads a checkpoint exported by us in transformers and compares what it computes with a dump of ours.

usage: check_export.py MODEL_DIR [--dump DUMP.safetensors] [--text SAMPLES.json] [--tolerance 2e-5]

DUMP holds `input_ids`, `logits` and, with prediction modules, `mtp.logits` .. (as `hadal dump --dtype f32` writes them).
SAMPLES is a list of {"text": .., "ids": [..]}: AutoTokenizer must encode and decode each alike (no special tokens added).
transformers' DeepseekV3 knows sigmoid scores with the biased selection only; other configs are refused here.
"""
import argparse
import json
import sys

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, DeepseekV2ForCausalLM
from transformers.modeling_layers import MtpModel

from evaluate import distance


def modules_logits(model, final, ids):
    """Logits of each prediction module; module k reads the previous block's output before its last norm."""
    first = model.config.num_hidden_layers
    # Class default names layer 61 only, the full-size model's.
    model._keys_to_ignore_on_load_unexpected = [rf"model\.layers\.{first + k}\..*" for k in range(model.config.num_mtp_layers)]
    mtp = MtpModel.from_pretrained(model).float().eval()
    previous, out = final, []
    for k, layer in enumerate(mtp.layers, start=1):
        seen = {}
        hook = layer.mtp_block.register_forward_hook(lambda mod, args, res: seen.update(h=res if torch.is_tensor(res) else res[0]))
        n = ids.shape[1] - k
        h = mtp.forward_layer(k - 1, previous[:, :n], torch.arange(k, ids.shape[1]).unsqueeze(0), None, input_ids=ids[:, k:])
        hook.remove()
        previous = seen["h"]
        out.append(mtp.shared_head(h))
    return out


def check_model(folder, dump, tolerance):
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    model.eval()
    c, bad = json.load(open(f"{folder}/config.json")), 0
    if not isinstance(model, DeepseekV2ForCausalLM) and (c.get("scoring_func", "sigmoid"), c.get("topk_method", "noaux_tc")) != ("sigmoid", "noaux_tc"):
        raise SystemExit("this gate is none of transformers'")
    for kind in ("missing_keys", "mismatched_keys", "error_msgs"):
        if info.get(kind):
            bad += 1
            print(f"FAIL {kind}: {sorted(map(str, info[kind]))[:5]}")
    unexpected = [k for k in info.get("unexpected_keys") or [] if int((k.split("layers.")[1:] or ["0"])[0].split(".")[0]) < model.config.num_hidden_layers]
    if unexpected:
        bad += 1
        print(f"FAIL unexpected tensors: {unexpected[:5]}")
    if dump is None:
        return bad
    ours = load_file(dump)
    ids = ours["input_ids"].long()
    with torch.no_grad():
        final = model.model(input_ids=ids, use_cache=False).last_hidden_state
        theirs = {"logits": model.lm_head(final)}
        if getattr(model.config, "num_mtp_layers", 0) and c.get("num_nextn_predict_layers", 0):
            theirs.update({"mtp.logits" if k == 0 else f"mtp.{k + 1}.logits": v for k, v in enumerate(modules_logits(model, final, ids))})
    for name, t in theirs.items():
        d = distance(ours[name].reshape(t.shape), t) if name in ours else float("inf")
        bad += d > tolerance
        print(f"{'ok' if d <= tolerance else 'FAIL':4} {d:.2e}  {name}")
    return bad


def check_text(folder, samples):
    tok, bad = AutoTokenizer.from_pretrained(folder), 0
    for s in json.load(open(samples)):
        ids, text = tok.encode(s["text"], add_special_tokens=False), tok.decode(s["ids"], clean_up_tokenization_spaces=False)
        if ids != s["ids"] or text != s["text"]:
            bad += 1
            print(f"FAIL {s['text'][:60]!r}: {ids[:12]} for {s['ids'][:12]}, back {text[:60]!r}")
    print(f"tokenizer: {len(tok)} tokens, {bad} samples differ")
    return bad


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("model")
    ap.add_argument("--dump")
    ap.add_argument("--text")
    ap.add_argument("--tolerance", type=float, default=2e-5)
    a = ap.parse_args()
    bad = check_model(a.model, a.dump, a.tolerance)
    if a.text:
        bad += check_text(a.model, a.text)
    print("FAILED" if bad else "agrees")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
