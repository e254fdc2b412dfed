"""LangChain's OpenAI client against $HADAL_URL."""

import os
from typing import Literal

from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel, Field

settings = dict(base_url=os.environ["HADAL_URL"], api_key="none", model=os.environ["HADAL_MODEL"], max_retries=0)
chat = ChatOpenAI(**settings, max_tokens=300, seed=1, stream_usage=True)
short = ChatOpenAI(**settings, max_tokens=20, seed=1, stream_usage=True)


class Person(BaseModel):
    """A person."""

    name: str = Field(max_length=8, description="What they are called.")
    kind: Literal["human", "robot"]
    age: int = Field(ge=0, le=150)


@tool
def weather(place: Literal["Paris", "Rome"], days: int) -> str:
    """The weather of a place."""
    return f"{days} sunny days in {place}"


messages = [SystemMessage("You are kind."), HumanMessage("Hello!")]
one = short.invoke(messages)
assert one.usage_metadata["output_tokens"] > 0 and one.response_metadata["finish_reason"] in ("stop", "length")
parts = list(short.stream(messages))
whole = parts[0]
for part in parts[1:]:
    whole += part
assert whole.content == one.content and whole.usage_metadata["input_tokens"] == one.usage_metadata["input_tokens"]
assert len(short.batch([messages] * 4)) == 4

for choice in ["weather", "any", "required"]:
    said = chat.bind_tools([weather], tool_choice=choice, parallel_tool_calls=False).invoke(messages)
    call = said.tool_calls[0]
    assert call["name"] == "weather" and call["args"]["place"] in ("Paris", "Rome"), said
    result = weather.invoke(call)
    assert isinstance(result, ToolMessage)
    assert short.bind_tools([weather]).invoke([*messages, said, *(weather.invoke(c) for c in said.tool_calls)])
    assert not said.invalid_tool_calls
streamed = None
for part in chat.bind_tools([weather], tool_choice="weather").stream(messages):
    streamed = part if streamed is None else streamed + part
assert streamed.tool_calls[0]["args"]["place"] in ("Paris", "Rome"), streamed

for method in ["json_schema", "function_calling"]:
    assert isinstance(chat.with_structured_output(Person, method=method).invoke(messages), Person), method

text = OpenAI(**settings, max_tokens=16, seed=1)
assert text.invoke("fn main() {") == "".join(text.stream("fn main() {"))
print("ok")
