"""What the kernel will refuse, said in Python beforehand: an audit hook whose errors name what a caller can change.

A courtesy to whoever reads the error, and no protection: cells can get around it, and then meet the kernel's refusal.
It never refuses what the kernel allows by the lists it was given. Where it cannot tell, it leaves the matter to the
kernel: descriptors, paths relative to a directory descriptor, arguments of odd types.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from posixpath import normpath, realpath
from types import FrameType
from typing import Any, NoReturn

from rlm.confine import root
from rlm.repl.compile import is_cell
from rlm.sandbox.worker_paths import tell_lasting_paths
from rlm.sandbox.worker_semaphores import replace_semaphores

NETWORK = (
    "the sandbox does not allow network access: ask models through llm_query; "
    "for anything else the caller can give the environment a tool"
)
PROCESSES = (
    "the sandbox does not allow other processes: do it in this one (threads are allowed); "
    "for programs the caller can give the environment a tool"
)
SIGNALS = "the sandbox does not allow signals to other processes"
_READ = (
    "the sandbox lets cells read only Python, its packages and their scratch directory; "
    "the caller can grant more with read_paths=[...]"
)
_WRITE = "the sandbox lets cells write only in their scratch directory {scratch}"
_NO_SCRATCH = (
    "this sandbox has no scratch directory to write in: the caller can give one with Limits(scratch_bytes=...)"
)
_WITHHELD = (
    "No module named {name!r}. {top!r} lies in {folder}, a working tree that a .pth file or an editable install "
    "adds to the host's path; the sandbox does not let cells read it. The caller can grant it: read_paths=[{folder!r}]"
)

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_OWN = ("/proc/self/", "/proc/thread-self/", "/dev/fd/", "/dev/stdin/", "/dev/stdout/", "/dev/stderr/")
_AUDITED = 2  # frames from a check, over the hook, to the function that raised the event

Check = Callable[..., None]
# taken now: a cell may bind these names anew
_fspath, _fsdecode, _getcwd, _getpid, _exists = os.fspath, os.fsdecode, os.getcwd, os.getpid, os.path.lexists
_getframe, _AF_UNIX = sys._getframe, int(socket.AF_UNIX)


class _Absent(PermissionError, FileNotFoundError):
    """For a path that is refused and that nothing is to be found at: libraries try such files and expect either."""


_Absent.__name__ = _Absent.__qualname__ = "PermissionError"
_Absent.__module__ = "builtins"


class Refusals:
    """The settings of the hook.

    scratch: the directory for writing, or None; to be set anew after a fork as well, as it also renews the process id.
    resting: True while the runtime itself, and no cell, is at work.
    """

    def __init__(self, readable: Sequence[str], scratch: str | None) -> None:
        self._read = tuple(dict.fromkeys(f"{path.rstrip('/')}/" for path in readable))
        self.resting = False
        self.scratch = scratch

    @property
    def scratch(self) -> str | None:
        """The directory in which cells may write."""
        return self._scratch

    @scratch.setter
    def scratch(self, scratch: str | None) -> None:
        own = (*_OWN, f"/proc/{_getpid()}/")
        devices = tuple(f"{path}/" for path in _DEVICES)
        # the folder that a linked one leads to gets another name with each fork; the kernel knows which is ours
        real = () if scratch is None else (scratch, root.STORE if root.linked else realpath(scratch))
        below = tuple({f"{path.rstrip('/')}/" for path in real})
        self._scratch = scratch
        self._may_write = below + devices + own
        self._may_read = self._read + self._may_write

    def check_fork(self, *_: Any) -> None:
        """Refuse a fork of a cell."""
        if not self.resting:
            _refuse_process()

    def check_open(self, path: Any, mode: Any, flags: Any) -> None:
        """Refuse to open. The event comes from every import, so that what is allowed leaves by the first line."""
        if not flags & _WRITING:
            if type(path) is str and path.startswith(self._may_read) and "/.." not in path:
                return
            # os.open: its dir_fd is not told
            self._check(path, self._may_read, _READ, relative=mode is not None)
        else:
            self._check_write(path, relative=mode is not None)

    def check_read(self, path: Any = None, *_: Any) -> None:
        """Refuse to list a directory."""
        self._check("." if path is None else path, self._may_read, _READ)

    def check_enter(self, path: Any) -> None:
        """Refuse to change to a directory, but for the root, where nothing can be read."""
        if path != "/":
            self.check_read(path)

    def check_write(self, path: Any, *rest: Any) -> None:
        """Refuse to change one path. The last argument, where it is a descriptor of a directory, makes it relative."""
        self._check_write(path, relative=not (rest and type(rest[-1]) is int and rest[-1] >= 0))

    def check_attributes(self, path: Any, *_: Any) -> None:
        """Refuse to change what belongs to a path, in calls without a directory's descriptor."""
        self._check_write(path)

    def check_pair(self, source: Any, target: Any, source_dir: int, target_dir: int) -> None:
        """Refuse to rename or link."""
        self._check_write(source, relative=source_dir < 0)
        self._check_write(target, relative=target_dir < 0)

    def check_symlink(self, source: Any, target: Any, directory: int) -> None:
        """Refuse to make a symbolic link; where it points to does not matter."""
        self._check_write(target, relative=directory < 0)

    def check_database(self, database: Any) -> None:
        """Refuse a database that could not be opened: SQLite's own error does not say why."""
        name = _to_text(database)
        if name and name != ":memory:" and not name.startswith("file:"):
            self._check(name, self._may_read, _READ)

    def check_walk(self, top: Any, *_: Any) -> None:
        """Refuse to walk a tree whose first directory cannot be read: the walk itself would find nothing and say so."""
        if _asked_by_cell(_getframe(_AUDITED)):
            self._check(top, self._may_read, _READ)

    def check_pattern(self, pattern: Any, *_: Any) -> None:
        """The same for `glob`, by the part of the pattern before its first wildcard."""
        name = _to_text(pattern)
        if name is not None and _asked_by_cell(_getframe(_AUDITED)):
            fixed = name[: min((name.find(c) for c in "*?[" if c in name), default=len(name))]
            if len(fixed) < len(name):
                self._check(fixed[: fixed.rfind("/") + 1] or ".", self._may_read, _READ)

    def _check_write(self, path: Any, relative: bool = True) -> None:
        why = _NO_SCRATCH if self._scratch is None else _WRITE.format(scratch=self._scratch)
        self._check(path, self._may_write, why, relative)

    def _check(self, path: Any, allowed: tuple[str, ...], why: str, relative: bool = True) -> None:
        name = _to_text(path)
        if name is None or not (relative or name.startswith("/")) or self.resting:
            return
        try:
            full = normpath(name if name.startswith("/") else f"{_getcwd()}/{name}")
            if f"{full}/".startswith(allowed) or f"{realpath(full)}/".startswith(allowed):
                return
            there = _exists(full)
        except (OSError, ValueError):
            return
        raise (PermissionError if there else _Absent)(errno.EACCES, why, name)


def _to_text(path: Any) -> str | None:
    """A path as an exact str; None for a descriptor, and for what gives none."""
    if type(path) is str:
        return path
    kind = type(path)  # not isinstance, which asks the object itself
    if issubclass(kind, int):
        return None
    if not issubclass(kind, (str, bytes)):
        try:
            path = _fspath(path)
        except Exception:  # noqa: BLE001 -- code of the cell: the call that is being audited meets it again
            return None
        kind = type(path)
    return str.__str__(path) if issubclass(kind, str) else _fsdecode(bytes.__getitem__(path, slice(None)))


def _asked_by_cell(audited: FrameType) -> bool:
    """Whether a cell itself called the library function that raised an event, and no other library did."""
    library = audited.f_code.co_filename
    frame: FrameType | None = audited
    while frame is not None and frame.f_code.co_filename == library:
        frame = frame.f_back
    return frame is not None and is_cell(frame.f_code.co_filename)


def _refuse_network(*_: Any) -> NoReturn:
    raise PermissionError(errno.EPERM, NETWORK)


def _refuse_process(*_: Any) -> NoReturn:
    raise PermissionError(errno.EPERM, PROCESSES)


def _refuse_socket(_: Any, family: int, *__: Any) -> None:
    # A pair is one of AF_UNIX, and asyncio has one; -1 is the family of a descriptor.
    if family not in (_AF_UNIX, -1):
        _refuse_network()


def _refuse_message(_: Any, address: Any) -> None:
    if address is not None:
        _refuse_network()


def _refuse_signal(pid: int, *_: Any) -> None:
    if pid != _getpid():
        raise PermissionError(errno.EPERM, SIGNALS)


def _make_table(refusals: Refusals) -> dict[str, Check]:
    """Audit event -> what is done at it. Names and arguments: the table of audit events in Python's documentation."""
    table: dict[str, Check] = {"open": refusals.check_open, "socket.__new__": _refuse_socket}
    table.update(dict.fromkeys(("os.listdir", "os.scandir"), refusals.check_read))
    table.update(
        dict.fromkeys(
            ("os.walk", *(f"pathlib.Path.{verb}" for verb in ("glob", "rglob", "walk"))),
            refusals.check_walk,
        )
    )
    table.update({"os.chdir": refusals.check_enter, "sqlite3.connect": refusals.check_database})
    table.update({"glob.glob": refusals.check_pattern, "os.symlink": refusals.check_symlink})
    table.update(dict.fromkeys(("os.rename", "os.link"), refusals.check_pair))
    writes = ("os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.chown", "os.utime")
    table.update(dict.fromkeys(writes, refusals.check_write))
    attributes = ("os.truncate", "os.setxattr", "os.removexattr", "os.chflags")
    table.update(dict.fromkeys(attributes, refusals.check_attributes))
    calls = ("connect", "bind", "sendto", "getaddrinfo", "getnameinfo", "gethostbyname", "gethostbyaddr")
    table.update(dict.fromkeys((f"socket.{call}" for call in calls), _refuse_network))
    table["socket.sendmsg"] = _refuse_message
    table["os.fork"] = refusals.check_fork
    starts = ("os.forkpty", "os.exec", "os.posix_spawn", "os.spawn", "os.system")
    table.update(dict.fromkeys((*starts, "subprocess.Popen", "pty.spawn"), _refuse_process))
    table.update(dict.fromkeys(("os.kill", "os.killpg"), _refuse_signal))
    return table


def install(*, readable: Sequence[str], scratch: str | None, withheld: Mapping[str, str]) -> Refusals:
    """Put the hook in place, for the rest of the process; returns its settings. Costs about 0.1 ms, and
    each audit event then 0.1 us.

    readable: directories and files that cells may read. scratch: where they may write, or None. withheld: module ->
    the folder that is kept from cells. To be called once, when the process is set up.
    """
    refusals = Refusals(readable, scratch)
    table = _make_table(refusals)
    explain_withheld(withheld)
    replace_semaphores(_refuse_process)
    if root.linked and scratch is not None:
        tell_lasting_paths()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        # every `id(x)` comes here, and `in` is cheaper than a call of `get`
        if event in table:
            table[event](*arguments)

    sys.addaudithook(hook)
    return refusals


class _Withheld:
    """The last finder on `sys.meta_path`: an import that found nothing hears where the module lies."""

    def __init__(self, withheld: Mapping[str, str]) -> None:
        self._withheld = dict(withheld)

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Raise ModuleNotFoundError for a withheld module; None when somebody only asks whether there is one."""
        top = name.partition(".")[0]
        folder = self._withheld.get(top)
        # importlib.util.find_spec must answer None: libraries look for optional modules with it
        if folder is not None and _getframe(2).f_code.co_name == "_find_and_load_unlocked":
            raise ModuleNotFoundError(_WITHHELD.format(name=name, top=top, folder=folder), name=name)


def explain_withheld(withheld: Mapping[str, str]) -> None:
    """Make the import of a withheld module say why. Without a hook, so also for a worker that is not confined."""
    if withheld:
        sys.meta_path.append(_Withheld(withheld))
