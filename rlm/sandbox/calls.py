"""The wire form of a cell's calls and of what answers them: each end's half of a pair beside the other's.

`read_ask` and `read_tool` are the host's and trust nothing they are given; `read_answers` and `read_result` are the
worker's, which trusts its host. Texts of any length travel in the blob, and of the header's size there is a bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rlm.core.portable import MAX_MEMBERS, Spec, count_members, decode_value, encode_value
from rlm.core.query import MAX_TOKENS, MODEL_CHARS, Answer, AnswerError, Request, Usage
from rlm.errors import ToolError, ValueNotPortable
from rlm.sandbox.protocol import MAX_PARTS, Frame, Header, ProtocolError
from rlm.sandbox.values import pack_value, unpack_value

_GROUP_PROMPT_BYTES = 32 << 20
_GROUP_MODEL_CHARS = 250_000  # a character of a header has 6 bytes at worst
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
    if len(requests) <= names and sum([len(r.prompt) for r in requests]) <= room:
        return [requests]
    groups: list[list[Request]] = []
    size = names_size = _GROUP_PROMPT_BYTES
    for request in requests:
        length = len(request.prompt.encode("utf-8", "surrogatepass"))
        name = len(request.model or "")
        if (
            size + length > _GROUP_PROMPT_BYTES
            or names_size + name > _GROUP_MODEL_CHARS
            or len(groups[-1]) == MAX_PARTS
        ):
            groups.append([])
            size = names_size = 0
        groups[-1].append(request)
        size += length
        names_size += name
    return list(groups)


def pack_ask(cell: int, number: int, requests: Sequence[Request]) -> Packed:
    """The frame of some requests; `cut_batch` says how many go into one."""
    asked = [[r.kind, r.model, r.max_tokens] for r in requests]
    prompts = [r.prompt.encode("utf-8", "surrogatepass") for r in requests]
    return {"t": "ask", "cell": cell, "id": number, "q": asked}, prompts


def read_ask(frame: Frame, prompt_bytes: int) -> list[Request]:
    """The requests of an `ask` frame. ProtocolError for whatever no honest worker asks."""
    asked, prompts = frame.header["q"], frame.parts()
    if not isinstance(asked, list) or not asked or len(asked) != len(prompts):
        raise ProtocolError("a batch has not one prompt for each request")
    requests = []
    for one, prompt in zip(asked, prompts, strict=True):
        kind, model, max_tokens = one
        if kind not in ("llm", "rlm"):
            raise ProtocolError("a request is malformed")
        if model is not None and (type(model) is not str or not 0 < len(model) <= MODEL_CHARS):
            raise ProtocolError("a request's model is malformed")
        if max_tokens is not None and (type(max_tokens) is not int or not 0 < max_tokens <= MAX_TOKENS):
            raise ProtocolError("a request's max_tokens is malformed")
        if not 0 < len(prompt) <= prompt_bytes:
            raise ProtocolError("a request's prompt is empty or too long")
        requests.append(Request(str(prompt, "utf-8", "surrogatepass"), model, max_tokens, kind))
    return requests


def pack_answers(number: int, answers: Sequence[Answer]) -> Packed:
    """The frame of the answers to call `number`. Of a failed one the blob has the message, which may be long."""
    known, texts = [], []
    for answer in answers:
        one: dict[str, Any] = {"s": round(answer.seconds, 6)}
        if answer.model:
            one["m"] = answer.model[:MODEL_CHARS]
        if answer.finish_reason is not None:
            one["f"] = answer.finish_reason[:_REASON_CHARS]
        if answer.usage is not None:
            one["u"] = [answer.usage.input_tokens, answer.usage.output_tokens]
        if answer.error is None:
            texts.append(answer.encode("utf-8", "surrogatepass"))
        else:
            one["e"] = [answer.error.kind[:_REASON_CHARS], answer.error.attempts]
            texts.append(answer.error.message.encode("utf-8", "surrogatepass"))
        known.append(one)
    return {"t": "answers", "id": number, "a": known}, texts


def read_answers(frame: Frame) -> list[Answer]:
    """The answers of an `answers` frame, in the order of the requests."""
    answers = []
    for known, part in zip(frame.header["a"], frame.parts(), strict=True):
        text = str(part, "utf-8", "surrogatepass")
        error, usage = None, known.get("u")
        if "e" in known:
            kind, attempts = known["e"]
            error = AnswerError(kind, text, attempts)
            text = error.to_text()
        answers.append(
            Answer(
                text,
                error=error,
                usage=Usage(*usage) if usage else None,
                model=known.get("m", ""),
                seconds=known["s"],
                finish_reason=known.get("f"),
            )
        )
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
