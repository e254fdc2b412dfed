"""lm-eval against $HADAL_URL: `local-completions` and `local-chat-completions`, on tasks made here, since lm-eval's own need
the network. Each log-probability is compared with the one that the logits of `hadal dump` give."""

import json
import os
import subprocess
from pathlib import Path

import lm_eval
import numpy as np
from lm_eval.tasks import TaskManager
from transformers import AutoTokenizer

URL, MODEL = os.environ["HADAL_URL"], os.environ["HADAL_MODEL"]
FOLDER, WORK, HADAL = os.environ["HADAL_FOLDER"], Path(os.environ["WORK"]), os.environ["HADAL"]
# Both sum the exponentials of the same f32 logits, in different orders: a few units of the last place of numbers below 16.
TOLERANCE = 1e-4

DOCS = [
    {"question": "fn add(a: i32, b: i32) -> i32 {\n    ", "answers": ["a + b", "a - b", "return"], "right": 0},
    {"question": "The capital of France is", "answers": [" Paris", " Rome"], "right": 0},
    {"question": "let é = \"日本\"; // " + "x" * 300, "answers": [" one", " two words here", "\n"], "right": 1},
    {"question": "use std::", "answers": ["io;", "fmt::Display;", "collections::HashMap;"], "right": 0},
]


def write_tasks():
    docs = WORK / "docs.json"
    docs.write_text("\n".join(json.dumps(doc) for doc in DOCS))
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(docs)}},
        "test_split": "test",
        "doc_to_text": "{{question}}",
    }
    tasks = {
        "hadal_choices": {
            **common, "output_type": "multiple_choice", "doc_to_choice": "{{answers}}", "doc_to_target": "right",
            "metric_list": [{"metric": "acc"}],
        },
        "hadal_text": {
            **common, "output_type": "generate_until", "doc_to_target": "{{answers[right]}}",
            "generation_kwargs": {"until": ["\n"], "max_gen_toks": 12, "temperature": 0, "do_sample": False},
            "metric_list": [{"metric": "exact_match"}],
        },
        "hadal_perplexity": {
            **common, "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{question}}",
            "metric_list": [{"metric": "bits_per_byte"}],
        },
    }
    for name, task in tasks.items():
        (WORK / f"{name}.yaml").write_text(json.dumps({"task": name, **task}))
    return TaskManager(include_path=str(WORK), include_defaults=False)


def run(kind, path, tasks, **more):
    arguments = {"model": MODEL, "base_url": f"{URL}{path}", "num_concurrent": 2, "max_retries": 1, **more}
    return lm_eval.simple_evaluate(
        model=kind, model_args=arguments, tasks=tasks, task_manager=manager, log_samples=True,
        apply_chat_template=kind == "local-chat-completions", bootstrap_iters=0,
    )


def own_logprob(tokenizer, context, answer):
    """The same from the logits of a forward pass."""
    # As lm-eval splits it: the context without the spaces at its end, and what follows as many tokens of the whole.
    whole, before = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (context + answer, context.rstrip()))
    both = before + whole[len(before) :]
    ids = WORK / "ids.json"
    ids.write_text(json.dumps(both))
    dump = WORK / "dump.safetensors"
    subprocess.run([HADAL, "dump", FOLDER, "--ids", ids, "--out", dump, "--dtype", "bf16"], check=True, stdout=subprocess.DEVNULL)
    raw = dump.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    entry = json.loads(raw[8 : 8 + size])["logits"]
    begin, end = (8 + size + at for at in entry["data_offsets"])
    assert entry["dtype"] == "F32", entry
    logits = np.frombuffer(raw[begin:end], np.float32).astype(np.float64).reshape(len(both), -1)
    logits -= logits.max(-1, keepdims=True)
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return sum(logprobs[i - 1, both[i]] for i in range(len(before), len(both)))


manager = write_tasks()
local = dict(tokenizer=FOLDER, tokenizer_backend="huggingface")
remote = dict(tokenizer_backend="remote")
results = [run("local-completions", "/completions", ["hadal_choices", "hadal_text", "hadal_perplexity"], batch_size=2, **local)]
results.append(run("local-completions", "/completions", ["hadal_choices"], **remote))
tokenizer = AutoTokenizer.from_pretrained(FOLDER)
worst = 0.0
for result in results:
    for sample in result["samples"]["hadal_choices"]:
        for argument, (response,) in zip(sample["arguments"], sample["resps"]):
            wanted = own_logprob(tokenizer, *argument)
            worst = max(worst, abs(float(response[0]) - wanted))
print(f"log-probabilities differ by {worst:.1e} at most from those of `hadal dump`")
assert worst < TOLERANCE, worst
assert results[0]["results"]["hadal_perplexity"]["bits_per_byte,none"] > 0
texts = [s["resps"][0][0] for s in results[0]["samples"]["hadal_text"]]
assert all("\n" not in text for text in texts), texts
chats = run("local-chat-completions", "/chat/completions", ["hadal_text"])
assert len(chats["samples"]["hadal_text"]) == len(DOCS)
print("ok")
