"""The oracle: it answers from the prompt alone, always right, or wrong exactly where it is told to be."""

from __future__ import annotations

import asyncio
import re

import pytest

from rlm.core.query import Request, Usage
from rlm.eval import oracle
from rlm.eval.asks import BIRTHPLACE, CODE, DESIGNER, FACTS, LABEL_HEAD, LABELS, NONE, Fact
from rlm.eval.documents import DocumentsTask
from rlm.eval.faults import NO_FAULTS, Faults, choose_faults, choose_swap
from rlm.eval.needle import NeedleTask
from rlm.eval.oracle import Oracle
from rlm.eval.suite import FAMILIES

PROMPTS = [prompt for make in FAMILIES.values() for seed in range(3) for prompt in make(16_000, seed).prompts()]


def test_one_part_has_the_needle_and_of_all_others_the_answer_is_none() -> None:
    task = NeedleTask(32_000, 7)
    answers = [oracle.answer(prompt) for prompt in task.prompts()]
    assert len(answers) == 17 and sorted(answers) == [task.code] + [NONE] * 16


def test_both_facts_of_a_chain_are_found_and_decoys_are_not_taken_for_them() -> None:
    task = DocumentsTask(32_000, 7)
    answers = [oracle.answer(prompt) for prompt in task.prompts()]
    assert sorted(answer for answer in answers if answer != NONE) == sorted([task.chain.person, task.chain.town])


@pytest.mark.parametrize("fact", FACTS)
def test_the_answer_is_what_the_prompt_says_and_only_from_the_start_of_a_line(fact: Fact) -> None:
    head, line = fact.head("Orla Bridge"), fact.line("Orla Bridge", "Somebody Else")
    assert oracle.answer(head + "First.\n" + line + "Last.\n") == oracle.answer(head + line) == "Somebody Else"
    assert oracle.answer(head + "Old " + line) == oracle.answer(head) == NONE
    assert oracle.answer(head + fact.line("Orla Tower", "Nobody")) == NONE


def test_an_answer_follows_the_text_where_the_truth_of_the_task_is_another() -> None:
    task = NeedleTask(2_000, 7)
    (prompt,) = task.prompts()
    assert oracle.answer(prompt.replace(task.code, "1234567")) == "1234567" != task.code


@pytest.mark.parametrize("label", LABELS)
def test_an_entry_is_of_the_kind_of_its_beginning(label: str) -> None:
    entries = [f"{n} | 2025-03-01 | u01 | {opening} the mill?\n" for n, opening in enumerate(LABELS[label], 1)]
    assert oracle.answer(LABEL_HEAD + "".join(entries)) == f"1: {label}\n2: {label}\n3: {label}"


@pytest.mark.parametrize("prompt", ["", "What is the time?", CODE.question, "\nTEXT:\n", LABEL_HEAD[:-9]])
def test_a_prompt_of_another_form_is_not_guessed_at(prompt: str) -> None:
    assert "none of the forms that I know" in oracle.answer(prompt)
    assert oracle.answer_wrongly(prompt, 7) == "I do not know."


def test_a_wrong_answer_has_the_right_form_and_is_never_the_right_one() -> None:
    for prompt in PROMPTS:
        right, wrong = oracle.answer(prompt), oracle.answer_wrongly(prompt, Faults(1).draw(prompt))
        assert wrong != right
        if prompt.startswith(LABEL_HEAD):
            assert re.sub(r"\w+$", "", wrong, flags=re.MULTILINE) == re.sub(r"\w+$", "", right, flags=re.MULTILINE)
            assert set(re.findall(r": (\w+)$", wrong, re.MULTILINE)) <= set(LABELS)
        else:
            assert wrong not in prompt


@pytest.mark.parametrize(("fact", "form"), [(CODE, r"\d{7}"), (DESIGNER, r"\w+ \w+"), (BIRTHPLACE, r"\w+")])
def test_a_value_that_is_made_up_looks_like_a_real_one(fact: Fact, form: str) -> None:
    prompt = fact.head("Orla Bridge") + "Nothing.\n"
    made_up = {oracle.answer_wrongly(prompt, draw) for draw in range(0, 10**9, 10**8 + 7)}
    assert len(made_up) > 5 and all(re.fullmatch(form, value) for value in made_up)


def test_what_the_prompt_already_holds_is_not_made_up() -> None:
    prompt = CODE.head("the mill") + "1000005 1000006\n"
    assert oracle.answer_wrongly(prompt, 5) == "1000007"


def test_the_model_answers_counts_its_wrong_answers_and_reports_a_token_for_four_characters() -> None:
    prompt = CODE.head("the mill") + CODE.line("the mill", "7654321")
    right, wrong = Oracle(), Oracle(choose_faults(1, [prompt], 1.0))
    assert asyncio.run(right.complete(Request(prompt))).text == "7654321"
    completion = asyncio.run(wrong.complete(Request(prompt)))
    assert completion.text != "7654321" and (right.wrong, wrong.wrong) == (0, 1)
    assert completion.usage == Usage(len(prompt) // 4, 1)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5, 1.0])
def test_exactly_the_share_of_the_prompts_is_hit(share: float) -> None:
    faults = choose_faults(7, iter(PROMPTS), share)
    assert sum(map(faults.hits, PROMPTS)) == int(share * len(PROMPTS) + 0.5)


def test_which_prompts_are_hit_depends_on_the_seed_and_the_prompt_alone() -> None:
    hits = [[faults.hits(p) for p in PROMPTS] for faults in (choose_faults(s, PROMPTS, 0.2) for s in (1, 2, 1))]
    assert hits[0] == hits[2] != hits[1]
    backwards = choose_faults(1, PROMPTS[::-1], 0.2)
    assert [backwards.hits(prompt) for prompt in PROMPTS] == hits[0]
    assert not any(NO_FAULTS.hits(prompt) for prompt in PROMPTS)


def test_any_seed_will_do() -> None:
    assert len({Faults(seed).draw("x") for seed in (-1, 0, 1, 10**300)}) == 4


def test_a_swap_takes_a_label_that_is_there_for_any_other() -> None:
    labels = ("a", "b", "c", "d")
    swaps = {choose_swap(draw, ("b", "d"), labels) for draw in range(100)}
    assert swaps == {(taken, other) for taken in "bd" for other in labels if other != taken}
