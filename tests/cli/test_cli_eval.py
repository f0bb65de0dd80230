"""`rlm eval`, in processes of its own; real models are a server on loopback."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cli_calls import ChatServer, call, command

from rlm.cli.eval import read_tokens
from rlm.errors import UsageError
from rlm.eval import oracle
from rlm.eval.labels import CountsTask
from rlm.eval.needle import NeedleTask

FAMILIES = ["needle", "counts", "pairs", "documents"]
SIDES = {
    "process/pure_async": [],
    "process/threaded": ["--no-pure-async"],
    "inline/pure_async": ["--sandbox", "inline"],
    "inline/threaded": ["--sandbox", "inline", "--no-pure-async"],
}


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def text_of(messages: list[dict[str, str]]) -> str:
    return "\n".join(message["content"] for message in messages)


@pytest.mark.parametrize("side", SIDES)
def test_every_family_scores_100_percent_and_says_its_side(tmp_path: Path, side: str) -> None:
    path = tmp_path / "lines.json"
    done = call("eval", "--tokens", "32k", "--json", str(path), *SIDES[side])
    assert (done.returncode, done.stderr) == (0, "")
    lines = lines_of(path.read_text())
    assert [(line["task"], line["score"], line["path"]) for line in lines] == [(name, 1.0, side) for name in FAMILIES]
    assert all(line["tokens"] == 32_000 and line["seed"] == 7 and line["queries"] > 10 for line in lines)
    assert all(line["input_tokens"] > 32_000 and line["output_tokens"] > 0 < line["seconds"] for line in lines)


def test_the_table_has_a_row_for_each_task_and_the_mean_below_them() -> None:
    done = call("eval", "--task", "needle,pairs", "--tokens", "4k,8k", "--count", "3", "--wrong-share", "0.3", *INLINE)
    assert done.returncode == 0, done.stderr
    head, *rows = done.stdout.split("\n\n", 1)[1].splitlines()
    assert head.split()[:4] == ["task", "tokens", "seed", "score"]
    cells = [row.split() for row in rows]
    assert [row[:3] for row in cells] == [
        [task, tokens, seed]
        for task in ("needle", "pairs")
        for tokens in ("4,000", "8,000")
        for seed in ("7", "8", "9", "mean")
    ]
    assert all(row[3] == row[4] and row[-1] == "inline/pure_async" for row in cells)
    means = [row for row in cells if row[2] == "mean"]
    assert 0 < sum(float(row[3]) for row in means) / 4 < 1
    for mean, *tasks in (cells[n + 3 :: -1][:4] for n in range(0, 16, 4)):
        assert int(mean[5]) == sum(int(row[5]) for row in tasks)
        assert abs(float(mean[3]) - sum(float(row[3]) for row in tasks) / 3) < 0.001


INLINE = ["--sandbox", "inline"]


def test_it_says_what_an_oracles_score_does_not_judge() -> None:
    done = call("eval", "--task", "needle", "--tokens", "2k", *INLINE)
    assert "judge the machinery, and no model" in done.stdout


def test_the_same_command_gives_the_same_lines_but_for_the_time() -> None:
    args = ["eval", "--tokens", "4k", "--wrong-share", "0.5", "--json", "-", *INLINE]
    first, second = (re.sub(r'"\w*seconds": [\d.e-]+', "", call(*args).stdout) for _ in range(2))
    assert first == second and len(first.splitlines()) == 4


def test_a_dash_gives_lines_alone_on_standard_output() -> None:
    done = call("eval", "--task", "counts", "--tokens", "2000", "--count", "2", "--seed", "40", "--json", "-", *INLINE)
    assert [(line["seed"], line["expected"]["score"]) for line in lines_of(done.stdout)] == [(40, 1.0), (41, 1.0)]


def test_verbose_shows_cells_and_their_output() -> None:
    done = call("eval", "--task", "needle", "--tokens", "2k", "-v", *INLINE)
    assert "parts = split(context" in done.stderr and "1 parts" in done.stderr


def test_a_real_sub_model_answers_the_queries_of_the_script(chat: ChatServer) -> None:
    chat.play = lambda messages: oracle.answer(messages[-1]["content"])
    args = ["eval", "--tokens", "4k", "--json", "-", "--sub-model", "openai/m", "--base-url", chat.url]
    done = call(*args)
    assert done.returncode == 0, done.stderr
    lines = lines_of(done.stdout)
    assert [(line["task"], line["score"], line["expected"]) for line in lines] == [
        (name, 1.0, None) for name in FAMILIES
    ]
    assert {(line["root"], line["sub_model"]) for line in lines} == {("script", "openai/m")}
    assert len(chat.bodies) == sum(line["queries"] for line in lines) > 0


def test_a_real_root_gets_the_question_and_its_answer_is_judged(chat: ChatServer) -> None:
    task = CountsTask(2_000, 7)
    script = iter([f"```repl\nllm_query('hello')\nFINAL({task.truth!r})\n```", "hello too"])
    chat.play = lambda _: next(script)
    done = call(
        "eval", "--task", "counts", "--tokens", "2k", "--json", "-", "--model", "openai/m", "--base-url", chat.url
    )
    assert done.returncode == 0, done.stderr
    (line,) = lines_of(done.stdout)
    assert (line["score"], line["expected"], line["queries"], line["turns"]) == (1.0, None, 1, 1)
    assert (line["root"], line["sub_model"], line["input_tokens"]) == ("openai/m", "openai/m", 20)
    assert task.question in text_of(chat.bodies[0]["messages"])


def test_a_wrong_answer_of_a_real_root_is_a_score_and_no_failure(chat: ChatServer) -> None:
    chat.play = lambda _: "FINAL(7)"
    args = ["--model", "openai/root", "--sub-model", "openai/sub", "--base-url", chat.url]
    done = call("eval", "--task", "needle", "--tokens", "2k", "--json", "-", *args)
    assert done.returncode == 0, done.stderr
    (line,) = lines_of(done.stdout)
    assert (line["score"], line["answer"], line["root"], line["sub_model"]) == (0.0, "7", "openai/root", "openai/sub")


def test_a_root_that_fails_is_status_1_and_the_other_tasks_are_run_all_the_same(chat: ChatServer) -> None:
    good, bad = NeedleTask(2_000, 8), NeedleTask(2_000, 7)

    def play(messages: list[dict[str, str]]) -> str:
        assert bad.question not in text_of(messages)  # the server drops the connection
        return f"FINAL({good.code})"

    chat.play = play
    args = ["--model", "openai/m", "--base-url", chat.url]
    done = call("eval", "--task", "needle", "--tokens", "2k", "--count", "2", "--json", "-", *args)
    failed, fine = lines_of(done.stdout)
    assert (failed["stopped_by"], failed["score"], failed["as_expected"]) == ("error", 0.0, False)
    assert (fine["stopped_by"], fine["score"], fine["as_expected"]) == ("final", 1.0, True)
    assert done.returncode == 1 and done.stderr.startswith("rlm: needle of 2,000 tokens, seed 7: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--task", "hay"], "'hay' is none of the families needle, counts, pairs, documents"),
        (["--task", ""], "'' is none of the families"),
        (["--tokens", "many"], "--tokens 'many': give whole numbers such as 32000, 32k or 1M"),
        (["--tokens", "32k,"], "--tokens '': give whole numbers"),
        (["--tokens", "4k,1"], "1 tokens: a task has 2,000 to 10,000,000"),
        (["--tokens", "11M"], "11,000,000 tokens"),
        (["--count", "0"], "count=0"),
        (["--seed", "x"], "--seed: invalid int value"),
        (["--wrong-share", "2"], "wrong_share=2"),
        (["--wrong-share", "0.1", "--sub-model", "openai/m"], "wrong_share goes with the oracle"),
        (["--wrong-share", "0.1", "--model", "openai/m"], "wrong_share goes with the oracle"),
        (["--base-url", "http://127.0.0.1:1/v1"], "--base-url goes with --model or --sub-model"),
        (["--model", "nonsense"], "nonsense"),
        (["--max-turns", "0"], "max_turns=0"),
        (["--max-concurrency", "0"], "max_concurrency=0"),
        (["--timeout", "0"], "run_seconds=0"),
        (["--json", "no/such/folder/lines"], "--json no/such/folder/lines: No such file or directory"),
        (["--sandbox", "inline", "--isolation", "full"], "isolation"),
    ],
)
def test_bad_input_is_one_clear_line_and_status_2(args: list[str], expected: str) -> None:
    done = call("eval", *args, "--json", "-") if "--json" not in args else call("eval", *args)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("rlm: ") and done.stderr.count("\n") == 1 and expected in done.stderr


def test_the_limits_reach_the_run(chat: ChatServer) -> None:
    chat.play = lambda _: "```repl\nx = 1\n```"
    args = ["--task", "needle", "--tokens", "2k", "--model", "openai/m", "--base-url", chat.url, "--max-turns", "2"]
    (line,) = lines_of(call("eval", *args, "--json", "-").stdout)
    assert (line["turns"], line["stopped_by"]) == (2, "turns")


def test_a_reader_who_leaves_ends_it_quietly() -> None:
    line, variables = command("eval", "--task", "needle", "--tokens", "2k", "--count", "50", *INLINE)
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(40) == 1 and process.stderr.read() == ""


@pytest.mark.parametrize(("text", "tokens"), [("2000", 2_000), ("32k", 32_000), ("1M", 10**6), ("10m", 10**7)])
def test_sizes_may_have_a_unit_of_thousands(text: str, tokens: int) -> None:
    assert read_tokens(text) == tokens


@pytest.mark.parametrize("text", ["", "k", "1.5M", "-1", "1e3", "٣", "9" * 13, " 1"])
def test_anything_else_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="--tokens"):
        read_tokens(text)
