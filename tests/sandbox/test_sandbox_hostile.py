"""A worker that breaks the protocol ends its cell as `crashed`, with the reason, and never hangs or hurts its host."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from environment.env_sides import HANG_SECONDS, Side, echo, run, until

import rlm
from rlm.sandbox import launch
from rlm.sandbox.launch import Zygote

HOSTILE = Path(__file__).with_name("hostile_zygote.py")
OF_THE_HOSTILE = [HOSTILE]
"""What they may read besides: it tells their zygote from the real one."""
OUTCOME = "'status': 'ok', 'value': False, 'error': False, 'abandoned': 0"

BROKEN = {
    "garbage": "raw(b'\\x00garbage' * 100)",
    "text": "raw(b'Traceback (most recent call last):\\n' * 5)",
    "huge_header": "raw(b'\\xff\\xff\\xff\\xff' + b'\\0' * 8)",
    "huge_blob": "raw(b'\\0\\0\\0\\x02' + b'\\x7f' + b'\\xff' * 7 + b'{}')",
    "no_json": "raw(b'\\0\\0\\0\\x02' + b'\\0' * 8 + b'{]')",
    "header_is_a_list": "raw(b'\\0\\0\\0\\x02' + b'\\0' * 8 + b'[]')",
    "deep_json": "h = b'[' * 100_000\nraw(len(h).to_bytes(4, 'big') + b'\\0' * 8 + h)",
    "huge_integer": "h = b'{\"cell\": ' + b'9' * 9000 + b'}'\nraw(len(h).to_bytes(4, 'big') + b'\\0' * 8 + h)",
    "unknown_type": "send({'t': 'open', 'cell': cell})",
    "type_is_a_list": "send({'t': ['done'], 'cell': cell})",
    "no_type": "send({'cell': cell})",
    "ask_without_id": "send({'t': 'ask', 'cell': cell, 'q': []})",
    "ask_with_text_id": "send({'t': 'ask', 'cell': cell, 'id': 'a', 'q': []})",
    "ask_with_list_id": "send({'t': 'ask', 'cell': cell, 'id': [1], 'q': []})",
    "ask_without_requests": "send({'t': 'ask', 'cell': cell, 'id': 1})",
    "ask_with_too_few_prompts": "send({'t': 'ask', 'cell': cell, 'id': 1, 'q': [['llm', None, 5]] * 2}, [b'a'])",
    "ask_with_wrong_kind": "send({'t': 'ask', 'cell': cell, 'id': 1, 'q': [['sql', None, 5]]}, [b'a'])",
    "ask_with_wrong_model": "send({'t': 'ask', 'cell': cell, 'id': 1, 'q': [['llm', 7, 5]]}, [b'a'])",
    "ask_with_wrong_max_tokens": "send({'t': 'ask', 'cell': cell, 'id': 1, 'q': [['llm', None, 'x']]}, [b'a'])",
    "ask_with_short_request": "send({'t': 'ask', 'cell': cell, 'id': 1, 'q': [['llm']]}, [b'a'])",
    "ask_with_prompt_over_the_limit": "send({'t': 'ask', 'cell': cell, 'id': 1, 'q': [['llm', None, 5]]},"
    " [b'a' * 2001])",
    "ask_for_nothing": "send({'t': 'ask', 'cell': cell, 'id': 1, 'q': []})",
    "ask_with_empty_prompt": "send({'t': 'ask', 'cell': cell, 'id': 1, 'q': [['llm', None, 5]]}, [b''])",
    "ask_with_prompt_that_is_no_text": "send({'t': 'ask', 'cell': cell, 'id': 1, 'q': [['llm', None, 5]]}, [b'\\xff'])",
    "ask_with_negative_max_tokens": "send({'t': 'ask', 'cell': cell, 'id': 1, 'q': [['llm', None, -5]]}, [b'a'])",
    "ask_with_endless_max_tokens": "send({'t': 'ask', 'cell': cell, 'id': 1, 'q': [['llm', None, 1 << 31]]}, [b'a'])",
    "ask_with_empty_model": "send({'t': 'ask', 'cell': cell, 'id': 1, 'q': [['llm', '', 5]]}, [b'a'])",
    "ask_twice_with_one_id": "[send({'t': 'ask', 'cell': cell, 'id': 1, 'q': [['llm', None, 5]]}, [b'hold'])"
    " for _ in 'ab']",
    "unknown_tool": "send({'t': 'tool', 'cell': cell, 'id': 1, 'name': 'system', 'args': [], 'kwargs': {}})",
    "tool_name_is_a_list": "send({'t': 'tool', 'cell': cell, 'id': 1, 'name': [], 'args': [], 'kwargs': {}})",
    "tool_without_args": "send({'t': 'tool', 'cell': cell, 'id': 1, 'name': 'tool'})",
    "tool_args_are_no_values": "send({'t': 'tool', 'cell': cell, 'id': 1, 'name': 'tool', 'args': [1], 'kwargs': {}})",
    "tool_args_pickled": "send({'t': 'tool', 'cell': cell, 'id': 1, 'name': 'tool',"
    " 'args': [{'k': 'pickle', 'part': 0}], 'kwargs': {}}, [b'cos\\nsystem\\n(S\"true\"\\ntR.'])",
    "tool_part_out_of_range": "send({'t': 'tool', 'cell': cell, 'id': 1, 'name': 'tool',"
    " 'args': [{'k': 'str', 'part': 9}], 'kwargs': {}})",
    "tool_with_one_part_for_many_args": "send({'t': 'tool', 'cell': cell, 'id': 1, 'name': 'tool',"
    " 'args': [{'k': 'bytes', 'part': 0}] * 1000, 'kwargs': {}}, [b'a'])",
    "tool_with_part_of_no_arg": "send({'t': 'tool', 'cell': cell, 'id': 1, 'name': 'tool', 'args': [], 'kwargs': {}},"
    " [b'a'])",
    "tool_arg_without_content": "send({'t': 'tool', 'cell': cell, 'id': 1, 'name': 'tool', 'args': [{'k': 'json'}],"
    " 'kwargs': {}})",
    "tool_arg_nested_too_deeply": "send({'t': 'tool', 'cell': cell, 'id': 1, 'name': 'tool', 'args': [{'k': 'jsonb'}],"
    " 'kwargs': {}}, [b'[' * 300 + b']' * 300])",
    "tool_kwargs_are_a_list": "send({'t': 'tool', 'cell': cell, 'id': 1, 'name': 'tool', 'args': [], 'kwargs': []})",
    "drop_without_id": "send({'t': 'drop', 'cell': cell})",
    "drop_with_list_id": "send({'t': 'drop', 'cell': cell, 'id': [1]})",
    "done_without_parts": f"send({{'t': 'done', 'cell': cell, {OUTCOME}}})",
    "done_with_parts_that_do_not_add_up": f"send({{'t': 'done', 'cell': cell, 'b': [9], {OUTCOME}}})",
    "done_with_wrong_status": "done(status='killed')",
    "done_with_wrong_abandoned": "done(abandoned='3')",
    "done_with_negative_abandoned": "done(abandoned=-7)",
    "done_with_huge_abandoned": "done(abandoned=10 ** 4000)",
    "done_without_status": "send({'t': 'done', 'cell': cell}, [b''] * 6)",
    "done_with_final_but_no_blob": "done(final={'k': 'str'})",
    "done_with_final_that_is_no_value": "done(final=3)",
    "flood_of_frames_of_no_cell": "[send({'t': 'done', 'cell': cell + 5}) for _ in range(2000)]",
}
HARMLESS = {
    "done": "done()",
    "drop_of_an_unknown_call": "send({'t': 'drop', 'cell': cell, 'id': 99})\ndone()",
    "drop_of_a_text": "send({'t': 'drop', 'cell': cell, 'id': 'x'})\ndone()",
    "frames_of_other_cells": "[send({'t': 'done', 'cell': n}) for n in (-1, 0, cell + 1, 'x', None)]\ndone()",
    "a_reply_nobody_asked_for": "send({'t': 'reply', 'id': 1})\ndone()",
    "frames_after_the_end": "done()\n[send({'t': 'ask', 'cell': cell, 'id': n, 'q': []}) for n in range(5)]",
    "two_ends": "done()\ndone(status='error')",
}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The hostile zygote's, which finds the tree without being told."""
    path = tmp_path_factory.mktemp("hostile") / "zygote.py"
    path.write_text(HOSTILE.read_text().replace("sys.argv[2]", repr(str(Path(rlm.__file__).parents[1]))))
    return path


@pytest.fixture(scope="module")
def a_hostile_zygote(program: Path) -> Iterator[None]:
    """One as long as the module lasts, for environments that may read as much: real workers have another."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "_PROGRAM", program)
        pool = rlm.WorkerPool(0, read_paths=OF_THE_HOSTILE).__enter__()
    with pool:
        yield


@pytest.fixture
def hostile(a_hostile_zygote: None, program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of environments opened now are hostile ones."""
    monkeypatch.setattr(launch, "_PROGRAM", program)


def run_hostile(script: str, side: Side, **parameters: Any) -> rlm.CellResult:
    async def main() -> rlm.CellResult:
        called: list[Any] = []
        limits = rlm.Limits(prompt_bytes=2000, output_chars=1000)

        async def model(prompt: str) -> str:
            if prompt == "hold":
                await asyncio.sleep(50)
            return prompt

        env = side.open(
            model, script, limits=limits, tools={"tool": called.append}, read_paths=OF_THE_HOSTILE, **parameters
        )
        async with asyncio.timeout(HANG_SECONDS), env:
            result = await env.execute_async("1")
            assert called == []
            return result

    result: rlm.CellResult = run(main)
    return result


@pytest.mark.usefixtures("hostile")
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_protocol_crashes_the_cell_and_says_so(process_side: Side, name: str) -> None:
    result = run_hostile(BROKEN[name], process_side)
    assert result.status == "crashed", result
    assert (result.cause or "").startswith("protocol: ")
    assert len(result.cause or "") < 500
    assert result.state_lost


@pytest.mark.usefixtures("hostile")
@pytest.mark.parametrize("name", HARMLESS)
def test_frames_that_belong_to_nothing_are_dropped(process_side: Side, name: str) -> None:
    result = run_hostile(HARMLESS[name], process_side)
    assert (result.status, result.stdout, result.queries) == ("ok", "", ())


@pytest.mark.usefixtures("hostile")
def test_a_final_that_cannot_be_read_costs_only_the_final(process_side: Side) -> None:
    header = "{'t': 'done', 'cell': cell, 'status': 'ok', 'value': False, 'error': False, 'abandoned': 0"
    result = run_hostile(f"send({header}, 'final': {{'k': 'jsonb'}}}}, [b''] * 6 + [b'[' * 9999])", process_side)
    assert (result.status, result.cause) == ("ok", None)
    assert result.final is not None
    assert not result.final.portable


@pytest.mark.usefixtures("hostile")
def test_a_worker_that_says_nothing_is_killed_at_the_cells_deadline(process_side: Side) -> None:
    result = run_hostile("", process_side, cell_timeout=0.2)
    assert result.status == "killed"


@pytest.mark.usefixtures("hostile")
def test_a_worker_that_closes_its_stream_has_crashed(process_side: Side) -> None:
    result = run_hostile("stream.shutdown(2)\nstream.close()\nimport signal\nsignal.pause()", process_side)
    assert result.status == "crashed"
    assert result.cause == "signal SIGKILL"  # ours: it lived on without a stream


@pytest.mark.usefixtures("hostile")
@pytest.mark.parametrize("cut", [1, 4, 11, 12, 13, 40])
def test_a_worker_that_dies_within_a_frame_has_crashed(process_side: Side, cut: int) -> None:
    header = "json.dumps({'t': 'done', 'cell': cell, 'pad': 'x' * 50}).encode()"
    frame = "(len(h).to_bytes(4, 'big') + (9).to_bytes(8, 'big') + h)"
    script = f"import json\nh = {header}\nraw({frame}[:{cut}])\nos._exit(6)"
    result = run_hostile(script, process_side)
    assert (result.status, result.cause) == ("crashed", "exit code 6")


@pytest.mark.usefixtures("hostile")
def test_what_a_worker_sends_is_cut_by_its_host(process_side: Side) -> None:
    header = "{'t': 'done', 'cell': cell, 'status': 'error', 'value': True, 'error': True, 'abandoned': 0}"
    result = run_hostile(f"send({header}, [b'x' * 5_000_000] * 6)", process_side)
    assert result.status == "error"
    assert len(result.stdout) < 2000
    assert len(result.stderr) < 2000
    assert result.error is not None
    assert len(result.error.type) < 500
    assert len(result.to_text()) < 500_000


@pytest.mark.usefixtures("hostile")
def test_a_worker_that_never_reads_cannot_hold_its_host(process_side: Side) -> None:
    """Answers for which the socket has no room wait; the cell ends at its deadline."""
    script = "[send({'t': 'ask', 'cell': cell, 'id': n, 'q': [['llm', None, 5]]}, [b'a' * 2000]) for n in range(3000)]"
    result = run_hostile(f"{script}\nimport signal\nsignal.signal(2, signal.SIG_IGN)\nsignal.pause()", process_side,
                         cell_timeout=0.5)  # fmt: skip
    assert result.status == "killed"
    assert len(result.queries) <= 3000


@pytest.mark.usefixtures("hostile")
def test_a_worker_that_floods_its_host_between_two_cells_is_replaced() -> None:
    async def main() -> None:
        env = Side("process/pure_async").open(echo, "done()\n[send({'t': 'x', 'pad': 'x' * 100}) for _ in range(3000)]")
        async with asyncio.timeout(HANG_SECONDS), env:
            assert (await env.execute_async("1")).status == "ok"
            sandbox: Any = env._sandbox
            flooding = sandbox._worker
            await until(lambda: flooding.channel.broken)
            result = await env.execute_async("1")
            assert (result.status, "all variables are lost" in result.notice) == ("ok", True)
            assert sandbox._worker is not flooding

    run(main)


@pytest.mark.usefixtures("hostile")
def test_more_queries_than_the_limit_are_refused_by_the_host(process_side: Side) -> None:
    """The count is the host's: what the worker says of it does not matter."""

    async def main() -> None:
        script = "send({'t': 'ask', 'cell': cell, 'id': 1, 'q': [['llm', None, 5]] * 9}, [b'a'] * 9)"
        asked: list[str] = []
        env = process_side.open(asked.append, script, limits=rlm.Limits(queries=8, cell_seconds=0.3))
        async with asyncio.timeout(HANG_SECONDS), env:
            assert (await env.execute_async("1")).status == "killed"
            assert asked == []

    run(main)


@pytest.mark.usefixtures("hostile")
@pytest.mark.parametrize("reply", ["", "send({'t': 'reply', 'id': 'x'})"])
def test_the_real_worker_comes_back_when_the_program_does(
    process_side: Side, reply: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        others = Zygote.running()
        env = process_side.open(echo, f"{reply}\nraw(b'garbage' * 9)")
        async with asyncio.timeout(HANG_SECONDS), env:
            assert (await env.execute_async("1")).status == "crashed"
            monkeypatch.undo()
            (zygote,) = [each for each in Zygote.running() if each not in others]
            zygote.kill()
            result = await env.execute_async("llm_query('a')")
            assert result.value == "'<a>'"
            assert "all variables are lost" in result.notice

    run(main)


REPLIES = {
    "error_is_a_number": "send({'t': 'reply', 'id': id, 'error': 5})",
    "error_is_a_dict": "send({'t': 'reply', 'id': id, 'error': {'a': 1}})",
    "error_is_short": "send({'t': 'reply', 'id': id, 'error': ['ValueNotPortable']})",
    "error_is_long": "send({'t': 'reply', 'id': id, 'error': ['ValueNotPortable', *['x' * 9999] * 3]})",
    "no_value": "send({'t': 'reply', 'id': id})",
    "value_is_a_number": "send({'t': 'reply', 'id': id, 'v': 5})",
    "value_is_a_pickle": "send({'t': 'reply', 'id': id, 'v': {'k': 'pickle'}}, [b'cos\\nsystem\\n.'])",
    "value_without_content": "send({'t': 'reply', 'id': id, 'v': {'k': 'json'}})",
    "value_nested_too_deeply": "send({'t': 'reply', 'id': id, 'v': {'k': 'jsonb'}}, [b'[' * 300 + b']' * 300])",
    "value_without_blob": "send({'t': 'reply', 'id': id, 'v': {'k': 'jsonb'}})",
    "blob_is_no_json": "send({'t': 'reply', 'id': id, 'v': {'k': 'jsonb'}}, [b'{]'])",
    "parts_do_not_add_up": "send({'t': 'reply', 'id': id, 'v': {'k': 'bytes'}, 'b': [3]})",
}


@pytest.mark.usefixtures("hostile")
@pytest.mark.parametrize("name", [*REPLIES, "names_are_no_dict"])
@pytest.mark.parametrize("verb", ["get", "names"])
def test_a_malformed_reply_is_a_sandbox_error(name: str, verb: str) -> None:
    script = REPLIES.get(name) or "send({'t': 'reply', 'id': id, 'v': {'k': 'json', 'v': [5]}})"

    async def main() -> None:
        env = Side("process/pure_async").open(echo, script, read_paths=OF_THE_HOSTILE)
        async with asyncio.timeout(HANG_SECONDS), env:
            if verb == "get" and name not in REPLIES:
                assert await env.get_async("x") == [5]
                return
            with pytest.raises(rlm.RLMError) as raised:
                await (env.get_async("x") if verb == "get" else env.names_async())
            assert len(str(raised.value)) < 1000

    run(main)
