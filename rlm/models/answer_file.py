"""A SQLite file of answers (WAL), each under the hash of its request and its number."""

from __future__ import annotations

import json
import os
import sqlite3
import struct
import threading
from dataclasses import astuple
from itertools import islice
from typing import Any

from rlm.core.query import Completion, Usage
from rlm.errors import UsageError

_APPLICATION_ID = 0x524C4D63
_VERSION = 1
_WAIT_MS = 20  # for another program's write; an event loop waits meanwhile
_LAST_WAIT_MS = 5000
_WAL_TRIES = 20
_PART_ROWS = 500  # in one transaction: what was left by a file that was held or full does not come all at once
_TABLE = (
    "CREATE TABLE IF NOT EXISTS answers (key BLOB, sample INTEGER, answer TEXT NOT NULL, PRIMARY KEY (key, sample))"
)
_INSERT = "INSERT OR IGNORE INTO answers VALUES (?, ?, ?)"
Place = tuple[bytes, int]
"""The hash of a request, and which of its answers."""


class AnswerFile:
    """Opened once, used from any thread of its process. A read takes some 15 us, a write some 40, a write that moves
    the log into the file some ms, all on the caller's thread.

    Each answer is written at once and survives a killed process (WAL, no fsync per answer: a machine that loses
    power may lose the last ones, and the file stays whole). While the file cannot be written, each try is given up at
    once but the first. Raises `UsageError` for what cannot be opened or read.
    """

    def __init__(self, path: str | os.PathLike[str], *, read_only: bool = False) -> None:
        self.path = os.fspath(path)
        self._lock = threading.Lock()
        self._unsaved: dict[Place, str | bytes] = {}
        self._waits_ms = _LAST_WAIT_MS
        self._process = os.getpid()
        self._connection: sqlite3.Connection | None = None
        try:
            self._connection = self._open(read_only)
            self._check(self._connection, read_only)
        except (sqlite3.Error, OSError) as error:
            self._drop()
            raise self._explain(error) from None
        except UsageError:
            self._drop()
            raise

    @property
    def unsaved(self) -> int:
        """Answers that are in memory only."""
        return len(self._unsaved)

    def find(self, key: bytes, sample: int) -> Completion | None:
        """The answer kept there, or None. Raises `UsageError` where the file cannot be read."""
        content = self._find(key, sample)
        try:
            return None if content is None else _from_text(content)
        except (ValueError, TypeError, KeyError) as error:
            raise self._explain(error) from None

    def keep(self, key: bytes, sample: int, completion: Completion) -> None:
        """Write an answer. One that cannot be written now stays in memory, and goes with a later one."""
        self._keep({(key, sample): _to_text(completion)})

    def find_vector(self, key: bytes) -> list[float] | None:
        """The embedding kept there, or None. Raises `UsageError` where the file cannot be read."""
        content = self._find(key, 0)
        try:
            return None if content is None else _from_bytes(content)
        except (struct.error, TypeError) as error:
            raise self._explain(error) from None

    def keep_vectors(self, vectors: dict[bytes, list[float]]) -> None:
        """Write embeddings, as `keep`."""
        self._keep({(key, 0): _to_bytes(vector) for key, vector in vectors.items()})

    def _find(self, key: bytes, sample: int) -> Any:
        with self._lock:
            live, unsaved = self._live, self._unsaved.get((key, sample))
            if unsaved is not None:
                return unsaved
            try:
                row = live.execute("SELECT answer FROM answers WHERE key=? AND sample=?", (key, sample))
                found = row.fetchone()
            except sqlite3.Error as error:
                raise self._explain(error) from None
            return None if found is None else found[0]

    def _keep(self, contents: dict[Place, str | bytes]) -> None:
        with self._lock:
            if self._connection is None:
                return  # closed while the answer was on its way: who asked for it has it all the same
            self._unsaved.update(contents)
            try:
                self._flush_part()
            except sqlite3.Error:
                self._wait_for(0)  # `close` tries again, with patience, and says so where it is in vain
            else:
                self._wait_for(_WAIT_MS)

    def close(self) -> None:
        """Write what is left and close. Raises `UsageError` where that fails: the answers stay in memory."""
        with self._lock:
            if self._connection is None:
                return
            if self._unsaved:
                self._wait_for(_LAST_WAIT_MS)
                try:
                    while self._unsaved:
                        self._flush_part()
                except sqlite3.Error as error:
                    count = len(self._unsaved)
                    raise UsageError(
                        f"cache {self.path}: {count} answers could not be written and are in memory still: {error}"
                    ) from None
            self._drop()

    @property
    def _live(self) -> sqlite3.Connection:
        if self._connection is None:
            raise UsageError(f"cache {self.path}: it is closed")
        if self._process != os.getpid():
            # SQLite's locks do not survive a fork, and the file would break
            raise UsageError(f"cache {self.path}: it was opened before this process was forked: open it again here")
        return self._connection

    def _wait_for(self, milliseconds: int) -> None:
        """How long from now on a statement waits for another program's write."""
        if milliseconds != self._waits_ms and self._connection is not None:
            self._connection.execute(f"PRAGMA busy_timeout={milliseconds}")
            self._waits_ms = milliseconds

    def _flush_part(self) -> None:
        rows = [(*place, content) for place, content in islice(self._unsaved.items(), _PART_ROWS)]
        live = self._live
        if len(rows) == 1:
            live.execute(_INSERT, rows[0])
        else:
            live.execute("BEGIN IMMEDIATE")
            try:
                live.executemany(_INSERT, rows)
                live.execute("COMMIT")
            except sqlite3.Error:
                if live.in_transaction:
                    live.execute("ROLLBACK")
                raise
        for key, sample, _ in rows:
            del self._unsaved[key, sample]

    def _open(self, read_only: bool) -> sqlite3.Connection:
        # No isolation level: every statement is a transaction of its own, but for the one above.
        if not read_only:
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))  # answers are nobody else's
            return _connect(self.path)
        uri = f"{_as_uri(self.path)}?mode=ro"
        connection = _connect(uri, uri=True)
        try:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.Error as error:
            connection.close()
            if not isinstance(error, sqlite3.OperationalError) or not os.path.exists(self.path):
                raise
            # a directory that nothing can be written to, where WAL has no place for its index
            if os.path.exists(f"{self.path}-wal") and os.path.getsize(f"{self.path}-wal"):
                raise UsageError(
                    f"cache {self.path}: answers stand in its -wal file, which cannot be read where nothing can be "
                    "written: copy both files to a place that can"
                ) from None
            return _connect(f"{uri}&immutable=1", uri=True)
        return connection

    def _check(self, connection: sqlite3.Connection, read_only: bool) -> None:
        connection.execute(f"PRAGMA busy_timeout={self._waits_ms}")
        if read_only:
            self._check_header(connection, is_new_fine=False)
        else:
            # whole or not at all: another program may be opening the same new file
            connection.execute("BEGIN IMMEDIATE")
            self._check_header(connection, is_new_fine=True)
            connection.execute(_TABLE)
            connection.execute(f"PRAGMA application_id={_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={_VERSION}")
            connection.execute("COMMIT")
            _to_wal(connection)
            connection.execute("PRAGMA synchronous=NORMAL")
        self._wait_for(_WAIT_MS)

    def _check_header(self, connection: sqlite3.Connection, *, is_new_fine: bool) -> None:
        [application] = connection.execute("PRAGMA application_id").fetchone()
        [tables] = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        [version] = connection.execute("PRAGMA user_version").fetchone()
        if application != _APPLICATION_ID and (tables or not is_new_fine):
            raise UsageError(f"cache {self.path}: it is a SQLite file, and no cache of answers: give another path")
        if version > _VERSION:
            raise UsageError(f"cache {self.path}: a later version of rlm has made it: update, or give another path")

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _explain(self, error: Exception) -> UsageError:
        what = f"{error.strerror}" if isinstance(error, OSError) else f"{error}"
        repair = "move it away, or give another path"
        if not os.path.exists(self.path):
            what, repair = "there is no such file", "give another path"  # or no such directory, to write one in
        elif "locked" in what:
            repair = "another program holds it: wait for that, or give another path"
        return UsageError(f"cache {self.path}: it cannot be used: {what}: {repair}")


def _connect(target: str, *, uri: bool = False) -> sqlite3.Connection:
    return sqlite3.connect(target, timeout=_WAIT_MS / 1000, isolation_level=None, check_same_thread=False, uri=uri)


def _to_wal(connection: sqlite3.Connection) -> None:
    """Two programs that do this to the same new file refuse each other at once, so that one has to try again."""
    for left in reversed(range(_WAL_TRIES)):
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            if not left:
                raise
            connection.execute("BEGIN IMMEDIATE")  # which does wait for the other
            connection.execute("ROLLBACK")


def _as_uri(path: str) -> str:
    from urllib.parse import quote

    return f"file:{quote(os.path.abspath(path))}"


def _to_text(completion: Completion) -> str:
    whole: dict[str, Any] = {"text": completion.text, "model": completion.model, "provider": completion.provider}
    whole["usage"] = astuple(completion.usage) if completion.usage is not None else None
    whole["finish_reason"] = completion.finish_reason
    return json.dumps(whole, separators=(",", ":"))


def _from_text(text: str) -> Completion:
    whole = json.loads(text)
    usage = whole["usage"]
    return Completion(
        whole["text"],
        whole["model"],
        Usage(*usage) if usage is not None else None,
        whole["finish_reason"],
        whole["provider"],
    )


def _to_bytes(vector: list[float]) -> bytes:
    return struct.pack(f"<{len(vector)}d", *vector)


def _from_bytes(content: bytes) -> list[float]:
    return list(struct.unpack(f"<{len(content) // 8}d", content))
