"""Checks `/v1/responses` with OpenAI's own client.

HADAL_URL is the address of a running server. `run.sh` sets it. `forced.py` has what the model is made to say.
"""

import json
import os

import openai
from pydantic import BaseModel
from forced import ALL, ARGUMENTS, TEXT, THOUGHTS, check, forced

URL = os.environ["HADAL_URL"]
client = openai.OpenAI(base_url=URL, api_key="none", max_retries=0)
MODEL = client.models.list().data[0].id
WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": True,
}


def text_of(response):
    return [part.text for item in response.output if item.type == "reasoning" for part in item.content]


def check_whole(response, what):
    check(f"{what}: items", [i.type for i in response.output] == ["reasoning", "message", "function_call"], response)
    check(f"{what}: thoughts", text_of(response) == [THOUGHTS], response.output)
    check(f"{what}: text", response.output_text == TEXT, response.output)
    call = response.output[2]
    check(f"{what}: call", (call.name, json.loads(call.arguments)) == ("weather", ARGUMENTS), call)
    check(f"{what}: status", response.status == "completed" and all(i.status == "completed" for i in response.output))
    usage = response.usage
    check(f"{what}: usage", usage.total_tokens == usage.input_tokens + usage.output_tokens, usage)
    check(f"{what}: tokens of thoughts", 0 < usage.output_tokens_details.reasoning_tokens < usage.output_tokens, usage)


ASKED = dict(model=MODEL, input="Is it raining in Oslo?", tools=[WEATHER], temperature=0, max_output_tokens=400)

response = client.responses.create(**ASKED, instructions="Be brief.", extra_body=forced(ALL))
check_whole(response, "whole")
check("echo", response.instructions == "Be brief." and response.tools[0].name == "weather" and response.store is False)

events = list(client.responses.create(**ASKED, stream=True, extra_body=forced(ALL)))
check("events: numbers", [event.sequence_number for event in events] == list(range(len(events))))
kinds = [event.type for event in events]
once = [kind for i, kind in enumerate(kinds) if i == 0 or kinds[i - 1] != kind]
check(
    "events: order",
    once
    == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ],
    once,
)
# The client fills its types without checking them. Here each event must be valid by its type.
for event in events:
    type(event).model_validate(event.model_dump(by_alias=True))
check_whole(events[-1].response, "last event")

with client.responses.stream(**ASKED, extra_body=forced(ALL)) as stream:
    said = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
    final = stream.get_final_response()
check_whole(final, "helper")
check("helper: deltas", said == TEXT, said)
check("helper: arguments", final.output[2].parsed_arguments == ARGUMENTS, final.output[2])

# The next turn brings the items of the answer and the result of the call.
turns = [{"role": "user", "content": "Is it raining in Oslo?"}, *[item.to_dict() for item in response.output]]
turns.append({"type": "function_call_output", "call_id": response.output[2].call_id, "output": "no"})
asked = {**ASKED, "input": turns}
follow = client.responses.create(**asked, extra_body=forced("It is not."))
check("next turn", follow.output_text == "It is not.", follow)
again = client.responses.create(**asked, extra_body=forced("It is not."))
check("cached tokens", again.usage.input_tokens_details.cached_tokens > 0, again.usage)


class Place(BaseModel):
    city: str
    rain: bool


plain = dict(model=MODEL, input="Oslo?", temperature=0, reasoning={"effort": "none"})
try:
    parsed = client.responses.parse(**plain, text_format=Place, max_output_tokens=400)
    check("structured output", parsed.status == "incomplete" or isinstance(parsed.output_parsed, Place), parsed)
except ValueError as error:
    # A model that was not trained for it may fill a string until it is cut off.
    check("structured output is cut off", "EOF" in str(error), error)
short = client.responses.create(**plain, max_output_tokens=3, extra_body={"ignore_eos": True})
check("cut off", short.status == "incomplete" and short.incomplete_details.reason == "max_output_tokens", short)
none = client.responses.create(**ASKED, tool_choice="none", extra_body=forced("No."))
check("no tools", none.output_text == "No.", none)

must = client.responses.create(**ASKED, tool_choice={"type": "function", "name": "weather"})
check("a call that must be made", [i.name for i in must.output if i.type == "function_call"] == ["weather"], must)

for more, param in [
    ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ({"store": True}, "store"),
    ({"background": True}, "background"),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"truncation": "auto"}, "truncation"),
]:
    try:
        client.responses.create(**{**plain, **more})
        check(f"refused: {param}", False)
    except openai.BadRequestError as error:
        check(f"refused: {param}", error.param == param, error)
for call in [lambda: client.responses.retrieve("resp_1"), lambda: client.responses.delete("resp_1")]:
    try:
        call()
        check("nothing is kept", False)
    except openai.NotFoundError as error:
        check("nothing is kept", error.code == "not_kept", error)
