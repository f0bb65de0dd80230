"""Values in and out, finals, output, reset."""

from __future__ import annotations

import asyncio
import collections
import datetime
import decimal
import fractions
import pathlib
import uuid
from typing import Any

import pytest
from environment.env_sides import Shared, Side, echo, run

import rlm

PORTABLE = [
    None, True, False, 0, -1, 2**70, 1.5, "", "text", "ä€😀", "a\nb\0c", "x" * 100_000, "ü" * 70_000, b"", b"\x00\xff",
    bytes(100_000), [], {}, [1, "a", None, [2.5, {"k": []}]], {"a": {"b": [1, 2, 3]}, "": None},
    list(range(20_000)), {str(i): i for i in range(5_000)},
]  # fmt: skip
PICKLED = [
    (1, "a"), {1, 2}, frozenset("a"), collections.Counter("aab"), decimal.Decimal("1.5"), fractions.Fraction(1, 3),
    datetime.datetime(2024, 1, 2, 3, tzinfo=datetime.UTC), pathlib.PurePosixPath("/a"), uuid.UUID(int=5),
    range(3), 1j, {1: "a"}, collections.OrderedDict(a=1), [(1, 2)], collections.deque([1, 2]), ...,
]  # fmt: skip
NOT_PORTABLE = {
    "{1, 2}": "set", "(1, 2)": "tuple", "object()": "object", "lambda: 1": "function", "{1: 2}": "dict",
    "[1, {2}]": "list", "1j": "complex", "type": "type", "asyncio": "module",
    "__import__('decimal').Decimal(1)": "Decimal", "[__import__('collections').deque()]": "deque",
}  # fmt: skip


@pytest.mark.parametrize("value", PORTABLE, ids=lambda v: repr(v)[:20])
def test_a_portable_value_comes_back_as_it_went_in(repl: Shared, value: Any) -> None:
    async def main() -> None:
        await repl.env.set_async("value", value)
        back = await repl.env.get_async("value")
        assert (type(back), back) == (type(value), value)

    repl.run(main)


@pytest.mark.parametrize("value", PICKLED, ids=repr)
def test_any_other_value_goes_in_by_pickle(repl: Shared, value: Any) -> None:
    repl.run(lambda: repl.env.set_async("value", value))
    shown = repl.good("[type(value).__name__, value]").value
    assert shown == repr([type(value).__name__, value])


def test_a_dataframe_like_object_of_an_installed_package_goes_in(repl: Shared) -> None:
    rows = collections.OrderedDict((day, collections.Counter(n=day.day)) for day in [datetime.date(2024, 1, 5)])
    repl.run(lambda: repl.env.set_async("rows", rows))
    assert repl.good("sum(row['n'] for row in rows.values())").value == "5"


def test_a_value_that_pickle_refuses_says_so(repl: Shared) -> None:
    if not repl.side.process:
        pytest.skip("inline values are the host's own objects")
    with pytest.raises(rlm.UsageError, match=r"value \(generator\) cannot be sent"):
        repl.run(lambda: repl.env.set_async("value", (i for i in "ab")))


def test_a_value_that_the_worker_cannot_unpickle_says_so(repl: Shared) -> None:
    """A class of the test's own module does not exist in the worker."""
    if not repl.side.process:
        pytest.skip("inline values are the host's own objects")
    with pytest.raises(rlm.UsageError, match=r"[mM]odule"):
        repl.run(lambda: repl.env.set_async("value", Side("inline/threaded")))
    assert repl.good("llm_query('a')").value == "'<a>'"


@pytest.mark.parametrize("source", NOT_PORTABLE)
def test_a_value_that_is_not_portable_is_named_with_its_type(repl: Shared, source: str) -> None:
    repl.good(f"value = {source}")
    if not repl.side.process:
        assert type(repl.run(lambda: repl.env.get_async("value"))) is not None  # the very object
        return
    with pytest.raises(rlm.ValueNotPortable, match=NOT_PORTABLE[source]) as raised:
        repl.run(lambda: repl.env.get_async("value"))
    assert raised.value.name == "value"


def test_a_value_that_contains_itself_is_refused_or_the_very_object(repl: Shared) -> None:
    repl.good("value = []\nvalue.append(value)")
    if repl.side.process:
        with pytest.raises(rlm.ValueNotPortable):
            repl.run(lambda: repl.env.get_async("value"))
    repl.good("value = None")


def test_an_answer_comes_out_as_its_text(repl: Shared) -> None:
    repl.good("value = llm_batch_query(['a', 'b'])")
    assert repl.run(lambda: repl.env.get_async("value")) == ["<a>", "<b>"]


def test_a_subclass_comes_out_of_a_worker_as_the_portable_type_it_extends(repl: Shared) -> None:
    repl.good("import collections\nvalue = collections.Counter('aab')")
    back = repl.run(lambda: repl.env.get_async("value"))
    assert back == {"a": 2, "b": 1}
    assert type(back) is (dict if repl.side.process else collections.Counter)


def test_an_unknown_name_is_a_usage_error(repl: Shared) -> None:
    with pytest.raises(rlm.UsageError, match="no_such"):
        repl.run(lambda: repl.env.get_async("no_such"))


@pytest.mark.parametrize("name", ["", "a b", "1a", "llm_query", "class", "FINAL"])
def test_a_name_that_no_variable_may_have_is_a_usage_error(repl: Shared, name: str) -> None:
    with pytest.raises(rlm.UsageError):
        repl.run(lambda: repl.env.set_async(name, 1))


def test_names_tell_type_and_bounded_repr(side: Side) -> None:
    async def main() -> None:
        async with side.open(echo, "the context") as env:
            await env.execute_async("a = 1\nb = 'x' * 10_000\ndef f(): pass\nimport json")
            names = await env.names_async()
            assert names["a"] == "int: 1"
            assert names["context"] == "str: 'the context'"
            assert names["b"].startswith("str: 'xxx")
            assert len(names["b"]) < 200
            assert "llm_query" not in names
            assert "FINAL" not in names

    run(main)


@pytest.mark.parametrize("context", ["text", b"bytes", ["a", {"b": 1}], {"k": [1]}, None, collections.Counter("aab")])
def test_the_context_is_there_in_the_first_cell(side: Side, context: Any) -> None:
    async def main() -> None:
        async with side.open(echo, context) as env:
            assert (await env.execute_async("context")).value == (None if context is None else repr(context))

    run(main)


def test_reset_forgets_everything_but_the_context(side: Side) -> None:
    async def main() -> None:
        async with side.open(echo, "the context") as env:
            await env.execute_async("a = 1\ncontext = 'rebound'\nllm_query = None\nanswer['content'] = 'old'")
            await env.reset_async()
            result = await env.execute_async("['a' in globals(), context, llm_query('b'), answer['content']]")
            assert result.value == "[False, 'the context', '<b>', '']"
            assert result.notice == ""

    run(main)


def test_a_large_context_arrives_whole(side: Side) -> None:
    text = "0123456789" * 2_000_000

    async def main() -> None:
        async with side.open(echo, text) as env:
            assert (await env.execute_async("len(context), context[-3:]")).value == "(20000000, '789')"

    run(main)


FINALS = {
    "FINAL('a')": "a", "FINAL(42)": 42, "FINAL([1, {'k': None}])": [1, {"k": None}], "FINAL(b'x')": b"x",
    "x = 'v'\nFINAL_VAR('x')": "v", "x = 'v'\nFINAL_VAR(x)": None,
    "SUBMIT('s')": "s", "SUBMIT(a=1, b=2)": {"a": 1, "b": 2},
    "FINAL('x' * 200_000)": "x" * 200_000, "FINAL(llm_query('q'))": "<q>",
    "answer['content'] = 'c'\nanswer['ready'] = True": "c",
    "try:\n    FINAL('kept')\nexcept Exception:\n    pass": "kept",
    "try:\n    FINAL('kept')\nexcept:\n    pass\nprint('went on')": "kept",
    "def f():\n    FINAL('deep')\n[f() for _ in 'a']": "deep",
    "await asyncio.sleep(0)\nFINAL('await')": "await",
    "async def f(): FINAL('task')\nawait asyncio.gather(f())": "task",
    "FINAL('first')\nFINAL('second')": "first",
}  # fmt: skip


@pytest.mark.parametrize("code", FINALS)
def test_a_final_is_the_value_that_was_given(repl: Shared, code: str) -> None:
    result = repl.cell(code)
    if FINALS[code] is None:  # the variable's value names no variable
        assert result.final is None
        assert result.error is not None
        assert result.error.type == "NameError"
        return
    assert result.ok, result.to_text()
    assert result.final == rlm.Final(FINALS[code])
    assert repl.good("1").final is None


def test_answer_ready_does_not_stop_the_cell(repl: Shared) -> None:
    result = repl.good("answer['content'] = 'early'\nanswer['ready'] = True\nanswer['content'] = llm_query('late')")
    assert result.final == rlm.Final("<late>")


def test_a_cell_that_rebinds_answer_loses_nothing(repl: Shared) -> None:
    assert repl.good("answer = 'plain'\nanswer").final is None
    assert repl.good("answer").value == "'plain'"
    assert repl.good("FINAL(answer)").final == rlm.Final("plain")
    repl.good("answer = {'content': '', 'ready': False}")


@pytest.mark.parametrize("source", ["{1}", "object()", "(1, 2)"])
def test_a_final_of_another_type_is_its_repr(process_side: Side, source: str) -> None:
    async def main() -> None:
        async with process_side.open(echo) as env:
            final = (await env.execute_async(f"FINAL({source})")).final
            assert final is not None
            assert not final.portable
            assert final.value.startswith("<object object" if source == "object()" else source)

    run(main)


def test_a_final_whose_repr_raises_is_told(process_side: Side) -> None:
    async def main() -> None:
        async with process_side.open(echo) as env:
            final = (await env.execute_async("class C:\n    def __repr__(self): raise ValueError\nFINAL(C())")).final
            assert final is not None
            assert not final.portable
            assert "C" in final.value
            assert "ValueError" in final.value

    run(main)


def test_output_is_cut_at_its_limit_and_the_cut_marked(side: Side) -> None:
    async def main() -> None:
        async with side.open(echo, limits=rlm.Limits(output_chars=1000)) as env:
            code = "import sys\nprint('a' * 5000 + 'end')\nprint('b' * 5000, file=sys.stderr)\n'c' * 5000"
            result = await env.execute_async(code)
            for text in (result.stdout, result.stderr, result.value or ""):
                assert len(text) < 1200
            assert "4,004 characters are missing" in result.stdout
            assert result.stdout.endswith("end\n")
            assert "4,001 characters are missing" in result.stderr
            assert "cut after" in (result.value or "")

    run(main)


def test_prints_of_two_environments_interleaved_never_mix(side: Side) -> None:
    code = "for i in range(20):\n    print(name, i)\n    llm_query('a')\n    await asyncio.sleep(0)"

    async def main() -> None:
        async def one(name: str) -> str:
            async with side.open(echo) as env:
                await env.set_async("name", name)
                return (await env.execute_async(code)).stdout

        for name, text in zip("abc", await asyncio.gather(*map(one, "abc")), strict=True):
            assert text == "".join(f"{name} {i}\n" for i in range(20))

    run(main)


def test_the_hosts_prints_are_the_hosts(side: Side, capsys: pytest.CaptureFixture[str]) -> None:
    """Models and tools print to the host's streams, not into the cell's."""

    async def model(prompt: str) -> str:
        print("the model prints")
        return prompt

    def tool() -> None:
        print("the tool prints")

    async def main() -> None:
        async with side.open(model, tools={"tool": tool}) as env:
            result = await env.execute_async("print('cell 1')\nllm_query('a')\ntool()\nprint('cell 2')")
            assert result.stdout == "cell 1\ncell 2\n", result.to_text()

    run(main)
    assert sorted(capsys.readouterr().out.splitlines()) == ["the model prints", "the tool prints"]


def test_surrogates_and_controls_survive_the_way(repl: Shared) -> None:
    result = repl.good("x = '\\ud800 \\x00 \\x1b[31m'\nprint(x)\nllm_query('lone ' + x)")
    assert result.stdout.endswith("\x00 \x1b[31m\n")
    assert result.value is not None
    result.stdout.encode()
    result.value.encode()
