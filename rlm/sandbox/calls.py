"""The wire form of a cell's calls and of what answers them: each end's half of a pair beside the other's.

`read_ask` and `read_tool` are the host's and trust nothing they are given; `read_answers` and `read_result` are the
worker's, which trusts its host. Texts of any length travel in the blob, and of the header's size there is a bound.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rlm.core.options import OPTION_BYTES, Given, dump_options, read_options
from rlm.core.portable import MAX_MEMBERS, Spec, count_members, decode_value, encode_value
from rlm.core.query import MAX_TOKENS, MODEL_CHARS, NO_OPTIONS, Answer, AnswerError, Request, Usage
from rlm.errors import ToolError, UsageError, ValueNotPortable
from rlm.sandbox.protocol import MAX_PARTS, Frame, Header, ProtocolError
from rlm.sandbox.values import pack_value, unpack_value

_GROUP_PROMPT_BYTES = 32 << 20
_GROUP_MODEL_CHARS = 250_000  # a character of a header has 6 bytes at worst
_GROUP_OPTION_BYTES = 1 << 20  # a hostile one keeps the host reading for a tenth of a second
_REASON_CHARS = 40
_HEADER_FACTOR = 30  # a byte of JSON may become so many: `{},` are 64 and a place in a list
_MEMBER_BYTES, _DICT_BYTES = 64, 200  # at most, or nearly
Packed = tuple[Header, list[bytes]]


def cut_batch(requests: Sequence[Request]) -> list[Sequence[Request]]:
    """Cut a batch so that no frame, of the questions or of the answers, grows too large. Nearly always one group."""
    if len(requests) == 1:
        return [requests]
    room = _GROUP_PROMPT_BYTES // 4  # in characters: of a group that is surely small enough
    names = _GROUP_MODEL_CHARS // MODEL_CHARS
    plain = all([r.options is NO_OPTIONS and r.system is None for r in requests])
    if plain and len(requests) <= names and sum([len(r.prompt) for r in requests]) <= room:
        return [requests]
    groups: list[list[Request]] = []
    space = _Space()
    for request in requests:
        if not groups or not space.takes(request):
            groups.append([])
            space = _Space()
            space.takes(request)
        groups[-1].append(request)
    return list(groups)


class _Space:
    """What is left of one frame: of its blob, its header, its options, and its parts or those of its answers."""

    def __init__(self) -> None:
        self._prompts, self._names, self._options = _GROUP_PROMPT_BYTES, _GROUP_MODEL_CHARS, _GROUP_OPTION_BYTES
        self._parts = MAX_PARTS
        self._seen: set[tuple[int, int]] = set()

    def takes(self, request: Request) -> bool:
        """Take the request in, and say whether it has room."""
        self._prompts -= len(request.prompt.encode("utf-8", "surrogatepass"))
        self._names -= len(request.model or "")
        self._parts -= 1
        if request.options is not NO_OPTIONS or request.system is not None:
            key = id(request.system), id(request.options)
            self._parts -= 1  # of an answer: its value
            if key not in self._seen:
                self._seen.add(key)
                self._prompts -= len((request.system or "").encode("utf-8", "surrogatepass"))
                self._options -= len(dump_options(request.options))
                self._parts -= 2
        return min(self._prompts, self._names, self._options, self._parts) >= 0


def pack_ask(cell: int, number: int, requests: Sequence[Request]) -> Packed:
    """The frame of some requests; `cut_batch` says how many go into one.

    Requests that have options say which: these follow the prompts, each system text and options only once.
    """
    asked: list[list[Any]] = [[r.kind, r.model, r.max_tokens] for r in requests]
    parts = [r.prompt.encode("utf-8", "surrogatepass") for r in requests]
    header: Header = {"t": "ask", "cell": cell, "id": number, "q": asked}
    for request in requests:
        if request.options is not NO_OPTIONS or request.system is not None:
            header["o"] = _add_options(requests, asked, parts)
            break
    return header, parts


def _add_options(requests: Sequence[Request], asked: list[list[Any]], parts: list[bytes]) -> int:
    places: dict[tuple[int, int], int] = {}
    for one, request in zip(asked, requests, strict=True):
        system, options = request.system, request.options
        if options is NO_OPTIONS and system is None:
            continue
        key = id(system), id(options)
        if key not in places:
            places[key] = len(places)
            parts.append((system or "").encode("utf-8", "surrogatepass"))
            parts.append(dump_options(options).encode("ascii"))
        one.append(places[key])
    return len(places)


def read_ask(frame: Frame, prompt_bytes: int) -> list[Request]:
    """The requests of an `ask` frame. ProtocolError or ValueError for whatever no honest worker asks."""
    asked, parts = frame.header["q"], frame.parts()
    if not isinstance(asked, list) or not asked:
        raise ProtocolError("a batch has not one prompt for each request")
    given: list[Given] = []
    if "o" in frame.header:
        given = _read_options(frame, parts[len(asked) :], prompt_bytes)
        del parts[len(asked) :]
    if len(asked) != len(parts):
        raise ProtocolError("a batch has not one prompt for each request")
    requests = []
    for one, prompt in zip(asked, parts, strict=True):
        kind, model, max_tokens = one if len(one) == 3 else one[:-1]
        if kind not in ("llm", "rlm"):
            raise ProtocolError("a request is malformed")
        if model is not None and (type(model) is not str or not 0 < len(model) <= MODEL_CHARS):
            raise ProtocolError("a request's model is malformed")
        if max_tokens is not None and (type(max_tokens) is not int or not 0 < max_tokens <= MAX_TOKENS):
            raise ProtocolError("a request's max_tokens is malformed")
        if not 0 < len(prompt) <= prompt_bytes:
            raise ProtocolError("a request's prompt is empty or too long")
        text = str(prompt, "utf-8", "surrogatepass")
        if len(one) == 3:
            requests.append(Request(text, model, max_tokens, kind))
        else:
            requests.append(Request(text, model, max_tokens, kind, (), *_choose_options(kind, one[-1], given)))
    return requests


def _choose_options(kind: str, place: Any, given: Sequence[Given]) -> Given:
    if kind != "llm" or type(place) is not int or not 0 <= place < len(given):
        raise ProtocolError("a request's options are malformed")
    return given[place]


def _read_options(frame: Frame, parts: Sequence[memoryview], prompt_bytes: int) -> list[Given]:
    count = frame.header["o"]
    if type(count) is not int or not 0 < count <= len(parts) or len(parts) != 2 * count:
        raise ProtocolError("a batch has not its options")
    if sum(map(len, parts[1::2])) > _GROUP_OPTION_BYTES:
        raise ProtocolError("a batch's options are too long")
    given: list[Given] = []
    for system, options in zip(parts[::2], parts[1::2], strict=True):
        if len(system) > prompt_bytes or not 2 <= len(options) <= OPTION_BYTES:
            raise ProtocolError("a request's system text or options are too long, or none")
        try:
            read = read_options(str(options, "ascii")) if bytes(options) != b"{}" else NO_OPTIONS
        except (TypeError, ValueError, RecursionError, UsageError) as error:
            raise ProtocolError(f"a request's options are malformed: {error}") from None
        given.append((str(system, "utf-8", "surrogatepass") or None, read))
    return given


def ask_bytes(frame: Frame) -> int:
    """At most how much memory the requests of an `ask` frame take, or nearly."""
    size = frame.size
    if "o" in frame.header:
        parts = frame.parts()[-2 * frame.header["o"] :]
        for options in map(bytes, parts[1::2]):
            size += _MEMBER_BYTES * (options.count(b",") + options.count(b"[")) + _DICT_BYTES * options.count(b"{")
    return size


def pack_answers(number: int, answers: Sequence[Answer]) -> Packed:
    """The frame of the answers to call `number`. Of a failed one the blob has the message, which may be long.

    The values of answers that have one follow the texts. One that cannot cross makes a failed answer of its own.
    """
    known, texts, values = [], [], []
    for answer in answers:
        value = b""
        if answer.value is not None and answer.error is None:
            try:
                value = _pack_json(answer.value)
            except ValueNotPortable as error:
                answer = _without_value(answer, error)
        one = _pack_known(answer)
        if value:
            one["v"] = 1
            values.append(value)
        known.append(one)
        text = answer if answer.error is None else answer.error.message
        texts.append(text.encode("utf-8", "surrogatepass"))
    return {"t": "answers", "id": number, "a": known}, texts + values


def _pack_known(answer: Answer) -> dict[str, Any]:
    one: dict[str, Any] = {"s": round(answer.seconds, 6)}
    if answer.model:
        one["m"] = answer.model[:MODEL_CHARS]
    if answer.finish_reason is not None:
        one["f"] = answer.finish_reason[:_REASON_CHARS]
    if answer.usage is not None:
        one["u"] = _pack_usage(answer.usage)
    if answer.provider:
        one["p"] = answer.provider[:_REASON_CHARS]
    if answer.cost_usd is not None:
        one["c"] = answer.cost_usd
    if answer.error is not None:
        one["e"] = [answer.error.kind[:_REASON_CHARS], answer.error.attempts]
    return one


def _without_value(answer: Answer, reason: Exception) -> Answer:
    error = AnswerError("schema", f"the value of the answer cannot be given to a cell: {reason}")
    return Answer(
        error.to_text(),
        error=error,
        usage=answer.usage,
        model=answer.model,
        seconds=answer.seconds,
        provider=answer.provider,
        cost_usd=answer.cost_usd,
    )


def _pack_usage(usage: Usage) -> list[int]:
    counts = [usage.input_tokens, usage.output_tokens, usage.cached_tokens, usage.reasoning_tokens]
    return counts if counts[2] or counts[3] else counts[:2]


def _pack_json(value: Any) -> bytes:
    spec, blob = encode_value([value], "the value")
    if spec["k"] == "json":
        return json.dumps(spec["v"], separators=(",", ":")).encode("ascii")
    return blob or b""


def read_answers(frame: Frame) -> list[Answer]:
    """The answers of an `answers` frame, in the order of the requests."""
    all_known, parts = frame.header["a"], frame.parts()
    values = None
    if len(parts) > len(all_known):
        values = iter(parts[len(all_known) :])
        del parts[len(all_known) :]
    answers = []
    for known, part in zip(all_known, parts, strict=True):
        text = str(part, "utf-8", "surrogatepass")
        error, usage = None, known.get("u")
        if "e" in known:
            kind, attempts = known["e"]
            error = AnswerError(kind, text, attempts)
            text = error.to_text()
        answer = Answer(
            text,
            error=error,
            usage=Usage(*usage) if usage else None,
            model=known.get("m", ""),
            seconds=known["s"],
            finish_reason=known.get("f"),
        )
        if "p" in known:
            answer.provider = known["p"]
        if "c" in known:
            answer.cost_usd = known["c"]
        if "v" in known and values is not None:
            (answer.value,) = decode_value({"k": "jsonb"}, next(values))
        answers.append(answer)
    return answers


def pack_tool(cell: int, number: int, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Packed:
    """The frame of a tool's call; raises `ValueNotPortable` for an argument, or arguments, that cannot cross."""
    parts: list[bytes] = []
    header: Header = {
        "t": "tool",
        "cell": cell,
        "id": number,
        "name": name,
        "args": [_put(value, f"argument {index + 1} of {name}", parts) for index, value in enumerate(args)],
        "kwargs": {key: _put(value, f"argument {key} of {name}", parts) for key, value in kwargs.items()},
    }
    if len(parts) > MAX_PARTS or _members([*header["args"], *header["kwargs"].values()], parts) > MAX_MEMBERS:
        reason = f"are too large: over {MAX_PARTS:,} texts, or over {MAX_MEMBERS:,} members in all"
        raise ValueNotPortable(f"the arguments of {name}", "of its call", reason)
    return header, parts


def read_tool(frame: Frame) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a `tool` frame. ProtocolError or ValueError for malformed ones."""
    args, kwargs = _specs(frame)
    views = frame.parts()
    if _members([*args, *kwargs.values()], views) > MAX_MEMBERS:
        raise ProtocolError(f"a tool's arguments have over {MAX_MEMBERS:,} members")
    parts = iter(views)
    values = [_take(spec, parts) for spec in args], {key: _take(spec, parts) for key, spec in kwargs.items()}
    if next(parts, None) is not None:
        raise ProtocolError("a tool's call has a part that is no argument")
    return values


def argument_bytes(frame: Frame) -> int:
    """At most how much memory the arguments of a `tool` frame take, or nearly; found without decoding them."""
    args, kwargs = _specs(frame)
    blob = frame.blob
    size = frame.size + _HEADER_FACTOR * (frame.size - len(blob))
    if any(_is_jsonb(spec) for spec in (*args, *kwargs.values())):
        size += _MEMBER_BYTES * (blob.count(b",") + blob.count(b"[")) + _DICT_BYTES * blob.count(b"{")
    return size


def _specs(frame: Frame) -> tuple[list[Any], dict[str, Any]]:
    args, kwargs = frame.header["args"], frame.header["kwargs"]
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise ProtocolError("a tool's arguments are no list and dict")
    return args, kwargs


def _is_jsonb(spec: Any) -> bool:
    return isinstance(spec, dict) and spec.get("k") == "jsonb"


def _members(specs: Sequence[Any], parts: Sequence[bytes | memoryview]) -> int:
    """Of two values or more together: that a single one has not too many is checked where it is made and read."""
    if sum(map(_is_jsonb, specs)) < 2:
        return 0
    own = iter(parts)
    taken = [(spec, next(own, b"")) for spec in specs if isinstance(spec, dict) and spec.get("k") != "json"]
    return sum(count_members(part) for spec, part in taken if _is_jsonb(spec))


def _put(value: Any, name: str, parts: list[bytes]) -> Spec:
    spec, blob = encode_value(value, name)
    if blob is not None:
        parts.append(blob)
    return spec


def _take(spec: Any, parts: Iterator[memoryview]) -> Any:
    # each part once: a few bytes of header must not make many copies of one large part
    if not isinstance(spec, dict):
        raise ProtocolError("an argument is not a value")
    return decode_value(spec, None if spec.get("k") == "json" else next(parts, None))


def pack_result(number: int, value: Any) -> Packed:
    """The frame of what a tool gave; raises `UsageError` for what pickle refuses."""
    spec, blob = pack_value(value)
    return {"t": "value", "id": number, "v": spec}, [] if blob is None else [blob]


def pack_failure(number: int, kind: str, text: str) -> Packed:
    """The frame of what a tool raised: the class of the exception and its text, which should be bounded."""
    return {"t": "value", "id": number, "error": [kind, text]}, []


def read_result(frame: Frame, unpickle: Callable[[bytes | memoryview], Any]) -> Any:
    """The value of a `value` frame; raises the `ToolError` it tells of."""
    if "error" in frame.header:
        raise ToolError(*frame.header["error"])
    parts = frame.parts()
    return unpack_value(frame.header["v"], parts[0] if parts else None, unpickle)
