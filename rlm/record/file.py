"""The SQLite file of a record: opened, checked, and written so that a killed process loses nothing that was used."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from rlm.errors import RecordError

APPLICATION_ID = 0x524C4D72
VERSION = 1
_BUSY_MS = 5000  # another process's write takes far less; an event loop waits meanwhile
_WAL_TRIES = 20
_LOG_PAGES = 1000  # of 4 KiB, before they are moved
_TABLES = (
    "CREATE TABLE contents (hash TEXT, part INTEGER, data BLOB NOT NULL, PRIMARY KEY (hash, part))",
    "CREATE TABLE contexts (hash TEXT PRIMARY KEY, kind TEXT NOT NULL, size INTEGER NOT NULL)",
    "CREATE TABLE runs (run_id TEXT PRIMARY KEY, parent TEXT, cell INTEGER, key BLOB, occurrence INTEGER,"
    " depth INTEGER NOT NULL, question TEXT NOT NULL, context TEXT NOT NULL, settings TEXT NOT NULL,"
    " system TEXT NOT NULL, first_message TEXT NOT NULL, seed INTEGER NOT NULL, hash_seed TEXT NOT NULL,"
    " status TEXT NOT NULL, owner TEXT, started REAL NOT NULL, finished REAL, result TEXT, final BLOB,"
    " UNIQUE (parent, cell, key, occurrence))",
    "CREATE TABLE turns (run_id TEXT, number INTEGER, key BLOB NOT NULL, prompt TEXT NOT NULL, completion TEXT,"
    " refusal TEXT, charge TEXT NOT NULL, at REAL NOT NULL, PRIMARY KEY (run_id, number))",
    "CREATE TABLE cells (run_id TEXT, number INTEGER, turn INTEGER NOT NULL, code TEXT NOT NULL, status TEXT,"
    " result TEXT, final BLOB, at REAL NOT NULL, PRIMARY KEY (run_id, number))",
    "CREATE TABLE answers (run_id TEXT, cell INTEGER, key BLOB, occurrence INTEGER, place INTEGER NOT NULL,"
    " request TEXT NOT NULL, answer TEXT NOT NULL, given INTEGER NOT NULL, charge TEXT NOT NULL, at REAL NOT NULL,"
    " PRIMARY KEY (run_id, cell, key, occurrence))",
    "CREATE TABLE tools (run_id TEXT, cell INTEGER, key BLOB, occurrence INTEGER, place INTEGER NOT NULL,"
    " name TEXT NOT NULL, value TEXT, data BLOB, error TEXT, at REAL NOT NULL,"
    " PRIMARY KEY (run_id, cell, key, occurrence))",
    "CREATE TABLE marks (run_id TEXT, step INTEGER, kind TEXT, text TEXT NOT NULL, PRIMARY KEY (run_id, step, kind))",
)


class RecordFile:
    """Opened once for a run tree, used from any thread of its process.

    A row is a transaction of its own: written ahead (WAL) and not synced, so it survives the end of this process, and
    a machine that loses power may lose the last ones while the file stays whole. Any number of processes may write
    their own runs. Every failure is a `RecordError` of one line.

    Moving the log into the file does sync, which takes milliseconds, on the thread of the row that fills it. One of its
    own was tried: rows written meanwhile wait for the same sync, and the mean of all of them was twice as high.
    """

    def __init__(self, path: str | os.PathLike[str], *, read_only: bool = False) -> None:
        self.path = os.fspath(path)
        self._lock = threading.RLock()
        self._process = os.getpid()
        self._connection: sqlite3.Connection | None = None
        try:
            self._connection = self._open_old() if read_only else self._open()
        except (sqlite3.Error, OSError) as error:
            raise self.explain(error) from None

    def execute(self, statement: str, values: Sequence[Any] = ()) -> int:
        """Do one statement, which is then written; gives how many rows it changed."""
        with self._lock:
            try:
                return self._live.execute(statement, values).rowcount
            except sqlite3.Error as error:
                raise self.explain(error) from None

    def fetch(self, statement: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """The rows of a query."""
        with self._lock:
            try:
                return self._live.execute(statement, values).fetchall()
            except sqlite3.Error as error:
                raise self.explain(error) from None

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Several statements: all of them or none, and nobody else writes between them."""
        with self._lock:
            self.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.execute("COMMIT")
            except BaseException:
                if self._connection is not None and self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close it. Idempotent."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None and self._process == os.getpid():
                with contextlib.suppress(sqlite3.Error):  # moving the log into a full disk's file: the log stays
                    connection.close()

    @property
    def _live(self) -> sqlite3.Connection:
        if self._connection is None:
            raise RecordError(f"record {self.path}: it is closed")
        if self._process != os.getpid():
            # SQLite's locks do not survive a fork, and the file would break
            raise RecordError(f"record {self.path}: it was opened before this process was forked: open it again here")
        return self._connection

    def _open(self) -> sqlite3.Connection:
        os.close(os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))  # answers are nobody else's
        connection = _connect(os.path.abspath(self.path))
        try:
            connection.execute("BEGIN IMMEDIATE")  # whole or not at all: another process may open the same new file
            if self._is_new(connection):
                for table in _TABLES:
                    connection.execute(table)
                connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version={VERSION}")
            connection.execute("COMMIT")
            _to_wal(connection)
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute(f"PRAGMA wal_autocheckpoint={_LOG_PAGES}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _open_old(self) -> sqlite3.Connection:
        if not os.path.exists(self.path):
            raise RecordError(f"record {self.path}: there is no such file")
        from urllib.parse import quote

        connection = _connect(f"file:{quote(os.path.abspath(self.path))}?mode=ro")
        try:
            if self._is_new(connection):
                raise RecordError(f"record {self.path}: the file is empty")
        except BaseException:
            connection.close()
            raise
        return connection

    def _is_new(self, connection: sqlite3.Connection) -> bool:
        """Whether nothing is in it. Raises `RecordError` for a file that is not ours to go on with."""
        [application] = connection.execute("PRAGMA application_id").fetchone()
        [tables] = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        [version] = connection.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION_ID:
            if tables or application:
                raise RecordError(f"record {self.path}: it is a SQLite file, and no record of runs: give another path")
            return True
        if version > VERSION:
            raise RecordError(f"record {self.path}: a later version of rlm has made it: update, or give another path")
        if version < VERSION:
            raise RecordError(
                f"record {self.path}: an earlier version of rlm has made it (schema {version}): give another path"
            )
        return False

    def explain(self, error: Exception) -> RecordError:
        """A failure of the file, in one line with what to do."""
        what = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        repair = "move it away, or give another path"
        if "locked" in what:
            repair = "another process holds it: wait for that"
        elif "full" in what:
            repair = "make room, then resume the run"
        elif "readonly" in what or "denied" in what.lower():
            repair = "it cannot be written: give another path, or change its mode"
        return RecordError(f"record {self.path}: {what}: {repair}")


def _connect(target: str) -> sqlite3.Connection:
    # No isolation level: every statement is a transaction of its own, where none was begun.
    connection = sqlite3.connect(
        target,
        timeout=_BUSY_MS / 1000,
        isolation_level=None,
        check_same_thread=False,
        uri=target.startswith("file:"),
        cached_statements=64,
    )
    connection.row_factory = sqlite3.Row
    return connection


def _to_wal(connection: sqlite3.Connection) -> None:
    """Two processes that do this to the same new file refuse each other at once, so that one has to try again."""
    for left in reversed(range(_WAL_TRIES)):
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if not left or "locked" not in str(error):
                raise
            connection.execute("BEGIN IMMEDIATE")  # which does wait for the other
            connection.execute("ROLLBACK")
