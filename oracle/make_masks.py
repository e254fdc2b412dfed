"""Which tokens of conversations are the assistant's, by `transformers`, as references for `hadal-data`.

    python oracle/make_masks.py [TEMPLATES] [OUT]

Reads `samples.jsonl` in the folder of the references, and writes for each template the token ids of each sample and
which of them are trained. Where a template has `{% generation %}`, the mask is that of `return_assistant_tokens_mask`.
For others, each turn is written by `apply_chat_template` as in use: the messages before it with the generation prompt,
and the messages up to it. Without TEMPLATES it uses the committed templates. With a folder of others it writes to OUT, and

    HADAL_MASKS=TEMPLATES:OUT cargo test -p hadal-data --test chat_masks

compares them.
"""

import json
import re
import sys
from pathlib import Path

import make_chat
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

HERE = make_chat.HERE
MASKS = HERE.parent / "masks"
# Names of special tokens of the families.
SPECIAL = """<BOS> <EOS> <PAD> <｜User｜> <｜Assistant｜> <｜tool▁calls▁begin｜> <｜tool▁calls▁end｜> <｜tool▁call▁begin｜>
<｜tool▁call▁end｜> <｜tool▁outputs▁begin｜> <｜tool▁outputs▁end｜> <｜tool▁output▁begin｜> <｜tool▁output▁end｜> <｜tool▁sep｜>
<｜end▁of▁sentence｜> <｜begin▁of▁sentence｜> <|im_start|> <|im_end|> <|im_user|> <|im_assistant|> <|im_system|> <|im_middle|>
<|tool_calls_section_begin|> <|tool_calls_section_end|> <|tool_call_begin|> <|tool_call_argument_begin|> <|tool_call_end|>
<|user|> <|assistant|> <|system|> <|observation|> <|start_header_id|> <|end_header_id|> <|eot_id|> <|eom_id|> <|python_tag|>
<|begin_of_text|> <|end_of_text|> <|role_sep|> <|message_sep|> <|function_call|>""".split()


def make_tokenizer(path, texts):
    """A small byte-level tokenizer with the special tokens of all families."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(path))


def sequences(tokenizer, source, sample, form):
    """The sequences of a sample: pairs of ids and mask."""
    messages = make_chat.adapted(sample["messages"], form)
    answers = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
    messages = messages[: answers[-1] + 1]
    common = dict(tools=sample.get("tools"), chat_template=source, **sample.get("chat_template_kwargs", {}))

    def text(part, prompt):
        return tokenizer.apply_chat_template(part, add_generation_prompt=prompt, tokenize=False, **common)

    if re.search(r"\{%-?\s*generation", source):
        got = tokenizer.apply_chat_template(
            messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True, **common
        )
        return [cut(list(got["input_ids"]), list(got["assistant_masks"]))]
    special = re.compile("|".join(re.escape(name) for name in SPECIAL))
    texts = []
    for i in answers:
        prompt, turn = text(messages[:i], True), text(messages[: i + 1], False)
        thought = thought_of(sample["messages"][i])
        own = own_text(form, prompt, turn, thought)
        if thought and thought not in own:
            raise ValueError("the thought is lost")
        ends = [m.end() for m in special.finditer(own)]
        if ends and not own[ends[-1] :].strip():
            end = len(prompt) + ends[-1]
        else:
            # What follows a call is its result, what follows an answer is a question.
            calls = messages[i].get("tool_calls")
            answer = {"role": "assistant", "content": ""} | ({"tool_calls": calls} if calls else {"content": "y"})
            short = [{"role": "user", "content": "x"}, answer]
            before = text(short, False).rstrip()
            after = text([*short, {"role": "tool" if calls else "user", "content": "z"}], False)
            found = special.search(after, len(before))
            if not after.startswith(before) or not found or after[len(before) : found.start()].strip():
                raise ValueError("no end")
            own = own.rstrip() + after[len(before) : found.end()]
            end = len(prompt) + len(own)
        turn = prompt + own
        if texts and turn.startswith(texts[-1][0]) and texts[-1][1][-1][1] <= len(prompt):
            texts[-1] = (turn, [*texts[-1][1], (len(prompt), end)])
        else:
            texts.append((turn, [(len(prompt), end)]))
    done = []
    for turn, spans in texts:
        encoded = tokenizer(turn, add_special_tokens=False, return_offsets_mapping=True)
        touches = lambda a, b: int(any(a < end and start < max(b, a + 1) for start, end in spans))
        done.append(cut(encoded["input_ids"], [touches(a, b) for a, b in encoded["offset_mapping"]]))
    return done


def thought_of(message):
    """The thought of a message, in its field or at the beginning of its content."""
    inline = re.match(r"\s*<think>(.*?)</think>", message.get("content") or "", re.DOTALL)
    return (message.get("reasoning_content") or (inline and inline[1]) or "").strip("\n")


def own_text(form, prompt, turn, thought):
    """What the model has to write after the prompt. What families do with thoughts is stated by hand here."""
    family = form.get("family")
    if family == "r1" and thought:
        # The prompt opens the thought. The template leaves thoughts out.
        stem = prompt.removesuffix("<think>\n")
        assert stem != prompt and turn.startswith(stem)
        return thought + "\n</think>\n\n" + turn[len(stem) :].lstrip()
    if family == "v3.1" and thought and prompt.endswith("<think>"):
        stem = prompt.removesuffix("<think>")
        assert turn.startswith(stem + "</think>")
        return thought + turn[len(stem) :]
    if family == "kimi":
        # The final answer removes all thoughts, also its own.
        own = turn.rsplit("<|im_assistant|>assistant<|im_middle|>", 1)[1]
        return own.replace("<think></think>", f"<think>{thought}</think>", 1)
    if not turn.startswith(prompt):
        raise ValueError(f"not a prefix: {prompt[-30:]!r} {turn[-60:]!r}")
    return turn[len(prompt) :]


FAMILIES = {"deepseek_v3": "r1", "deepseek_r1_distill": "r1", "deepseekv3": "r1", "deepseek_v31": "v3.1", "kimi": "kimi"}


def cut(ids, mask):
    end = max(i for i, m in enumerate(mask) if m) + 1
    return [ids[:end], "".join(map(str, mask[:end]))]


def main():
    templates = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "templates"
    out = Path(sys.argv[2]) if len(sys.argv) > 2 else MASKS
    out.mkdir(exist_ok=True, parents=True)
    lines = [json.loads(line) for line in (MASKS / "samples.jsonl").read_text().splitlines()]
    if out == MASKS:
        texts = [path.read_text() for path in sorted((HERE / "templates").glob("*.jinja"))]
        make_tokenizer(MASKS / "tokenizer.json", texts + [json.dumps(line, ensure_ascii=False) for line in lines])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(MASKS / "tokenizer.json"), bos_token="<BOS>", eos_token="<EOS>", pad_token="<PAD>"
    )
    # Templates that change lists are refused by the sandbox of `transformers`; see make_chat.py.
    from jinja2 import sandbox

    for path in [*sorted(templates.glob("*.jinja")), *(MASKS.glob("*.jinja") if out == MASKS else [])]:
        source = path.read_bytes().decode()
        changes_lists = any(f".{method}(" in source for method in ("append", "extend", "insert", "pop"))
        safe = sandbox.ImmutableSandboxedEnvironment.is_safe_attribute
        if changes_lists:
            sandbox.ImmutableSandboxedEnvironment.is_safe_attribute = sandbox.SandboxedEnvironment.is_safe_attribute
        form = make_chat.FORMS.get("deepseek_v3" if path.stem == "v3" else path.stem, {})
        form = {**form, "family": FAMILIES.get(path.stem)}
        if out != MASKS and re.search(r"arguments'?\]?\s*\|\s*tojson", source):
            form["arguments"] = "object"
        cases = []
        for sample in lines:
            try:
                cases.append(sequences(tokenizer, source, sample, form))
            except Exception as error:  # noqa: BLE001
                cases.append(f"{type(error).__name__}: {error}"[:120])
        sandbox.ImmutableSandboxedEnvironment.is_safe_attribute = safe
        reference = {"now": make_chat.NOW, "cases": cases}
        text = json.dumps(reference, ensure_ascii=False, separators=(",", ":")).replace("[[[", "\n[[[")
        (out / f"{path.stem}.json").write_text(text + "\n")
        good = [case for case in cases if not isinstance(case, str)]
        several = sum(len(case) > 1 for case in good)
        print(f"{path.stem}: {len(good)} samples, {several} in several sequences, {len(cases) - len(good)} errors")
        for line, case in zip(lines, cases):
            if isinstance(case, str):
                print("   ", [m["role"] for m in line["messages"]], case)


if __name__ == "__main__":
    main()
