"""A SQLite file of answers (WAL), each under the hash of its request and its number."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from dataclasses import astuple
from typing import Any

from rlm.core.query import Completion, Usage
from rlm.errors import UsageError

_APPLICATION_ID = 0x524C4D63
_VERSION = 1
_WAIT_MS = 20  # for another program's write; an event loop waits meanwhile
_LAST_WAIT_MS = 5000
_TABLE = (
    "CREATE TABLE IF NOT EXISTS answers (key BLOB, sample INTEGER, answer TEXT NOT NULL, PRIMARY KEY (key, sample))"
)
_INSERT = "INSERT OR IGNORE INTO answers VALUES (?, ?, ?)"
_Place = tuple[bytes, int]


class AnswerFile:
    """Opened once, used from any thread. A read takes some 15 us, a write some 40, both on the caller's thread.

    Each answer is written at once and survives a killed process (WAL, no fsync per answer: a machine that loses
    power may lose the last ones, and the file stays whole). Raises `UsageError` for what cannot be opened or read.
    """

    def __init__(self, path: str | os.PathLike[str], *, read_only: bool = False) -> None:
        self.path = os.fspath(path)
        self._lock = threading.Lock()
        self._unsaved: dict[_Place, str] = {}
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
        with self._lock:
            text = self._unsaved.get((key, sample))
            if text is None:
                try:
                    row = self._live.execute("SELECT answer FROM answers WHERE key=? AND sample=?", (key, sample))
                    found = row.fetchone()
                except sqlite3.Error as error:
                    raise self._explain(error) from None
                if found is None:
                    return None
                text = found[0]
        try:
            return _from_text(text)
        except (ValueError, TypeError, KeyError) as error:
            raise self._explain(error) from None

    def keep(self, key: bytes, sample: int, completion: Completion) -> None:
        """Write an answer. One that cannot be written now stays in memory, and goes with a later one."""
        with self._lock:
            self._unsaved[key, sample] = _to_text(completion)
            try:
                self._flush()
            except sqlite3.Error:
                return  # `close` tries again, with patience, and says so where it is in vain

    def close(self) -> None:
        """Write what is left and close. Raises `UsageError` where that fails: the answers stay in memory."""
        with self._lock:
            if self._connection is None:
                return
            if self._unsaved:
                try:
                    self._connection.execute(f"PRAGMA busy_timeout={_LAST_WAIT_MS}")
                    self._flush()
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
        return self._connection

    def _flush(self) -> None:
        rows = [(key, sample, text) for (key, sample), text in self._unsaved.items()]
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
        self._unsaved.clear()

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
            return _connect(f"{uri}&immutable=1", uri=True)
        return connection

    def _check(self, connection: sqlite3.Connection, read_only: bool) -> None:
        connection.execute(f"PRAGMA busy_timeout={_LAST_WAIT_MS}")
        [application] = connection.execute("PRAGMA application_id").fetchone()
        [tables] = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if application != _APPLICATION_ID and (tables or read_only):
            raise UsageError(f"cache {self.path}: it is a SQLite file, and no cache of answers: give another path")
        if not read_only:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute(_TABLE)
            connection.execute(f"PRAGMA application_id={_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={_VERSION}")
        connection.execute(f"PRAGMA busy_timeout={_WAIT_MS}")

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _explain(self, error: Exception) -> UsageError:
        what = f"{error.strerror}" if isinstance(error, OSError) else f"{error}"
        repair = "move it away, or give another path"
        if "locked" in what:
            repair = "another program holds it: wait for that, or give another path"
        return UsageError(f"cache {self.path}: it cannot be used: {what}: {repair}")


def _connect(target: str, *, uri: bool = False) -> sqlite3.Connection:
    return sqlite3.connect(target, timeout=_WAIT_MS / 1000, isolation_level=None, check_same_thread=False, uri=uri)


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
