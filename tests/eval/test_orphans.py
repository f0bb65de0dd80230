"""The task "orphans": what the model is given, and what only the judge knows."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from eval_trees import WORDS, make_tree

from rlm.errors import UsageError
from rlm.eval.likelihood import answer
from rlm.eval.orphans import MIN_WORDS, OrphanTask, make_orphans
from rlm.eval.orphans_script import make_script


def play_script(task: OrphanTask) -> tuple[dict[str, str], int]:
    """Run the scripted cells in place, with the classifier as the model. The answer, and the number of queries."""
    finals: list[dict[str, str]] = []
    asked: list[str] = []

    def llm_query(prompt: str) -> str:
        asked.append(prompt)
        return answer(prompt)

    names = {
        "context": task.context,
        "llm_query": llm_query,
        "llm_batch_query": lambda prompts: [llm_query(prompt) for prompt in prompts],
        "FINAL": finals.append,
    }
    for reply in make_script(MIN_WORDS):
        for cell in re.findall(r"```repl\n(.*?)```", reply, re.DOTALL):
            exec(cell, names)
    return finals[0], len(asked)


def test_the_script_finds_the_packages_with_sixteen_to_a_prompt_and_a_dozen_asked_again(tmp_path: Path) -> None:
    task = make_orphans(make_tree(tmp_path, WORDS))
    said, queries = play_script(task)
    verdict = task.judge(said)
    assert verdict.asked == 3 * 24 - len(task.examples) > 20
    assert verdict.accuracy >= 0.95
    assert queries == -(-verdict.asked // 16) + 12


def test_over_a_tree_whose_packages_have_changed_names_the_answers_change_with_them(tmp_path: Path) -> None:
    """The same docstrings under other directories: nothing but the tree can have told the answer."""
    renamed = {"river": "forge", "forge": "loom", "loom": "river"}
    said = []
    for vocabulary in (WORDS, {renamed[name]: words for name, words in WORDS.items()}):
        task = make_orphans(make_tree(tmp_path / str(len(said)), vocabulary, functions=60))
        labels, _ = play_script(task)
        said.append({orphan.text: labels[str(orphan.number)] for orphan in task.orphans if orphan.asked})
        assert task.judge(labels).accuracy >= 0.95
    both = said[0].keys() & said[1].keys()
    assert len(both) > 20
    changed = sum(said[1][text] == renamed[said[0][text]] for text in both)
    assert changed >= 0.9 * len(both)


def test_the_context_does_not_tell_where_an_orphan_comes_from(tmp_path: Path) -> None:
    task = make_orphans(make_tree(tmp_path, WORDS))
    _, _, orphans = task.context.partition("\nORPHANS\n")
    assert not re.search(r"river|forge|loom|work\.py|function_", orphans)
    assert str(tmp_path) not in task.context
    numbers = [int(number) for number in re.findall(r"^@@ (\d+)$", orphans, re.MULTILINE)]
    assert numbers == list(range(1, len(task.orphans) + 1))
    order = [orphan.package for orphan in task.orphans if orphan.package]
    assert order != sorted(order), "the order gives the packages away"


def test_no_example_is_asked_about_nor_a_copy_of_it(tmp_path: Path) -> None:
    tree = make_tree(tmp_path, WORDS)
    (tree / "loom" / "copy.py").write_text((tree / "river" / "work.py").read_text())
    task = make_orphans(tree)
    texts = Counter([text for _, text in task.examples] + [orphan.text for orphan in task.orphans])
    assert set(texts.values()) == {1}


def test_the_same_seed_gives_the_same_task_and_another_seed_another(tmp_path: Path) -> None:
    tree = make_tree(tmp_path, WORDS)
    assert make_orphans(tree, seed=3) == make_orphans(tree, seed=3)
    assert make_orphans(tree, seed=3).examples != make_orphans(tree, seed=4).examples


def test_docstrings_of_small_packages_come_from_elsewhere_and_do_not_count(tmp_path: Path) -> None:
    tree = make_tree(tmp_path, {**WORDS, "tiny": WORDS["river"]})
    source = (tree / "tiny" / "work.py").read_text().split("\n\n")
    (tree / "tiny" / "work.py").write_text("\n".join(source[:3]))
    (tree / "alone.py").write_text(f'"""{"lone " * 25}"""')
    task = make_orphans(tree)
    assert task.packages == ("forge", "loom", "river")
    verdict = task.judge({})
    assert (verdict.right, verdict.elsewhere) == (0, 4)
    assert {said for _, said, _ in verdict.confusions} == {"(none)"}


def test_where_one_directory_holds_all_the_packages_are_those_inside_it(tmp_path: Path) -> None:
    make_tree(tmp_path / "src" / "project", WORDS)
    assert make_orphans(tmp_path).packages == ("forge", "loom", "river")


def test_a_flat_code_base_is_asked_about_by_module(tmp_path: Path) -> None:
    for name in WORDS:
        (make_tree(tmp_path / "trees", {name: WORDS[name]}) / name / "work.py").rename(tmp_path / f"{name}.py")
    assert make_orphans(tmp_path).packages == ("forge", "loom", "river")


def test_the_number_of_orphans_asked_about_has_a_limit_that_is_told(tmp_path: Path) -> None:
    tree = make_tree(tmp_path, WORDS)
    whole, part = make_orphans(tree), make_orphans(tree, most=10)
    assert sum(orphan.asked for orphan in part.orphans) == 10
    assert part.orphans == whole.orphans[: len(part.orphans)]
    assert part.left_out == len(whole.orphans) - len(part.orphans) > 0 == whole.left_out


def test_a_docstring_that_looks_like_the_format_stays_one_docstring(tmp_path: Path) -> None:
    tree = make_tree(tmp_path, WORDS)
    text = "one two\n@@ river\nORPHANS\nUNKNOWN\nLABELLED EXAMPLES\n" + "word " * 20
    (tree / "loom" / "odd.py").write_text(f'"""{text}"""')
    task = make_orphans(tree)
    marks = len(re.findall(r"^@@ ", task.context, re.MULTILINE))
    assert marks == len(task.examples) + len(task.orphans)
    assert len(re.findall(r"^ORPHANS$", task.context, re.MULTILINE)) == 1


@pytest.mark.parametrize("form", ["dict", "json", "prose"])
def test_an_answer_may_be_a_dict_or_json(tmp_path: Path, form: str) -> None:
    task = make_orphans(make_tree(tmp_path, WORDS))
    truth = {str(orphan.number): orphan.package for orphan in task.orphans if orphan.package}
    given = {"dict": truth, "json": json.dumps(truth), "prose": f"The answer:\n```json\n{json.dumps(truth)}\n```"}
    assert task.judge(given[form]).accuracy == 1.0


@pytest.mark.parametrize("nonsense", ["", "no idea", "{broken", None, 7, ["river"]])
def test_what_is_no_answer_is_judged_as_none(tmp_path: Path, nonsense: object) -> None:
    assert make_orphans(make_tree(tmp_path, WORDS)).judge(nonsense).right == 0


def test_the_largest_confusions_come_first(tmp_path: Path) -> None:
    task = make_orphans(make_tree(tmp_path, WORDS))
    verdict = task.judge({str(o.number): "river" if o.package == "loom" else o.package for o in task.orphans})
    assert [(true, said) for true, said, _ in verdict.confusions] == [("loom", "river")]
    assert verdict.right + verdict.confusions[0][2] == verdict.asked


def test_bad_paths_say_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "file.py").write_text('"""text"""')
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="No such file or directory"):
        make_orphans(tmp_path / "missing")
    with pytest.raises(UsageError, match="Not a directory"):
        make_orphans(tmp_path / "file.py")
    with pytest.raises(UsageError, match="no Python files"):
        make_orphans(tmp_path / "empty")
    with pytest.raises(UsageError, match="too few packages"):
        make_orphans(tmp_path)


def test_the_standard_library_gives_a_long_document_and_an_honest_score() -> None:
    task = make_orphans()
    assert len(task.packages) >= 2
    said, _ = play_script(task)
    verdict = task.judge(said)
    chance = 1 / len(task.packages)
    assert 3 * chance < verdict.accuracy < 0.95, "better than chance by far, and it errs"
