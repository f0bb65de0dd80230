"""A run tree's budget: it holds however wide the tree is, the model hears of it in time, and an answer comes out."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest
from environment.budget_models import USD_PER_TOKEN, Priced
from hypothesis import given, settings
from hypothesis import strategies as st

import rlm
from rlm.core.ledger import Charge, Ledger
from rlm.core.query import Completion, Request, Usage

WIDE = """```repl
answers = rlm_batch_query(["part %d" % n for n in range(8)])
FINAL(sum(a.ok for a in answers))
```"""
MANY = """```repl
for n in range(4):
    print(llm_query("question %d" % n, max_tokens=20))
```"""


class Tree(rlm.Model):
    """Plays every agent of a tree and answers every query; counts what it is asked."""

    name = "tree"

    def __init__(self) -> None:
        self.queries = self.runs = 0

    async def complete(self, request: Request) -> Completion:
        if not request.messages:
            self.queries += 1
            return Completion("yes", usage=Usage(5, 1))
        self.runs += len(request.messages) == 2
        is_last = "last turn" in str(request.messages[-1]["content"])
        return Completion("FINAL(what there was)" if is_last else WIDE, usage=Usage(50, 10))


class Agent(Priced):
    """Writes one cell again and again, with another number to print, until it is told that a turn is its last.

    A prompt is answered as by `Priced`.
    """

    def __init__(self, cell: str, **parameters: Any) -> None:
        super().__init__(**parameters)
        self.cell, self.heard, self.allowed = cell, [""], [0]

    async def complete(self, request: Request) -> Completion:
        completion = await super().complete(request)
        if not request.messages:
            return completion
        self.heard.append(str(request.messages[-1]["content"]))
        self.allowed.append(request.max_tokens or 0)
        again = self.cell.replace("```repl\n", f"```repl\nprint({self.asked})\n")
        text = "FINAL(the best there is)" if "last turn" in self.heard[-1] else again
        return Completion(text, usage=completion.usage, cost_usd=completion.cost_usd)

    @property
    def spent(self) -> float:
        return (self.used.input_tokens + self.used.output_tokens) * USD_PER_TOKEN


def run(agent: rlm.RLM, question: str = "how many?", context: Any = None) -> rlm.RunResult:
    return asyncio.run(agent.acompletion(question, context))


def agent_of(model: Any, sub_model: Any = None, **parameters: Any) -> rlm.RLM:
    return rlm.RLM(model, sub_model, **{"sandbox": "inline", **parameters})


def script(*replies: str) -> rlm.ScriptedModel:
    return rlm.ScriptedModel(list(replies))


def check_tree(budget: int, **parameters: Any) -> None:
    tree = Tree()
    result = run(agent_of(tree, budget=rlm.Budget(queries=budget, depth=3), **parameters))
    assert tree.queries + tree.runs - 1 <= budget
    assert result.answer
    if budget < 8:  # the root's own batch is more: its cell still came to its end
        assert result.stopped_by == "final" and result.value <= budget


@settings(max_examples=20, deadline=None)
@given(budget=st.integers(1, 1000))
def test_a_tree_of_depth_3_never_makes_more_queries_than_its_budget_and_ends_with_an_answer(budget: int) -> None:
    check_tree(budget)


@pytest.mark.parametrize("budget", [1, 50, 1000])
def test_a_tree_of_processes_likewise(budget: int) -> None:
    check_tree(budget, sandbox="process")


@pytest.mark.parametrize("sandbox", ["inline", "process"])
@pytest.mark.parametrize("budget", [1, 50])
@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_a_tree_on_threads_likewise(budget: int, sandbox: str) -> None:
    check_tree(budget, sandbox=sandbox, use_pure_async=False)


def test_refused_queries_bring_the_last_turn_and_its_answer() -> None:
    model = Agent(MANY)
    result = run(agent_of(model, budget=rlm.Budget(queries=10)))
    assert (result.answer, result.stopped_by) == ("the best there is", "budget")
    assert model.asked == 10 + result.turns + 1
    assert "the budget is used up" in model.heard[-1]


def test_the_model_is_told_when_little_is_left() -> None:
    model = Agent(MANY)
    run(agent_of(model, budget=rlm.Budget(queries=9)))
    assert "Of the budget only" not in model.heard[2]
    assert "Of the budget only 1 queries are left" in model.heard[3]


@pytest.mark.parametrize("usd", [0.5, 2.0, 5.0])
def test_money_ends_a_run_before_it_is_overspent_and_leaves_enough_for_the_answer(usd: float) -> None:
    model = Agent(MANY, tokens=20)
    result = run(agent_of(model, budget=rlm.Budget(usd=usd), max_turns=1000, system_prompt="be brief"))
    assert (result.answer, result.stopped_by) == ("the best there is", "budget")
    assert model.spent <= usd
    assert result.cost_usd == pytest.approx(model.spent)


def test_a_final_answer_for_which_little_is_left_is_made_shorter() -> None:
    model = Agent(MANY, tokens=20)
    run(agent_of(model, budget=rlm.Budget(output_tokens=5000), max_turns=1000))
    assert 64 <= model.allowed[-1] < 4000


class Talker(Agent):
    """Prints much and counts what it is sent, as a provider does."""

    async def complete(self, request: Request) -> Completion:
        completion = await super().complete(request)
        if not request.messages:
            return completion
        self.chats.append(request.messages)
        chars = sum(len(message["content"]) for message in request.messages)
        written = min(300, request.max_tokens or 300)
        usage = Usage(chars // 4, 5 if "FINAL" in completion.text else written)
        self.counted += usage
        return Completion(completion.text, usage=usage, cost_usd=self.find_cost_usd(usage))

    counted = Usage()

    def __init__(self, cell: str) -> None:
        super().__init__(cell)
        self.chats: list[Any] = []


@pytest.mark.parametrize("limit", ["tokens", "input_tokens", "usd"])
@pytest.mark.parametrize("tokens", [2_500, 4_000, 9_000, 20_000, 60_000])
def test_however_much_the_history_grows_the_last_request_can_be_paid(limit: str, tokens: int) -> None:
    model = Talker("```repl\nprint('a long line' * 3000)\n```")
    amount = tokens * USD_PER_TOKEN if limit == "usd" else tokens
    result = run(agent_of(model, budget=rlm.Budget(**{limit: amount})))
    assert (result.answer, result.stopped_by) == ("the best there is", "budget")
    assert model.counted.input_tokens + (limit != "input_tokens") * model.counted.output_tokens <= tokens


def test_what_is_kept_is_enough_for_what_a_turn_may_add(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Charge] = []
    monkeypatch.setattr(Ledger, "keep", lambda _, charge: kept.append(charge))
    model = Talker("```repl\nprint('a long line' * 3000)\n```")
    run(agent_of(model, budget=rlm.Budget(input_tokens=1_000_000), max_turns=2))
    chars = [sum(len(message["content"]) for message in chat) for chat in model.chats]
    assert all(charge.input_tokens > after / 4 for charge, after in zip(kept, chars[1:], strict=False))
    assert kept[0].input_tokens > (chars[0] + 20_000) / 4 + 4_000


def test_a_query_that_is_refused_for_its_size_leaves_the_run_its_budget() -> None:
    model = script("```repl\nprint(llm_query('x' * 400_000))\n```", "```repl\nFINAL(llm_query('x'))\n```", "small")
    result = run(agent_of(model, budget=rlm.Budget(tokens=60_000)))
    assert (result.answer, result.stopped_by) == ("small", "final")
    assert "does not allow it" in str(model.requests[1].messages[-1]["content"])


def test_a_query_to_a_model_of_unknown_price_leaves_the_run_its_budget() -> None:
    model = Agent("```repl\nprint(llm_batch_query(['x'], model='unknown')[0])\n```")
    result = run(agent_of(model, budget=rlm.Budget(usd=50.0), max_turns=2))
    assert result.stopped_by == "turns"
    assert "the price of unknown is not known" in model.heard[2]


def test_the_model_is_told_once_and_again_when_half_of_that_is_left() -> None:
    model = Agent("```repl\nprint(llm_query('x', max_tokens=20))\n```")
    run(agent_of(model, budget=rlm.Budget(queries=20), max_turns=30))
    told = [20 - n for n, heard in enumerate(model.heard[2:], 1) if "Of the budget only" in heard]
    assert told == [4, 1, 0]


class Child(rlm.Model):
    """A root that starts children, each of which asks one query; every answer is counted."""

    name = "child"

    async def complete(self, request: Request) -> Completion:
        if not request.messages:
            return Completion("yes", usage=Usage(5, 1))
        await asyncio.sleep(0)
        text = "```repl\nFINAL(llm_query('q'))\n```"
        if "how many?" in str(request.messages[1]["content"]):
            text = "```repl\nFINAL([str(a) for a in rlm_batch_query(['a part'] * 4)])\n```"
        return Completion(text, usage=Usage(200, 30))


@pytest.mark.parametrize("tokens", [12_000, 100_000])
@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_a_cell_that_freezes_its_loop_does_not_wait_for_the_agents_on_it(tokens: int) -> None:
    parameters: dict[str, Any] = {"use_pure_async": False, "limits": rlm.Limits(query_seconds=10)}
    assert run(agent_of(Child(), budget=rlm.Budget(tokens=tokens), **parameters)).value == ["yes"] * 4


def test_the_seconds_of_a_budget_can_be_read() -> None:
    result = run(agent_of(script("```repl\nFINAL(BUDGET())\n```"), budget=rlm.Budget(seconds=1000, queries=3)))
    assert result.value["queries"] == 3
    assert 900 <= result.value["seconds"] <= 1000


def test_turns_are_those_of_the_whole_tree_and_one_is_the_roots_last() -> None:
    model = Agent("```repl\nprint(rlm_query('a part'))\n```")
    result = run(agent_of(model, budget=rlm.Budget(turns=7), max_turns=3))
    assert len(model.heard) - 1 == 7
    assert (result.answer, result.stopped_by) == ("the best there is", "budget")


def test_where_not_even_a_last_request_is_allowed_what_was_finished_is_in_the_error() -> None:
    model = Agent("I think it is 4.\n```repl\nprint(1)\n```", tokens=3000)
    with pytest.raises(rlm.BudgetExceeded, match="allowed no last request") as caught:
        run(agent_of(model, budget=rlm.Budget(output_tokens=3050)))
    partial = caught.value.partial
    assert partial.stopped_by == "budget" and partial.turns == 1 and len(partial.cells) == 1
    assert "it is 4" in partial.answer
    assert pickle.loads(pickle.dumps(caught.value)).partial.turns == 1


def test_a_child_that_cannot_pay_fails_its_parents_query_and_not_the_run() -> None:
    model = Agent("```repl\na = rlm_batch_query(['x', 'y'])\nFINAL([str(one) for one in a])\n```", tokens=10)
    result = run(agent_of(model, budget=rlm.Budget(turns=2)))
    assert result.stopped_by == "final"
    assert all("[ERROR] budget" in text for text in result.value)


def test_depth_children_and_seconds_of_a_budget_are_those_of_the_run() -> None:
    agent = agent_of(script(), budget=rlm.Budget(depth=2, children=3, seconds=1234))
    assert [limit.slots for limit in agent._setup.children] == [3, 3]
    assert agent._setup.limits.run_seconds == 1234
    lower = agent_of(script(), budget=rlm.Budget(depth=2, seconds=1234), max_depth=1, limits=rlm.Limits(run_seconds=60))
    assert len(lower._setup.children) == 1
    assert lower._setup.limits.run_seconds == 60


def test_a_limit_in_usd_on_a_model_of_unknown_price_is_refused_before_anything_is_asked() -> None:
    with pytest.raises(rlm.UsageError, match=r"the price of the model .* is not known"):
        agent_of(script(), budget=rlm.Budget(usd=1.0))
    with pytest.raises(rlm.UsageError, match=r"the price of the model .* is not known"):
        agent_of(Priced(), script(), budget=rlm.Budget(usd=1.0))


@pytest.mark.parametrize(("found", "is_told"), [(None, True), (object(), False)])
def test_the_extra_is_named_as_the_repair_only_where_it_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, found: object, is_told: bool
) -> None:
    monkeypatch.setattr("rlm.models.purse.find_spec", lambda name: found)
    with pytest.raises(rlm.UsageError) as caught:
        agent_of(script(), budget=rlm.Budget(usd=1.0))
    assert ("install the extra [cost]" in str(caught.value)) is is_told


def test_the_word_is_told_only_where_there_is_a_budget() -> None:
    for budget, is_told in ((rlm.Budget(queries=3), True), (None, False)):
        model = script("FINAL(x)")
        run(agent_of(model, budget=budget))
        assert ("BUDGET()" in str(model.requests[0].messages[0]["content"])) is is_told
