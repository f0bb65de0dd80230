"""The classifier knows what its prompt holds and nothing else."""

from __future__ import annotations

import random

from eval_trees import WORDS

from rlm.eval.likelihood import answer, words_of


def prompt(examples: list[tuple[str, str]], unknown: dict[str, str]) -> str:
    shown = "\n".join(f"@@ {label}\n{text}" for label, text in examples)
    asked = "\n".join(f"@@ {name}\n{text}" for name, text in unknown.items())
    return f"Say which.\nLABELLED EXAMPLES\n{shown}\nUNKNOWN\n{asked}"


def labels_of(reply: str) -> dict[str, str]:
    return {line.partition(": ")[0]: line.partition(": ")[2].partition(",")[0] for line in reply.splitlines()}


def texts(seed: int, count: int) -> list[tuple[str, str]]:
    draw = random.Random(seed)
    return [(label, " ".join(draw.choices(words, k=15))) for label, words in WORDS.items() for _ in range(count)]


def test_it_learns_from_the_examples_in_its_prompt() -> None:
    asked = texts(2, 4)
    reply = labels_of(answer(prompt(texts(1, 6), {str(n): text for n, (_, text) in enumerate(asked)})))
    assert [reply[str(n)] for n in range(len(asked))] == [label for label, _ in asked]


def test_with_the_labels_of_the_examples_swapped_the_answers_swap() -> None:
    unknown = {str(n): text for n, (_, text) in enumerate(texts(2, 4))}
    swap = {"river": "forge", "forge": "loom", "loom": "river"}
    straight = labels_of(answer(prompt(texts(1, 6), unknown)))
    swapped = labels_of(answer(prompt([(swap[label], text) for label, text in texts(1, 6)], unknown)))
    assert swapped == {name: swap[label] for name, label in straight.items()}


def test_without_known_words_the_margin_is_zero() -> None:
    assert answer(prompt(texts(1, 6), {"7": "zzz yyy"})).endswith(", 0.0000")


def test_a_text_between_two_labels_has_a_smaller_margin_than_a_clear_one() -> None:
    clear = " ".join(WORDS["river"])
    between = " ".join(WORDS["river"][:7] + WORDS["forge"][:7])
    lines = answer(prompt(texts(1, 6), {"clear": clear, "between": between})).splitlines()
    margins = [float(line.rpartition(", ")[2]) for line in lines]
    assert margins[0] > margins[1] > 0
    assert lines[0].startswith("clear: river, else ")
    assert {lines[1].split()[1].rstrip(","), lines[1].split()[3].rstrip(",")} == {"river", "forge"}


def test_the_same_prompt_has_the_same_answer() -> None:
    question = prompt(texts(1, 6), {"1": "anvil tongs delta"})
    assert answer(question) == answer(question)


def test_a_prompt_of_another_form_is_told_what_is_missing() -> None:
    assert "LABELLED EXAMPLES" in answer("What is the capital of France?")
    assert "two labels" in answer(prompt([("only", "one two")], {"1": "one"}))


def test_names_put_together_count_as_a_whole_and_in_parts() -> None:
    found = words_of("The TestCase max_size HTTPServer x2")
    assert found[:6] == ["the", "testcase", "test", "case", "max_size", "max"]
    assert found[6:] == ["size", "httpserver", "http", "server", "x2", "x", "2"]
