"""Parameters of a wrong form are refused in one sentence that names the repair, at every door."""

from __future__ import annotations

from typing import Any

import pytest

import rlm

DOORS = [rlm.AsyncRLMReplEnvironment, rlm.RLMReplEnvironment, rlm.RLM]


def fetch(url: str) -> str:
    return url


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("given", "repair"),
    [
        ({"tools": [fetch]}, "{'fetch': fetch}"),
        ({"limits": 3}, "rlm.Limits("),
        ({"limits": {"cell_seconds": 3}}, "rlm.Limits("),
        ({"sandbox": "docker"}, "'process', 'inline'"),
        ({"use_pure_async": 1}, "give True, False or None"),
        ({"bridge": "gevent"}, "'pure_async'"),
    ],
)
def test_a_parameter_of_a_wrong_form_is_a_usage_error_that_names_the_repair(
    door: Any, given: dict[str, Any], repair: str
) -> None:
    with pytest.raises(rlm.UsageError) as caught:
        door(str.upper, **given)
    assert repair in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("door", DOORS)
def test_an_empty_base_url_is_not_the_default_one(door: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    with pytest.raises(rlm.UsageError, match="base_url is empty"):
        door("openai/m", base_url="")


@pytest.mark.parametrize("door", DOORS)
def test_an_empty_variable_is_a_wrong_value_of_the_flag(door: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLM_USE_PURE_ASYNC", "")
    with pytest.raises(rlm.UsageError, match="RLM_USE_PURE_ASYNC=''"):
        door(str.upper)
