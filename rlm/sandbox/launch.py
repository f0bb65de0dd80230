"""Starting and ending a worker process: a clean exec, a fixed environment, one socket, no fork of the host's heap."""

from __future__ import annotations

import contextlib
import os
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


class WorkerProcess:
    """A worker, its socket, its pidfd and its scratch directory. `end` releases all four."""

    def __init__(self) -> None:
        """Start the worker. Blocks about 1 ms (the exec); raises `SandboxError` where none can be had.

        Call it on the event loop's own thread: the kernel ends a worker with the thread that started it.
        """
        if not sys.executable:
            raise SandboxError('this program has no Python interpreter to start workers with: use sandbox="inline"')
        self._scratch = tempfile.mkdtemp(prefix="rlm-")
        ours, theirs = socket.socketpair()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-X", "utf8", str(_WORKER), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=_environment(self._scratch),
                cwd=self._scratch,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
            self.pidfd = os.pidfd_open(self._process.pid)
        except OSError as error:
            ours.close()
            shutil.rmtree(self._scratch, ignore_errors=True)
            raise SandboxError(f"no worker can be started: {error}") from error
        finally:
            theirs.close()
        ours.setblocking(False)
        self.socket = ours
        self.pid = self._process.pid
        # also at the end of a program that closed nothing, and for an environment that was dropped
        self._release = weakref.finalize(self, _clean, self._process, self.pidfd, ours, self._scratch, os.getpid())

    def exited(self) -> bool:
        """Whether the process has ended. Costs one system call; does not reap it, so that its group keeps its name."""
        if self.pidfd < 0:
            return True
        return os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def interrupt(self) -> None:
        """Send SIGINT; harmless if the process has ended."""
        self._signal(signal.SIGINT)

    def kill(self) -> None:
        """Send SIGKILL; harmless if the process has ended."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                signal.pidfd_send_signal(self.pidfd, number)

    async def end(self) -> str:
        """Kill the process and its group, reap it, release everything; returns how it ended. Idempotent.

        Cancelled, it still ends and releases everything before it raises: a killed process is reaped within about 1 ms.
        """
        if self.pidfd >= 0:
            self.socket.close()
            try:
                if not self.exited():
                    self.kill()
                    with anyio.CancelScope(shield=True), anyio.move_on_after(_EXIT_SECONDS):
                        await anyio.wait_readable(self.pidfd)
            finally:
                self._release()
                self.pidfd = -1
        return self.how_it_ended()

    def how_it_ended(self) -> str:
        """`signal SIGSEGV`, `exit code 3`, or `still running`."""
        code = self._process.returncode
        if code is None:
            return "still running"
        if code >= 0:
            return f"exit code {code}"
        try:
            return f"signal {signal.Signals(-code).name}"
        except ValueError:
            return f"signal {-code}"


def _clean(process: subprocess.Popen[bytes], pidfd: int, sock: socket.socket, scratch: str, owner: int) -> None:
    """Kill, reap, close, remove; nothing in a forked child of the host, whose worker it is not."""
    if os.getpid() != owner:
        return
    sock.close()
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # what the cells started and left running ends with the worker
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_EXIT_SECONDS)
    os.close(pidfd)
    shutil.rmtree(scratch, ignore_errors=True)
