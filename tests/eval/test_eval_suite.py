"""The runs: with the oracle all is right on every side, and with wrong answers exactly as computed beforehand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm.core.events import CellFinished, Event
from rlm.errors import UsageError
from rlm.eval import oracle, suite
from rlm.eval.documents import DocumentsTask
from rlm.eval.faults import Faults
from rlm.eval.needle import NeedleTask
from rlm.eval.suite import FAMILIES, Outcome, Plan, run_plan
from rlm.eval.task import Task

pytestmark = pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")

Sandbox = Literal["process", "inline"]
SIDES: list[tuple[Sandbox, bool]] = [("process", True), ("process", False), ("inline", True), ("inline", False)]


def run(plan: Plan) -> list[Outcome]:
    async def collect() -> list[Outcome]:
        return [outcome async for outcome in run_plan(plan)]

    return asyncio.run(collect())


@pytest.mark.parametrize(("sandbox", "pure"), SIDES)
def test_with_the_oracle_every_task_scores_100_percent_on_every_side(sandbox: Sandbox, pure: bool) -> None:
    outcomes = run(Plan(sizes=[32_000], sandbox=sandbox, use_pure_async=pure))
    assert [outcome.task for outcome in outcomes] == list(FAMILIES)
    assert [outcome.score for outcome in outcomes] == [1.0] * len(FAMILIES)
    assert all(outcome.as_expected and outcome.stopped_by == "final" for outcome in outcomes)
    assert {outcome.path for outcome in outcomes} == {f"{sandbox}/{'pure_async' if pure else 'threaded'}"}
    assert all(outcome.wrong == outcome.failed_queries == 0 and outcome.queries > 10 for outcome in outcomes)
    # every character is asked about, and what is around it in a prompt is little
    assert all(32_000 < outcome.input_tokens < 64_000 for outcome in outcomes)


@pytest.mark.parametrize(("sandbox", "pure"), SIDES)
def test_with_a_tenth_of_the_answers_wrong_scores_fall_by_what_was_computed(sandbox: Sandbox, pure: bool) -> None:
    count = 3
    outcomes = run(Plan(sizes=[32_000], count=count, wrong_share=0.1, sandbox=sandbox, use_pure_async=pure))
    assert len(outcomes) == count * len(FAMILIES)
    for outcome in outcomes:
        assert outcome.expected is not None
        assert outcome.score == outcome.expected.score and outcome.answer == outcome.expected.answer
        assert (outcome.queries, outcome.wrong) == (outcome.expected.queries, outcome.expected.wrong)
    lost = {name: count - sum(o.score for o in outcomes if o.task == name) for name in FAMILIES}
    assert lost["needle"] == 1 and lost["counts"] > 1 and lost["pairs"] > 0.5
    for name in ("needle", "counts", "pairs"):  # one hop: what was wrong cuts nothing off
        asked, wrong = (sum(getattr(o, what) for o in outcomes if o.task == name) for what in ("queries", "wrong"))
        assert wrong == int(asked / 10 + 0.5)


@settings(max_examples=40)
@given(
    family=st.sampled_from(list(FAMILIES)),
    tokens=st.integers(2_000, 12_000),
    seed=st.integers(0, 10**6),
    share=st.floats(0, 1),
)
def test_whatever_share_is_wrong_a_run_comes_to_what_was_computed(
    family: str, tokens: int, seed: int, share: float
) -> None:
    (outcome,) = run(Plan([family], [tokens], seed, wrong_share=share, sandbox="inline"))
    assert outcome.as_expected, (outcome.expected, outcome)


class Chosen(Faults):
    """Faults in the answers to these prompts."""

    prompts: frozenset[str] = frozenset()

    def hits(self, prompt: str) -> bool:
        return prompt in self.prompts


def with_faults(prompts: set[str]) -> Faults:
    kind: Any = type("Chosen", (Chosen,), {"prompts": frozenset(prompts)})
    made: Faults = kind(7, 0)
    return made


def run_with(task: Task, prompts: set[str], monkeypatch: pytest.MonkeyPatch) -> Outcome:
    monkeypatch.setattr(suite, "choose_faults", lambda *_: with_faults(prompts))
    (outcome,) = run(Plan([task.family], [task.tokens], task.seed, wrong_share=0.5, sandbox="inline"))
    assert outcome.as_expected
    return outcome


def test_only_the_wrong_answer_about_the_part_with_the_needle_loses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    task = NeedleTask(32_000, 7)
    prompts = set(task.prompts())
    decisive = {prompt for prompt in prompts if task.code in prompt}
    assert len(decisive) == 1
    assert run_with(task, prompts - decisive, monkeypatch).score == 1
    assert run_with(task, decisive, monkeypatch).score == 0


def test_a_wrong_answer_in_either_hop_loses_a_chain_and_the_first_saves_the_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = DocumentsTask(32_000, 7)
    prompts = list(task.prompts())
    facts = f"{task.chain.building} was designed by ", f"{task.chain.person} was born in "
    first, second = (
        {p for p in prompts if fact in p and ask in p}
        for fact, ask in zip(facts, ("Who", "In which town"), strict=True)
    )
    assert len(first) == len(second) == 1
    harmless = run_with(task, set(prompts) - first - second, monkeypatch)
    assert (harmless.score, harmless.queries, harmless.wrong) == (1, len(prompts), len(prompts) - 2)
    late, early = run_with(task, second, monkeypatch), run_with(task, first, monkeypatch)
    assert (late.score, late.queries, early.score) == (0, len(prompts), 0)
    assert early.queries == sum("Who designed" in prompt for prompt in prompts) < len(prompts)


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("answer", lambda prompt: "NONE"),
        ("answer", lambda prompt: ORIGINAL(prompt).replace("human", "entity").replace("1", "2").replace("a", "e")),
    ],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_that_was_not_expected_is_noticed(
    monkeypatch: pytest.MonkeyPatch, family: str, name: str, broken: Callable[[str], str]
) -> None:
    monkeypatch.setattr(oracle, name, broken)
    (outcome,) = run(Plan([family], [4_000], 7, sandbox="inline"))
    assert not outcome.as_expected and outcome.score < 1


ORIGINAL = oracle.answer


def test_a_wrong_answer_too_many_is_noticed_even_where_the_score_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    made = suite.Oracle

    class Wronger(made):  # type: ignore[misc, valid-type]
        async def complete(self, request: Any) -> Any:
            self.wrong += 1
            return await super().complete(request)

    monkeypatch.setattr(suite, "Oracle", Wronger)
    (outcome,) = run(Plan(["needle"], [4_000], 7, sandbox="inline"))
    assert outcome.score == 1 and not outcome.as_expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"families": ["needle", "hay"]}, "'hay' is none of the families needle, counts, pairs, documents"),
        ({"sizes": [4_000, 1]}, "1 tokens"),
        ({"count": 0}, "count=0"),
        ({"wrong_share": 1.5}, "wrong_share=1.5"),
        ({"wrong_share": float("nan")}, "wrong_share=nan"),
        ({"wrong_share": 0.1, "sub_model": "openai/m"}, "wrong_share goes with the oracle"),
    ],
)
def test_a_plan_that_cannot_work_is_refused_before_anything_runs(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        run(Plan(**change))


def test_the_line_of_a_record_has_what_was_run_and_what_was_computed() -> None:
    (outcome,) = run(Plan(["pairs"], [4_000], 9, sandbox="inline", use_pure_async=True))
    line = outcome.to_json()
    assert (line["task"], line["tokens"], line["seed"], line["score"], line["as_expected"]) == (
        "pairs",
        4000,
        9,
        1,
        True,
    )
    assert line["expected"] == {"score": 1.0, "queries": outcome.queries, "wrong": 0}
    assert (line["path"], line["root"], line["sub_model"]) == ("inline/pure_async", "script", "oracle")
    assert len(line["answer"]) == 200 and line["answer"].startswith("[['u")


def test_a_listener_is_told_of_every_cell() -> None:
    events: list[Event] = []

    async def collect() -> None:
        async for _ in run_plan(Plan(["needle"], [4_000], sandbox="inline"), events.append):
            pass

    asyncio.run(collect())
    cells = [event for event in events if isinstance(event, CellFinished)]
    assert len(cells) == 4 and all(cell.result is not None and cell.result.ok for cell in cells)
