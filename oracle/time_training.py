"""How fast transformers trains a configuration on the CPU: what `hadal bench train` is compared with.

usage: python time_training.py CONFIG.json [--batch 4] [--tokens 512] [--threads 2] [--steps 8] [--eager]

BF16 by autocast over f32 weights, grouped products for the experts, fused attention, fused AdamW, torch.compile: the fastest
that transformers has here. Prints one line of JSON: tokens a second of the median and of the best step (the first, which
compiles, is left out), the memory peak of the process in GB, the last loss.
"""
import argparse
import json
import resource
import statistics
import time

import torch
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM


def build(path):
    """The model of a config.json, without prediction modules (transformers does not train them)."""
    with open(path) as f:
        keys = {k: v for k, v in json.load(f).items() if k not in ("architectures", "model_type", "torch_dtype", "scoring_func", "moe_layer_freq", "topk_method")}
    config = DeepseekV3Config(**keys | dict(num_nextn_predict_layers=0, use_cache=False))
    config._attn_implementation, config._experts_implementation = "sdpa", "grouped_mm"
    return DeepseekV3ForCausalLM(config).train()


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("config")
    arguments.add_argument("--eager", action="store_true", help="without torch.compile")
    for name, default in (("batch", 4), ("tokens", 512), ("threads", 2), ("steps", 8)):
        arguments.add_argument(f"--{name}", type=int, default=default)
    args = arguments.parse_args()
    if args.steps < 2:
        arguments.error("--steps: the first step is not counted, so two are the least")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = build(args.config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    forward = model if args.eager else torch.compile(model)
    ids = torch.randint(0, model.config.vocab_size, (args.batch, args.tokens))
    seconds = []
    for _ in range(args.steps):
        begun = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            loss = forward(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - begun)
    counted, step = seconds[1:], args.batch * args.tokens
    print(json.dumps({
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens_per_second": {"median": round(step / statistics.median(counted), 1), "best": round(step / min(counted), 1)},
        "peak_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2), "loss": round(loss.item(), 4), "torch": torch.__version__,
    }))


if __name__ == "__main__":
    main()
