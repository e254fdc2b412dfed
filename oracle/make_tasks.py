"""Requests and scores of lm-evaluation-harness 0.4.13 for the task files in crates/tasks/tests/fixtures/harness.

The harness's own classes read the files, build the requests, filter given answers and score them. No model runs: the
answers are made here, some right and some wrong, and are stored beside the results.

Run: pip install lm_eval==0.4.13, then python oracle/make_tasks.py DATA, where DATA has gsm8k_{train,test}.jsonl.
"""

import json
import os
import random
import sys
from collections import defaultdict
from pathlib import Path

from lm_eval.api.group import Group
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator_utils import _compute_task_aggregations
from lm_eval.tasks._yaml_loader import load_yaml

HERE = Path(__file__).parent.parent / "crates/tasks/tests/fixtures/harness"
TASKS = [
    "gsm8k_small", "science", "history", "arc_shaped", "winogrande_shaped", "several_right", "pages", "last_word", "trivia",
    "letters",
]


# How often every request is answered anew.
ROUNDS = 4


def lines(name, rows):
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (HERE / name).write_text(text, "utf8")


def data(folder):
    """The documents: real ones of GSM8K (MIT licence), the others written here."""
    for split, count in (("train", 4), ("test", 12)):
        rows = (folder / f"gsm8k_{split}.jsonl").read_text("utf8").splitlines()[:count]
        (HERE / f"gsm8k_{split}.jsonl").write_text("\n".join(rows) + "\n", "utf8")
    exam = lambda q, c, a, s: {"question": q, "choices": c, "answer": a, "subject": s}
    lines("exam_dev.jsonl", [
        exam(" Which one is a metal? ", ["iron", "air", "wood", "ice"], 0, "science"),
        exam("Who was first?", ["a", "b", "c", "d"], 3, "history"),
    ])
    lines("exam_science.jsonl", [
        exam("What do plants take in?", ["gold", "light", "sand", "salt"], 1, "science"),
        exam("Water boils at", ["10", "50", "100", "500"], 2, "science"),
        exam("A year has", ["1 day", "7 days", "30 days", "365 days"], 3, "science"),
    ])
    lines("exam_history.jsonl", [
        exam("Rome lies in", ["Italy", "Spain", "Peru", "China"], 0, "history"),
        exam("1789: revolution in", ["Chile", "France", "Japan", "Mali"], 1, "history"),
        exam("The wheel is", ["new", "red", "old", "wet"], 2, "history"),
        exam("A label that is no choice", ["a", "b", "c", "d"], 7, "history"),
        exam("Paper came from", ["Mars", "Fiji", "Cuba", "China"], 3, "history"),
    ])
    arc = lambda q, t, k: {"question": q, "choices": {"text": t, "label": list("ABCD")[: len(t)]}, "answerKey": k}
    lines("arc.jsonl", [
        arc("Which is a fruit?", ["an apple", "a stone", "it's a car", "été"], "A"),
        arc("Which is hot?", ["snow", "the sun, a star", "ice", "\"cold\" air"], "B"),
        arc("Which is round?", ["a cube", "a line", "a ball"], "C"),
        arc("Which can fly?", ["a bird", "日本", "a very long and heavy stone", "x"], "A"),
    ])
    lines("winogrande.jsonl", [
        {"sentence": "The cup does not fit the box because _ is too large.", "option1": "the cup", "option2": "the box", "answer": "1"},
        {"sentence": "Ann thanked Eve because _ had helped.", "option1": "Ann", "option2": "Eve", "answer": "2"},
        {"sentence": "_ was late, so Tom waited for Jim.", "option1": "Tom", "option2": "Jim", "answer": "2"},
    ])
    lines("several.jsonl", [
        {"question": "Which are even?", "options": ["one", "two", "four"], "right": [1, 2]},
        {"question": "Which are odd?", "options": ["one", "two", "three"], "right": [0, 2]},
        {"question": "Which is big?", "options": ["1", "a million"], "right": [1]},
    ])
    lines("pages.jsonl", [
        {"page": "A well @-@ known page . It has\ntwo  lines"}, {"page": "Short"}, {"page": " Ümläute und 漢字\u3000in Text "},
    ])
    lines("trivia.jsonl", [
        {"question": "What is the capital of France", "aliases": ["Paris", "City of Light"]},
        {"question": "Who wrote it", "aliases": ["O'Brien", "Flann \"O'Nolan\""]},
        {"question": "How many", "aliases": ["12"]},
    ])
    letter = lambda q, c, t: {"question": q, "choices": c, "target": t}
    lines("letters.jsonl", [
        letter("Which is blue?", ["The sky.", "Grass", "The sky at night"], "(A)"),
        letter("Which is green?", ["Snow", "Grass (fresh)", "Coal"], "(B)"),
        letter("Which is white?", ["Coal", "Grass", "Snow!"], "(C)"),
    ])


def texts(name, task, doc, repeats, rnd):
    """Generated answers for a document."""
    if name == "gsm8k_small":
        final = doc["answer"].split("#### ")[1]
        forms = [
            " " + doc["answer"], f" So it is ${final}.", f"#### {final}.00", "I do not know", f" 12 then #### {final}\n#### 9",
            f"#### {int(final.replace(',', '')) + 1}", f" The answer is {final}", "", f" It is -{final}", f"#### ${final}",
            f" {final} and 3,", f"####{final}",
        ]
        return [forms[rnd.randrange(len(forms))]]
    if name == "trivia":
        some = [" " + doc["aliases"][0], doc["aliases"][-1].upper() + "!", "wrong", " Wrong ", doc["aliases"][0], ""]
        return [rnd.choice(some) for _ in range(repeats)]
    some = [
        f"The answer is {doc['target'][1]}", f"It must be {doc['target']}.", doc["choices"][0].upper(), "answer: B", "none",
        "(A) or (C)", "the sky at night", f"grass fresh : {doc['target'][1]}",
    ]
    return [rnd.choice(some)]


def answers(name, task, rnd):
    """Gives every request its answers, and returns them."""
    given = []
    for instance in task.instances:
        if task.OUTPUT_TYPE == "generate_until":
            resps = texts(name, task, instance.doc, instance.repeats, rnd)
        elif task.OUTPUT_TYPE == "loglikelihood_rolling":
            resps = [round(-rnd.random() * 100, 3)]
        else:
            resps = [(round(-rnd.random() * 20, 3), rnd.random() < 0.4)]
        instance.resps = list(resps)
        given.append(resps)
    return given


def request(instance):
    if instance.request_type == "generate_until":
        context, kwargs = instance.args
        return {"context": context, "until": kwargs["until"]}
    if instance.request_type == "loglikelihood_rolling":
        return {"text": instance.args[0]}
    return {"context": instance.args[0], "continuation": instance.args[1]}


def plain(value):
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return float(value) if not isinstance(value, str) else value


def one_round(name, task, rnd):
    """Answers for every request, and what the harness makes of them."""
    by_doc = defaultdict(list)
    for instance in task.instances:
        instance.filtered_resps = {}
        by_doc[instance.doc_id].append(instance)
    given = answers(name, task, rnd)
    task.apply_filters()
    raw, samples = defaultdict(list), []
    for key in task.instances[0].filtered_resps:
        for doc_id, instances in sorted(by_doc.items()):
            instances.sort(key=lambda i: i.idx)
            filtered = [i.filtered_resps[key] for i in instances]
            metrics = task.process_results(instances[0].doc, filtered)
            samples.append({
                "doc": doc_id,
                "filter": key,
                "filtered": filtered[0] if task.OUTPUT_TYPE == "generate_until" else None,
                "scores": {metric: plain(value) for metric, value in metrics.items()},
            })
            for metric, value in metrics.items():
                raw[metric, key].append(value)
    totals, size = _compute_task_aggregations(task, raw, 10)
    # Errors from random draws are left out: perplexities have no formula.
    for key in list(totals):
        if key.startswith("perplexity_stderr"):
            totals[key] = "N/A"
    totals = {key: value if value == "N/A" else float(value) for key, value in totals.items()}
    return {"answers": given, "samples": samples, "totals": totals}, size


def evaluate(name):
    rnd = random.Random(name)
    task = ConfigurableTask(config=load_yaml(f"{name}.yaml"))
    task.build_all_requests()
    requests = [{"doc": i.doc_id, **request(i)} for i in task.instances]
    rounds, size = zip(*(one_round(name, task, rnd) for _ in range(ROUNDS)))
    result = {"task": name, "requests": requests, "rounds": rounds}
    return result, {"name": name, "alias": name, "sample_len": size[0], **rounds[0]["totals"]}, task


def hellaswag():
    """Rows in the form of HellaSwag, and what the harness's own cleaning makes of them."""
    import datasets
    from lm_eval.tasks.hellaswag.utils import process_docs

    row = lambda activity, a, b, endings: {"activity_label": activity, "ctx_a": a, "ctx_b": b, "endings": endings, "label": "1"}
    rows = [
        row("Cooking", "A man is shown. [header] He cooks", "he Then eats", [" one [step] two", "it's  fine", "x [title] y", "z"]),
        row("Roof [title] work", "[header] How to climb [title] Look up.", "", ["a\nb", "[substeps] Go.  Stop.", "c", "\"d\""]),
        row("Skiing", "Ünder the bridge", "über ALLES", ["日本", "e", "f ", " g"]),
    ]
    processed = process_docs(datasets.Dataset.from_list(rows))
    kept = [{"query": doc["query"], "choices": doc["choices"]} for doc in processed]
    text = json.dumps({"rows": rows, "processed": kept}, ensure_ascii=False, indent=1)
    (HERE.parent / "hellaswag.json").write_text(text + "\n", "utf8")


def main():
    hellaswag()
    os.environ["DISABLE_MULTIPROC"] = "1"
    data(Path(sys.argv[1]).resolve())
    os.chdir(HERE)
    expected, metrics, tasks = [], {}, {}
    for name in TASKS:
        result, metrics[name], tasks[name] = evaluate(name)
        expected.append(result)
    group = load_yaml("exams.yaml")
    built = Group.from_config({k: v for k, v in group.items()})
    for name in group["task"]:
        built.add(tasks[name])
    aggregated = {k: float(v) for k, v in built.aggregate(metrics).items() if not isinstance(v, (str, dict))}
    lines = [json.dumps(result, ensure_ascii=False) for result in expected]
    text = '{"tasks": [\n' + ",\n".join(lines) + '\n],\n"group": ' + json.dumps(aggregated) + "}\n"
    (HERE / "expected.json").write_text(text, "utf8")


if __name__ == "__main__":
    main()
