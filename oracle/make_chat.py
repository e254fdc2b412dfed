"""Renders chat templates with `transformers`, as references for `hadal-data`.

    python oracle/make_chat.py [TEMPLATES] [OUT]

TEMPLATES is a folder of `.jinja` files (by default the committed ones), OUT the folder of the references. A reference has
the template's special tokens and, for each conversation of `conversations.json`, the prompt or that there is none. With
other folders, the templates of released models can be checked:

    cargo run -p hadal-data --example chat_check -- TEMPLATES OUT
"""

import json
import re
import sys
from pathlib import Path

import jinja2
import jinja2.sandbox
from transformers.utils import chat_template_utils as hf

HERE = Path(__file__).resolve().parent.parent / "crates/data/tests/fixtures/chat"
# Which form of a call's arguments a template can write, where it is not both, and what it needs in place of absent content.
# This is stated by hand: it says what `hadal` must find out by itself.
FORMS = json.loads((HERE / "forms.json").read_text())
NOW = 1_735_689_599  # 2024-12-31 23:59:59 UTC
TOKENS = {"bos_token": "<BOS>", "eos_token": "<EOS>", "pad_token": "<PAD>"}


class Clock(hf.datetime):
    @classmethod
    def now(cls, tz=None):
        from datetime import timezone

        return cls.fromtimestamp(NOW, timezone.utc)


hf.datetime = Clock


def as_form(messages, form):
    """The arguments of calls as text or as objects."""
    messages = json.loads(json.dumps(messages))
    for message in messages:
        for call in message.get("tool_calls") or []:
            function = call["function"]
            if form == "string" and not isinstance(function["arguments"], str):
                function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
            if form == "object" and isinstance(function["arguments"], str):
                try:
                    function["arguments"] = json.loads(function["arguments"])
                except ValueError:
                    pass
    return messages


def adapted(messages, form):
    if form.get("arguments"):
        messages = as_form(messages, form["arguments"])
    messages = hf._normalize_chat_messages(messages)
    for message in messages:
        if message.get("tool_calls") and "content" not in message and "content" in form:
            message["content"] = form["content"]
        if form.get("parts") is False and isinstance(message.get("content"), list):
            message["content"] = "".join(part["text"] for part in message["content"])
    return messages


def render(source, request, form):
    kwargs = dict(request.get("chat_template_kwargs", {}))
    changes_lists = any(f".{method}(" in source for method in ("append", "extend", "insert", "pop"))
    arguments = dict(
        conversations=[adapted(request["messages"], form)],
        tools=request.get("tools"),
        chat_template=source,
        add_generation_prompt=request.get("add_generation_prompt", False),
        return_assistant_tokens_mask=bool(re.search(r"\{%-?\s*generation", source)),
        **TOKENS,
        **kwargs,
    )
    if not changes_lists:
        texts, spans = hf.render_jinja_template(**arguments)
        return texts[0], spans[0] if spans else []
    # `transformers` refuses templates that change lists. The same environment without this rule renders them.
    safe = jinja2.sandbox.ImmutableSandboxedEnvironment.is_safe_attribute
    jinja2.sandbox.ImmutableSandboxedEnvironment.is_safe_attribute = jinja2.sandbox.SandboxedEnvironment.is_safe_attribute
    try:
        texts, spans = hf.render_jinja_template(**arguments)
    finally:
        jinja2.sandbox.ImmutableSandboxedEnvironment.is_safe_attribute = safe
    return texts[0], spans[0] if spans else []


def in_bytes(text, spans):
    return [[len(text[:start].encode()), len(text[:end].encode())] for start, end in spans]


def main():
    templates = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "templates"
    out = Path(sys.argv[2]) if len(sys.argv) > 2 else HERE / "expected"
    out.mkdir(exist_ok=True, parents=True)
    conversations = json.loads((HERE / "conversations.json").read_text())
    for path in sorted(templates.glob("*.jinja")):
        # Newlines are kept as they are.
        source = path.read_bytes().decode()
        cases = {}
        for name, request in conversations.items():
            for form in ("as_is", "string", "object"):
                if form != "as_is":
                    if not any(m.get("tool_calls") for m in request["messages"]):
                        continue
                    request = {**request, "messages": as_form(request["messages"], form)}
                case = name if form == "as_is" else f"{name}, {form}"
                try:
                    text, spans = render(source, request, FORMS.get(path.stem, {}))
                    cases[case] = {"text": text, **({"spans": in_bytes(text, spans)} if spans else {})}
                except Exception as error:  # noqa: BLE001
                    cases[case] = {"error": f"{type(error).__name__}: {error}"[:160]}
        reference = {"special": TOKENS, "now": NOW, "cases": cases}
        (out / f"{path.stem}.json").write_text(json.dumps(reference, ensure_ascii=False, indent=1) + "\n")
        bad = [name for name, case in cases.items() if "error" in case]
        print(f"{path.stem}: {len(cases) - len(bad)} prompts, {len(bad)} errors")
        if len(sys.argv) > 3:
            for name in bad:
                print("   ", name, "|", cases[name]["error"])


if __name__ == "__main__":
    main()
