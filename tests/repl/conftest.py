from __future__ import annotations

import asyncio
import contextvars
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest

from rlm.core.cell import CellResult
from rlm.core.query import Answer, AnswerError, Request
from rlm.repl.repl import Repl


class FakePort:
    """Answers every prompt with its upper case; a prompt that starts with `fail:KIND` fails with that kind."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.on_ask: Callable[[], None] = lambda: None

    def _answer(self, request: Request) -> Answer:
        self.requests.append(request)
        if request.prompt.startswith("fail:"):
            return Answer.failed(AnswerError(request.prompt[5:], "no luck"))
        return Answer(request.prompt.upper(), model="fake")

    def ask(self, requests: Sequence[Request]) -> list[Answer]:
        self.on_ask()
        return [self._answer(request) for request in requests]

    async def ask_async(self, requests: Sequence[Request]) -> list[Answer]:
        await asyncio.sleep(0)
        return [self._answer(request) for request in requests]

    def call_tool(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        self.calls.append((name, tuple(args), dict(kwargs)))
        return f"{name} was called"


class Bench:
    """A REPL with a fake port. `run` numbers the cells and gives each a context of its own."""

    def __init__(self, runner: asyncio.Runner, **options: Any) -> None:
        self.port = FakePort()
        self.repl = Repl(self.port, **options)
        self._runner = runner
        self._numbers = itertools.count(1)

    def run(self, code: str) -> CellResult:
        context = contextvars.copy_context()
        drive = self._runner.run
        return context.run(
            self.repl.run_cell, code, lambda c: drive(c, context=contextvars.copy_context()), self.next()
        )

    def next(self) -> int:
        return next(self._numbers)

    def ok(self, code: str) -> CellResult:
        result = self.run(code)
        assert result.status == "ok", result.error and result.error.traceback
        return result

    def value(self, code: str) -> str | None:
        return self.ok(code).value

    def error(self, code: str) -> Any:
        result = self.run(code)
        assert result.status == "error" and result.error is not None, result
        return result.error


@pytest.fixture
def make_bench() -> Iterator[Callable[..., Bench]]:
    benches: list[Bench] = []

    with asyncio.Runner() as runner:

        def make(**options: Any) -> Bench:
            benches.append(Bench(runner, **options))
            return benches[-1]

        yield make
        for made in benches:
            made.repl.close()


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()
