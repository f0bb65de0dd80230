"""The state that a resumed run has: made again where it can be, and told of where it cannot."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import random
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import rlm
from rlm.core.query import Completion, Request, Usage

QUOTA = rlm.ModelError("the quota is spent", kind="quota")
pytestmark = pytest.mark.filterwarnings("ignore:use_pure_async=False:PendingDeprecationWarning")
SIDES = [(sandbox, pure) for sandbox in ("process", "inline") for pure in (True, False)]


class Root(rlm.Model):
    """Plays cells; a text that is no cell is a reply of its own. Queries are answered by `answer`."""

    name = "root"
    mended = False

    def __init__(self, *cells: str, stops_at: int | None = None) -> None:
        self.cells, self.stops_at = cells, stops_at
        self.heard: list[str] = []
        self.queries: list[str] = []

    async def complete(self, request: Request) -> Completion:
        if not request.messages:
            self.queries.append(request.prompt)
            if request.prompt == "stop" and not self.mended:
                raise QUOTA
            return Completion(request.prompt.upper())
        turn = sum(message["role"] == "assistant" for message in request.messages)
        if turn == self.stops_at:
            raise QUOTA
        self.heard.append(request.prompt)
        cell = self.cells[turn]
        return Completion(cell if cell.startswith("FINAL") else f"```repl\n{cell}\n```")


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


def stopped(record: Path, root: Root, **more: Any) -> str:
    """A run that its model's failure has stopped; gives its name."""
    with pytest.raises(rlm.ModelError, match="quota"):
        rlm.RLM(root, record=record, **more).completion("What?", "some context")
    [(run_id,)] = fetch(record, "SELECT run_id FROM runs WHERE parent IS NULL")
    return str(run_id)


def fetch(record: Path, statement: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(record)) as connection:
        rows = connection.execute(statement).fetchall()
        connection.commit()
        return rows


def side(sandbox: str, pure: bool) -> dict[str, Any]:
    return {"sandbox": sandbox, "use_pure_async": pure}


@pytest.mark.parametrize(("sandbox", "pure"), SIDES)
def test_a_cell_that_was_stopped_is_stopped_again_and_the_model_is_told_once(
    record: Path, sandbox: str, pure: bool
) -> None:
    slow = "kept = []\nfor n in range(99):\n    kept.append(llm_query(f'slow {n}'))"

    class Slow(Root):
        async def complete(self, request: Request) -> Completion:
            if request.prompt == "slow 3":
                await asyncio.sleep(20)
            return await super().complete(request)

    more = {"limits": rlm.Limits(cell_seconds=1.5), **side(sandbox, pure)}
    first = Slow(slow, "print(len(kept))", "", stops_at=2)
    run_id = stopped(record, first, **more)
    second = Slow(slow, "print(len(kept))", "late = llm_query('stop')", stops_at=None)
    with pytest.raises(rlm.ModelError):
        rlm.RLM(second, record=record, **more).resume(run_id)
    assert second.queries == ["stop"]
    assert "has been resumed" in second.heard[0] and "cell 1 (cell_seconds=1.5 passed)" in second.heard[0]
    third = Slow(slow, "print(len(kept))", "", "print(len(kept))\nFINAL(str(len(kept)))")
    third.mended = True
    result = rlm.RLM(third, record=record, **more).resume(run_id)
    assert result.answer == "3"
    assert not any("has been resumed" in heard for heard in third.heard)  # it stands in the history already


def test_cells_before_the_last_loss_of_state_are_not_run_again(record: Path, tmp_path: Path) -> None:
    noted: list[int] = []

    def note(number: int) -> int:
        """Keep a number."""
        noted.append(number)
        return number

    cells = (
        "import time\nnote(1)\nearly = llm_query(f'early {time.perf_counter_ns()}')",
        "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
        "note(3)\nlater = llm_query('later')",
        "try:\n    early\nexcept NameError:\n    FINAL(later)",
    )
    first = Root(*cells, stops_at=3)
    run_id = stopped(record, first, tools={"note": note})
    assert [status for (status,) in fetch(record, "SELECT status FROM cells")] == ["ok", "crashed", "ok"]
    second = Root(*cells)
    result = rlm.RLM(second, record=record, tools={"note": note}).resume(run_id)
    assert result.answer == "LATER" and second.queries == []
    assert noted == [1, 3]
    assert [cell.status for cell in result.cells] == ["ok", "crashed", "ok", "ok"]
    assert rlm.RLM(second, record=record, tools={"note": note}).resume(run_id).answer == "LATER"


@pytest.mark.parametrize(("sandbox", "pure"), SIDES)
@pytest.mark.parametrize(
    "cell", ["a = llm_query(f'now {clock()}')", "try:\n    llm_query(f'now {clock()}')\nexcept Exception:\n    pass"]
)
def test_a_cell_that_asks_what_it_did_not_ask_ends_the_resumption_and_is_named(
    record: Path, cell: str, sandbox: str, pure: bool
) -> None:
    first = f"import time\nclock = time.perf_counter_ns\n{cell}\nb = llm_query('b')"
    run_id = stopped(record, Root("kept = 1", first, "", stops_at=2), **side(sandbox, pure))
    second = Root("kept = 1", first, "FINAL('no')")
    with pytest.raises(rlm.RunDiverged, match="cell 2 asks what it did not ask: 'now") as caught:
        rlm.RLM(second, record=record, **side(sandbox, pure)).resume(run_id)
    assert (caught.value.run_id, caught.value.cell) == (run_id, 2)
    assert second.queries == [] and second.heard == []


@pytest.mark.parametrize(
    ("cell", "why"),
    [
        ("if flag():\n    llm_query('a')\nllm_query('b')", "does not ask all that it asked"),
        ("if not flag():\n    raise ValueError('off')", "was 'ok' and is 'error' (ValueError: off)"),
    ],
)
def test_a_cell_that_leaves_out_a_query_or_ends_otherwise_is_a_divergence_too(
    record: Path, cell: str, why: str
) -> None:
    def agent(root: Root, value: bool) -> rlm.RLM:
        # a tool's result is recorded; the inline side shares the host's objects, so this one changes under it
        flags.append(value)
        return rlm.RLM(root, record=record, sandbox="inline")

    flags: list[bool] = []
    vars(builtins)["flag"] = lambda: flags[-1]
    try:
        with pytest.raises(rlm.ModelError):
            agent(Root(cell, "", stops_at=1), True).completion("What?")
        [(run_id,)] = fetch(record, "SELECT run_id FROM runs")
        with pytest.raises(rlm.RunDiverged) as caught:
            agent(Root(cell, "FINAL('no')"), False).resume(run_id)
    finally:
        del vars(builtins)["flag"]
    assert why in str(caught.value) and caught.value.cell == 1


def test_a_reply_to_another_request_is_never_taken(record: Path) -> None:
    run_id = stopped(record, Root("print(1)", "print(2)", "", stops_at=2))
    fetch(record, "UPDATE runs SET first_message = '\"another question\"'")
    root = Root("print(1)", "print(2)", "FINAL('no')")
    with pytest.raises(rlm.RunDiverged, match="a request of the agent is not the one") as caught:
        rlm.RLM(root, record=record).resume(run_id)
    assert caught.value.cell is None and root.heard == []


@pytest.mark.parametrize(("sandbox", "pure"), [("process", True), ("inline", True)])
def test_answers_are_given_again_in_the_order_in_which_they_came(record: Path, sandbox: str, pure: bool) -> None:
    cell = """
import asyncio
order = []
async def one(name):
    order.append(await llm_query_async(name))
await asyncio.gather(*[one(name) for name in ("slowest", "slow", "quick")])
"""

    class Late(Root):
        async def complete(self, request: Request) -> Completion:
            await asyncio.sleep({"slowest": 0.3, "slow": 0.15}.get(request.prompt, 0.0))
            return await super().complete(request)

    run_id = stopped(record, Late(cell, "", stops_at=1), **side(sandbox, pure))
    agent = rlm.RLM(Late(cell, "print(1)\nFINAL(order)"), record=record, **side(sandbox, pure))
    assert agent.resume(run_id).value == ["QUICK", "SLOW", "SLOWEST"]


@pytest.mark.parametrize(("sandbox", "pure"), [("process", True), ("process", False), ("inline", True)])
def test_a_query_that_its_cell_gave_up_is_given_up_again(record: Path, sandbox: str, pure: bool) -> None:
    cell = """
import asyncio
try:
    got = await asyncio.wait_for(llm_query_async("never"), 0.2)
except asyncio.TimeoutError:
    got = "gave up"
then = llm_query("then " + got)
"""

    class Never(Root):
        async def complete(self, request: Request) -> Completion:
            await asyncio.sleep(30 if request.prompt == "never" else 0)
            return await super().complete(request)

    run_id = stopped(record, Never(cell, "", stops_at=1), **side(sandbox, pure))
    second = Never(cell, "print(1)\nFINAL(then)")
    assert rlm.RLM(second, record=record, **side(sandbox, pure)).resume(run_id).answer == "THEN GAVE UP"
    assert second.queries == []


@pytest.mark.parametrize(("sandbox", "pure"), SIDES)
def test_a_failed_query_fails_again_and_is_not_asked(record: Path, sandbox: str, pure: bool) -> None:
    cell = "try:\n    llm_query('bad')\nexcept Exception as error:\n    said = str(error)"

    class Bad(Root):
        async def complete(self, request: Request) -> Completion:
            if request.prompt == "bad":
                self.queries.append("bad")
                raise rlm.ModelError("nothing like that", kind="bad_request")
            return await super().complete(request)

    run_id = stopped(record, Bad(cell, "", stops_at=1), **side(sandbox, pure))
    second = Bad(cell, "print(1)\nFINAL(said)")
    assert "nothing like that" in rlm.RLM(second, record=record, **side(sandbox, pure)).resume(run_id).answer
    assert second.queries == []


@pytest.mark.parametrize(("sandbox", "pure"), SIDES)
def test_a_tools_result_and_error_are_given_again_and_it_is_not_called(record: Path, sandbox: str, pure: bool) -> None:
    called: list[Any] = []

    def look(value: Any) -> Any:
        """Look."""
        called.append(value)
        if value == "bad":
            raise LookupError("not there")
        return {"seen": value}

    cell = "seen = [look('x'), look(5)['seen']]\ntry:\n    look('bad')\nexcept Exception as e:\n    seen += [repr(e)]"
    more = {"tools": {"look": look}, **side(sandbox, pure)}
    first = Root(cell, "print(seen)", "", stops_at=2)
    run_id = stopped(record, first, **more)
    shown = first.heard[1:]
    second = Root(cell, "print(seen)", "print(1)\nFINAL(repr(seen))")
    answer = rlm.RLM(second, record=record, **more).resume(run_id).answer
    assert called == ["x", 5, "bad"] and shown
    assert "'seen': 'x'" in answer and "LookupError" in answer and "not there" in answer


def test_an_inline_tool_that_gave_an_object_is_called_again_on_resuming_and_never_by_a_replay(record: Path) -> None:
    made: list[object] = []

    def make() -> object:
        """Make an object."""
        made.append(object())
        return made[-1]

    more: dict[str, Any] = {"tools": {"make": make}, "sandbox": "inline"}
    run_id = stopped(record, Root("thing = make()", "", stops_at=1), **more)
    agent = rlm.RLM(Root("thing = make()", "print(1)\nFINAL(str(thing))"), record=record, **more)
    [difference] = asyncio.run(agent.areplay(run_id))
    assert "LookupError: what the tool gave" in difference.what and len(made) == 1
    assert agent.resume(run_id).answer == str(made[1]) and len(made) == 2


def test_a_final_answer_in_text_that_names_a_variable_is_found_again(record: Path) -> None:
    cells = ("total = 'the value'", "FINAL(total)")
    root = Root(*cells)
    answer = rlm.RLM(root, record=record).completion("What?").answer
    assert answer == "the value"
    fetch(record, "UPDATE runs SET status='stopped', result=NULL")
    [(run_id,)] = fetch(record, "SELECT run_id FROM runs")
    again = Root(*cells)
    assert rlm.RLM(again, record=record).resume(run_id).answer == "the value"
    assert again.heard == []


def test_a_run_that_was_out_of_time_is_out_of_time_again(record: Path) -> None:
    class Slow(Root):
        async def complete(self, request: Request) -> Completion:
            if request.prompt.startswith("Output") and "the time is over" not in request.prompt:
                await asyncio.sleep(30)
            return await super().complete(request)

    cells, limits = ("print(1)", "FINAL(best)"), rlm.Limits(run_seconds=3.0)
    result = rlm.RLM(Slow(*cells), record=record, limits=limits).completion("What?")
    assert (result.stopped_by, result.answer) == ("time", "best")
    fetch(record, "UPDATE runs SET status='stopped', result=NULL")
    again = Slow(*cells)
    resumed = rlm.RLM(again, record=record, limits=limits).resume(result.run_id)
    assert (resumed.stopped_by, resumed.answer, again.heard) == ("time", "best", [])


def test_the_clock_of_a_resumed_run_goes_on_from_where_it_stood(record: Path) -> None:
    run_id = stopped(record, Root("print(1)", "", stops_at=1))
    fetch(record, "UPDATE cells SET at=500")
    result = rlm.RLM(Root("print(1)", "FINAL('x')"), record=record).resume(run_id)
    assert result.seconds > 500


def test_numbers_drawn_are_those_of_the_recorded_seed_and_others_in_another_run(record: Path) -> None:
    cells = ("import random\nfrom random import choice\nFINAL([random.random(), choice(range(10**9))])",)

    def drawn(sandbox: Any) -> Any:
        return rlm.RLM(Root(*cells), record=record, sandbox=sandbox).completion("What?").value

    for sandbox in ("process", "inline"):
        assert drawn(sandbox) != drawn(sandbox)
    rows = fetch(record, "SELECT seed FROM runs ORDER BY rowid")
    assert len({seed for (seed,) in rows}) == 4
    own = random.Random(rows[0][0])
    [(result,)] = fetch(record, "SELECT result FROM runs ORDER BY rowid LIMIT 1")
    assert repr(own.random())[:8] in result


def test_the_budget_is_charged_again_with_what_the_record_says(record: Path) -> None:
    ask = "for n in range(4):\n    llm_query(f'q{n}')\nchild = rlm_query('below')"
    budget = rlm.Budget(queries=10)
    run_id = stopped(record, Root(ask, "", stops_at=1), budget=budget, max_depth=0)
    root = Root(ask, "print(BUDGET())\nFINAL(str(BUDGET()['queries']))")
    assert rlm.RLM(root, record=record, budget=budget, max_depth=0).resume(run_id).answer == "5"


def test_a_run_ended_by_its_budget_goes_on_with_a_larger_one(record: Path) -> None:
    class Dear(Root):
        async def complete(self, request: Request) -> Completion:
            return replace(await super().complete(request), usage=Usage(100, 3000))

    cells = ("print(1)", "print(2)\nFINAL('there')")
    with pytest.raises(rlm.BudgetExceeded):
        rlm.RLM(Dear(*cells), record=record, budget=rlm.Budget(output_tokens=3050)).completion("What?")
    [(run_id,)] = fetch(record, "SELECT run_id FROM runs")
    again = rlm.RLM(Dear(*cells), record=record, budget=rlm.Budget(output_tokens=90_000))
    assert again.resume(run_id).answer == "there"


def test_no_key_stands_in_the_record(record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    agent = rlm.RLM(
        "openai/m", Root("FINAL('x')"), record=record, base_url="http://me:password1@127.0.0.1:9/v1?api-key=secret2"
    )
    with pytest.raises(rlm.ModelError):
        agent.completion("What?")
    written = b"".join(file.read_bytes() for file in record.parent.iterdir())
    assert b"127.0.0.1:9/v1" in written
    assert not [word for word in (b"sk-very", b"password1", b"secret2") if word in written]


def test_a_replay_says_where_a_run_differs_and_writes_nothing(record: Path) -> None:
    clock = "print(time.perf_counter_ns())\na = llm_query('q')"
    cells = ("import time\nprint('same')", clock, "print(2)\nFINAL(a)")
    result = rlm.RLM(Root(*cells), record=record).completion("What?")
    before = fetch(record, "SELECT * FROM cells")
    root = Root()
    [difference] = asyncio.run(rlm.RLM(root, record=record).areplay(result.run_id))
    assert (difference.run_id, difference.cell) == (result.run_id, 2)
    assert difference.what.startswith("stdout was '")
    assert fetch(record, "SELECT * FROM cells") == before and root.heard == []


def test_a_replay_of_a_run_that_was_stopped_ends_where_its_record_does(record: Path) -> None:
    run_id = stopped(record, Root("a = llm_query('q')", "b = llm_query('stop')"))
    assert asyncio.run(rlm.RLM(Root(), record=record).areplay(run_id)) == ()
