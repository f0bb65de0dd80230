"""Zygotes, seen from the host: started by a clean exec, shared by all who need the same, ended with the last of them.

The host is never forked for a worker: its heap holds the keys. A zygote gets a fixed environment, one control socket
and the settings that all its workers share; a worker is asked for with one message, which any thread or loop may send.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import anyio

from rlm.core.portable import decode_value
from rlm.errors import SandboxError, UsageError
from rlm.sandbox.isolation import Isolation, check_system
from rlm.sandbox.lifeline import Descriptors, WorkerProcess, forget_at_fork
from rlm.sandbox.protocol import pack
from rlm.sandbox.readable import readable
from rlm.sandbox.values import pack_value

HASH_SEED = "0"
"""PYTHONHASHSEED of every worker: zygotes are shared, so no run has one of its own."""
_PROGRAM = Path(__file__).with_name("zygote.py")
_NUMERIC_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_EXIT_SECONDS = 5.0
_BUSY_SECONDS = 30.0
_LOOK_SECONDS = 0.002
_LEAST_FILES = 512
_GONE = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.EBADF)
_FULL = (errno.EAGAIN, errno.ETOOMANYREFS, errno.ENOBUFS)


class ZygoteEnded(SandboxError):
    """A worker went with its zygote before it could be used: another zygote may have more luck."""

    def __init__(self, zygote: object) -> None:
        self.zygote = zygote
        super().__init__("no worker can be had: its zygote ended at once")


class SharedContext:
    """A value that all workers of one zygote are born with. Compared by identity: nobody else shares that zygote."""

    def __init__(self, value: Any) -> None:
        self._spec, self._blob = pack_value(value, "context")
        # what the caller changes later is not in the workers; only a pickle is not made a value again here
        self._object = value if self._spec["k"] == "pickle" else None

    @property
    def frame(self) -> bytes:
        """As it goes to a zygote; a copy."""
        return pack({"t": "context", "v": self._spec}, [] if self._blob is None else [self._blob])

    @property
    def value(self) -> Any:
        """What the workers have; a copy, but for an object that went by pickle."""
        return self._object if self._spec["k"] == "pickle" else decode_value(copy.deepcopy(self._spec), self._blob)

    def forget(self) -> None:
        """Let go of the memory: no further zygote will be given it."""
        self._spec, self._blob, self._object = {"k": "json", "v": None}, None, None


class ZygoteSettings(NamedTuple):
    """What all workers of one zygote have in common; those who agree in it share the zygote."""

    isolation: Isolation = "full"
    preload: tuple[str, ...] = ()
    read_paths: tuple[str, ...] = ()
    context: SharedContext | None = None


class Plan(NamedTuple):
    """What one worker gets when it is forked. `folder`: where its scratch directory is made, empty for none there."""

    memory_bytes: int
    threads: int
    scratch_bytes: int
    folder: str


class Zygote:
    """A zygote process. Those who use it call `Zygote.of`, and `leave` when they have done."""

    _all: ClassVar[dict[ZygoteSettings, Zygote]] = {}
    _lock = threading.RLock()  # a collection may run the finalizer of a pool wherever the lock is held
    _unreaped: ClassVar[list[subprocess.Popen[bytes]]] = []

    def __init__(self, settings: ZygoteSettings) -> None:
        """Start it. Blocks about 1 ms (the exec); raises `SandboxError` where it cannot be started."""
        if not sys.executable:
            raise SandboxError('this program has no Python interpreter to start workers with: use sandbox="inline"')
        check_system(settings.isolation)
        _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
        if 0 <= files < _LEAST_FILES:
            raise SandboxError(f"no worker can be had: only {files} files may be open (ulimit -Hn {_LEAST_FILES})")
        may_read = readable(settings.read_paths)
        config = {
            "isolation": settings.isolation,
            "preload": settings.preload,
            "read": may_read.directories,
            "files": (*may_read.files, *may_read.host_files),
            "import_path": may_read.import_path,
            "withheld": may_read.withheld,
            "context": settings.context is not None,
        }
        self._settings = settings
        self._users = 0
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            raise SandboxError(f"no worker can be had: {error}") from error
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-s", "-S", "-X", "utf8", str(_PROGRAM), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=None if os.environ.get("RLM_ZYGOTE_STDERR") else subprocess.DEVNULL,
                env=_environment(),
                cwd="/",
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
            self._control = Descriptors(ours, None)
            ours.send(json.dumps(config).encode())
            if settings.context is not None:
                _pour(settings.context.frame, ours)
        except OSError as error:
            ours.close()
            if hasattr(self, "_process"):
                self.kill()
            if error.errno == errno.EMSGSIZE:
                raise UsageError(f"{len(settings.read_paths):,} read_paths are too many: give folders above") from error
            raise SandboxError(f"no worker can be had: {error}") from error
        finally:
            theirs.close()
        ours.setblocking(False)
        self._release = weakref.finalize(self, _end, self._control, self._process, os.getpid())

    @classmethod
    def of(cls, settings: ZygoteSettings) -> Zygote:
        """The living zygote with these settings, or a new one; counts the caller as a user."""
        with cls._lock:
            cls._unreaped[:] = [process for process in cls._unreaped if process.poll() is None]
            zygote = cls._all.get(settings)
            if zygote is None or zygote.ended():
                zygote = cls._all[settings] = cls(settings)
            zygote._users += 1
            return zygote

    @classmethod
    def running(cls) -> list[Zygote]:
        """Those that this process has in use."""
        with cls._lock:
            return list(cls._all.values())

    @classmethod
    def forget_all(cls) -> None:
        """In a forked child of the host: the zygotes are its parent's."""
        cls._lock = threading.RLock()
        for process in (*cls._unreaped, *(zygote._process for zygote in cls._all.values())):
            process.returncode = 0  # nobody waits for it here
        cls._all.clear()
        cls._unreaped.clear()

    def ended(self) -> bool:
        """Whether the process has ended; reaps it then."""
        return self._process.poll() is not None

    def kill(self) -> None:
        """End it at once, and with it every worker; those who use it get another one for their next worker."""
        self._process.kill()
        self._process.wait()

    async def spawn(self, plan: Plan) -> WorkerProcess:
        """Ask for a worker. Returns at once: what goes wrong in it shows as its end."""
        end = time.monotonic() + _BUSY_SECONDS
        worker, theirs = self._make_worker()
        try:
            while not self._order(plan, theirs):  # so many workers are asked for that it has to fork some first
                if time.monotonic() > end:
                    raise SandboxError(f"the zygote took no orders for {_BUSY_SECONDS:g} s")
                await anyio.sleep(_LOOK_SECONDS)
        except BaseException:
            worker.release()
            raise
        finally:
            for sock in theirs:
                sock.close()
        return worker

    def spawn_now(self, plan: Plan) -> WorkerProcess | None:
        """`spawn` for who cannot wait: None where the zygote has much to do."""
        worker, theirs = self._make_worker()
        taken = False
        try:
            taken = self._order(plan, theirs)
        finally:
            for sock in theirs:
                sock.close()
            if not taken:
                worker.release()
        return worker if taken else None

    def _make_worker(self) -> tuple[WorkerProcess, list[socket.socket]]:
        try:
            return WorkerProcess.make(self)
        except OSError as error:
            raise SandboxError(f"no worker can be had: {error}") from error

    def _order(self, plan: Plan, theirs: list[socket.socket]) -> bool:
        order = json.dumps({**plan._asdict(), "scratch": None}).encode()
        try:
            socket.send_fds(self._control.socket, [order], [sock.fileno() for sock in theirs], socket.MSG_NOSIGNAL)
        except OSError as error:
            if error.errno in _GONE:
                raise ZygoteEnded(self) from error
            if error.errno not in _FULL:
                raise SandboxError(f"the zygote takes no orders: {error}") from error
            return False
        return True

    async def leave(self) -> None:
        """Give up one use; the last user's leaving ends the process. Cancelled, it is ended all the same."""
        if not self._left():
            return
        self._control.close()
        try:
            with anyio.CancelScope(shield=True), anyio.move_on_after(_EXIT_SECONDS):
                while not self.ended():  # noqa: ASYNC110 -- a process's end is no event of every kind of loop
                    await anyio.sleep(_LOOK_SECONDS)
        finally:
            if not self.ended():
                self._process.kill()  # stopped or stuck: that ends it at once
            self._release()

    def leave_now(self) -> None:
        """`leave` without an event loop: blocks some ms where this was the last user."""
        if self._left():
            self._release()

    def abandon(self) -> None:
        """`leave` for a finalizer: waits for nothing. Who comes next reaps the process."""
        if self._left() and self._release.detach() is not None:
            self._control.close()
            Zygote._unreaped.append(self._process)

    def _left(self) -> bool:
        with Zygote._lock:
            self._users -= 1
            if self._users:
                return False
            if Zygote._all.get(self._settings) is self:
                del Zygote._all[self._settings]
            return True


def _pour(data: bytes, control: socket.socket) -> None:
    """Send a zygote what is too much for one message, beside everything else: it begins to read when it has begun."""
    source, sink = socket.socketpair()
    with sink:
        socket.send_fds(control, [b"context"], [sink.fileno()])

    def pour() -> None:
        with source, contextlib.suppress(OSError):  # it has ended
            source.sendall(data, socket.MSG_NOSIGNAL)

    threading.Thread(target=pour, name="rlm-context", daemon=True).start()


def _environment() -> dict[str, str]:
    # Fixed, and ours: nothing of the host's environment, where keys live, reaches a worker but what loads libraries.
    fixed = {"LANG": "C.UTF-8", "HOME": "/tmp", "TMPDIR": "/tmp", "PATH": "/usr/bin:/bin", "PYTHONHASHSEED": HASH_SEED}
    fixed.update(dict.fromkeys(_NUMERIC_THREADS, "1"))
    fixed["MALLOC_ARENA_MAX"] = "2"  # each arena reserves 64 MB of address space, which is what `memory_bytes` limits
    # A thread that a library leaves running keeps its process from being forked: Arrow's allocator would start one.
    fixed["JE_ARROW_MALLOC_CONF"] = "background_thread:false"
    for name in ("LD_LIBRARY_PATH", "TZ"):
        if name in os.environ:
            fixed[name] = os.environ[name]
    return fixed


def _end(control: Descriptors, process: subprocess.Popen[bytes], owner: int) -> None:
    """Close the control socket, which ends the zygote, and reap it; only the first in a forked child of the host."""
    control.close()
    if os.getpid() != owner:
        return
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_EXIT_SECONDS)
        return
    process.kill()
    process.wait()


def scratch_folder() -> str:
    """Where scratch directories are made that have no file system of their own."""
    return tempfile.gettempdir()


forget_at_fork(Zygote.forget_all)
