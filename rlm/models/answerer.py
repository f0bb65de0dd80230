"""From requests to answers: the limit and the deadline under which a model is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from time import monotonic, perf_counter

from rlm.core.describe import error_text
from rlm.core.events import Listener, QueryFinished, QueryStarted
from rlm.core.ledger import Charge
from rlm.core.query import Answer, AnswerError, Completion, QueryRecord, Request, Usage
from rlm.core.waiting import in_trio, is_cancellation
from rlm.errors import ModelError
from rlm.models.asking import Asking
from rlm.models.base import Model
from rlm.models.compose import is_within
from rlm.models.limiter import Limiter
from rlm.models.purse import Purse
from rlm.models.schema import SchemaModel
from rlm.models.spending import Spending

_MESSAGE_CHARS = 1000
_NO_MODEL = (
    'no model was given: pass model= to the environment, a name such as "openai/gpt-5-mini", a Model object or a '
    "function from a prompt to a text"
)
_ONE_QUERY = Charge(queries=1)
_CANCELLED = "the query was cancelled"


class _Query:
    """One query on its way."""

    __slots__ = ("asking", "request", "started")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.started = perf_counter()
        self.asking: Asking | None = None

    @property
    def queued(self) -> float:
        return self.asking.queued_seconds if self.asking is not None else 0.0


class Answerer:
    """Answers the queries of one environment. Serves any number of loops and threads at once.

    model: who answers; None refuses every query. limiter: the queue before it, unless the model has that within (then
    each attempt queues for itself); environments that share one take turns. child: who answers requests of kind
    `"rlm"`, if anyone: past the limiter and without the query timeout, for a child run has limits of its own.
    query_seconds: for one query, waiting and attempts included. default_max_tokens: for a request that names none.
    listener: is told `QueryStarted` and `QueryFinished` of level `depth`. purse: out of which all is paid; a query that
    it does not allow is refused.

    A model's failure is a failed `Answer`, never an exception; only cancellation passes through. The records of
    what was asked, cancelled queries included, are appended to the list the caller gives, in order of their end.
    """

    def __init__(  # noqa: PLR0913 -- the one place where an environment's settings meet
        self,
        model: Model | None,
        *,
        limiter: Limiter,
        query_seconds: float,
        default_max_tokens: int | None = None,
        child: Model | None = None,
        listener: Listener | None = None,
        depth: int = 0,
        purse: Purse | None = None,
    ) -> None:
        self._purse = purse
        self._model, self._child = model, child
        self._limiter, self._query_seconds = limiter, query_seconds
        self._limits_itself = model is not None and is_within(model, limiter)
        self._for_schemas: Model | None = None
        self.spending = Spending()
        self._default_max_tokens = default_max_tokens
        self._listener, self._depth = listener, depth

    async def answer(
        self, request: Request, *, seconds_left: float | None = None, records: list[QueryRecord] | None = None
    ) -> Answer:
        """Answer one request. `seconds_left` is what its cell still has; the shorter of the two limits counts."""
        child = self._child if request.kind == "rlm" else None
        if child is None and request.max_tokens is None and self._default_max_tokens is not None:
            request = replace(request, max_tokens=self._default_max_tokens)
        query = _Query(request)
        if self._listener is not None:
            self._listener(QueryStarted(self._depth))
        try:
            completion = await self._ask(query, child, seconds_left)
            answer = _succeeded(query, completion, child or self._model)
            self.spending.add(answer.usage, answer.cost_usd)
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) or is_cancellation(error):
                answer = _failed(query, AnswerError("cancelled", _CANCELLED))
            else:
                answer = _failed(query, _explain(error))
                paid = getattr(error, "paid", None)
                if isinstance(paid, Completion):
                    answer.usage, answer.cost_usd = paid.usage, paid.cost_usd
                    self.spending.add(paid.usage, paid.cost_usd)
            # not raised: a CancelledError that the model got from a task it awaits, while nobody cancelled this one
            if is_cancellation(error) or isinstance(error, (GeneratorExit, KeyboardInterrupt, SystemExit)):
                self._note(query, answer, records)
                raise
        self._note(query, answer, records)
        return answer

    async def answer_batch(
        self,
        requests: Sequence[Request],
        *,
        seconds_left: float | None = None,
        records: list[QueryRecord] | None = None,
    ) -> list[Answer]:
        """Answer all requests at once: one answer per request, in their order, whatever becomes of the others.

        Cancelling cancels all of them and waits until they have ended.
        """
        if not requests:
            return []
        if len(requests) == 1:  # no task is made
            return [await self.answer(requests[0], seconds_left=seconds_left, records=records)]
        if in_trio():
            return await self._answer_batch_trio(requests, seconds_left, records)
        first: BaseException | None = None
        tasks = [
            asyncio.ensure_future(self.answer(request, seconds_left=seconds_left, records=records))
            for request in requests
        ]
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError as error:
            # Not `gather`: where a model eats the cancellation, it raises one without the message by which anyio
            # knows its own.
            for task in tasks:
                task.cancel(*error.args[:1])
            await asyncio.wait(tasks)
            raise
        for task in tasks:
            if not task.cancelled() and task.exception() is not None:  # a listener's: the first is raised, all are seen
                first = first or task.exception()
        if first is not None:
            raise first
        return [_slot(task) for task in tasks]

    async def _answer_batch_trio(
        self, requests: Sequence[Request], seconds_left: float | None, records: list[QueryRecord] | None
    ) -> list[Answer]:
        import anyio

        answers: dict[int, Answer] = {}

        async def fill(index: int, request: Request) -> None:
            answers[index] = await self.answer(request, seconds_left=seconds_left, records=records)

        async with anyio.create_task_group() as group:
            for index, request in enumerate(requests):
                group.start_soon(fill, index, request)
        return [answers[index] for index in range(len(requests))]

    async def _ask(self, query: _Query, child: Model | None, seconds_left: float | None) -> Completion:
        """The model's completion. Raises what the model raises, and `ModelError` for a refusal or a deadline."""
        if child is not None:
            model: Model | None = child
            seconds = seconds_left
        else:
            model = self._model
            seconds = self._query_seconds if seconds_left is None else min(self._query_seconds, seconds_left)
        if model is None:
            raise ModelError(_NO_MODEL, kind="refused")
        is_child = child is not None
        if seconds is None:
            with Asking(key=self) as query.asking:
                return await self._start(model, query.request, is_child)
        if seconds > 0:
            with Asking(deadline=monotonic() + seconds, key=self) as query.asking:
                if in_trio():
                    import anyio

                    with anyio.move_on_after(seconds):
                        return await self._start(model, query.request, is_child)
                else:
                    deadline = asyncio.timeout(seconds)
                    try:
                        async with deadline:
                            return await self._start(model, query.request, is_child)
                    except TimeoutError:
                        if not deadline.expired():  # the model's own
                            raise
        never = query.asking is None or (query.asking.is_queued and not query.asking.backoff_seconds)
        raise ModelError(self._explain_deadline(query, seconds, is_child), kind="timeout", attempts=0 if never else 1)

    def _start(self, model: Model, request: Request, is_child: bool) -> Awaitable[Completion]:
        if self._purse is None:
            return self._complete(model, request, is_child)
        # what a child run asks is paid by itself
        payer = None if is_child else model
        return self._purse.ask(lambda asked: self._complete(model, asked, is_child), payer, request, _ONE_QUERY)

    def _complete(self, model: Model, request: Request, is_child: bool) -> Awaitable[Completion]:
        if request.options.schema is not None and not is_child:
            return self._with_schema(model).complete(request)
        if is_child or self._limits_itself:
            return model.complete(request)
        return self._limiter.call(model.complete, request)

    def _with_schema(self, model: Model) -> Model:
        """The model, its answers checked where it does not do so itself; each of the two requests queues."""
        if self._for_schemas is None:
            limited = model if self._limits_itself else self._limiter.wrap(model)
            self._for_schemas = SchemaModel(limited)
        return self._for_schemas

    def _explain_deadline(self, query: _Query, seconds: float, is_child: bool) -> str:
        if not is_child and seconds == self._query_seconds:
            text = f"no answer within query_seconds={seconds:g}"
        else:
            text = f"no answer within the {max(seconds, 0.0):.3g} s that were left of cell_seconds or run_seconds"
        if self._purse is not None and query.asking is not None and query.asking.is_queued and not query.queued:
            text += ": the budget had too little for it until others were answered"
        if query.queued > 0:
            text += f", {query.queued:.3g} s of them spent waiting for {self._explain_queue()}"
        if query.asking is not None and query.asking.backoff_seconds > 0:
            text += f", {query.asking.backoff_seconds:.3g} s between attempts"
        return text

    def _explain_queue(self) -> str:
        if self._limiter.requests is None and self._limiter.tokens is None and self._limiter.concurrency is not None:
            return f"one of {self._limiter.concurrency} slots (max_concurrency)"
        return "the limiter's turn"

    def _note(self, query: _Query, answer: Answer, records: list[QueryRecord] | None) -> None:
        if records is None and self._listener is None:
            return
        record = QueryRecord(query.request, answer, query.queued)
        if records is not None:
            records.append(record)
        if self._listener is not None:
            self._listener(QueryFinished(self._depth, record))


def _succeeded(query: _Query, completion: object, model: Model | None) -> Answer:
    seconds = perf_counter() - query.started
    name = model.name if model is not None else ""
    if not isinstance(completion, Completion) or not isinstance(completion.text, str):
        got = completion.text if isinstance(completion, Completion) else completion
        what = "a Completion whose text is" if isinstance(completion, Completion) else "a value of type"
        raise ModelError(f"the model {name} gave {what} {type(got).__name__}: it has to give a Completion with a str")
    usage: object = completion.usage  # a caller's model may put anything there
    reason: object = completion.finish_reason
    if not (usage is None or isinstance(usage, Usage)) or not (reason is None or isinstance(reason, str)):
        got = f"usage of type {type(usage).__name__} and finish_reason of type {type(reason).__name__}"
        raise ModelError(f"the model {name} gave a Completion with {got}: they are a Usage, a str, or None")
    return Answer(
        completion.text,
        usage=completion.usage,
        model=completion.model or name,
        seconds=seconds,
        finish_reason=completion.finish_reason,
        provider=completion.provider,
        cost_usd=completion.cost_usd,
        value=completion.value,
    )


def _failed(query: _Query, error: AnswerError) -> Answer:
    return Answer.failed(error, model=query.request.model or "", seconds=perf_counter() - query.started)


def _explain(error: BaseException) -> AnswerError:
    """A model's exception as data, its text bounded."""
    text = error_text(error, _MESSAGE_CHARS)
    if isinstance(error, ModelError):
        return AnswerError(error.kind, text, error.attempts)
    return AnswerError("provider", f"{type(error).__name__}: {text}")


def _slot(task: asyncio.Future[Answer]) -> Answer:
    """One slot of a batch: a query whose own task somebody else cancelled leaves its neighbours unharmed."""
    if task.cancelled():
        return Answer.failed(AnswerError("cancelled", _CANCELLED))
    return task.result()
