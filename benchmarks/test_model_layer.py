"""What does the road from a query to a provider cost, next to plain httpx and to the openai package?

Over loopback HTTP, the server in a process of its own: a thousand queries of 50 ms at once, the client's CPU time for
each of them (user and system time of its whole process), and one query after another where the server takes no time.
`[fast]` is the transport of that extra (httptools), else it is httpx2. Every rival has a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.contest import Contest, Rival

Enter = Callable[[Contest, str], object]

_AT_ONCE, _IN_TURN = 1000, 200
_LATENCY = (0.05, 0.0, 0)
_FAST, _PLAIN = "httptools", "httpx2"
_SLOW, _FEW_ROUNDS = ("httpx", "openai"), 2  # a round of a thousand at once takes plain httpx some ten seconds


def _cell(label: str, side: str, transport: str, **options: Any) -> Rival:
    options = {"transport": transport, "latency": (0.0, 0.0, 0), **options}
    return Rival(label, "asked_by_cell", side, options, wire="http", own_host=True)


def _host(label: str, rival: str, transport: str = "", **options: Any) -> Rival:
    options = {"rival": rival, "transport": transport, "latency": (0.0, 0.0, 0), **options}
    rounds = _FEW_ROUNDS if rival in _SLOW and options["size"] == _AT_ONCE else None
    return Rival(label, "asked", "inline/pure_async", options, rounds, wire="http", own_host=True)


_BATCH: dict[str, Any] = {"size": _AT_ONCE, "latency": _LATENCY}
BATCH = Contest(
    "1000 queries at once, 50 ms, http",
    (
        _cell("process cell, [fast]", "process/pure_async", _FAST, **_BATCH),
        _cell("process cell", "process/pure_async", _PLAIN, **_BATCH),
        _cell("process cell, threaded, [fast]", "process/threaded", _FAST, **_BATCH),
        _host("model alone, [fast]", "layer", _FAST, **_BATCH),
        _host("httpx 0.28", "httpx", **_BATCH),
        _host("openai SDK", "openai", **_BATCH),
    ),
    rounds=7,
)
_CPU: dict[str, Any] = {**_BATCH, "measure": "cpu"}
CPU = Contest(
    "client CPU of a query, 1000 in flight",
    (
        _host("model, [fast]", "layer", _FAST, **_CPU),
        _host("transport alone, [fast]", "bare", _FAST, **_CPU),
        _host("model, [fast], uvloop", "layer", _FAST, loop="uvloop", **_CPU),
        _host("model", "layer", _PLAIN, **_CPU),
        _host("transport alone", "bare", _PLAIN, **_CPU),
        _host("httpx 0.28", "httpx", **_CPU),
        _host("openai SDK", "openai", **_CPU),
    ),
    rounds=7,
)
_EACH: dict[str, Any] = {"size": _IN_TURN, "at_once": False}
IN_TURN = Contest(
    "a query after another, 0 ms, http",
    (
        _cell("process cell, [fast]", "process/pure_async", _FAST, **_EACH),
        _cell("process cell", "process/pure_async", _PLAIN, **_EACH),
        _host("model alone, [fast]", "layer", _FAST, measure="each", **_EACH),
        _host("httpx 0.28", "httpx", measure="each", **_EACH),
        _host("openai SDK", "openai", measure="each", **_EACH),
    ),
    rounds=9,
)


def _labels(contest: Contest) -> list[str]:
    return [rival.label for rival in contest.rivals]


@pytest.mark.parametrize("label", _labels(BATCH))
def test_a_thousand_queries_at_once(enter: Enter, label: str) -> None:
    """Seconds from the call to the last answer; all have their connection from the first, untimed round on."""
    enter(BATCH, label)


@pytest.mark.parametrize("label", _labels(CPU))
def test_client_cpu(enter: Enter, label: str) -> None:
    """Seconds of CPU that the client's process takes for each of a thousand queries at once."""
    enter(CPU, label)


@pytest.mark.parametrize("label", _labels(IN_TURN))
def test_one_query_after_another(enter: Enter, label: str) -> None:
    """Seconds for each query."""
    enter(IN_TURN, label)
