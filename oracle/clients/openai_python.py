"""`openai` for Python against $HADAL_URL: every endpoint, streams, tools, structured output, errors, many at once."""

import asyncio
import json
import os
from typing import Literal

import openai
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel, Field

URL, MODEL = os.environ["HADAL_URL"], os.environ["HADAL_MODEL"]
client = OpenAI(base_url=URL, api_key="none", max_retries=0, timeout=300)
ASK = [{"role": "user", "content": "What is the weather in Paris?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a place.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "maxLength": 8},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["place", "unit"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}}}


class Person(BaseModel):
    name: str = Field(max_length=8)
    kind: Literal["human", "robot"]
    age: int = Field(ge=0, le=150)


def models():
    assert [m.id for m in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL


def completions():
    one = client.completions.create(model=MODEL, prompt="fn main() {", max_tokens=12, seed=1, logprobs=2, echo=True)
    choice = one.choices[0]
    assert choice.text.startswith("fn main() {") and choice.finish_reason in ("stop", "length")
    assert len(choice.logprobs.tokens) == len(choice.logprobs.token_logprobs) == len(choice.logprobs.text_offset)
    assert one.usage.total_tokens == one.usage.prompt_tokens + one.usage.completion_tokens
    several = client.completions.create(model=MODEL, prompt=["a", "b"], n=2, max_tokens=4, seed=1)
    assert [c.index for c in several.choices] == [0, 1, 2, 3]
    ids = client.completions.create(model=MODEL, prompt=[5, 6, 7], max_tokens=4, temperature=0)
    assert ids.usage.prompt_tokens == 3
    gap = client.completions.create(model=MODEL, prompt="fn add(a: i32", suffix="a + b }", max_tokens=8)
    assert gap.choices[0].finish_reason in ("stop", "length")
    whole = client.completions.create(model=MODEL, prompt="let x", max_tokens=30, seed=3)
    parts = client.completions.create(
        model=MODEL, prompt="let x", max_tokens=30, seed=3, stream=True, stream_options={"include_usage": True}
    )
    text, usage = "", None
    for part in parts:
        text += "".join(c.text for c in part.choices)
        usage = part.usage or usage
    assert text == whole.choices[0].text, (text, whole)
    assert usage.completion_tokens == whole.usage.completion_tokens
    stop = client.completions.create(model=MODEL, prompt="a", stop=["e", "\n"], max_tokens=200, seed=5)
    assert "e" not in stop.choices[0].text and "\n" not in stop.choices[0].text
    forbidden = client.completions.create(
        model=MODEL, prompt="a", max_tokens=5, temperature=0, logit_bias={str(t): -100 for t in range(300)}
    )
    assert forbidden.choices


def chats():
    one = client.chat.completions.create(model=MODEL, messages=ASK, max_completion_tokens=20, logprobs=True, top_logprobs=2, n=2, seed=1)
    assert [c.message.role for c in one.choices] == ["assistant", "assistant"]
    assert all(len(c.logprobs.content) >= 1 for c in one.choices)
    whole = client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=40, seed=2)
    stream = client.chat.completions.create(
        model=MODEL, messages=ASK, max_tokens=40, seed=2, stream=True, stream_options={"include_usage": True}
    )
    text, finish, usage = "", None, None
    for part in stream:
        usage = part.usage or usage
        for choice in part.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
    assert (text, finish) == (whole.choices[0].message.content or "", whole.choices[0].finish_reason)
    assert usage.prompt_tokens_details.cached_tokens > 0
    parts = [{"role": "user", "content": [{"type": "text", "text": "What is the weather "}, {"type": "text", "text": "in Paris?"}]}]
    same = client.chat.completions.create(model=MODEL, messages=parts, max_tokens=40, seed=2)
    assert same.choices[0].message.content == whole.choices[0].message.content
    thinking = client.chat.completions.create(
        model=MODEL, messages=ASK, max_tokens=30, seed=1, extra_body={"chat_template_kwargs": {"enable_thinking": True}}
    )
    assert thinking.choices[0].message.reasoning_content, thinking
    with client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=1000, stream=True) as stream:
        next(iter(stream))
    # It is closed: the server cancels the request.


def is_weather(call):
    arguments = json.loads(call.function.arguments)
    assert set(arguments) == {"place", "unit"} and arguments["unit"] in ("celsius", "fahrenheit"), arguments


def tools():
    ask = dict(model=MODEL, messages=ASK, tools=[WEATHER, CLOCK], max_tokens=300)
    named = {"type": "function", "function": {"name": "weather"}}
    one = client.chat.completions.create(**ask, tool_choice=named, seed=1)
    assert one.choices[0].finish_reason == "tool_calls", one
    [call] = one.choices[0].message.tool_calls
    assert call.function.name == "weather"
    is_weather(call)
    some = client.chat.completions.create(**ask, tool_choice="required", parallel_tool_calls=False, seed=2)
    [call] = some.choices[0].message.tool_calls
    assert call.function.name in ("weather", "clock") and isinstance(json.loads(call.function.arguments), dict)
    names, arguments, ids = {}, {}, {}
    for part in client.chat.completions.create(**ask, tool_choice=named, seed=1, stream=True):
        for delta in part.choices[0].delta.tool_calls or []:
            names[delta.index] = names.get(delta.index) or delta.function.name
            ids[delta.index] = ids.get(delta.index) or delta.id
            arguments[delta.index] = arguments.get(delta.index, "") + (delta.function.arguments or "")
    assert names == {0: "weather"} and ids[0] and arguments[0] == one.choices[0].message.tool_calls[0].function.arguments
    # The answer of a tool goes back.
    history = ASK + [one.choices[0].message, {"role": "tool", "tool_call_id": ids[0], "content": "sunny"}]
    after = client.chat.completions.create(model=MODEL, messages=history, tools=[WEATHER], max_tokens=10)
    assert after.usage.prompt_tokens > one.usage.prompt_tokens
    free = client.chat.completions.create(**{**ask, "max_tokens": 20}, tool_choice="auto")
    none = client.chat.completions.create(**{**ask, "max_tokens": 20}, tool_choice="none")
    assert free.choices and not none.choices[0].message.tool_calls
    thought = client.chat.completions.create(
        **ask, tool_choice=named, seed=1, logit_bias=None, extra_body={"chat_template_kwargs": {"enable_thinking": False}}
    )
    is_weather(thought.choices[0].message.tool_calls[0])


def structured():
    one = client.chat.completions.parse(model=MODEL, messages=ASK, response_format=Person, max_tokens=200, seed=1)
    assert isinstance(one.choices[0].message.parsed, Person)
    with client.chat.completions.stream(model=MODEL, messages=ASK, response_format=Person, max_tokens=200, seed=1) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert final.choices[0].message.parsed == one.choices[0].message.parsed
    assert "content.delta" in kinds and "content.done" in kinds, kinds
    called = client.chat.completions.parse(
        model=MODEL, messages=ASK, tools=[openai.pydantic_function_tool(Person)], tool_choice="required", parallel_tool_calls=False,
        max_tokens=200, seed=1,
    )
    assert isinstance(called.choices[0].message.tool_calls[0].function.parsed_arguments, Person)
    anything = client.chat.completions.create(
        model=MODEL, messages=ASK, response_format={"type": "json_object"}, max_tokens=400, temperature=0,
        extra_body={"repetition_penalty": 1.3},
    )
    if anything.choices[0].finish_reason == "stop":
        json.loads(anything.choices[0].message.content)
    for form, fits in [({"guided_choice": ["yes", "no"]}, ("yes", "no").__contains__), ({"guided_regex": "[0-9]{3}"}, str.isdigit)]:
        one = client.completions.create(model=MODEL, prompt="x", extra_body=form)
        assert fits(one.choices[0].text), one


def mistakes():
    for wanted, call in [
        (openai.NotFoundError, lambda: client.completions.create(model="gpt-4", prompt="x")),
        (openai.BadRequestError, lambda: client.completions.create(model=MODEL, prompt="x", n=1000)),
        (openai.BadRequestError, lambda: client.chat.completions.create(model=MODEL, messages=[])),
        (openai.BadRequestError, lambda: client.completions.create(model=MODEL, prompt="x" * 200_000)),
    ]:
        try:
            call()
        except wanted as error:
            assert error.body["message"] and error.body["code"], error.body
        else:
            raise AssertionError(wanted)


async def many():
    own = AsyncOpenAI(base_url=URL, api_key="none", max_retries=5, timeout=300)

    async def text(i, seconds=None):
        out = ""
        stream = await own.completions.create(model=MODEL, prompt=f"// {i}: ", seed=i, max_tokens=40, stream=True)
        async for part in stream:
            out += part.choices[0].text
        return out

    together = await asyncio.gather(*(text(i) for i in range(24)))
    gone = [asyncio.create_task(text(i)) for i in range(8)]
    await asyncio.sleep(0.05)
    [task.cancel() for task in gone[::2]]
    await asyncio.gather(*gone, return_exceptions=True)
    for i in (0, 7, 23):
        assert await text(i) == together[i], i


for check in [models, completions, chats, tools, structured, mistakes]:
    check()
    print("ok", check.__name__)
asyncio.run(many())
print("ok many")
