"""Cells that break nothing lose nothing, however odd their values and whatever their models say."""

from __future__ import annotations

from typing import Any

import pytest
from environment.env_sides import Shared, Side, echo, run

import rlm

SURROGATES = ["\ud800", "\ud83d\ude00", "a" * 10 + "\ud800", "a" * 2000 + "\udfff", "ä\ud83d\ude00" * 700]


async def keeps_its_state(env: Any, code: str) -> rlm.CellResult:
    """The result of a cell, after which the variable `kept` must still be there."""
    await env.execute_async("kept = 'kept'")
    result: rlm.CellResult = await env.execute_async(code)
    assert not result.state_lost, result.to_text()
    assert (await env.execute_async("kept")).value == "'kept'"
    return result


def test_many_failed_queries_with_long_texts_are_answers_like_others(process_side: Side) -> None:
    async def model(prompt: str) -> str:
        raise RuntimeError("错误" * 600)

    async def main() -> None:
        async with process_side.open(model) as env:
            code = "r = llm_batch_query(['x'] * 1500)\nlen(r), r[-1].ok, r[-1].error.kind, r[-1][:40]"
            result = await keeps_its_state(env, code)
            assert result.value == repr((1500, False, "provider", "[ERROR] provider: RuntimeError: " + "错误" * 4))
            assert len(result.queries) == 1500

    run(main)


@pytest.mark.parametrize("length", [300, 333])
def test_a_prompt_of_surrogates_is_measured_as_it_is_sent(process_side: Side, length: int) -> None:
    async def main() -> None:
        async with process_side.open(lambda prompt: prompt, limits=rlm.Limits(prompt_bytes=1000)) as env:
            result = await keeps_its_state(env, f"p = '\\ud800' * {length}\nllm_query(p) == p")
            assert result.value == "True", result.to_text()

    run(main)


def test_a_prompt_over_the_limit_is_an_error_of_the_cell(process_side: Side) -> None:
    async def main() -> None:
        async with process_side.open(echo, limits=rlm.Limits(prompt_bytes=1000)) as env:
            result = await keeps_its_state(env, "llm_query('\\ud800' * 334)")
            assert result.error is not None
            assert "1,002 bytes" in result.error.message

    run(main)


@pytest.mark.parametrize(
    ("options", "words"),
    [("max_tokens=1 << 31", "at most 2,147,483,647"), ("max_tokens=10 ** 5000", "at most"), ("model='m' * 999", "256")],
)
def test_options_that_the_host_would_refuse_are_errors_of_the_cell(
    process_side: Side, options: str, words: str
) -> None:
    async def main() -> None:
        async with process_side.open(echo) as env:
            result = await keeps_its_state(env, f"llm_query('a', {options})")
            assert result.error is not None
            assert result.error.type == "ValueError"
            assert words in result.error.message

    run(main)


@pytest.mark.parametrize("depth", [100, 101, 400, 975, 985, 5000])
def test_a_nested_value_crosses_or_is_refused_by_its_depth(process_side: Side, depth: int) -> None:
    make = f"v = 1\nfor _ in range({depth}): v = [v]\n"

    async def main() -> None:
        taken: list[Any] = []
        async with process_side.open(echo, tools={"take": taken.append}) as env:
            portable = depth <= 100
            final = (await keeps_its_state(env, f"import sys\nsys.setrecursionlimit(9000)\n{make}FINAL(v)")).final
            assert final is not None
            assert final.portable == portable
            repr(final.value)
            result = await keeps_its_state(env, f"{make}take(v)")
            assert (result.error is None, len(taken)) == (portable, int(portable)), result.to_text()
            if portable:
                assert await env.get_async("v") == final.value
                return
            with pytest.raises(rlm.ValueNotPortable, match="nested deeper than 100 levels"):
                await env.get_async("v")

    run(main)


@pytest.mark.parametrize("digits", [4300, 0])
def test_an_int_of_very_many_digits_is_told(process_side: Side, digits: int) -> None:
    async def main() -> None:
        async with process_side.open(echo) as env:
            code = f"import sys\nsys.set_int_max_str_digits({digits})\nv = 2 ** 20_000\nFINAL(v)"
            final = (await keeps_its_state(env, code)).final
            assert final is not None
            assert not final.portable
            assert final.value == ("<int of 20,001 bits>" if digits else _to_digits(2**20_000))
            with pytest.raises(rlm.ValueNotPortable, match="20,001 bits"):
                await env.get_async("v")

    run(main)


def _to_digits(number: int) -> str:
    """Without the limit of `str`."""
    head, tail = divmod(number, 10**4000)
    return f"{head}{tail:04000d}"


RAISING = {
    "str": "class S(str):\n    def __str__(self): raise OSError('x')\nv = S('a')",
    "str_key_error": "class S(str):\n    def __str__(self): raise KeyError('x')\nv = S('a')",
    "str_of_many": "class S(str):\n    def __len__(self): raise SystemExit\n    encode = __str__ = __len__\nv = S('a')",
    "in_a_list": "class S(str):\n    def __str__(self): raise OSError\nclass L(list):\n"
    "    def __iter__(self): raise OSError\nv = L([S('a')])[0]",
}


@pytest.mark.parametrize("name", RAISING)
def test_a_text_whose_own_code_raises_comes_as_its_text(process_side: Side, name: str) -> None:
    async def main() -> None:
        async with process_side.open(echo) as env:
            assert (await keeps_its_state(env, f"{RAISING[name]}\nFINAL(v)")).final == rlm.Final("a")
            assert await env.get_async("v") == "a"

    run(main)


ODD = {
    "class_raises": "class C:\n    @property\n    def __class__(self): raise SystemExit\nv = C()",
    "metaclass_raises": "class M(type):\n    @property\n    def __name__(cls): raise SystemExit\n"
    "class C(metaclass=M): pass\nv = C()",
    "repr_leaves": "class C:\n    def __repr__(self): raise SystemExit\nv = C()",
    "repr_gives_a_final": "class C:\n    def __repr__(self): FINAL('other')\nv = C()",
    "repr_interrupts": "class C:\n    def __repr__(self): raise KeyboardInterrupt\nv = C()",
    "long_name": "C = type('C' * 10_000_000, (), {})\nv = C()",
    "shared": "v = [1]\nfor _ in range(60): v = [v, v]",
}


@pytest.mark.parametrize("name", ODD)
def test_a_value_that_cannot_cross_is_told_whatever_its_class_does(process_side: Side, name: str) -> None:
    async def main() -> None:
        async with process_side.open(echo) as env:
            final = (await keeps_its_state(env, f"{ODD[name]}\nFINAL(v)")).final
            assert final is not None
            assert not final.portable
            with pytest.raises(rlm.ValueNotPortable) as raised:
                await env.get_async("v")
            assert raised.value.name == "v"
            assert len(str(raised.value)) < 1000

    run(main)


def test_a_value_that_a_thread_goes_on_changing_costs_at_most_itself(process_side: Side) -> None:
    code = (
        "import threading, itertools\nd = {str(i): i for i in range(50_000)}\nhold = True\ndef grow():\n"
        "    for i in itertools.count():\n        d[str(-i)] = i\n        d.pop(str(-i + 5), 0)\n"
        "        if not hold: break\n"
        "threading.Thread(target=grow, daemon=True).start()\nFINAL(d)"
    )

    async def main() -> None:
        async with process_side.open(echo) as env:
            final = (await keeps_its_state(env, code)).final
            assert final is not None
            await env.execute_async("hold = False")

    run(main)


@pytest.mark.parametrize("chars", [100_000, 500_000])
def test_a_value_is_cut_where_the_output_is_and_the_cut_marked(side: Side, chars: int) -> None:
    async def main() -> None:
        async with side.open(echo, limits=rlm.Limits(output_chars=chars)) as env:
            assert (await env.execute_async(f"'x' * {chars - 2}")).value == repr("x" * (chars - 2))
            value = (await env.execute_async(f"'x' * {chars}")).value
            assert value is not None
            assert value.endswith(f"x... [cut after {chars:,} characters]")
            assert value.startswith("'" + "x" * (chars - 1))

    run(main)


@pytest.mark.parametrize("text", SURROGATES, ids=ascii)
def test_a_text_with_surrogates_crosses_unchanged(repl: Shared, text: str) -> None:
    async def main() -> None:
        for value in (text, [text], {text: [text, 1]}):
            await repl.env.set_async("value", value)
            assert await repl.env.get_async("value") == value
            assert (await repl.env.execute_async("FINAL(value)")).final == rlm.Final(value)
        await repl.env.set_async("value", text)
        result = await repl.env.execute_async(f"len(value), value == {text!r}")
        assert result.value == repr((len(text), True))

    repl.run(main)


@pytest.mark.parametrize("text", SURROGATES, ids=ascii)
def test_prompts_answers_and_arguments_with_surrogates_cross_unchanged(side: Side, text: str) -> None:
    async def main() -> None:
        seen: list[Any] = []

        def give(*values: Any, **named: Any) -> Any:
            seen.extend([*values, *named.values()])
            return values[0]

        async with side.open(lambda prompt: prompt, tools={"give": give}) as env:
            await env.set_async("p", text)
            result = await env.execute_async("a = llm_query(p), *llm_batch_query([p, 'b'])\na == (p, p, 'b')")
            assert result.value == "True", result.to_text()
            assert [record.request.prompt for record in result.queries].count(text) == 2
            assert (await env.execute_async("give(p, [p], x={p: p}) == p")).value == "True"
            assert seen == [text, [text], {text: text}]

    run(main)
