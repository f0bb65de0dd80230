"""What a worker does on purpose to hurt its host costs that worker, and the host no more than its limits say."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from environment.env_sides import run_on
from fuzz_play import Player, impatient, opened, run_cell, run_guarded  # noqa: F401
from fuzz_sides import LIMITS, FakeWorker, World, done, to_bytes
from fuzz_strategies import Ask, Drop, packed

import rlm
from rlm.core.query import Completion
from rlm.sandbox import channel, conversation
from rlm.sandbox.conversation import Conversation
from rlm.sandbox.protocol import Frame, ProtocolError
from rlm.sandbox.question import Question, check_reply

MANY = rlm.Limits(queries=10_000, cell_seconds=40)
LOOPS = pytest.mark.parametrize("loop", ["asyncio", "trio"])
NASTY = "\ud800\x1b[2J\x07"


def playing(play: Callable[[Player], Awaitable[None]]) -> type[Player]:
    """A player of this function; then the cell is stopped."""

    class Playing(Player):
        async def play(self, script: list[Any]) -> None:
            await self._begun.wait()
            await play(self)
            await super().play(script)

    return Playing


def sending(data: bytes) -> type[Player]:
    return playing(lambda player: player._worker.send(data))


def tool_call(number: int, name: str, text: str = "") -> bytes:
    args = [{"k": "json", "v": text}]
    return packed({"t": "tool", "cell": 1, "id": number, "name": name, "args": args, "kwargs": {}})


@LOOPS
@pytest.mark.parametrize("kind", ["queries", "tools"])
def test_a_worker_that_never_reads_its_answers_breaks_the_protocol(
    loop: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "_UNSENT_BYTES", 1 << 20)

    async def play(player: Player) -> None:
        player._worker.deaf = True
        for number in range(20):
            ask = packed({"t": "ask", "cell": 1, "id": number, "q": [["llm", None, None]]}, [b"x"])
            await player._worker.send(tool_call(number, "big_tool") if kind == "tools" else ask)
        await player._pause()

    async def main() -> None:
        async with opened(MANY) as (world, worker):

            async def complete(request: Any) -> Completion:
                return Completion("x" * 300_000)

            world.complete = complete  # type: ignore[method-assign]
            result, _ = await run_cell(world, worker, 1, [], playing(play))
            assert (result.status, "does not read" in result.cause) == ("crashed", True)

    run_guarded(loop, main)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "trio"])
def test_a_worker_that_does_not_read_is_not_read_until_it_does(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 100 calls, each with a result of 300 KB and more of them than one read brings, some wait in the socket."""
    monkeypatch.setattr(channel, "_FULL_BYTES", 1 << 20)
    calls = 100

    async def play(player: Player) -> None:
        worker = player._worker
        worker.deaf = True

        async def call() -> None:
            for number in range(calls):
                await worker.send(tool_call(number, "big_tool", "x" * 5000))

        async with anyio.create_task_group() as group:
            group.start_soon(call)
            for _ in range(10):
                await player._pause()
            assert worker.host.channel.full
            assert len(begun) < calls / 2
            worker.deaf = False
            group.start_soon(worker.listen, lambda number: None)
            while len(worker.answered) < calls:
                await anyio.sleep(0)
            group.cancel_scope.cancel()
        await worker.send(done(1))

    begun: list[str] = []

    async def main() -> None:
        async with opened(MANY) as (world, worker):

            async def big_tool(*_: Any) -> str:
                begun.append("")
                return "x" * 300_000

            monkeypatch.setitem(world.tools._tools, "big_tool", big_tool)
            result, _ = await run_cell(world, worker, 1, [], playing(play))
            assert (result.status, len(begun)) == ("ok", calls)

    run_guarded(loop, main)


@LOOPS
def test_a_batch_whose_answers_need_too_large_a_header_is_the_workers_fault(loop: str) -> None:
    """An ask of almost 4 MiB of header: model names that take 6 bytes a character, which a failed answer repeats."""
    name, count = "错" * 256, 2692
    data = packed({"t": "ask", "cell": 1, "id": 1, "q": [["llm", name, None]] * count}, [b"x"] * count)

    async def main() -> None:
        async with opened(MANY) as (world, worker):

            async def complete(request: Any) -> Completion:
                raise ValueError("no such model")

            world.complete = complete  # type: ignore[method-assign]
            result, _ = await run_cell(world, worker, 1, [], sending(data))
            assert (result.status, "header" in result.cause) == ("crashed", True)

    run_guarded(loop, main)


@LOOPS
def test_an_id_that_was_called_off_is_free_when_its_call_has_ended(loop: str) -> None:
    async def play(player: Player) -> None:
        for number in range(8):
            for action in (Ask(number, ("hold",)), None, Drop(number), None, Ask(number, ("hold",)), None):
                await (player._pause() if action is None else player._worker.say(to_bytes(action, 1)))
        known.append((len(player._talk._calls), serving()))

    known: list[tuple[int, int]] = []
    serving: Callable[[], int]

    async def main() -> None:
        nonlocal serving
        async with opened(MANY) as (world, worker):
            serving = lambda: world.serving  # noqa: E731
            result, talk = await run_cell(world, worker, 1, [], playing(play))
            assert (result.cause, talk._open_bytes) == ("the script is over", 0)

    run_guarded(loop, main)
    assert known == [(8, 8)]


@LOOPS
def test_an_id_that_was_called_off_is_taken_while_its_call_ends(loop: str) -> None:
    """Else the end of the first call would be taken for that of the second, of which nobody would know any more."""

    async def play(player: Player) -> None:
        await player._worker.say(to_bytes(Ask(1, ("hold",)), 1))
        await player._pause()
        await player._worker.send(to_bytes(Drop(1), 1) + to_bytes(Ask(1, ("hold",)), 1))
        await player._pause()

    async def main() -> None:
        async with opened(MANY) as (world, worker):
            result, _ = await run_cell(world, worker, 1, [], playing(play))
            assert result.cause == "protocol: ProtocolError: a call's id is not a new number"

    run_guarded(loop, main)


@LOOPS
def test_what_a_call_holds_counts_until_it_has_ended(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 30 tools of 62 KB each, called off at once, that take their time to end: 16 fit into 1 MiB."""
    monkeypatch.setattr(conversation, "_OPEN_BYTES", 1 << 20)
    begun: list[int] = []
    may_end: anyio.Event

    async def slow(*_: Any) -> None:
        begun.append(1)
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await may_end.wait()

    async def play(player: Player) -> None:
        header = {"t": "tool", "cell": 1, "name": "hold_tool", "args": [{"k": "str"}], "kwargs": {}}
        for number in range(30):
            await player._worker.send(packed({**header, "id": number}, [b"x" * 58_000]))
            await player._pause()
            await player._worker.send(to_bytes(Drop(number), 1))
        await player._pause()
        held.append(player._talk._open_bytes)
        may_end.set()

    held: list[int] = []

    async def main() -> None:
        nonlocal may_end
        may_end = anyio.Event()
        async with opened(MANY) as (world, worker):
            monkeypatch.setitem(world.tools._tools, "hold_tool", slow)
            _, talk = await run_cell(world, worker, 1, [], playing(play))
            assert talk._open_bytes == 0

    run_guarded(loop, main)
    assert 10 <= len(begun) <= 16
    assert 1 << 19 < held[0] <= 1 << 20


def is_clean(text: str) -> bool:
    return all(char.isprintable() or char == "\n" for char in text)


def test_what_a_failed_worker_says_is_clean_text() -> None:
    async def main() -> None:
        async with opened(LIMITS) as (world, worker):
            failed = packed({"t": "failed", "text": f"Traceback\n{NASTY}: why"})
            result, _ = await run_cell(world, worker, 1, [], sending(failed))
            assert result.cause == "protocol: ProtocolError: the worker failed: \\ud800\\x1b[2J\\x07: why"

    run_guarded("asyncio", main)


@pytest.mark.parametrize(
    "header",
    [
        {"t": "failed", "text": NASTY},
        {"t": "reply", "error": ["KeyError"], "text": NASTY},
        {"t": "reply", "error": ["ValueNotPortable", NASTY, NASTY, NASTY]},
    ],
    ids=["failed", "error", "not_portable"],
)
def test_what_a_reply_tells_of_is_clean_text(header: dict[str, Any]) -> None:
    with pytest.raises(rlm.RLMError) as raised:
        check_reply(Frame(header, b"", 0))
    assert "\\x1b[2J" in str(raised.value)
    assert is_clean(str(raised.value))


@LOOPS
def test_a_stop_that_comes_while_the_worker_is_being_ended_is_too_late(
    loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes from another task, whenever it likes; nothing is begun for it that would stay behind."""

    class Late(Conversation):
        async def _result(self) -> rlm.CellResult:
            self.stop("closed meanwhile")
            return await super()._result()

    monkeypatch.setattr("fuzz_play.Conversation", Late)

    async def play(player: Player) -> None:
        player._worker.hang_up()

    async def main() -> None:
        async with opened(LIMITS) as (world, worker):
            result, _ = await run_cell(world, worker, 1, [], playing(play))
            assert result.status == "crashed"

    run_guarded(loop, main)


@LOOPS
def test_a_worker_that_is_killed_for_an_unsettled_interrupt_is_lost(loop: str) -> None:
    """It has acknowledged; but its zygote has not said in time that nothing will hit the next cell."""

    async def main() -> None:
        world, worker = World(LIMITS), FakeWorker("silent zygote")
        result, talk = await run_cell(world, worker, 1, [])
        assert (result.status, result.state_lost, talk.lost) == ("killed", True, True)
        await worker.bury()
        await world.aclose()

    run_guarded(loop, main)


@LOOPS
def test_a_cancelled_cell_whose_interrupt_is_unsettled_loses_its_worker(loop: str) -> None:
    async def play(player: Player) -> None:
        player._scope.cancel()

    async def main() -> None:
        world, worker = World(LIMITS), FakeWorker("silent zygote")
        result, talk = await run_cell(world, worker, 1, [], playing(play))
        assert (result, talk.lost) == (None, True)
        await worker.bury()
        await world.aclose()

    run_guarded(loop, main)


STRAY = packed({"t": "x", "pad": "x" * 3000})


async def flood(worker: FakeWorker, sent: list[bytes]) -> None:
    for _ in range(3000):
        await worker.send(STRAY)
        sent.append(STRAY)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_worker_that_floods_its_host_between_two_cells_is_read_no_more(loop: str) -> None:
    sent: list[bytes] = []

    async def main() -> None:
        worker = FakeWorker("ignore")
        async with anyio.create_task_group() as group:
            group.start_soon(flood, worker, sent)
            while not worker.host.channel.broken and len(sent) < 3000:
                await anyio.sleep(0)
            group.cancel_scope.cancel()
        assert worker.host.channel.broken
        await worker.bury()

    run_on(loop, main)
    assert 1000 <= len(sent) < 2000


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_a_worker_that_floods_its_host_before_it_replies_gives_no_reply(loop: str) -> None:
    async def main() -> None:
        async with opened(LIMITS) as (_, worker):
            async with anyio.create_task_group() as group:
                group.start_soon(worker.obey)
                group.start_soon(flood, worker, [])
                assert await Question(worker.host).ask({"t": "names"}) is None
                group.cancel_scope.cancel()

    run_guarded(loop, main)


def test_a_broken_frame_between_two_cells_is_remembered() -> None:
    """However it was cut: what comes after it is not read as if it began a frame."""

    async def main() -> None:
        for pieces in ([b"garbage" * 9], [b"garb", b"age" * 30]):
            worker = FakeWorker("ignore")
            for piece in pieces:
                await worker.send(piece)
                for _ in range(20):
                    await asyncio.sleep(0)
            assert worker.host.channel.broken
            with pytest.raises(ProtocolError):
                list(worker.host.channel._reader.feed(packed({"t": "reply"})))
            await worker.bury()

    asyncio.run(main())
