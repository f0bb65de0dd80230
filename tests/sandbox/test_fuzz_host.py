"""Whatever a worker says: its cell ends, nothing of it answers another cell, and nothing stays behind."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from environment.env_sides import HANG_SECONDS
from fuzz_play import OPEN_CALLS, Player, impatient, opened, run_cell, run_guarded  # noqa: F401
from fuzz_sides import LIMITS, OUTPUT_CHARS, QUERIES, SLOTS, FakeWorker, World, done
from fuzz_strategies import (
    GOOD_FRAMES,
    MISSING,
    PARTS,
    REPLIES,
    SCRIPTS,
    WHEN_INTERRUPTED,
    Act,
    Ask,
    Done,
    Flood,
    Pause,
    Tool,
    framed,
    packed,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

import rlm
from rlm.sandbox import conversation, desk
from rlm.sandbox.conversation import Conversation
from rlm.sandbox.question import Question

GAP_SECONDS = 0.003


def check(result: Any, talk: Conversation, world: World, number: int) -> None:
    assert world.amiss == []
    assert world.asked[number] <= QUERIES
    if result is None:
        return
    assert isinstance(result, rlm.CellResult)
    assert result.status in ("ok", "error", "timeout", "killed", "crashed")
    assert talk.lost == result.state_lost
    assert len(result.queries) <= world.asked[number] + SLOTS * QUERIES  # cancelled ones have a record too
    assert bool(result.cause) == (result.status not in ("ok", "error"))
    assert len(result.stdout) < OUTPUT_CHARS + 300
    assert len(result.cause or "") < 500


async def replaced(worker: FakeWorker) -> FakeWorker:
    await worker.bury()
    return FakeWorker(worker.when_interrupted)


async def play_all(scripts: list[list[Any]], when_interrupted: str) -> None:
    world = World()
    worker = FakeWorker(when_interrupted)
    try:
        for number, script in enumerate(scripts, 1):
            result, talk = await run_cell(world, worker, number, script)
            check(result, talk, world, number)
            assert not worker.answered_amiss()
            if talk.lost or not worker.alive:
                worker = await replaced(worker)
            else:
                worker.cell += 1
                for data in worker.sent[-5:]:  # between two cells it speaks on, where perhaps nobody reads
                    with anyio.move_on_after(GAP_SECONDS):
                        await worker.say(data)
        if not worker.honest:
            worker = await replaced(worker)
        number = len(scripts) + 1
        result, _ = await run_cell(world, worker, number, [Ask(9, ("a",)), Pause(), Done({})])
        assert (result.status, result.cause) == ("ok", None)
        assert [record.answer for record in result.queries] == [f"<{number} a>"]
        assert worker.answered[9] == 1
    finally:
        await worker.bury()
        await world.aclose()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "trio"])
@settings(max_examples=100)
@example(scripts=[[Act("deaf"), Tool(1, "big_tool", None), Pause()]], when_interrupted="ignore")
@example(scripts=[[Act("hang_up")]], when_interrupted="ignore")
@example(scripts=[[Done({"status": MISSING})]], when_interrupted="ignore")
@given(scripts=SCRIPTS, when_interrupted=WHEN_INTERRUPTED)
def test_every_cell_ends_and_the_next_one_is_its_own(
    loop: str, scripts: list[list[Any]], when_interrupted: str
) -> None:
    run_guarded(loop, lambda: play_all(scripts, when_interrupted))


OTHER_REPLIES = st.builds(lambda header, parts: packed({**header, "id": -1}, parts), REPLIES, PARTS)


def is_no_reply(data: bytes) -> bool:
    return b'"reply"' not in data and b'"failed"' not in data


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
@settings(max_examples=40)
@given(
    before=st.lists(GOOD_FRAMES.filter(is_no_reply) | OTHER_REPLIES, max_size=4).map(b"".join),
    reply=st.none() | st.tuples(REPLIES, PARTS) | st.binary(max_size=30),
    at_last=st.sampled_from(["hang_up", "exit"]),
)
def test_a_question_has_its_own_reply_or_none(loop: str, before: bytes, reply: Any, at_last: str) -> None:
    async def main() -> None:
        async with opened(LIMITS) as (_, worker):

            async def answer() -> None:
                await worker.send(before)
                if isinstance(reply, tuple):
                    await anyio.wait_readable(worker.line)
                    (asked,) = worker.reader.feed(worker.line.recv(1 << 16))
                    await worker.send(packed({**reply[0], "id": asked.header["id"]}, reply[1]))
                await worker.send(reply if isinstance(reply, bytes) else b"")
                worker.die("exit code 3") if at_last == "exit" else worker.hang_up()

            async with anyio.create_task_group() as group:
                group.start_soon(worker.obey)
                group.start_soon(answer)
                frame = await Question(worker.host).ask({"t": "names"})
                group.cancel_scope.cancel()
            assert (frame is None) == (not isinstance(reply, tuple))
            if frame is not None:
                assert repr(frame.header.get("v")) == repr(json.loads(json.dumps(reply[0])).get("v"))

    run_guarded(loop, main)


FLOODS = st.builds(Flood, st.sampled_from(["ask", "dropped"]), st.integers(1, 30)) | st.sampled_from(
    [Flood("twice", 1), Flood("unknown", 1)]
)


AMISS = {"twice": "a call's id is not a new number", "unknown": "no tool 'other'"}


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
@settings(max_examples=25)
@given(floods=st.lists(FLOODS, max_size=5))
def test_the_calls_under_way_are_those_made_and_not_called_off(loop: str, floods: list[Flood]) -> None:
    open_calls, amiss = 0, ""
    for what, count in floods:
        if not amiss and open_calls + (count if what == "ask" else 1) > OPEN_CALLS:
            amiss = f"more than {OPEN_CALLS} calls at once"
        amiss = amiss or AMISS.get(what, "")
        open_calls += count if what == "ask" else 0
    under_way: list[int] = []

    async def main() -> None:
        async with opened(rlm.Limits(queries=1000, cell_seconds=2 * HANG_SECONDS)) as (world, worker):
            script = [*floods, Pause(), Pause(), lambda: under_way.append(world.serving)]
            result, _ = await run_cell(world, worker, 1, script)
            assert world.serving == 0
            assert result.cause == (f"protocol: ProtocolError: {amiss}" if amiss else "the script is over")

    run_guarded(loop, main)
    assert under_way == ([] if amiss else [open_calls])


LONG = b"1 hold" + b"x" * 60_000
QUERY: dict[str, Any] = {"t": "ask", "q": [["llm", None, None]]}
CALL: dict[str, Any] = {"t": "tool", "args": [{"k": "str"}], "kwargs": {}}
FLOOD: dict[str, Callable[[int], bytes]] = {
    "queries": lambda n: packed({**QUERY, "cell": 1, "id": n}, [LONG]),
    "answered_queries": lambda n: packed({**QUERY, "cell": 1, "id": n}, [LONG[6:]]),
    "tools": lambda n: packed({**CALL, "cell": 1, "id": n, "name": "hold_tool"}, [LONG]),
    "answered_tools": lambda n: packed({**CALL, "cell": 1, "id": n, "name": "tool"}, [LONG]),
    "frames_of_no_cell": lambda n: packed({**QUERY, "cell": 0, "id": n}, [LONG]),
    "ends_after_the_end": lambda n: done(1) + packed({"t": "done", "cell": 1}) + packed({"t": "x"}, [LONG]),
    "drops": lambda n: packed({"t": "drop", "cell": 1, "id": n, "pad": LONG.decode()}),
    "an_unfinished_frame": lambda n: b"" if n else framed(b"{}", b"x" * 1000, None, 1 << 20),
}


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
@pytest.mark.parametrize("name", FLOOD)
def test_a_flood_takes_no_more_memory_than_its_limit(loop: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 MB of each kind, under limits of 1 MB, take less than 5 MB."""
    monkeypatch.setattr(conversation, "_OPEN_BYTES", 1 << 20)
    monkeypatch.setattr(conversation, "_OPEN_CALLS", 1 << 20)
    monkeypatch.setattr(desk, "_LOGGED_CHARS", 1 << 20)

    async def main() -> None:
        class Flooding(Player):
            async def play(self, script: list[Any]) -> None:
                await self._begun.wait()
                for number in range(330):
                    await self._worker.send(FLOOD[name](number))
                await super().play(script)

        limits = rlm.Limits(queries=200, prompt_bytes=100_000, cell_seconds=2 * HANG_SECONDS)
        async with opened(limits) as (world, worker):
            tracemalloc.start()
            try:
                result, _ = await run_cell(world, worker, 1, [], Flooding)
                assert tracemalloc.get_traced_memory()[1] < 5_000_000
                assert world.asked[1] <= 200
                assert (result.status == "ok") == (name == "ends_after_the_end")
            finally:
                tracemalloc.stop()

    run_guarded(loop, main)
