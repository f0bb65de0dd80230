"""What the fuzzers of both sides draw: JSON of every kind, frames whole and damaged, and what a worker may do."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from hypothesis import strategies as st

from rlm.sandbox.protocol import HEAD, MAX_HEADER_BYTES

T = TypeVar("T")


def named(strategy: st.SearchStrategy[T]) -> st.SearchStrategy[T]:
    """The same values. A strategy's repr is written out in full, which takes minutes where they are nested."""

    @st.composite
    def drawn(draw: Callable[[st.SearchStrategy[T]], T]) -> T:
        return draw(strategy)

    return drawn()


DEPTHS = st.integers(1, 150) | st.just(100_000)
"""Of nesting: what every interpreter reads, and what none does."""
TEXTS = st.text(max_size=8) | st.text("\ud800\udfffä\0", max_size=4)
ODD_NUMBERS = st.sampled_from([-1, 0, 1, True, 1.0, 1 << 31, 1 << 64, 1e308, 10**400])
NO_NUMBERS = st.sampled_from([float("nan"), float("inf"), -float("inf")])
SCALARS = named(st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | ODD_NUMBERS | NO_NUMBERS)
JSON = named(
    st.recursive(
        SCALARS,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
        max_leaves=8,
    )
)
PARTS = st.lists(st.binary(max_size=40), max_size=3)
_TYPES = (
    "ask", "tool", "drop", "done", "failed", "reply", "wake", "setup", "cell", "answers", "value", "set", "get",
    "names", "reset",
)  # fmt: skip
_IDS = st.integers(1, 4) | ODD_NUMBERS | JSON
_SPECS = named(
    st.fixed_dictionaries(
        {"k": st.sampled_from(["json", "jsonb", "str", "bytes"]) | JSON}, optional={"v": JSON, "repr": JSON}
    )
)
_ANY_HEADERS = st.dictionaries(TEXTS, JSON, max_size=4) | st.fixed_dictionaries(
    {"t": st.sampled_from(_TYPES) | JSON},
    optional={
        "id": _IDS,
        "cell": st.integers(0, 3) | JSON,
        "q": st.lists(
            st.tuples(st.just("llm"), JSON, JSON) | st.tuples(st.just("llm"), JSON, JSON, ODD_NUMBERS) | JSON,
            max_size=3,
        )
        | JSON,
        "o": st.integers(0, 3) | JSON,
        "name": st.sampled_from(["tool", "x"]) | JSON,
        "args": st.lists(_SPECS | JSON, max_size=3) | JSON,
        "kwargs": st.dictionaries(TEXTS, _SPECS | JSON, max_size=2) | JSON,
        "status": st.sampled_from(["ok", "error"]) | JSON,
        "abandoned": ODD_NUMBERS | JSON,
        "value": JSON,
        "error": st.lists(TEXTS, max_size=4) | JSON,
        "final": _SPECS | JSON,
        "text": JSON,
        "a": st.lists(st.fixed_dictionaries({"s": JSON}, optional={"e": JSON, "u": JSON}) | JSON, max_size=3) | JSON,
        "b": st.lists(st.integers(-1, 40) | JSON, max_size=4) | JSON,
        "v": _SPECS | JSON,
    },
)
HEADERS: st.SearchStrategy[dict[str, Any]] = named(_ANY_HEADERS)
"""Of any frame: with every key that one may have, rightly and wrongly filled."""


def framed(text: bytes, blob: bytes = b"", header_bytes: int | None = None, blob_bytes: int | None = None) -> bytes:
    """A frame of these bytes; the sizes at its head may be wrong ones."""
    sizes = len(text) if header_bytes is None else header_bytes, len(blob) if blob_bytes is None else blob_bytes
    return HEAD.pack(*sizes) + text + blob


def packed(header: Any, parts: list[bytes] | tuple[bytes, ...] = ()) -> bytes:
    """A frame as an honest end would send it, whatever the header is."""
    if parts and isinstance(header, dict):
        header = {"b": [len(part) for part in parts], **header}
    return framed(json.dumps(header).encode("ascii"), b"".join(parts))


REPLIES = named(
    st.fixed_dictionaries(
        {"t": st.sampled_from(["reply", "failed"])},
        optional={
            "error": st.lists(st.sampled_from(["ValueNotPortable", "KeyboardInterrupt"]) | JSON, max_size=4) | JSON,
            "v": _SPECS | JSON,
            "text": JSON,
            "b": st.lists(st.integers(-1, 40), max_size=3) | JSON,
        },
    )
)
"""Headers of replies to a question."""
GOOD_FRAMES = named(st.builds(packed, HEADERS, PARTS))
_HEADER_TEXTS = (
    JSON.map(lambda value: json.dumps(value).encode())
    | st.binary(max_size=40)
    | DEPTHS.map(lambda depth: b"[" * depth + b"]" * depth)
    | DEPTHS.map(lambda depth: b'{"a":' * depth + b"1" + b"}" * depth)
    | st.integers(4295, 4305).map(lambda digits: b'{"n":' + b"9" * digits + b"}")
    | st.text("aä\ud800", max_size=5).map(
        lambda text: json.dumps({"a": text}, ensure_ascii=False).encode("utf-8", "ignore")
    )
)
_GIANT = st.sampled_from([MAX_HEADER_BYTES, MAX_HEADER_BYTES + 1, (1 << 32) - 1])
DAMAGED_FRAMES = named(
    st.builds(framed, _HEADER_TEXTS, st.binary(max_size=40))
    | st.builds(framed, st.just(b'{"t":"x"}'), st.integers(190, 210).map(bytes))
    | st.builds(framed, st.just(b'{"t":"x"}'), st.binary(max_size=40), st.integers(0, 60), st.integers(0, 60))
    | st.builds(framed, st.just(b"{}"), st.just(b""), _GIANT, st.integers(0, (1 << 64) - 1))
    | st.builds(framed, st.just(b"{}"), st.just(b""), st.just(2), st.integers(0, (1 << 64) - 1))
    | st.binary(max_size=60)
)
STREAMS = named(st.lists(GOOD_FRAMES | GOOD_FRAMES | DAMAGED_FRAMES, max_size=5).map(b"".join))


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """The same bytes in pieces, none of them empty."""
    ends = [*sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False) if end > start]


class Ask(NamedTuple):
    """Queries under the cell `offset` away from the running one; options: as bytes, of them all."""

    id: Any
    prompts: tuple[str, ...]
    offset: int = 0
    options: bytes = b""


class Tool(NamedTuple):
    """A call with these arguments; None: with its cell's number."""

    id: int
    name: str
    args: Any
    offset: int = 0


class Drop(NamedTuple):
    id: Any
    offset: int = 0


class Flood(NamedTuple):
    """Many calls at once, each with an id of its own.

    what: `ask`, `tool`, both held; `quick`, which is answered at once; `dropped`: asked and called off; `twice`: with
    one id; `unknown`: of a tool that is none.
    """

    what: str
    calls: int


MISSING = "(missing)"


class Done(NamedTuple):
    """The end of a cell, with these changes; one to `MISSING` leaves a key out."""

    changes: dict[str, Any]
    parts: int = 6
    offset: int = 0


class Frame(NamedTuple):
    """Any header; where `claim` is set, its `cell` is the running one's."""

    header: dict[str, Any]
    parts: list[bytes]
    claim: bool


class Again(NamedTuple):
    """The same frames as before, `times` times: of this cell or of an earlier one."""

    which: int
    times: int


class Bytes(NamedTuple):
    """Bytes that may end anywhere within a frame."""

    data: bytes


class Pause(NamedTuple):
    """The host goes on meanwhile."""


class Act(NamedTuple):
    """hang_up: its line is closed. exit: the process ends. deaf: it no longer reads. stop, cancel: the host's."""

    what: str


_CALLS = st.integers(1, 7)
_OFFSETS = st.sampled_from([0, 0, 0, 0, 0, 0, -1, 1])
_ANY_IDS = st.one_of(_CALLS, _CALLS, _CALLS, _CALLS, _CALLS, st.sampled_from([2.5, "x", True, None]))
_OPTION_NAMES = ("temperature", "top_p", "seed", "stop", "effort", "web_search", "schema", "extra")
_GOOD_OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.floats(0, 2), "seed": st.integers(0, 9), "stop": st.lists(st.sampled_from("xy")),
        "effort": st.sampled_from(["low", 5]), "web_search": st.booleans(),
        "extra": st.dictionaries(st.sampled_from("ab"), st.none() | st.lists(st.integers())),
    },
)  # fmt: skip
_ODD_OPTIONS = st.dictionaries(st.sampled_from(_OPTION_NAMES) | TEXTS, JSON, max_size=3) | JSON
_DEEP_OPTIONS = DEPTHS.map(lambda depth: b'{"extra":' + b'{"a":' * depth + b"1" + b"}" * depth + b"}")
OPTION_TEXTS: st.SearchStrategy[bytes] = named(
    (_GOOD_OPTIONS | _ODD_OPTIONS).map(lambda given: json.dumps(given).encode()) | _DEEP_OPTIONS | st.binary(max_size=9)
)
"""What stands for the options of a query: good, odd, nested without end, or no JSON."""
_PROMPTS = st.lists(st.sampled_from(["a", "hold", "fail"]), min_size=1, max_size=4).map(tuple)
_GOOD_TEXTS = _GOOD_OPTIONS.map(lambda given: json.dumps(given).encode())
_PLAIN_ASKS = st.builds(Ask, _ANY_IDS, _PROMPTS, _OFFSETS)
_ASKS = _PLAIN_ASKS | _PLAIN_ASKS | st.builds(Ask, _ANY_IDS, _PROMPTS, _OFFSETS, _GOOD_TEXTS)
_ARGUMENTS = st.none() | st.none() | st.lists(_SPECS, max_size=2) | JSON
_TOOL_NAMES = ("tool", "tool", "tool", "hold_tool", "hold_tool", "big_tool", "other")
_TOOLS = st.builds(
    Tool,
    _CALLS,
    st.sampled_from(["tool", "tool", "tool", "hold_tool", "hold_tool", "big_tool", "other"]),
    _ARGUMENTS,
    _OFFSETS,
)
_DONES = st.builds(Done, st.just({}), st.just(6), _OFFSETS) | st.builds(
    Done,
    st.fixed_dictionaries(
        {},
        optional={
            "status": st.just(MISSING) | JSON,
            "abandoned": st.just(MISSING) | ODD_NUMBERS,
            "final": _SPECS | JSON,
            "value": JSON,
            "error": JSON,
        },
    ),
    st.integers(5, 8),
    _OFFSETS,
)
_LIVELY = (
    _ASKS | _ASKS | _TOOLS | st.builds(Drop, _CALLS, _OFFSETS) | st.builds(Again, st.integers(0, 30), st.integers(1, 5))
)
_RARE = (
    _DONES
    | st.builds(Ask, _CALLS, _PROMPTS, _OFFSETS, OPTION_TEXTS)
    | st.builds(Again, st.integers(0, 30), st.integers(50, 300))
    | st.builds(Flood, st.sampled_from(["ask", "tool", "dropped", "quick"]), st.integers(5, 60))
    | st.builds(Frame, HEADERS, PARTS, st.booleans())
    | st.builds(Drop, JSON, _OFFSETS)
    | st.builds(Bytes, STREAMS.filter(len))
    | st.sampled_from(["hang_up", "exit", "deaf", "stop", "cancel"]).map(Act)
)
WHEN_INTERRUPTED = st.sampled_from(["acknowledge", "ignore", "exit", "silent zygote"])
ACTIONS = st.one_of(named(_LIVELY), named(_LIVELY), st.just(Pause()), named(_RARE))
SCRIPTS = named(st.lists(st.lists(ACTIONS, max_size=12), min_size=1, max_size=3))
"""What a worker does, cell by cell."""
