"""What a model is made to say, and checks of it, for the clients of `/v1/responses` and `/v1/messages`.

The model's template must write thoughts between `<think>` and `</think>`, and calls as
`<tool_call>{"name": ..., "arguments": ...}</tool_call>`. A grammar fixes what the model says, so its weights do not matter.
"""

import json
import re
import sys

THOUGHTS, TEXT, ARGUMENTS = "so it is", "Yes, Oslo.", {"city": "Oslo"}
CALL = f'<tool_call>{{"name": "weather", "arguments": {json.dumps(ARGUMENTS)}}}</tool_call>'
ALL = f"<think>{THOUGHTS}</think>{TEXT}{CALL}"


def forced(text):
    """A form that allows this text alone."""
    return {"guided_regex": re.escape(text).replace('\\"', '"')}


def check(name, condition, seen=None):
    print("ok " if condition else "BAD", name, "" if condition else seen)
    if not condition:
        sys.exit(1)
