"""The side of the function: reads a program, then arguments, and writes results. All are Python literals."""
import ast
import os
import sys


def plain(value, depth=0):
    """The value in the types that literals have."""
    if depth > 200:
        raise ValueError("too deep")
    if value is None or value is Ellipsis:
        return value
    for kind in (bool, int, float, complex, str, bytes):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, dict):
        return {plain(k, depth + 1): plain(v, depth + 1) for k, v in value.items()}
    for kind in (list, tuple, set, frozenset):
        if isinstance(value, kind):
            return (set if kind is frozenset else kind)(plain(item, depth + 1) for item in value)
    raise TypeError("no literal: " + type(value).__name__)


def main():
    calls, results = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)

    def receive():
        size = calls.read(8)
        if len(size) < 8:
            os._exit(0)
        return ast.literal_eval(calls.read(int.from_bytes(size, "little")).decode("utf-8", "surrogatepass"))

    def send(value):
        text = repr(value).encode("utf-8", "surrogatepass")
        results.write(len(text).to_bytes(8, "little") + text)
        results.flush()

    program, entry_point = receive()
    space = {"__name__": "program"}
    exec(compile(program, "program", "exec"), space)
    function = space[entry_point]
    while True:
        arguments, named = receive()
        try:
            result = ("result", plain(function(*arguments, **named)))
            ast.literal_eval(repr(result))
        except BaseException as error:
            result = ("error", type(error).__name__)
        send(result)


main()
