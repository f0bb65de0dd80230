"""An environment's budget: what its queries may use in all, however many are made at once."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from environment.budget_models import USD_PER_TOKEN, Priced
from environment.env_sides import HANG_SECONDS, Side, run

import rlm
from rlm.core.ledger import NOTHING, Charge, Ledger
from rlm.core.query import Completion, Request
from rlm.models.purse import Purse


def test_so_many_queries_are_made_and_no_more(side: Side) -> None:
    async def main() -> None:
        model = Priced()
        async with side.open(model, budget=rlm.Budget(queries=5)) as env:
            first = await env.execute_async("[llm_query(str(n)) for n in range(3)]")
            assert first.ok
            batch = await env.execute_async("[a if a.ok else a.error.kind for a in llm_batch_query(list('abcd'))]")
            assert batch.value == "['a', 'b', 'budget', 'budget']"
            last = await env.execute_async("try:\n    llm_query('x')\nexcept QueryRefused as e:\n    print(e)")
            assert "the budget of 5 queries does not allow it: 0 queries are left" in last.stdout
        assert model.asked == 5

    run(main)


def test_a_cell_reads_its_budget_and_cannot_change_it(side: Side) -> None:
    async def main() -> None:
        async with side.open(Priced(), budget=rlm.Budget(queries=5, usd=1.0)) as env:
            before = await env.execute_async("BUDGET()")
            assert before.value == "{'usd': 1.0, 'queries': 5}"
            await env.execute_async("left = BUDGET(); left['queries'] = 1000; llm_query('x', max_tokens=20)")
            after = await env.execute_async("b = BUDGET(); (b['queries'], b['usd'] < 1)")
            assert after.value == "(4, True)"
            assert "BUDGET" not in (await env.execute_async("SHOW_VARS()")).to_text()

    run(main)


def test_without_a_budget_there_is_no_such_word(side: Side) -> None:
    async def main() -> None:
        async with side.open(Priced()) as env:
            result = await env.execute_async("BUDGET()")
            assert result.error is not None and result.error.type == "NameError"

    run(main)


def test_three_refusals_end_a_cell(process_side: Side) -> None:
    async def main() -> None:
        model = Priced()
        async with process_side.open(model, budget=rlm.Budget(queries=1)) as env:
            code = "while True:\n    try:\n        llm_query('x')\n    except Exception:\n        pass"
            result = await env.execute_async(code)
            assert result.status == "timeout" and "3 refused queries" in (result.cause or "")
        assert model.asked == 1

    run(main)


@pytest.mark.parametrize("limit", [0.2, 1.0])
def test_money_is_reserved_before_it_is_spent_however_many_ask_at_once(side: Side, limit: float) -> None:
    async def main() -> None:
        model = Priced(tokens=20, seconds=0.001)
        async with side.open(model, budget=rlm.Budget(usd=limit), max_tokens=20) as env:
            answers = await env.llm_batch_query_async([f"question {n}" for n in range(100)])
            spent = (model.used.input_tokens + model.used.output_tokens) * USD_PER_TOKEN
            assert spent <= limit + 1e-9
            # what is reserved and not used goes to the next: only the end of the budget is left
            assert spent >= limit - 40 * USD_PER_TOKEN
            kinds = {answer.error.kind for answer in answers if answer.error is not None}
            assert kinds == {"budget"}
            assert sum(answer.ok for answer in answers) == model.asked

    run(main)


def test_what_would_take_more_than_is_left_waits_for_those_under_way_and_not_for_ever(free_side: Side) -> None:
    async def main() -> None:
        model = Priced(tokens=5, seconds=0.005)
        async with free_side.open(model, budget=rlm.Budget(output_tokens=100), max_tokens=60) as env:
            answers = await env.llm_batch_query_async([str(n) for n in range(12)])
            # each holds 60 of 100 and uses 5: one at a time, until fewer than 60 are left
            assert model.most_at_once == 1
            assert [answer.ok for answer in answers] == [True] * 9 + [False] * 3

    run(main)


def test_who_has_waited_gets_a_shorter_answer_where_the_others_have_left_less_than_there_was(free_side: Side) -> None:
    async def main() -> None:
        model = Priced(tokens=500, seconds=0.005)
        async with free_side.open(model, budget=rlm.Budget(output_tokens=1000), max_tokens=600) as env:
            answers = await env.llm_batch_query_async(["x", "y", "z"])
            assert [answer.ok for answer in answers] == [True, True, False]

    run(main)


def test_an_answer_without_a_count_takes_all_that_was_held_for_it(side: Side) -> None:
    async def main() -> None:
        model = Priced(counted=False)
        async with side.open(model, budget=rlm.Budget(output_tokens=100), max_tokens=40) as env:
            answers = [await env.llm_batch_query_async(["x", "y"]) for _ in range(2)]
            assert [answer.ok for pair in answers for answer in pair] == [True, True, False, False]
        assert model.asked == 2

    run(main)


def test_a_model_of_unknown_price_is_refused_at_once_and_a_query_that_names_one_when_it_is_made(side: Side) -> None:
    with pytest.raises(rlm.UsageError, match=r"the price of the model .* is not known"):
        side.open(rlm.ScriptedModel(["x"]), budget=rlm.Budget(usd=1.0))

    async def main() -> None:
        model = Priced()
        async with side.open(model, budget=rlm.Budget(usd=1.0), query_errors="text") as env:
            answer = await env.llm_query_async("x", model="unknown")
            assert answer.error is not None and answer.error.kind == "refused"
            assert "the price of unknown is not known" in answer
        assert model.asked == 0

    run(main)


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def test_a_schema_is_two_requests_at_most_and_both_are_reserved_and_paid(side: Side) -> None:
    async def main() -> None:
        model = Priced(tokens=100)
        async with side.open(model, budget=rlm.Budget(output_tokens=2000), max_tokens=100) as env:
            answers = await env.llm_batch_query_async(["no JSON"] * 30, schema=SCHEMA)
            kinds = [answer.error.kind for answer in answers if answer.error is not None]
            # each holds 200 and takes 200, though it fails
            assert kinds == ["schema"] * 10 + ["budget"] * 20
            assert model.used.output_tokens == 2000
            # and are told, though there is no answer
            assert env.usage == model.used
            assert env.cost_usd == pytest.approx((model.used.input_tokens + 2000) * USD_PER_TOKEN)

    run(main)


def test_an_answer_that_came_is_paid_though_the_request_that_mends_it_fails(side: Side) -> None:
    class Limited(Priced):
        async def complete(self, request: Request) -> Completion:
            if request.messages:
                raise rlm.ModelError("slow down", kind="rate_limit")
            return await super().complete(request)

    async def main() -> None:
        async with side.open(Limited(tokens=30), budget=rlm.Budget(output_tokens=1000), max_tokens=30) as env:
            answers = await env.llm_batch_query_async(["no JSON"] * 3, schema=SCHEMA)
            assert {answer.error and answer.error.kind for answer in answers} == {"rate_limit"}
            assert (await env.execute_async("BUDGET()")).value == "{'output_tokens': 910}"
            result = await env.execute_async(f"a = llm_batch_query(['no JSON'], schema={SCHEMA})[0]; a.usage, a.ok")
            assert result.usage.output_tokens == 30 and result.cost_usd is not None and result.cost_usd > 0.03
            assert "output_tokens=30" in (result.value or "") and "False" in (result.value or "")

    run(main)


def test_an_attempt_that_timed_out_before_another_is_taken_for_paid(side: Side) -> None:
    class Slow(Priced):
        async def complete(self, request: Request) -> Completion:
            completion = await super().complete(request)
            if self.asked == 1:
                raise rlm.ModelError("too slow", kind="timeout")
            if self.asked == 2:
                raise rlm.ModelError("slow down", kind="rate_limit")
            return completion

    async def main() -> None:
        model = rlm.Retry(backoff_seconds=0.0).wrap(Slow(tokens=10))
        async with side.open(model, budget=rlm.Budget(output_tokens=1000), max_tokens=100) as env:
            assert (await env.llm_query_async("x")).ok
            assert (await env.execute_async("BUDGET()")).value == "{'output_tokens': 890}"

    run(main)


def test_a_model_that_timed_out_before_another_one_was_asked_is_taken_for_paid(side: Side) -> None:
    class Slow(Priced):
        async def complete(self, request: Request) -> Completion:
            raise rlm.ModelError("too slow", kind="timeout")

    async def main() -> None:
        model = rlm.Fallback([Slow(), Priced(tokens=10)])
        async with side.open(model, budget=rlm.Budget(output_tokens=1000), max_tokens=100) as env:
            assert (await env.llm_query_async("x")).ok
            assert (await env.execute_async("BUDGET()")).value == "{'output_tokens': 890}"

    run(main)


def test_an_answer_of_which_the_price_is_no_number_takes_all_that_was_held_for_it(side: Side) -> None:
    class Odd(Priced):
        async def complete(self, request: Request) -> Completion:
            return replace(await super().complete(request), cost_usd=float("nan"))

    async def main() -> None:
        model = Odd()
        async with side.open(model, budget=rlm.Budget(usd=0.25), max_tokens=100) as env:
            answers = [await env.llm_batch_query_async(["x"]) for _ in range(6)]
            assert [answer.ok for (answer,) in answers] == [True, True, False, False, False, False]

    run(main)


def test_what_a_web_search_costs_is_not_known(side: Side) -> None:
    async def main() -> None:
        model = Priced()
        async with side.open(model, budget=rlm.Budget(usd=1.0), query_errors="text") as env:
            assert "what a web search costs is not known" in await env.llm_query_async("x", web_search=True)
        assert model.asked == 0

    run(main)


def test_what_a_query_says_beside_its_prompt_is_reserved_too(side: Side) -> None:
    async def main() -> None:
        model = Priced()
        async with side.open(model, budget=rlm.Budget(tokens=2000), max_tokens=100, query_errors="text") as env:
            for options in ({"effort": 5000}, {"extra": {"x": "y" * 20_000}}, {"system": "\u6f22" * 3000}):
                assert "does not allow it" in await env.llm_query_async("x", **options)
        assert model.asked == 0

    run(main)


@pytest.mark.parametrize(
    ("text", "fits"),
    [("just some words ", True), ("1.25,3.75;-0.5\n", False), ("{[(:=+)]}", False), ("\u6f22\u5b57", False)],
)
def test_what_takes_many_tokens_for_its_length_is_reserved_as_such(side: Side, text: str, fits: bool) -> None:
    async def main() -> None:
        async with side.open(Priced(), budget=rlm.Budget(tokens=1700), max_tokens=100, query_errors="text") as env:
            answer = await env.llm_query_async((text * 3000)[:3000])
            assert answer.ok is fits

    run(main)


def test_a_model_that_itself_asks_out_of_the_same_budget_is_refused_and_does_not_wait_for_itself() -> None:
    class Nested(Priced):
        env: Any = None

        async def complete(self, request: Request) -> Completion:
            completion = await super().complete(request)
            if request.prompt != "outer":
                return completion
            inner = await self.env.llm_query_async("inner")
            return replace(completion, text=str(inner))

    async def main() -> None:
        model = Nested()
        parameters: Any = {"sandbox": "inline", "query_errors": "text", "max_tokens": 60}
        async with rlm.AsyncRLMReplEnvironment(model, budget=rlm.Budget(output_tokens=130), **parameters) as model.env:
            assert await asyncio.wait_for(model.env.llm_query_async("outer"), HANG_SECONDS) == "inner"
        async with rlm.AsyncRLMReplEnvironment(model, budget=rlm.Budget(output_tokens=80), **parameters) as model.env:
            answer = await asyncio.wait_for(model.env.llm_query_async("outer"), HANG_SECONDS)
            assert "20 output tokens are left" in answer

    asyncio.run(main())


def test_a_query_that_waits_for_others_till_its_deadline_was_never_asked_and_says_why(free_side: Side) -> None:
    async def main() -> None:
        model, purse = Priced(), Purse(Ledger(rlm.Budget(output_tokens=150)))
        other = await purse.ledger.hold(Charge(output_tokens=90))
        async with free_side.open(model, budget=purse, max_tokens=90, limits=rlm.Limits(query_seconds=0.05)) as env:
            (answer,) = await env.llm_batch_query_async(["x"])
            assert answer.error is not None
            assert (answer.error.kind, answer.error.attempts) == ("timeout", 0)
            assert "the budget had too little for it until others were answered" in answer
        other.settle(NOTHING)
        assert purse.ledger.left() == {"output_tokens": 150}
        assert model.asked == 0

    run(main)


def test_forks_pay_out_of_the_same_budget(process_side: Side) -> None:
    async def main() -> None:
        async with process_side.open(Priced(), budget=rlm.Budget(queries=3)) as env:
            await env.llm_query_async("x")
            async with await env.fork() as other:
                await other.llm_query_async("y")
                assert (await env.execute_async("BUDGET()")).value == "{'queries': 1}"

    run(main)


@pytest.mark.parametrize("name", ["turns", "depth", "seconds", "children"])
def test_limits_that_only_a_run_has_are_refused(name: str) -> None:
    with pytest.raises(rlm.UsageError, match=rf"Budget\({name}=...\) is a limit of an agent's run"):
        rlm.AsyncRLMReplEnvironment(Priced(), budget=rlm.Budget(**{name: 3}))


def test_something_else_is_no_budget() -> None:
    wrong: Any = {"queries": 3}
    with pytest.raises(rlm.UsageError, match=r"give rlm.Budget\(...\)"):
        rlm.AsyncRLMReplEnvironment(Priced(), budget=wrong)
    with pytest.raises(rlm.UsageError, match="BUDGET"):
        rlm.AsyncRLMReplEnvironment(Priced(), tools={"BUDGET": print})
