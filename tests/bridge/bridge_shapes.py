"""Ways in which plain Python calls a function. Each takes `ask(text) -> text`, which waits, and returns a value."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import json
import re
import sqlite3
import types
from collections.abc import Callable
from typing import Any

Ask = Callable[[str], str]
SHAPES: dict[str, Callable[[Ask], Any]] = {}


def shape(function: Callable[[Ask], Any]) -> Callable[[Ask], Any]:
    SHAPES[function.__name__] = function
    return function


@shape
def plain_call(ask):
    return ask("a")


@shape
def nested_def(ask):
    def outer():
        def inner():
            return ask("a")

        return inner() + ask("b")

    return outer()


@shape
def lambda_call(ask):
    return (lambda text: ask(text))("a")


@shape
def alias_and_partial(ask):
    alias = functools.partial(ask, "a")
    return alias(), {"key": ask}["key"]("b")


@shape
def list_comprehension(ask):
    return [ask(text) for text in "abc"]


@shape
def set_and_dict_comprehension(ask):
    return {ask(text) for text in "ab"}, {ask(text): ask(text * 2) for text in "ab"}


@shape
def generator_expression(ask):
    return "".join(ask(text) for text in "abc")


@shape
def generator_function(ask):
    def generate():
        for text in "abc":
            yield ask(text)
        return ask("end")

    def outer():
        ended = yield from generate()
        yield ended

    return list(outer())


@shape
def generator_sent_to(ask):
    def echo():
        text = "a"
        while True:
            text = yield ask(text)

    generator = echo()
    values = [next(generator), generator.send("b")]
    generator.close()
    return values


@shape
def generator_closed_half_way(ask):
    seen = []

    def generate():
        try:
            yield ask("a")
        finally:
            seen.append(ask("finally"))

    generator = generate()
    seen.append(next(generator))
    generator.close()
    return seen


@shape
def with_statement(ask):
    @contextlib.contextmanager
    def manage():
        seen.append(ask("enter"))
        yield ask("as")
        seen.append(ask("exit"))

    seen: list[str] = []
    with manage() as value:
        seen.append(value)
    return seen


@shape
def exit_stack(ask):
    seen: list[str] = []
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: seen.append(ask("callback")))
    return seen


@shape
def try_except_else_finally(ask):
    seen = []
    for text in ("0", "2"):
        try:
            1 // int(ask(text))
        except ZeroDivisionError:
            seen.append(ask("except"))
        else:
            seen.append(ask("else"))
        finally:
            seen.append(ask("finally"))
    return seen


@shape
def map_and_filter(ask):
    return list(map(ask, "abc")), list(filter(lambda text: ask(text) != "b", "abc"))


@shape
def reduce_and_accumulate(ask):
    join = lambda left, right: ask(left + right)  # noqa: E731
    return functools.reduce(join, "abc"), list(itertools.accumulate("abc", join))


@shape
def sorted_by_key(ask):
    return sorted("bca", key=ask), sorted("bca", key=functools.cmp_to_key(lambda a, b: (ask(a) > ask(b)) * 2 - 1))


@shape
def min_max_any_all(ask):
    return min("bca", key=ask), max("bca", key=ask), any(ask(t) == "b" for t in "abc"), all(ask(t) for t in "abc")


@shape
def group_by(ask):
    return [(key, list(group)) for key, group in itertools.groupby("aab", key=ask)]


@shape
def regular_expression(ask):
    return re.sub("[a-c]", lambda match: ask(match[0]).upper(), "xaybzc")


@shape
def json_default(ask):
    return json.dumps({"a": {1}}, default=lambda value: ask("set"))


@shape
def json_object_hook(ask):
    return json.loads('{"a": {"b": 1}}', object_hook=lambda value: ask(str(sorted(value))))


@shape
def sqlite_function(ask):
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.create_function("ask", 1, ask)
        return database.execute("select ask('a') || ask('b')").fetchone()


@shape
def ctypes_quicksort(ask):
    compare_type = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
    compare = compare_type(lambda a, b: int(ask(str(a[0]))) - int(ask(str(b[0]))))
    numbers = (ctypes.c_int * 5)(3, 1, 5, 2, 4)
    ctypes.CDLL(None).qsort(numbers, 5, ctypes.sizeof(ctypes.c_int), compare)
    return list(numbers)


@shape
def eval_and_exec(ask):
    names = {"ask": ask}
    exec("def function(): return ask('exec')\nvalue = function()", names)
    return names["value"], eval("ask('eval')", names)


@shape
def module_body(ask):
    module = types.ModuleType("made")
    module.ask = ask
    exec(compile("value = [ask(t) for t in 'ab']", "made.py", "exec"), module.__dict__)
    return module.value


@shape
def conditional_and_boolean(ask):
    return ask("a") if ask("") else ask("b"), ask("") or ask("c"), ask("d") and ask("e"), "a" < ask("b") < "c"


@shape
def formatted_string(ask):
    return f"{ask('a')}-{ask('b')!r:>5}"


@shape
def walrus_and_while(ask):
    texts, seen = iter(["a", "b", ""]), []
    while text := ask(next(texts)):
        seen.append(text)
    return seen


@shape
def starred_arguments(ask):
    return max(*[ask(t) for t in "ab"], *map(ask, "cd")), dict(**{ask("key"): ask("value")})


@shape
def match_statement(ask):
    match ask("b"):
        case "a":
            return 1
        case text if ask(text) == "b":
            return 2


@shape
def assertion_and_raise(ask):
    try:
        assert ask("") == "x", ask("message")
    except AssertionError as error:
        return str(error)


@shape
def unpacking_and_augmented(ask):
    first, *rest = (ask(t) for t in "abc")
    first += ask("d")
    rest[int(ask("0"))] = ask("e")
    return first, rest


@shape
def recursion_through_map(ask):
    def depth(n):
        return ask(str(n)) if n == 0 else next(map(depth, [n - 1]))

    return depth(60)


@shape
def recursion_through_sorted(ask):
    def depth(n):
        return [ask(str(n))] if n == 0 else sorted([n], key=lambda _: depth(n - 1))

    return depth(40)


@shape
def coroutine_driven_by_hand(ask):
    async def own():
        return ask("a") + await deeper()

    async def deeper():
        return ask("b")

    try:
        own().send(None)
    except StopIteration as end:
        return end.value


@shape
def exception_group(ask):
    try:
        raise ExceptionGroup("both", [ValueError(ask("a")), TypeError(ask("b"))])
    except* ValueError as group:
        seen = [str(error) + ask("c") for error in group.exceptions]
    except* TypeError:
        pass
    return seen
