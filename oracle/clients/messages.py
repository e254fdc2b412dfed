"""Checks `/v1/messages` with Anthropic's own client.

HADAL_URL is the address of a running server. `run.sh` sets it. `forced.py` has what the model is made to say.
"""

import json
import os
import urllib.request

import anthropic
from forced import ALL, ARGUMENTS, TEXT, THOUGHTS, check, forced

URL = os.environ["HADAL_URL"]
client = anthropic.Anthropic(base_url=URL.removesuffix("/v1"), api_key="none", max_retries=0)
MODEL = json.load(urllib.request.urlopen(f"{URL}/models"))["data"][0]["id"]
WEATHER = {
    "name": "weather",
    "description": "The weather of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def check_whole(message, what):
    check(f"{what}: blocks", [b.type for b in message.content] == ["thinking", "text", "tool_use"], message)
    thinking, text, call = message.content
    check(f"{what}: thoughts", thinking.thinking == THOUGHTS and thinking.signature, thinking)
    check(f"{what}: text", text.text == TEXT, text)
    check(f"{what}: call", (call.name, call.input) == ("weather", ARGUMENTS), call)
    check(f"{what}: reason", (message.stop_reason, message.stop_sequence) == ("tool_use", None), message)
    usage = message.usage
    check(f"{what}: tokens of thoughts", 0 < usage.output_tokens_details.thinking_tokens < usage.output_tokens, usage)


question = [{"role": "user", "content": "Is it raining in Oslo?"}]
ASKED = dict(model=MODEL, messages=question, tools=[WEATHER], max_tokens=400)

message = client.messages.create(**ASKED, system="Be brief.", extra_body=forced(ALL))
check_whole(message, "whole")

events = list(client.messages.create(**ASKED, stream=True, extra_body=forced(ALL)))
kinds = [getattr(getattr(event, "delta", None), "type", None) or event.type for event in events]
once = [kind for i, kind in enumerate(kinds) if i == 0 or kinds[i - 1] != kind]
check(
    "events: order",
    once
    == [
        "message_start",
        "content_block_start",
        "thinking_delta",
        "signature_delta",
        "content_block_stop",
        "content_block_start",
        "text_delta",
        "content_block_stop",
        "content_block_start",
        "input_json_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ],
    once,
)
# The client fills its types without checking them. Here each event must be valid by its type.
for event in events:
    type(event).model_validate(event.model_dump(by_alias=True))

with client.messages.stream(**ASKED, extra_body=forced(ALL)) as stream:
    said = "".join(stream.text_stream)
    final = stream.get_final_message()
check_whole(final, "helper")
check("helper: text", said == TEXT, said)

# The next turn brings the blocks of the answer and the result of the call.
result = {"type": "tool_result", "tool_use_id": message.content[2].id, "content": [{"type": "text", "text": "no"}]}
turns = [*question, {"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
asked = {**ASKED, "messages": turns, "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]}
follow = client.messages.create(**asked, extra_body=forced("It is not."))
check("next turn", (follow.content[0].text, follow.stop_reason) == ("It is not.", "end_turn"), follow)
again = client.messages.create(**asked, extra_body=forced("It is not."))
usage = again.usage
check("cached tokens", usage.cache_read_input_tokens > 0, usage)
count = client.messages.count_tokens(**{k: asked[k] for k in ("model", "messages", "system", "tools")})
check("count", count.input_tokens == usage.input_tokens + usage.cache_read_input_tokens, (count, usage))

plain = dict(model=MODEL, messages=question)
short = client.messages.create(**plain, max_tokens=3, extra_body={"ignore_eos": True})
check("cut off", short.stop_reason == "max_tokens", short)
stopped = client.messages.create(**plain, max_tokens=40, stop_sequences=["x", "is"], extra_body=forced("That is it."))
check("stop sequence", (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "is"), stopped)
check("stop sequence: text", stopped.content[0].text.strip() == "That", stopped)
none = client.messages.create(**ASKED, tool_choice={"type": "none"}, extra_body=forced("No."))
check("no tools", none.content[0].text == "No.", none)
must = client.messages.create(**ASKED, tool_choice={"type": "tool", "name": "weather"})
check("a call that must be made", [b.name for b in must.content if b.type == "tool_use"] == ["weather"], must)
schema = {"type": "object", "properties": {"rain": {"type": "boolean"}}, "required": ["rain"], "additionalProperties": False}
form = {"format": {"type": "json_schema", "schema": schema}}
formed = client.messages.create(**plain, max_tokens=400, thinking={"type": "disabled"}, output_config=form)
cut = formed.stop_reason == "max_tokens"
check("structured output", cut or isinstance(json.loads(formed.content[0].text)["rain"], bool), formed)

for more, part, kind in [
    ({"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "x"}}]}]}, "image", 400),
    ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "input_schema", 400),
    ({"max_tokens": 0}, "max_tokens", 400),
    ({"model": "claude"}, "claude", 404),
]:
    try:
        client.messages.create(**{**plain, "max_tokens": 5, **more})
        check(f"refused: {part}", False)
    except anthropic.APIStatusError as error:
        right = error.status_code == kind and part in error.message and error.body["type"] == "error"
        check(f"refused: {part}", right, error)
