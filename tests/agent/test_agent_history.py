"""The chat with the root model near the end of its window: what is kept, what becomes an account, what is asked."""

from __future__ import annotations

import itertools

import pytest
from agent_play import FakeRepl, cell, play

from rlm import RLM, Completion, ModelError, Request, ScriptedModel, Usage, UsageError
from rlm.agent.history import History
from rlm.agent.window import DEFAULT_WINDOW, find_window
from rlm.core.cell import CellResult
from rlm.models.resolve import compose_model


def size(history: History) -> int:
    return sum(len(message["content"]) for message in history.messages)


def talk(history: History, turns: int, chars: int = 8_000) -> None:
    for turn in range(turns):
        history.add_reply(f"reply {turn}")
        history.add_observation(f"output {turn}: " + "x" * chars + f" end {turn}")


def test_a_chat_that_is_not_near_its_window_is_left_alone() -> None:
    history = History("system", "question", window=100_000)
    talk(history, 5)
    assert not history.is_full and len(history.messages) == 12


def test_compaction_keeps_the_system_prompt_the_question_and_the_latest_turns_whole() -> None:
    history = History("system", "question" * 100, window=10_000)
    talk(history, 5)
    latest = history.messages[-2:]
    assert history.is_full and history.compact() and not history.is_full
    texts = [message["content"] for message in history.messages]
    assert texts[0] == "system" and texts[1].startswith("question" * 100)
    assert history.messages[-2:] == latest
    assert [message["role"] for message in history.messages] == ["system", "user", "assistant", "user"]


def test_the_account_tells_each_older_turn_in_order_with_both_ends_of_what_came_of_it() -> None:
    history = History("system", "question", window=30_000)
    talk(history, 10)
    assert history.compact()
    account = history.messages[1]["content"]
    told = [account.index(f"You wrote: reply {turn}") for turn in range(5)]
    assert told == sorted(told)
    assert "output 0: xxx" in account and "end 0" in account and "SHOW_VARS()" in account
    assert len(account) < 10 * 700


def test_turns_that_are_kept_are_not_in_the_account() -> None:
    history = History("system", "question", window=30_000)
    talk(history, 10)
    history.compact()
    kept = {message["content"] for message in history.messages[2:]}
    account = history.messages[1]["content"]
    for turn in range(10):
        assert (f"reply {turn}" in kept) is not (f"You wrote: reply {turn}\n" in account)


def test_a_second_compaction_goes_on_with_the_same_account_and_it_stays_short() -> None:
    history = History("system", "question", window=10_000)
    for _ in range(60):
        talk(history, 1)
        if history.is_full:
            history.compact()
        assert not history.is_full
    account = history.messages[1]["content"]
    assert len(account) < 5_000 and account.count("Your older turns, in short") == 1
    assert "turns before these are left out" in account
    assert "- 57. You wrote:" in account


def test_a_compaction_leaves_room_for_many_turns_for_each_makes_the_provider_read_all_anew() -> None:
    history = History("system", "question", window=100_000)
    compactions = 0
    for _ in range(100):
        talk(history, 1)
        if history.is_full:
            compactions += history.compact()
    assert 0 < compactions <= 7


def test_a_single_turn_that_is_too_long_keeps_its_two_ends() -> None:
    history = History("system", "question", window=2_000)
    talk(history, 1, chars=20_000)
    assert history.compact() and not history.is_full
    shown = history.messages[-1]["content"]
    assert shown.startswith("output 0:") and shown.endswith("end 0") and "characters not shown" in shown


def test_what_the_provider_counts_is_believed() -> None:
    history = History("system", "question", window=10_000)
    talk(history, 1, chars=10_000)
    assert not history.is_full
    history.learn(9_000)  # nearly a token for each character
    assert history.is_full
    history.learn(1_500)
    assert not history.is_full


def test_a_chat_that_the_provider_finds_too_long_is_made_shorter_until_nothing_can_go() -> None:
    history = History("system", "question", window=1_000_000)
    talk(history, 10)
    sizes = [size(history)]
    while history.shrink():
        sizes.append(size(history))
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == len(sizes) > 1
    assert history.messages[0]["content"] == "system" and history.messages[1]["content"].startswith("question")


def test_a_run_in_a_small_window_never_sends_more_than_it_holds_and_asks_no_further_model() -> None:
    numbers = itertools.count()
    repl = FakeRepl(lambda code: CellResult(stdout=f"{next(numbers)} " + "y" * 6_000))
    replies = [cell(f"look({n})") for n in range(30)]
    result, requests = play([*replies, "FINAL(x)"], repl, max_turns=40, context_window=8_000)
    assert (result.answer, result.turns, len(requests)) == ("x", 31, 31)
    for request in requests:
        assert sum(len(message["content"]) for message in request.messages) * 0.3 < 8_000
        assert request.messages[0]["content"] == "system" and request.messages[1]["content"].startswith("first")
    assert "29 yyy" in requests[-1].messages[-1]["content"]
    account = requests[-1].messages[1]["content"]
    assert account.count("You wrote: ```repl look(") >= 3 and "turns before these are left out" in account


def test_a_run_whose_provider_counts_more_tokens_than_were_guessed_compacts_earlier() -> None:
    def count(request: Request) -> Completion:
        chars = sum(len(message["content"]) for message in request.messages)
        return Completion(cell(f"look({chars})"), usage=Usage(chars, 1))

    repl = FakeRepl(lambda code: CellResult(stdout="y" * 3_000))
    _, requests = play([*[count] * 8, "FINAL(x)"], repl, context_window=12_000)
    assert all(sum(len(message["content"]) for message in request.messages) < 12_000 for request in requests)


def test_a_provider_that_finds_the_chat_too_long_is_asked_again_with_a_shorter_one() -> None:
    def refuse(request: Request) -> Completion:
        raise ModelError("maximum context length is 4096 tokens", kind="context_length")

    repl = FakeRepl(lambda code: CellResult(stdout="z" * 15_000))
    result, requests = play([cell("a"), cell("b"), refuse, "FINAL(x)"], repl)
    assert (result.answer, result.turns) == ("x", 3)
    long, short = (sum(len(message["content"]) for message in request.messages) for request in requests[2:4])
    assert short < long / 2


def test_a_question_that_is_too_long_by_itself_is_the_providers_error() -> None:
    with pytest.raises(ModelError, match="too long"):
        play([ModelError("it is too long", kind="context_length"), "never asked"])


@pytest.mark.parametrize(
    ("name", "window"),
    [
        ("openai/gpt-5", 400_000),
        ("openai/gpt-4o-2024-08-06", 128_000),
        ("openai/gpt-4.1-nano", 1_000_000),
        ("openai/my-own-model", DEFAULT_WINDOW),
        ("vllm/my-own-model", DEFAULT_WINDOW),
    ],
)
def test_the_window_of_a_model_is_found_by_its_name(name: str, window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-x")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    assert find_window(compose_model(name)[0]) == window


def test_the_window_of_a_model_that_a_query_names_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-x")
    assert find_window(compose_model("openai/gpt-4o")[0], "gpt-5-mini") == 400_000
    assert find_window(ScriptedModel([])) == DEFAULT_WINDOW


def test_a_given_window_is_that_of_the_runs_models() -> None:
    output = cell("print('w' * 9000, len(context))")
    root = ScriptedModel([output, output + "\n", cell("print(1)"), cell("print(2)"), "FINAL(x)"])
    RLM(root, sandbox="inline", context_window=4_000).completion("q?", "text")
    assert "in short" in root.requests[-1].messages[1]["content"]
    with pytest.raises(UsageError, match="context_window=10"):
        RLM(ScriptedModel([]), context_window=10)
