"""Starting and ending a worker process: a clean exec, a fixed environment, one socket, no fork of the host's heap."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import weakref
from pathlib import Path

import anyio

from rlm.errors import SandboxError

_WORKER = Path(__file__).with_name("worker.py")
_NUMERIC_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_EXIT_SECONDS = 5.0


def package_paths() -> list[str]:
    """Folders of installed packages on the host's path; working trees are not among them."""
    return [path for path in sys.path if os.path.basename(path) in ("site-packages", "dist-packages")]


def _environment(home: str) -> dict[str, str]:
    # Fixed, and ours: nothing of the host's environment, where keys live, reaches a worker but what loads libraries.
    fixed = {"LANG": "C.UTF-8", "HOME": home, "TMPDIR": home, "PATH": "/usr/bin:/bin"}
    fixed.update(dict.fromkeys(_NUMERIC_THREADS, "1"))
    for name in ("LD_LIBRARY_PATH", "TZ"):
        if name in os.environ:
            fixed[name] = os.environ[name]
    return fixed


class Descriptors:
    """A worker's socket and pidfd. Whoever has registered them with an event loop closes them, after taking them out.

    (A selector keeps the numbers of descriptors that were closed behind its back, and is then deaf to the next socket
    or file that gets one of them.)
    """

    def __init__(self, sock: socket.socket, pidfd: int) -> None:
        self.socket, self.pidfd = sock, pidfd

    def close(self) -> None:
        """Close both. Idempotent."""
        self.socket.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1

    def __del__(self) -> None:
        self.close()


class WorkerProcess:
    """A worker, its descriptors and its scratch directory. `end` releases all of them.

    One that is dropped, or whose program ends, is killed and its directory removed all the same.
    """

    def __init__(self) -> None:
        """Start the worker. Blocks about 1 ms (the exec); raises `SandboxError` where none can be had.

        Call it on the event loop's own thread: the kernel ends a worker with the thread that started it.
        """
        if not sys.executable:
            raise SandboxError('this program has no Python interpreter to start workers with: use sandbox="inline"')
        scratch = tempfile.mkdtemp(prefix="rlm-")
        ours, theirs = socket.socketpair()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-X", "utf8", str(_WORKER), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=_environment(scratch),
                cwd=scratch,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
            self.descriptors = Descriptors(ours, os.pidfd_open(self._process.pid))
        except OSError as error:
            ours.close()
            shutil.rmtree(scratch, ignore_errors=True)
            raise SandboxError(f"no worker can be started: {error}") from error
        finally:
            theirs.close()
        ours.setblocking(False)
        self.pid = self._process.pid
        self._ended = select.poll()
        self._ended.register(self.descriptors.pidfd, select.POLLIN)
        self._how = ""
        self._release = weakref.finalize(self, _kill_and_remove, self._process, scratch, os.getpid())

    def exited(self) -> bool:
        """Whether the process has ended. Costs one system call; does not reap it, so that its group keeps its name."""
        return self.descriptors.pidfd < 0 or bool(self._ended.poll(0))

    def interrupt(self) -> None:
        """Send SIGINT; harmless if the process has ended."""
        self._signal(signal.SIGINT)

    def kill(self) -> None:
        """Send SIGKILL; harmless if the process has ended."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self.descriptors.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                signal.pidfd_send_signal(self.descriptors.pidfd, number)

    async def end(self) -> str:
        """Kill the process and its group, reap it, release everything; returns how it ended. Idempotent.

        `signal SIGSEGV`, `exit code 3`. Cancelled, it still ends and releases everything before it raises: a killed
        process is reaped within about 1 ms. Whoever watches the descriptors has stopped before.
        """
        if not self._how:
            try:
                if not self.exited():
                    self.kill()
                    with anyio.CancelScope(shield=True), anyio.move_on_after(_EXIT_SECONDS):
                        await anyio.wait_readable(self.descriptors.pidfd)
            finally:
                self._how = self._read_how()
                self._release()
                self.descriptors.close()
        return self._how

    def _read_how(self) -> str:
        try:
            found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return "how is not known: this program ignores SIGCHLD"
        if found is None:
            return "still running"
        if found.si_code == os.CLD_EXITED:
            return f"exit code {found.si_status}"
        try:
            return f"signal {signal.Signals(found.si_status).name}"
        except ValueError:
            return f"signal {found.si_status}"


def _kill_and_remove(process: subprocess.Popen[bytes], scratch: str, owner: int) -> None:
    """Kill, reap, remove; nothing in a forked child of the host, whose worker it is not."""
    if os.getpid() != owner:
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # what the cells started and left running ends with the worker
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_EXIT_SECONDS)
    shutil.rmtree(scratch, ignore_errors=True)
