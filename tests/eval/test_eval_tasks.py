"""The generated tasks: the same from a seed, of any size, with one right answer that nobody but the judge is told."""

from __future__ import annotations

import hashlib
import itertools
import json
import tracemalloc
from typing import Any

import pytest

from rlm.errors import UsageError
from rlm.eval.asks import BIRTHPLACE, CODE, DESIGNER, LABELS
from rlm.eval.documents import DocumentsTask
from rlm.eval.labels import CountsTask, PairsTask
from rlm.eval.needle import NeedleTask
from rlm.eval.suite import FAMILIES
from rlm.eval.task import CHARS_PER_TOKEN, Task, fill_blocks, split_lines

# Of the family's task of 2,000 tokens and seed 7. Where one changes, all scores ever published lose their meaning.
DIGESTS = {
    "needle": "5d919cf9d5147e0e",
    "counts": "a50d29a8eea6b266",
    "pairs": "8539c0e6e3b37e86",
    "documents": "e1a924bdb9c34e4a",
}


def all_text(task: Task) -> str:
    return task.context if isinstance(task.context, str) else json.dumps(task.context)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_seed_and_a_size_give_the_same_task_in_any_process_and_python(family: str) -> None:
    task = FAMILIES[family](2_000, 7)
    whole = json.dumps([task.context, task.question])
    assert hashlib.sha256(whole.encode()).hexdigest()[:16] == DIGESTS[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_another_seed_gives_another_context(family: str) -> None:
    assert FAMILIES[family](2_000, 7).context != FAMILIES[family](2_000, 8).context


@pytest.mark.parametrize("tokens", [2_000, 32_000, 300_000])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_context_has_the_size_that_was_asked_for_but_for_its_last_line(family: str, tokens: int) -> None:
    task = FAMILIES[family](tokens, 3)
    assert 0 <= tokens * CHARS_PER_TOKEN - task.chars < 200
    assert task.chars == sum(len(text) for text in texts_of(task.context))
    assert all_text(task).isascii()


def texts_of(context: Any) -> list[str]:
    return [context] if isinstance(context, str) else [text for item in context for text in item.values()]


@pytest.mark.parametrize("tokens", [0, 1_999, 10_000_001])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_size_that_no_task_has_is_refused(family: str, tokens: int) -> None:
    with pytest.raises(UsageError, match=f"{tokens:,} tokens"):
        FAMILIES[family](tokens, 7)


@pytest.mark.parametrize("family", ["needle", "counts", "pairs"])
def test_a_text_is_made_within_three_times_its_own_size(family: str) -> None:
    tracemalloc.start()
    try:
        task = FAMILIES[family](300_000, 7)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * task.chars


@pytest.mark.parametrize("seed", range(20))
def test_a_needle_is_stated_once_among_many_other_codes(seed: int) -> None:
    task = NeedleTask(8_000, seed)
    assert task.context.count(CODE.line(task.site, task.code)) == 1
    assert task.context.count(task.site) == task.context.count(task.code) == 1
    assert task.context.count("The access code of ") > 3


def test_needles_lie_at_every_depth() -> None:
    depths = [(task := NeedleTask(4_000, seed)).context.index(task.site) / task.chars for seed in range(60)]
    assert {int(depth * 4) for depth in depths} == {0, 1, 2, 3}


@pytest.mark.parametrize("seed", range(20))
def test_a_chain_is_stated_once_among_other_mentions_of_its_person(seed: int) -> None:
    task = DocumentsTask(16_000, seed)
    chain, text = task.chain, "".join(texts_of(task.context))
    assert text.count(DESIGNER.line(chain.building, chain.person)) == 1
    assert text.count(BIRTHPLACE.line(chain.person, chain.town)) == 1
    naming = {number for number, document in enumerate(task.context) if chain.person in document["text"]}
    assert text.count(chain.person) == 4 and naming == set(chain.at)


@pytest.mark.parametrize("family", ["needle", "documents"])
def test_neither_the_question_nor_the_script_knows_the_answer(family: str) -> None:
    for seed in range(20):
        task = FAMILIES[family](2_000, seed)
        secrets = [task.code] if isinstance(task, NeedleTask) else []
        if isinstance(task, DocumentsTask):
            secrets = [task.chain.person, task.chain.town]
        told = "\n".join([task.question, *task.replies()])
        assert secrets and not [secret for secret in secrets if secret in told]


@pytest.mark.parametrize("family", ["counts", "pairs"])
def test_scripts_of_aggregations_are_the_same_whatever_the_entries_are(family: str) -> None:
    tasks = [FAMILIES[family](2_000, seed) for seed in range(60)]
    same = [task for task in tasks if task.question == tasks[0].question and task.chars // 40 < 4_000]
    assert len(same) > 1 and len({tuple(task.replies()) for task in same}) == 1


def test_no_entry_names_its_kind_and_no_beginning_fits_two_kinds() -> None:
    text = CountsTask(8_000, 7).context
    assert not [label for label in LABELS if label in text]
    openings = [opening for several in LABELS.values() for opening in several]
    assert not [pair for pair in itertools.permutations(openings, 2) if pair[0].startswith(pair[1])]


@pytest.mark.parametrize("seed", range(10))
def test_some_users_make_pairs_and_some_do_not(seed: int) -> None:
    pairs = PairsTask(8_000, seed).truth
    assert 0 < len(pairs) < 48 * 47 / 2
    assert all(a < b for a, b in pairs) and len({tuple(pair) for pair in pairs}) == len(pairs)


def test_parts_end_at_line_ends_and_make_the_whole() -> None:
    text = "".join(f"{'x' * (number % 37)}\n" for number in range(500)) + "no end"
    parts = list(split_lines(text, 100))
    assert "".join(parts) == text and all(len(part) <= 100 for part in parts)
    assert all(part.endswith("\n") for part in parts[:-1]) and len(parts) > 90


def test_blocks_hold_whole_lines_until_the_next_would_not_fit() -> None:
    lines = [f"{number}\n" for number in range(5000)]
    assert "".join(fill_blocks(lines, 23_889)) == "".join(lines)[:23_885]
    assert len(list(fill_blocks(lines, 23_889))) == 5


@pytest.mark.parametrize(("answer", "score"), [("CODE", 1), (" CODE. ", 1), (7, 0), ("", 0), (None, 0), ("CODE7", 0)])
def test_a_needle_is_judged_by_exact_match(answer: Any, score: float) -> None:
    task = NeedleTask(2_000, 7)
    said = answer.replace("CODE", task.code) if isinstance(answer, str) else answer
    assert task.judge(said) == score
    assert task.judge(int(task.code)) == 1


def test_a_town_is_judged_by_exact_match() -> None:
    task = DocumentsTask(2_000, 7)
    assert (task.judge(task.chain.town.lower()), task.judge(f"In {task.chain.town}"), task.judge({})) == (1, 0, 0)


def test_counts_are_judged_by_the_share_that_is_exactly_right() -> None:
    task = CountsTask(2_000, 7)
    truth = task.truth
    name, other, *_ = truth
    assert task.judge(truth) == task.judge(f"It is {json.dumps(truth)}.") == task.judge(repr(truth)) == 1
    assert task.judge({key: str(value) for key, value in truth.items()}) == 1
    assert task.judge({**truth, name: truth[name] + 1}) == 5 / 6
    assert task.judge({**truth, name: None, other: "many"}) == 4 / 6
    assert [task.judge(nonsense) for nonsense in ("", "{", "{1", [], None, 7, {})] == [0] * 7


def test_pairs_are_judged_by_f1() -> None:
    task = PairsTask(2_000, 7)
    truth = task.truth
    assert task.judge(truth) == task.judge([pair[::-1] for pair in truth]) == task.judge(json.dumps(truth)) == 1
    assert task.judge(truth * 2) == task.judge([*truth, ["u01", "u01"], "u0", 7]) == 1
    assert task.judge(truth[1:]) == 2 * (len(truth) - 1) / (2 * len(truth) - 1)
    assert task.judge([*truth, ["x", "y"]]) == 2 * len(truth) / (2 * len(truth) + 1)
    assert [task.judge(nonsense) for nonsense in ("", "[", [], None, 7, {})] == [0] * 6
