"""A recorded run that was stopped anywhere goes on: the same answer, and nothing is asked or called twice."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest

import rlm
from rlm.core.events import Event, RunStarted
from rlm.core.query import Completion, Request, Usage
from rlm.record.journal import Journal

pytestmark = pytest.mark.filterwarnings("ignore:use_pure_async=False:PendingDeprecationWarning")
SIDES = [(sandbox, pure) for sandbox in ("process", "inline") for pure in (True, False)]
CELLS = (
    """
import random
drawn = [random.random() for _ in range(2)]
looked = [llm_query(f"look {number} {drawn[0]}") for number in range(4)]
noted = note("first")
""",
    """
more = llm_batch_query([f"more {number}" for number in range(8)] + ["more 0"])
child = rlm_query("sum up, child")
print(len(more), child, noted, drawn)
""",
    """
last = llm_query(f"last {random.random()} {noted}")
FINAL(f"{looked[3][:6]} {more[8]} {child} {last[:6]}")
""",
)
CHILD = ("inner = llm_query('look inside')", "FINAL(inner + '!')")
ANSWER = "LOOK 3 MORE 0 LOOK INSIDE! LAST 0"
QUOTA = rlm.ModelError("the quota is spent", kind="quota")


class Player(rlm.Model):
    """Plays the agents and answers queries in capitals. From its request number `stops_at` on it fails for good."""

    name = "player"

    def __init__(self, stops_at: int | None = None, cells: tuple[str, ...] = CELLS) -> None:
        self.stops_at, self.cells = stops_at, cells
        self.asked: list[str] = []
        self.heard: list[str] = []
        self.replays = 0

    async def complete(self, request: Request) -> Completion:
        self.asked.append(request.prompt)
        if self.stops_at is not None and len(self.asked) >= self.stops_at:
            raise QUOTA
        if not request.messages:
            return Completion(request.prompt.upper(), usage=Usage(5, 1), cost_usd=0.01)
        self.heard.append(request.prompt)
        is_child = "sum up, child" in str(request.messages[1]["content"])
        turn = sum(message["role"] == "assistant" for message in request.messages)
        cell = (CHILD if is_child else self.cells)[turn]
        return Completion(f"```repl\n{cell}\n```", usage=Usage(50, 10), cost_usd=0.1)

    def find_cost_usd(self, usage: Usage, model: str | None = None) -> float:
        return 0.01

    def replayed(self, request: Request, completion: Completion | None) -> None:
        self.replays += 1


class Place:
    """A record, and agents that write to it."""

    def __init__(self, path: Path) -> None:
        self.path = path / "runs.db"
        self.noted: list[str] = []
        self.run_id = ""

    def agent(self, model: Any, sandbox: str = "process", pure: bool = True, **more: Any) -> rlm.RLM:
        tools = {"note": self.note}
        parameters = {"tools": tools, "record": self.path, "listener": self.hear, **more}
        return rlm.RLM(model, sandbox=sandbox, use_pure_async=pure, **parameters)  # type: ignore[arg-type]

    def note(self, text: str) -> list[Any]:
        """Keep a text."""
        self.noted.append(text)
        return [text, len(self.noted)]

    def hear(self, event: Event) -> None:
        if isinstance(event, RunStarted) and event.depth == 0:
            self.run_id = event.run_id

    async def stop(self, agent: rlm.RLM) -> str:
        """Start a run whose model fails; gives its name."""
        with pytest.raises(rlm.ModelError, match="quota"):
            await agent.acompletion("What?", "some context")
        return self.run_id

    def rows(self, statement: str) -> list[Any]:
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            return connection.execute(statement).fetchall()

    def change(self, statement: str) -> None:
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            connection.execute(statement)
            connection.commit()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.parametrize(("sandbox", "pure"), SIDES)
def test_a_run_stopped_at_any_request_goes_on_and_asks_nothing_twice(place: Place, sandbox: str, pure: bool) -> None:
    async def main() -> None:
        whole = Player()
        result = await place.agent(whole, sandbox, pure).acompletion("What?", "some context")
        assert (result.answer, len(whole.asked)) == (ANSWER, 20)
        for stops_at in range(1, 21):
            place.noted.clear()
            first, second = Player(stops_at), Player()
            run_id = await place.stop(place.agent(first, sandbox, pure))
            resumed = await place.agent(second, sandbox, pure).aresume(run_id)
            assert resumed.answer == ANSWER and resumed.run_id == run_id, stops_at
            answered = first.asked[: stops_at - 1]
            assert len(answered) + len(second.asked) == 20, stops_at
            assert sorted(map(stem, answered + second.asked)) == sorted(map(stem, whole.asked)), stops_at
            assert place.noted == ["first"], stops_at
            assert second.replays == len(answered), stops_at
            assert (resumed.usage, resumed.turns) == (result.usage, result.turns), stops_at
            assert resumed.cost_usd == pytest.approx(result.cost_usd), stops_at
            assert [cell.status for cell in resumed.cells] == ["ok"] * 3
            assert [len(cell.queries) for cell in resumed.cells] == [4, 10, 1]

    asyncio.run(main())


def stem(prompt: str) -> str:
    """A prompt without the numbers that were drawn, which are others in another run."""
    return " ".join(word for word in prompt.split() if not word.startswith(("0.", "[0.")))[:40]


def test_a_cancelled_run_is_stopped_and_goes_on(place: Place) -> None:
    async def main() -> None:
        begun, player = asyncio.Event(), Player()

        async def model(prompt: str) -> str:
            begun.set()
            await asyncio.sleep(50)
            return ""

        task = asyncio.ensure_future(place.agent(player, sub_model=model).acompletion("What?", "some context"))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert place.rows("SELECT status, owner FROM runs") == [("stopped", None)]
        second = Player()
        assert (await place.agent(second).aresume(place.run_id)).answer == ANSWER
        assert len(second.asked) == 19  # the first turn was answered, and no query

    asyncio.run(main())


def test_resume_needs_no_event_loop(place: Place) -> None:
    agent = place.agent(Player(5))
    with pytest.raises(rlm.ModelError):
        agent.completion("What?", "some context")
    assert place.agent(Player()).resume(place.run_id).answer == ANSWER


def test_a_finished_run_gives_its_result_and_nothing_is_run(place: Place) -> None:
    result = place.agent(Player()).completion("What?", "some context")
    again = place.agent(Player(1)).resume(result.run_id)
    assert again == rlm.RunResult(**{**vars(result), "cells": again.cells})
    assert [cell.stdout for cell in again.cells] == [cell.stdout for cell in result.cells]
    assert [len(cell.queries) for cell in again.cells] == [len(cell.queries) for cell in result.cells]


def test_a_scripted_model_goes_on_behind_the_answers_it_gave(place: Place) -> None:
    cell = "```repl\na = llm_query('one')\nb = llm_query('two')\nFINAL(a + b)\n```"
    with pytest.raises(rlm.ModelError):
        place.agent(rlm.ScriptedModel([cell, "first", QUOTA])).completion("What?")
    again = rlm.ScriptedModel([cell, "first", "second"])
    assert place.agent(again).resume(place.run_id).answer == "firstsecond"
    assert len(again.requests) == 1


def test_a_run_that_is_at_work_cannot_be_resumed(place: Place) -> None:
    async def main() -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def model(prompt: str) -> str:
            begun.set()
            await go_on.wait()
            return prompt.upper()

        task = asyncio.ensure_future(place.agent(Player(), sub_model=model, max_depth=0).acompletion("What?"))
        await begun.wait()
        with pytest.raises(rlm.RecordError, match="is running, in process"):
            await place.agent(Player()).aresume(place.run_id)
        go_on.set()
        assert (await task).answer

    asyncio.run(main())


def test_two_runs_of_one_agent_are_recorded_at_once(place: Place) -> None:
    async def main() -> None:
        agent = place.agent(Player())
        results = await asyncio.gather(*[agent.acompletion("What?", f"context {n}") for n in range(3)])
        assert [result.answer for result in results] == [ANSWER] * 3
        for result in results:
            assert await agent.areplay(result.run_id) == ()

    asyncio.run(main())


def test_a_child_run_cannot_be_resumed_alone(place: Place) -> None:
    place.agent(Player()).completion("What?", "some context")
    [[child, parent]] = place.rows("SELECT run_id, parent FROM runs WHERE parent NOT NULL")
    with pytest.raises(rlm.RecordError, match=parent):
        place.agent(Player()).resume(child)


def test_without_a_record_there_is_nothing_to_resume() -> None:
    with pytest.raises(rlm.UsageError, match="record="):
        rlm.RLM(Player()).resume("run")
    with pytest.raises(rlm.UsageError, match="record="):
        rlm.RLM(Player(), record="")


def test_a_context_that_cannot_be_recorded_is_refused_before_anything_is_asked(place: Place) -> None:
    player = Player()
    with pytest.raises(rlm.UsageError, match="cannot be recorded"):
        place.agent(player).completion("What?", context=(1, 2))
    assert player.asked == []


def test_a_record_that_cannot_be_written_ends_the_run_at_once_and_it_can_be_resumed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    padded = tuple(f"# {'x' * 9000}\n{cell}" for cell in CELLS)
    player = Player(cells=padded)
    execute, told = Journal.begin, []

    def begin(journal: Journal, *args: Any) -> None:
        execute(journal, *args)
        pages = journal.file.fetch("PRAGMA page_count")[0][0]
        journal.file.execute(f"PRAGMA max_page_count={pages + 3}")
        told.append(pages)

    monkeypatch.setattr(Journal, "begin", begin)
    with pytest.raises(rlm.RecordError, match="is full"):
        place.agent(player).completion("What?", "some context")
    monkeypatch.undo()
    kept = place.rows("SELECT count(*) FROM answers")[0][0] + place.rows("SELECT count(*) FROM turns")[0][0]
    assert told and len(player.asked) < 20
    second = Player(cells=padded)
    assert place.agent(second).resume(place.run_id).answer == ANSWER
    assert len(second.asked) == 20 - kept
