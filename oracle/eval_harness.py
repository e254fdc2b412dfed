"""Evaluates a model with `hadal eval` and with lm-evaluation-harness (0.4.13), and compares every sample.

Two models of the harness take part: `hf` (transformers on the same checkpoint, f32) and `local-completions` (on
`hadal serve` with that checkpoint). What must agree:

- log-likelihoods, to 1e-4, and whether a continuation is greedy (those of long texts to 1e-7 of their size, since the harness
  sums them in f32)
- generated texts, and what filters leave of them, to the letter
- scores of documents, totals and standard errors

Run:
    pip install "lm_eval[api]==0.4.13" accelerate, beside torch and transformers (see README.md)
    python oracle/eval_harness.py make MODEL [TEXT...]       makes a small checkpoint with random weights
    python oracle/eval_harness.py compare HADAL MODEL DATA   compares; DATA has gsm8k_{train,test}.jsonl,
                                                             wikitext2.txt and HumanEval.jsonl.gz
    python oracle/eval_harness.py record MODEL               writes what crates/tasks/tests/it/recorded.rs reads
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
HERE = Path(__file__).resolve().parent.parent / "crates/tasks/tests/fixtures"
# Small ones of the tests, which need no other data. (`trivia` draws at random.)
SMALL = [
    "gsm8k_small", "science", "history", "arc_shaped", "winogrande_shaped", "several_right", "pages", "last_word", "letters",
]
TOLERANCE = 1e-4
# Prompts as chats are compared with this template. It has the tokenizer's own special tokens.
TEMPLATE = (
    "{% for m in messages %}<|begin|>{{ m.role }}\n{{ m.content | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|begin|>assistant\n{% endif %}"
)


def make(folder, texts, vocabulary, hidden, layers, context, template=None):
    """A checkpoint with random weights and a tokenizer that is trained on texts."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM, PreTrainedTokenizerFast

    special = ["<|begin|>", "<|end|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", tokenizer.token_to_id("<|begin|>"))],
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=special[0], eos_token=special[1])
    fast.chat_template = template
    fast.save_pretrained(folder)
    size = tokenizer.get_vocab_size()
    torch.manual_seed(11)
    config = DeepseekV3Config(
        vocab_size=size, hidden_size=hidden, intermediate_size=2 * hidden, moe_intermediate_size=hidden // 2,
        num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=4, n_shared_experts=1, n_routed_experts=8,
        num_experts_per_tok=2, first_k_dense_replace=1, q_lora_rank=hidden // 2, kv_lora_rank=hidden // 2,
        qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=16, n_group=2, topk_group=1, routed_scaling_factor=2.5,
        max_position_embeddings=context, rope_theta=10000.0, bos_token_id=0, eos_token_id=1, initializer_range=0.02,
        tie_word_embeddings=False,
    )
    model = DeepseekV3ForCausalLM(config).float().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                # Large enough that predictions are far from uniform.
                weight.normal_(0, 3.0 / weight.shape[-1] ** 0.5 if "lm_head" in name else 1.2 / weight.shape[-1] ** 0.5)
    model.generation_config.eos_token_id = 1
    model.save_pretrained(folder, safe_serialization=True)
    print(f"{folder}: {sum(p.numel() for p in model.parameters()):,} parameters, {size} tokens")


def local_tasks(folder, data):
    """Task files on real data, in the form that both programs read."""
    gsm8k = (HERE / "harness/gsm8k_small.yaml").read_text("utf8")
    gsm8k = gsm8k.replace("gsm8k_small", "gsm8k_real").replace("gsm8k_train.jsonl", str(data / "gsm8k_train.jsonl"))
    (folder / "gsm8k_real.yaml").write_text(gsm8k.replace("gsm8k_test.jsonl", str(data / "gsm8k_test.jsonl")))
    rows = [json.loads(line) for line in (data / "gsm8k_test.jsonl").open(encoding="utf8")]
    number = lambda row: row["answer"].split("#### ")[1].replace(",", "")
    write = lambda name, rows: (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf8")
    # Sums, as in the harness's `arithmetic`, and multiple choice of the forms of HellaSwag, ARC and MMLU.
    write("sums.jsonl", [{"context": f"Question: What is {a} plus {b}?\nAnswer:", "completion": f" {a + b}"}
                         for a, b in [(3, 4), (12, 30), (55, 66), (7, 91), (40, 2)]])
    (folder / "arithmetic.yaml").write_text("""task: arithmetic
dataset_path: json
dataset_kwargs: {data_files: {test: sums.jsonl}}
output_type: loglikelihood
test_split: test
doc_to_text: "{{context}}"
doc_to_target: "{{completion}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
""".replace("sums.jsonl", str(folder / "sums.jsonl")))
    sentences = [row["question"].split(". ") for row in rows if row["question"].count(". ") > 2]
    write("endings.jsonl", [
        {"query": s[0] + ".", "choices": [s[1], s[2], sentences[(i + 1) % 20][1], sentences[(i + 7) % 20][2]], "gold": i % 4}
        for i, s in enumerate(sentences[:20])])
    shaped = """task: NAME
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
output_type: multiple_choice
test_split: test
doc_to_text: "TEXT"
doc_to_target: gold
doc_to_choice: CHOICES
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
    def shape(name, file, text, choices):
        out = shaped.replace("NAME", name).replace("FILE", str(folder / file)).replace("TEXT", text)
        (folder / f"{name}.yaml").write_text(out.replace("CHOICES", choices))
    shape("hellaswag_shaped", "endings.jsonl", "{{query}}", "\"{{choices}}\"")
    write("numbers.jsonl", [
        {"question": row["question"], "choices": [number(row)] + [number(r) for r in rows[i + 1:i + 4]], "gold": 0}
        for i, row in enumerate(rows[:20])])
    shape("arc_real", "numbers.jsonl", "Question: {{question}}\\nAnswer:", "\"{{choices}}\"")
    letters = "{{question.strip()}}\\nA. {{choices[0]}}\\nB. {{choices[1]}}\\nC. {{choices[2]}}\\nD. {{choices[3]}}\\nAnswer:"
    shape("mmlu_shaped", "numbers.jsonl", letters, "[\"A\", \"B\", \"C\", \"D\"]")
    text = (data / "wikitext2.txt").read_text("utf8")
    pages = [text[at:at + n] for at, n in [(0, 9000), (9000, 500), (20000, 30000)]]
    write("pages.jsonl", [{"page": page} for page in pages])
    (folder / "wikitext.yaml").write_text((HERE / "harness/pages.yaml").read_text("utf8").replace(
        "task: pages", "task: wikitext").replace("pages.jsonl", str(folder / "pages.jsonl")))
    # HumanEval's own tests are run by our sandbox only. Here, the texts are compared.
    (folder / "humaneval_texts.yaml").write_text("""task: humaneval_texts
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
output_type: generate_until
test_split: test
doc_to_text: "{{prompt}}"
doc_to_target: "{{canonical_solution}}"
generation_kwargs: {until: ["\\nclass", "\\ndef", "\\n#", "\\nif", "\\nprint"], max_gen_toks: 128, do_sample: false}
metric_list: [{metric: exact_match}]
""".replace("FILE", str(data / "HumanEval.jsonl.gz")))
    write("short.jsonl", [{"page": text[at:at + 3000]} for at in range(60000, 80000, 4000)])
    (folder / "wikitext_short.yaml").write_text((HERE / "harness/pages.yaml").read_text("utf8").replace(
        "task: pages", "task: wikitext_short").replace("pages.jsonl", str(folder / "short.jsonl")))
    return ["wikitext_short", "humaneval_texts", "gsm8k_real", "arithmetic", "hellaswag_shaped", "arc_real", "mmlu_shaped", "wikitext"]


def harness(kind, tasks, folders, limit, multiturn=None, **arguments):
    import lm_eval
    from lm_eval.tasks import TaskManager

    # The harness looks for data files from the current folder.
    os.chdir(HERE / "harness")
    manager = TaskManager(include_path=[str(folder) for folder in folders], include_defaults=False)
    return lm_eval.simple_evaluate(
        model=kind, model_args=arguments, tasks=tasks, task_manager=manager, log_samples=True,
        # With 0 there would be no standard error at all.
        bootstrap_iters=2,
        limit=limit, batch_size=1, apply_chat_template=multiturn is not None, fewshot_as_multiturn=bool(multiturn),
    )


def transformers_model(model, tasks, folders, limit, begin, multiturn=None):
    arguments = dict(pretrained=str(model), dtype="float32", device="cpu", add_bos_token=begin)
    return harness("hf", tasks, folders, limit, multiturn, **arguments)


def ours(hadal, model, tasks, folders, limit, begin, out, multiturn=None):
    """Runs `hadal eval` and reads what it leaves."""
    files = [next(f / f"{task}.yaml" for f in folders if (f / f"{task}.yaml").exists()) for task in tasks]
    command = [hadal, "eval", model, *files, "--dtype", "f32", "--log-samples", "--out", out]
    command += [] if begin else ["--no-begin-token"]
    command += ["--limit", str(limit)] if limit else []
    if multiturn is not None:
        command += ["--apply-chat-template", "--fewshot-as-multiturn", str(multiturn).lower()]
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
    results = json.loads((out / "results.json").read_text("utf8"))
    results["samples"] = {
        task: [json.loads(line) for line in (out / f"samples_{task}.jsonl").open(encoding="utf8")] for task in tasks
    }
    return results


class Row:
    """What was compared of a task."""

    def __init__(self):
        self.samples, self.largest, self.texts, self.wrong = 0, 0.0, 0, []

    def same(self, what, a, b):
        if a != b:
            self.wrong.append(f"{what}: {a!r} and {b!r}")

    def close(self, what, a, b, tolerance):
        distance = abs(a - b)
        if not distance <= tolerance:
            self.wrong.append(f"{what}: {a} and {b}")
        return distance


def compare(theirs, mine, task):
    row = Row()
    index = {(s["doc_id"], s["filter"]): s for s in mine["samples"][task]}
    row.same("samples", len(theirs["samples"][task]), len(index))
    for sample in theirs["samples"][task]:
        own = index[sample["doc_id"], sample["filter"]]
        what = f"document {sample['doc_id']}"
        row.samples += 1
        arguments = [list(a) for a in sample["arguments"]]
        for at, argument in enumerate(arguments):
            row.same(f"{what}, prompt", argument[0], own["arguments"][f"gen_args_{at}"]["arg_0"])
        for response, other in zip(sample["resps"], own["resps"], strict=True):
            if isinstance(response[0], str):
                row.texts += 1
                row.same(f"{what}, text", response[0], other[0])
            elif isinstance(response[0], (tuple, list)):
                row.largest = max(row.largest, row.close(f"{what}, log-likelihood", float(response[0][0]), other[0][0], TOLERANCE))
                row.same(f"{what}, greedy", bool(response[0][1]), other[0][1])
            else:
                # As below: a sum in f32.
                bound = max(TOLERANCE, 1e-7 * abs(other[0]))
                distance = row.close(f"{what}, log-likelihood", float(response[0]), other[0], bound)
                row.largest = max(row.largest, distance)
        if isinstance(sample["resps"][0][0], str):
            row.same(f"{what}, extracted", list(sample["filtered_resps"]), own["filtered_resps"])
        for metric in sample["metrics"]:
            a, b = sample[metric], own[metric]
            for a, b in zip(a, b) if isinstance(a, (tuple, list)) else [(a, b)]:
                # The harness sums the log-probabilities of a window in f32.
                row.close(f"{what}, {metric}", float(a), float(b), max(TOLERANCE, 1e-7 * abs(b)))
    for key, value in theirs["results"][task].items():
        # For this one the harness draws samples at random. We give none.
        if "," in key and not key.startswith("perplexity_stderr"):
            other = mine["results"][task][key]
            if isinstance(value, str) or isinstance(other, str):
                row.same(key, value, other)
            else:
                row.close(key, float(value), other, 1e-9 if "acc" in key or "exact" in key else 1e-5 * abs(value))
    return row


def show(title, rows):
    print(f"\n{title}\n{'task':<20}{'samples':>8}{'texts':>7}{'largest difference':>20}  verdict")
    for task, row in rows.items():
        verdict = "equal" if not row.wrong else f"{len(row.wrong)} differences, such as {row.wrong[0]}"
        print(f"{task:<20}{row.samples:>8}{row.texts:>7}{row.largest:>20.1e}  {verdict}")
    return any(row.wrong for row in rows.values())


def serve(hadal, model):
    """Starts the server. Returns the process and its address."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([hadal, "serve", model, "--port", str(port), "--dtype", "f32"], stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/v1"
    for _ in range(600):
        try:
            urllib.request.urlopen(f"{url}/models", timeout=5).read()
            return server, url
        except OSError:
            time.sleep(0.1)
    server.kill()
    raise SystemExit("the server does not answer")


def compare_all(hadal, model, data, limit):
    hadal, model, data = (Path(p).resolve() for p in (hadal, model, data))
    context = json.loads((model / "config.json").read_text())["max_position_embeddings"]
    wrong = False
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        folders = [HERE / "harness", work]
        tasks = SMALL + local_tasks(work, data)
        mine = ours(hadal, model, tasks, folders, limit, False, work / "plain")
        theirs = transformers_model(model, tasks, folders, limit, False)
        wrong |= show("transformers (hf)", {task: compare(theirs, mine, task) for task in tasks})
        # The harness also scores the begin token of a whole text, given itself. So texts are compared without it only.
        begun = [task for task in tasks if task not in ("pages", "wikitext", "wikitext_short")]
        with_begin = ours(hadal, model, begun, folders, limit, True, work / "begun")
        theirs = transformers_model(model, begun, folders, limit, True)
        wrong |= show("transformers (hf), prompts with a begin token", {t: compare(theirs, with_begin, t) for t in begun})
        # Texts that are scored as a whole are not prompts.
        for multiturn in (True, False) if (model / "chat_template.jinja").exists() else ():
            chats = ours(hadal, model, begun, folders, limit, False, work / f"chats-{multiturn}", multiturn)
            theirs = transformers_model(model, begun, folders, limit, False, multiturn)
            title = "transformers (hf), chats, examples " + ("as messages" if multiturn else "in one message")
            wrong |= show(title, {task: compare(theirs, chats, task) for task in begun})
        server, url = serve(hadal, model)
        try:
            # It asks for a new token as well, so its windows are shorter than the model's context. Texts of several windows
            # are left out.
            served = [task for task in tasks if task != "wikitext"]
            theirs = harness(
                "local-completions", served, folders, limit, model=model.name, base_url=f"{url}/completions",
                tokenizer=str(model), tokenizer_backend="huggingface", max_length=context, num_concurrent=4,
            )
        finally:
            server.terminate()
            server.wait()
        wrong |= show("local-completions on hadal serve", {task: compare(theirs, mine, task) for task in served})
    raise SystemExit(1 if wrong else 0)


def record(model):
    """The harness's results on the tests' own files and model."""
    results = transformers_model(Path(model).resolve(), SMALL, [HERE / "harness"], None, False)
    keep = ["doc_id", "filter", "resps", "filtered_resps"]
    out = {
        task: {
            "totals": {key: value for key, value in results["results"][task].items() if "," in key},
            "samples": [{key: sample[key] for key in keep} for sample in results["samples"][task]],
        }
        for task in SMALL
    }
    text = json.dumps(out, ensure_ascii=False, separators=(",", ":"), default=str)
    (HERE / "recorded.json").write_text(text.replace('{"doc_id"', '\n{"doc_id"') + "\n", "utf8")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["make", "--tiny"]:
            texts = [(HERE / "harness/gsm8k_test.jsonl").read_text("utf8")]
            make(HERE / "model", texts, 400, 32, 2, 1024)
        case ["make", folder, *texts]:
            make(folder, [Path(text).read_text("utf8") for text in texts], 4096, 128, 4, 2048, TEMPLATE)
        case ["compare", hadal, model, data, *limit]:
            compare_all(hadal, model, data, int(limit[0]) if limit else 20)
        case ["record", *model]:
            record(model[0] if model else HERE / "model")
        case _:
            raise SystemExit(__doc__)
