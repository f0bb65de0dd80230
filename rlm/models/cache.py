"""Answers kept in a SQLite file under the whole of their request, and played again from it."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from os import PathLike
from typing import Any, Literal

from rlm.core.query import Completion, Request, Usage
from rlm.errors import ModelError, UsageError
from rlm.models.answer_file import AnswerFile
from rlm.models.base import Around, Model
from rlm.models.providers.embeddings import Embeddings, check_texts
from rlm.models.schema import Mismatch, parse_answer

Mode = Literal["off", "read_write", "replay"]
# What came is not the whole of what the model would have said; "length" is what the request itself asked for.
_INCOMPLETE = frozenset({"error", "content_filter", "sensitive", "network_error", "insufficient_system_resource"})


class Cache:
    """Answers of any number of models in one file, for any number of loops, threads and processes at once.

    mode: `read_write` answers from the file what is in it and keeps what is not; `replay` answers from the file only,
    and a miss is an error; `off` does nothing. Only whole, successful, non-empty answers are kept. Embeddings are kept
    too, one by one.

    An answer that cannot be written, because another program holds the file, is given to its asker all the same and
    kept in memory; it is written with a later one, or by `close`, which raises `UsageError` where even that fails.
    Raises `UsageError` for a file that cannot be opened or is no such file.
    """

    def __init__(self, path: str | PathLike[str], mode: Mode = "read_write") -> None:
        if mode not in ("off", "read_write", "replay"):
            raise UsageError(f"mode={mode!r}: a cache is 'off', 'read_write' or 'replay'")
        if not isinstance(path, (str, PathLike)):
            raise UsageError(f"Cache({path!r:.80}): give the path of a file")
        self.mode: Mode = mode
        self.file = None if mode == "off" else AnswerFile(path, read_only=mode == "replay")

    def wrap(self, target: Model) -> Model:
        """The model with this cache before it. Each such model counts its samples from the first again."""
        return target if self.file is None else CachedModel(target, self.file, is_replay=self.mode == "replay")

    def close(self) -> None:
        """Write what is not written yet, and close the file. Raises `UsageError` where an answer cannot be written."""
        if self.file is not None:
            self.file.close()

    def __enter__(self) -> Cache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Cache({self.file.path if self.file else None!r}, mode={self.mode!r})"


class _Samples:
    """Which answer to the same request is meant: the first asked for is 0, and so on. Safe in threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next: dict[bytes, int] = {}
        self._given_back: dict[bytes, list[int]] = {}

    def take(self, key: bytes) -> int:
        with self._lock:
            back = self._given_back.get(key)
            if back:
                sample = min(back)
                back.remove(sample)
                if not back:
                    del self._given_back[key]
                return sample
            sample = self._next.get(key, 0)
            self._next[key] = sample + 1
            return sample

    def give_back(self, key: bytes, sample: int) -> None:
        with self._lock:
            self._given_back.setdefault(key, []).append(sample)


class CachedModel(Around):
    """A model behind a file of answers.

    A request that is made twice is answered twice: its second answer has another place in the file than its first, and
    a later run gets both again in the order in which it asks. What failed leaves its place to the next, but not in
    replay, where the next may be in the file. An answer from the file has `cost_usd == 0` and `attempts == 0`; usage
    is that of the day when it was given.

    A text has one vector, however often it is asked for.
    """

    def __init__(self, model: Model, file: AnswerFile, *, is_replay: bool = False) -> None:
        super().__init__(model)
        self._file, self._is_replay = file, is_replay
        self._samples = _Samples()
        self._identity = to_identity(model)

    async def complete(self, request: Request) -> Completion:
        """The kept answer, else the model's. Raises `ModelError` of kind refused for a miss in replay."""
        return await self._answer(request, self.inner.complete)

    async def stream(self, request: Request, on_text: Callable[[str], Any]) -> Completion:
        """As `complete`; a kept answer is told in one piece."""
        from rlm.models.providers.base import tell

        asked = False

        async def ask(request: Request) -> Completion:
            nonlocal asked
            asked = True
            found: Completion = await self.inner.stream(request, on_text)  # type: ignore[attr-defined]
            return found

        completion = await self._answer(request, ask)
        if not asked:
            await tell(on_text, completion.text)
        return completion

    async def embed(self, text: str, *, model: str | None = None, dimensions: int | None = None) -> list[float]:
        """The vector of one text. Raises as `embed_batch`."""
        return (await self.embed_batch([text], model=model, dimensions=dimensions)).vectors[0]

    async def embed_batch(
        self, texts: list[str], *, model: str | None = None, dimensions: int | None = None
    ) -> Embeddings:
        """The kept vectors, and the model's for the texts that have none; usage and cost are of those.

        Raises `ModelError` of kind refused for a miss in replay, and of kind provider where the model's vectors have
        other dimensions than the kept ones.
        """
        check_texts(texts, getattr(self.inner, "provider", ""))
        how = {"model": model, "dimensions": dimensions}
        keys = {text: _to_hash({"model": self._identity, "embed": how | {"text": text}}) for text in texts}
        known = {text: vector for text, key in keys.items() if (vector := self._file.find_vector(key)) is not None}
        missing = [text for text in keys if text not in known]
        found = Embeddings(list(known.values()), model or self.name, Usage(), 0.0)
        if missing:
            if self._is_replay:
                raise self._missed(missing[0], "vector of this text")
            fresh: Embeddings = await self.inner.embed_batch(missing, **how)  # type: ignore[attr-defined]
            try:
                found = found.joined(fresh)
            except ValueError as error:
                raise ModelError(f"cache {self._file.path}: {error}", kind="provider") from None
            new = dict(zip(missing, fresh.vectors, strict=True))
            self._file.keep_vectors({keys[text]: vector for text, vector in new.items()})
            known |= new
        return replace(found, vectors=[known[text] for text in texts])

    async def _answer(self, request: Request, ask: Callable[[Request], Any]) -> Completion:
        key = to_key(self._identity, request)
        sample, is_filled = self._samples.take(key), False
        try:
            found = self._file.find(key, sample)
            kept = self._revived(found, request) if found is not None else None
            if kept is not None:
                is_filled = True
                return kept
            if self._is_replay:
                which = f"answer number {sample + 1} of this request" if sample else "answer"
                raise self._missed(request.prompt, which)
            completion: Completion = await ask(request)
            if completion.text and completion.finish_reason not in _INCOMPLETE:
                self._file.keep(key, sample, completion)
                is_filled = True
            return completion
        finally:
            if not is_filled and not self._is_replay:
                self._samples.give_back(key, sample)

    def _revived(self, found: Completion, request: Request) -> Completion | None:
        """The kept answer as it is given; None where it does not fit the schema of today's pydantic class."""
        kept = replace(found, cost_usd=0.0, attempts=0)
        if request.options.schema is None:
            return kept
        try:
            return replace(kept, value=parse_answer(kept.text, request.options.schema))
        except Mismatch:
            return None

    def _missed(self, text: str, which: str) -> ModelError:
        shown = " ".join(text[:80].split())
        return ModelError(
            f"replay: {self._file.path} has no {which}, asked of {self._identity}: {shown!r}",
            kind="refused",
            attempts=0,
        )

    def __repr__(self) -> str:
        return f"CachedModel({self.inner!r}, {str(self._file.path)!r})"


def to_identity(model: Model) -> str:
    """What tells a model from others in the file: provider, name and server; a function has only its name."""
    return getattr(model, "identity", "") or model.name


def to_key(identity: str, request: Request) -> bytes:
    """The name of a request's answers: a hash of all that makes them. Raises `UsageError` where it is no JSON."""
    whole = request.to_canonical()
    options = whole.get("options", {})
    for name in options.keys() & {"temperature", "top_p"}:
        options[name] = float(options[name])  # 0 and 0.0 are one question
    try:
        return _to_hash({"model": identity, "request": whole})
    except (TypeError, ValueError) as error:
        raise UsageError(f"a cached query's extra= and messages hold JSON types only: {error}") from None


def _to_hash(whole: dict[str, Any]) -> bytes:
    return hashlib.sha256(json.dumps(whole, sort_keys=True, separators=(",", ":")).encode()).digest()
