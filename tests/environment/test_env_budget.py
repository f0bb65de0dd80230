"""An environment's budget: what its queries may use in all, however many are made at once."""

from __future__ import annotations

from typing import Any

import pytest
from environment.budget_models import USD_PER_TOKEN, Priced
from environment.env_sides import Side, run

import rlm


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
            assert answer.error is not None and answer.error.kind == "budget"
            assert "the price of unknown is not known" in answer
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
