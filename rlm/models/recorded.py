"""Queries that are written to a run's record, or found in it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

from rlm.core.events import QueryFinished, QueryStarted
from rlm.core.ledger import NOTHING, Charge
from rlm.core.query import Answer, AnswerError, Completion, QueryRecord, Request
from rlm.core.recording import CallRecorder, Recalled, Recorder, Ticket, current_ticket
from rlm.errors import RecordError
from rlm.models.answerer import Answerer
from rlm.models.base import Model
from rlm.models.purse import Purse, charge_of

_ONE_QUERY = Charge(queries=1)
_CALLED_OFF = AnswerError("cancelled", "the query was called off")


class RecordedAnswerer(Answerer):
    """Looks into the record before it asks, and writes an answer before anybody gets it.

    What the record cannot take ends the run: it is raised, unlike a model's failure.
    """

    def __init__(self, model: Model | None, recorder: Recorder, **parameters: Any) -> None:
        super().__init__(model, **parameters)
        self._recorder = recorder

    async def answer(
        self, request: Request, *, seconds_left: float | None = None, records: list[QueryRecord] | None = None
    ) -> Answer:
        """As `Answerer.answer`. Raises `RecordError`."""
        calls = self._recorder.calls
        ticket = calls.take_query(request)
        recalled = await calls.recall(ticket, seconds_left)
        if recalled is not None:
            return self._give_again(recalled, records)
        mine: list[QueryRecord] = []
        token = current_ticket.set(ticket)
        try:
            answer = await super().answer(request, seconds_left=seconds_left, records=mine)
        except BaseException:
            self._keep_call_off(calls, ticket, request)
            if records is not None:
                records += mine
            raise
        finally:
            with contextlib.suppress(ValueError):  # a dropped coroutine is closed in whatever context drops it
                current_ticket.reset(token)
        calls.keep(ticket, mine[0], self._charge(ticket, mine[0]))
        if records is not None:
            records.append(mine[0])
        return answer

    def _charge(self, ticket: Ticket, record: QueryRecord) -> Charge:
        if record.request.kind == "rlm" and self._child is not None:
            refused = record.answer.error is not None and record.answer.error.refused and ticket.child is NOTHING
            return NOTHING if refused else _ONE_QUERY.add(ticket.child)
        return charge_of(self._purse, self._model, record.request, record.answer, _ONE_QUERY)

    def _keep_call_off(self, calls: CallRecorder, ticket: Ticket, request: Request) -> None:
        record = QueryRecord(request, Answer.failed(_CALLED_OFF))
        with contextlib.suppress(RecordError):  # the run ends anyway, or goes on without what nobody waits for
            calls.keep(ticket, record, self._charge(ticket, record), given=False)

    def _give_again(self, recalled: Recalled, records: list[QueryRecord] | None) -> Answer:
        record, answer = recalled.record, recalled.record.answer
        if self._listener is not None:
            self._listener(QueryStarted(self._depth))
        if answer.error is None:
            self.spending.add(answer.usage, answer.cost_usd)
        charge_again(self._purse, recalled.charge)
        tell_replayed(self._model, recalled.asked)
        if records is not None:
            records.append(record)
        if self._listener is not None:
            self._listener(QueryFinished(self._depth, record))
        return answer


def make_answerer(model: Model | None, recorder: Recorder | None, **parameters: Any) -> Answerer:
    """Who answers in an environment; recorded where there is a recorder. parameters: those of `Answerer`."""
    return Answerer(model, **parameters) if recorder is None else RecordedAnswerer(model, recorder, **parameters)


def charge_again(purse: Purse | None, charge: Charge) -> None:
    """Count what the record says was used."""
    if purse is not None and charge is not NOTHING:
        purse.ledger.settle(NOTHING, charge)


def tell_replayed(model: Model | None, asked: Iterable[tuple[Request, Completion | None]]) -> None:
    """Tell a model that keeps count what it was asked in an earlier life: `Model.replayed`, where it has that."""
    replayed = getattr(model, "replayed", None)
    if replayed is not None:
        for request, completion in asked:
            replayed(request, completion)
