"""The soak: that a small run keeps its promises, and that each of them can be seen broken."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest

from benchmarks.flaky_server import COMPLETE, SHARES
from benchmarks.soak import (
    ANSWERED,
    CANCELLED,
    FAILED,
    NO_REASON,
    WRONG,
    Outcome,
    judge,
    main,
    open_flaky_server,
    read_journal,
    soak,
)
from benchmarks.verdict import Row
from benchmarks.verdict import judge as judge_rows

WITHOUT_HANGING = {kind: share for kind, share in SHARES.items() if kind != "hang"}


def kept(outcome: Outcome) -> dict[str, bool]:
    return {check.promise: check.kept for check in judge(outcome)}


@pytest.mark.parametrize("transport", ["httpx2", "httptools"])
def test_a_small_run_keeps_every_promise_but_is_too_short_to_speak_of_memory(transport: str) -> None:
    outcome = soak(600, 50, shares=WITHOUT_HANGING, transport=transport)
    found = kept(outcome)
    assert all(is_kept for promise, is_kept in found.items() if not promise.startswith("memory")), judge(outcome)
    faults = {kind: count for kind, count in outcome.journal["counts"].items() if kind not in COMPLETE}
    assert len(faults) >= 4 and outcome.retries > 0
    assert outcome.fates.count(ANSWERED) > 550 and outcome.fates.count(FAILED) >= faults["400"]
    assert (outcome.transport, len(outcome.fates), "" in outcome.fates) == (transport, 600, False)


def test_a_run_stops_by_itself_when_its_time_is_over_and_says_what_was_not_answered() -> None:
    outcome = soak(100_000, 0.2, shares={"hang": 1.0})
    assert "" in outcome.fates and set(outcome.fates) <= {"", CANCELLED}
    assert not kept(outcome)["none is lost"]
    assert outcome.tasks_left == 0 >= outcome.descriptors_left
    assert kept(outcome)["the server is left by all"]


def test_the_command_prints_a_line_for_each_promise(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--queries", "20", "--minutes", "0.5", "--transport", "httpx2", "--seed", "1"]) in (0, 1)
    out = capsys.readouterr().out
    assert out.startswith("transport httpx2; ")
    assert out.count("\nok  ") + out.count("\nFAIL") == len(kept(good()))


def good() -> Outcome:
    journal = {"answered": 90, "asked_again": 0, "in_flight": 0, "open_connections": 0}
    return Outcome(100, [ANSWERED] * 90 + [FAILED] * 8 + [CANCELLED] * 2, memory=[100] * 100, journal=journal)


BROKEN: list[tuple[str, Callable[[Outcome], Any]]] = [
    ("every query is answered or failed with a reason", lambda one: one.fates.__setitem__(99, NO_REASON)),
    ("every query is answered or failed with a reason", lambda one: one.fates.__setitem__(99, WRONG)),
    ("none is lost", lambda one: one.fates.__setitem__(99, "")),
    ("every answer is one of the server's", lambda one: one.journal.update(answered=89)),
    ("none is asked again after its answer", lambda one: one.journal.update(asked_again=1)),
    ("memory is flat within 5%", lambda one: one.memory.__setitem__(99, 106)),
    ("no file descriptor is left", lambda one: setattr(one, "descriptors_left", 1)),
    ("no task is left", lambda one: setattr(one, "tasks_left", 1)),
    ("the server is left by all", lambda one: one.journal.update(open_connections=1)),
    ("the server is left by all", lambda one: one.journal.update(in_flight=1)),
    ("it ends within 600 s", lambda one: setattr(one, "seconds", 601.0)),
]


@pytest.mark.parametrize(("promise", "spoil"), BROKEN)
def test_a_promise_that_is_broken_is_seen_and_no_other(promise: str, spoil: Callable[[Outcome], Any]) -> None:
    outcome = good()
    assert all(kept(outcome).values())
    spoil(outcome)
    assert [broken for broken, is_kept in kept(outcome).items() if not is_kept] == [promise]


def ask(base_url: str, number: int) -> str:
    chat = {"model": "soak", "messages": [{"role": "user", "content": str(number)}]}
    request = urllib.request.Request(
        f"{base_url}/chat/completions", json.dumps(chat).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        answer = json.loads(response.read())
    return str(answer["choices"][0]["message"]["content"])


@pytest.mark.parametrize("kind", COMPLETE)
def test_the_server_notes_who_asks_again_after_a_whole_answer(kind: str) -> None:
    with open_flaky_server(7, {kind: 1.0}) as base_url:
        assert [ask(base_url, 1), ask(base_url, 2)] == ["1", "2"]
        assert read_journal(base_url)["asked_again"] == 0
        assert ask(base_url, 1) == "1"
        journal = read_journal(base_url)
    assert (journal["answered"], journal["asked_again"], journal["counts"]) == (2, 1, {kind: 3})


def test_a_last_answer_is_whole_and_its_connection_ends_unannounced() -> None:
    with open_flaky_server(7, {"last": 1.0}) as base_url:
        connection = http.client.HTTPConnection("127.0.0.1", urlsplit(base_url).port, timeout=10)
        chat = {"model": "soak", "messages": [{"role": "user", "content": "1"}]}
        connection.request("POST", "/v1/chat/completions", json.dumps(chat))
        response = connection.getresponse()
        assert json.loads(response.read())["choices"] and response.getheader("connection") is None
        assert connection.sock is not None and connection.sock.recv(1) == b""
        connection.close()


@pytest.mark.parametrize("kind", ["500", "503", "429", "400", "reset", "cut", "garbage"])
def test_a_fault_is_no_answer_and_may_be_asked_again(kind: str) -> None:
    with open_flaky_server(7, {kind: 1.0}) as base_url:
        for _ in range(2):
            with pytest.raises((OSError, ValueError, http.client.HTTPException)) as caught:
                ask(base_url, 1)
            if isinstance(caught.value, urllib.error.HTTPError):
                caught.value.close()
        journal = read_journal(base_url)
    assert (journal["answered"], journal["asked_again"], journal["counts"]) == (0, 0, {kind: 2})


@pytest.mark.parametrize(("factor", "reached"), [(0.9, True), (1.1, False)])
def test_the_targets_of_the_model_layer_are_judged(factor: float, reached: bool) -> None:
    cell = "process cell, [fast]"
    found = [
        *(Row.of("1000 queries at once, 50 ms, http", label, [0.35 * factor], {}) for label in (cell, "openai SDK")),
        *(Row.of("a query after another, 0 ms, http", label, [0.5e-3 * factor], {}) for label in (cell, "openai SDK")),
    ]
    cpu = "client CPU of a query, 1000 in flight"
    fast, plain = 150e-6 * factor, 700e-6 * factor
    found += [Row.of(cpu, label, [fast], {}) for label in ("model, [fast]", "transport alone, [fast]")]
    found += [Row.of(cpu, label, [plain], {}) for label in ("model", "transport alone")]
    assert [verdict.reached for verdict in judge_rows(found)] == [reached] * 4


def test_every_row_that_a_target_of_the_model_layer_names_is_measured() -> None:
    from benchmarks.test_model_layer import BATCH, CPU, IN_TURN

    found = [Row.of(one.name, rival.label, [1.0], {}) for one in (BATCH, CPU, IN_TURN) for rival in one.rivals]
    assert len(judge_rows(found)) == 4
