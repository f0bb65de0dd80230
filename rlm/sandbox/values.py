"""Values from the host to a worker: portable ones as themselves, others by pickle, which only the worker loads.

What is unpickled there is made here: the worker trusts its host.
"""

from __future__ import annotations

import contextlib
import io
import pickle
from collections.abc import Callable, Sequence
from typing import Any, Literal

from rlm.core.describe import error_text, type_name
from rlm.core.portable import Spec, decode_value, encode_value
from rlm.errors import UsageError, ValueNotPortable

LARGE = 1 << 20
"""Of so many characters or bytes a variable is sent to the worker in pieces."""

_LONG_CHARS = 1 << 13
_LONG_TEXTS = 100_000  # whose lengths are in a header
_PLAIN = frozenset({str, int, float, bool, type(None), list, dict})


class Large(dict[str, Any]):
    """The spec of a large variable whose long texts are encoded while they are sent: until then they are the caller's.

    A text is the whole value, and stands for itself meanwhile; or what beside it is pickled refers to them by number.
    """

    def __init__(self, spec: Spec, texts: list[str]) -> None:
        super().__init__(spec)
        self.texts = texts

    @property
    def chars(self) -> int:
        """Of its texts."""
        return sum(map(len, self.texts))

    @property
    def of(self) -> Spec:
        """The spec of the value, as the worker is told it."""
        return {"k": "str"} if self["k"] == "json" else dict(self)

    def whole(self, parts: Sequence[bytes | memoryview]) -> tuple[Spec, list[bytes | memoryview]]:
        """Spec and parts for where all has to go in one frame."""
        texts = [text.encode("utf-8", "surrogatepass") for text in self.texts]
        if self["k"] == "json":
            return self.of, [*texts]
        return {**self.of, "texts": [len(text) for text in texts]}, [*parts, b"".join(texts)]


class _LongTextsOut(pickle.Pickler):
    """Pickles a value without its long texts, which it collects."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=5)
        self.texts: list[str] = []
        self._places: dict[int, int] = {}

    def persistent_id(self, value: Any) -> int | None:
        """The number of a text that is left out."""
        if type(value) is not str or len(value) < _LONG_CHARS or len(self.texts) == _LONG_TEXTS:
            return None
        place = self._places.setdefault(id(value), len(self.texts))
        if place == len(self.texts):
            self.texts.append(value)
        return place


def pack_value(value: Any, name: str | None = None) -> tuple[Spec, bytes | None]:
    """Make the spec and blob of any value; raises `UsageError` for what pickle refuses.

    name: of the variable that it becomes. Only a variable's spec may be `Large`, which copies no long text.
    """
    if isinstance(value, str):  # of any size: the limit of portable values protects the host, not the worker
        text = str.__str__(value)
        if name is not None and len(text) >= LARGE:
            return Large({"k": "json", "v": text}, [text]), None
        return {"k": "str"}, text.encode("utf-8", "surrogatepass")
    if isinstance(value, (bytes, bytearray)):
        return {"k": "bytes"}, bytes(value)
    kind = _judge(value)
    if kind == "json":
        with contextlib.suppress(ValueNotPortable):  # too large, too deep, keys that are no str: by pickle
            return encode_value(value, name or "value")
    try:
        if kind == "long texts" and name is not None:
            pickler = _LongTextsOut(file := io.BytesIO())
            pickler.dump(value)
            return Large({"k": "pickle"}, pickler.texts), file.getvalue()
        return {"k": "pickle"}, pickle.dumps(value, protocol=5)
    except Exception as error:
        why = f"{type(error).__name__}: {error_text(error)}"
        raise UsageError(f"{name or 'value'} ({type_name(value)}) cannot be sent to the worker: {why}") from error


def unpack_value(spec: Spec, blob: bytes | memoryview | None, unpickle: Callable[[bytes | memoryview], Any]) -> Any:
    """The value that `pack_value` packed; `unpickle` is `pickle.loads`, which the worker alone may name."""
    if spec["k"] == "pickle":
        return unpickle(blob or b"")
    return decode_value(spec, blob)


def _judge(value: Any) -> Literal["json", "pickle", "long texts"]:
    """How a value is best packed.

    As JSON where all of it is exactly of JSON's types (a subclass, e.g. Counter or IntEnum, would arrive as its base)
    and not large: of a large value pickle makes less work. Looks at no more than it takes to find that it is large.
    """
    pending: list[Any] = [value]
    seen: set[int] = set()
    room, looked_at = LARGE, 0
    while pending:
        item = pending.pop()
        kind = type(item)
        if kind is str:
            looked_at += 1
            room -= len(item)
            if room < 0:
                return "long texts" if LARGE - room >= looked_at * _LONG_CHARS else "pickle"
        elif kind not in _PLAIN:
            return "pickle"
        elif kind in (list, dict) and id(item) not in seen:
            seen.add(id(item))
            pending.extend(item if kind is list else (*item, *item.values()))
    return "json"
