"""What the commands that work on a record share: its option, an agent from a run's settings, what a stopped run had."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rlm.errors import RecordError, UsageError

if TYPE_CHECKING:
    from rlm.agent.rlm import RLM
    from rlm.core.events import Event, Listener
    from rlm.models.base import Model
    from rlm.record.journal import RunHead

_PARTIAL_CHARS = 2000


def add_record_option(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """The file."""
    what = "the file of the record" if required else "keep the run there, so that it can be resumed"
    parser.add_argument("--record", metavar="PATH", required=required, help=what)


class RunWatch:
    """A listener that passes on what it hears, and keeps the root run's name and the model's last words."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self.run_id = self.words = ""
        self.input_tokens = self.output_tokens = 0

    def __call__(self, event: Event) -> None:
        from rlm.core.events import QueryFinished, RunStarted, TurnFinished

        if isinstance(event, RunStarted) and event.depth == 0:
            self.run_id = event.run_id
        elif isinstance(event, TurnFinished):
            if event.depth == 0:
                self.words = event.text
            self._count(event.input_tokens, event.output_tokens)
        elif isinstance(event, QueryFinished) and event.record is not None and event.record.request.kind == "llm":
            usage = event.record.answer.usage
            if usage is not None:
                self._count(usage.input_tokens, usage.output_tokens)
        self._listener(event)

    def _count(self, input_tokens: int, output_tokens: int) -> None:
        self.input_tokens += input_tokens
        self.output_tokens += output_tokens


def tell_stopped(watch: RunWatch, record: str | None) -> None:
    """After Ctrl-C: the partial answer on stdout, the cost so far and how to go on on stderr."""
    from rlm.agent.parse import parse_reply

    words = parse_reply(watch.words).prose if watch.words else ""
    if words:
        print(words[:_PARTIAL_CHARS])
    so_far = f"{watch.input_tokens:,} tokens in, {watch.output_tokens:,} out"
    if record is not None and watch.run_id:
        so_far = _cost_so_far(record, watch.run_id) or so_far
    print(f"rlm: stopped; {'that is the model' if words else 'no words of the model'} so far", file=sys.stderr)
    print(f"rlm: used so far: {so_far}", file=sys.stderr)
    if record is None:
        print("rlm: with --record PATH a run can be resumed", file=sys.stderr)
    elif watch.run_id:
        print(f"rlm: go on with: rlm resume {watch.run_id} --record {shlex.quote(record)}", file=sys.stderr)


def _cost_so_far(record: str, run_id: str) -> str:
    from rlm.record.journal import Journal
    from rlm.record.listing import used_by

    try:
        journal = Journal(record, read_only=True)
        try:
            return used_by(journal, run_id).to_text()
        finally:
            journal.close()
    except RecordError:
        return ""


def make_recorded_agent(
    head: RunHead, record: str, given: Mapping[str, Any], listener: Listener | None = None, *, replays: bool = False
) -> RLM:
    """An agent as the one that began a run. given: what the command line says instead. Raises `UsageError`."""
    from rlm.agent.rlm import RLM
    from rlm.core.budget import Budget
    from rlm.core.limits import Limits

    settings = {**head.settings, **{name: value for name, value in given.items() if value is not None}}
    tools: list[str] = settings.pop("tools", [])
    if tools and not replays:
        raise UsageError(f"run {head.run_id} has tools ({', '.join(tools)}): resume it from Python, by RLM(...).resume")
    model, sub_model = settings.pop("model"), settings.pop("sub_model")
    if replays:  # nobody is asked
        model = sub_model = _make_nobody()
    if model is None or sub_model is None:
        raise UsageError("the record has no name of a model, for an object or function was given: give --model")
    if settings["sandbox"] == "inline":
        settings["isolation"] = None
    bridge = settings.pop("bridge")
    if bridge is not None and given.get("use_pure_async") is None:
        settings.update(bridge=bridge, use_pure_async=None)
    named = [one for one in (model, sub_model) if isinstance(one, str)]
    base_url = settings.pop("base_url")
    return RLM(
        model,
        sub_model,
        base_url=base_url if named else None,
        limits=Limits(**settings.pop("limits")),
        budget=Budget(**settings.pop("budget")),
        record=record,
        listener=listener,
        tools=dict.fromkeys(tools, _no_tool),
        **settings,
    )


def _make_nobody() -> Model:
    """Stands for the models of a replay, which asks nobody. Its price is known: what was paid is in the record."""
    from rlm.core.query import Completion, Request, Usage
    from rlm.models.base import Model

    class Nobody(Model):
        name = "record"

        async def complete(self, request: Request) -> Completion:
            raise RecordError("a replay asks nobody")

        def find_cost_usd(self, usage: Usage, model: str | None = None) -> float:
            return 0.0

    return Nobody()


def _no_tool(*args: Any, **kwargs: Any) -> None:
    """Stands for a tool of a replay."""
    raise RecordError("a replay calls no tool")


def with_journal(record: str, use: Callable[[Any], Any]) -> Any:
    """Read something of a record."""
    from rlm.record.journal import Journal

    journal = Journal(record, read_only=True)
    try:
        return use(journal)
    finally:
        journal.close()
