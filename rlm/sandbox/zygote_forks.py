"""Forks of workers, granted one by one.

A confined worker's only fork-like system call is held by the kernel until the zygote has answered it (seccomp user
notification). A grant comes from the host with two descriptors for the new process: its own socket and its lifeline.
The call is let through with that socket already among the caller's descriptors. The new process is a child of the
zygote too (CLONE_PARENT); it makes itself known by the same call, which is refused but says who made it.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import itertools
import os
import select
import signal
import socket
from collections import deque
from collections.abc import Callable

from rlm.confine import notify, root
from rlm.sandbox.zygote_orders import BORN, SPARE_FD
from rlm.sandbox.zygote_removal import remove_tree

_GRANTED = 2  # descriptors with a grant
_LISTED = 1000  # names of a store

Handler = Callable[[], None]


class _Line:
    """A listener: that of one worker and of every process forked from it. store: the folder of their scratches."""

    def __init__(self, listener: int, pid: int, store: int) -> None:
        self.listener, self.store = listener, store
        self.pids = {pid}
        self.unborn: tuple[int, socket.socket] | None = None  # parent and lifeline of a process not yet heard of
        self.held: deque[notify.Notification] = deque()  # calls that came meanwhile


class Forks:
    """Grants, and the listeners on which they are used."""

    def __init__(
        self,
        watch: Callable[[int, Handler], None],
        forget: Callable[[int], None],
        adopt: Callable[[int, socket.socket], None],
    ) -> None:
        self._watch, self._forget, self._adopt = watch, forget, adopt
        self._kin: dict[int, socket.socket] = {}  # pid -> where its listener will come from
        self._lines: dict[int, _Line] = {}  # pid -> its line
        self._grants: dict[int, tuple[socket.socket, socket.socket]] = {}  # pid -> socket, lifeline of the next
        self._known: set[int] = set()  # every living worker
        self._doubtful = False  # whether a process may have been made that did not make itself known

    def expect(self, pid: int, kin: socket.socket) -> None:
        """A new worker will send its listener, or close the line where it has none."""
        self._kin[pid] = kin
        self._known.add(pid)
        self._watch(kin.fileno(), lambda: self._take_listener(pid))

    def _take_listener(self, pid: int) -> None:
        kin = self._kin[pid]
        try:
            _, fds, _, _ = socket.recv_fds(kin, 1, 2, socket.MSG_DONTWAIT)
        except BlockingIOError:  # the poll has told of another one that had this number
            return
        del self._kin[pid]
        self._forget(kin.fileno())
        kin.close()
        if fds:
            line = self._lines[pid] = _Line(fds[0], pid, fds[1] if len(fds) > 1 else -1)
            self._watch(line.listener, lambda: self._heard(line))

    def grant(self, pid: int, fds: list[int]) -> None:
        """Let this worker fork once. Where it cannot, the lifeline is closed at once."""
        if len(fds) != _GRANTED:  # we have as many open as we may
            for fd in fds:
                os.close(fd)
            return
        own, lifeline = (socket.socket(fileno=fd) for fd in fds)
        self.revoke(pid)
        if pid in self._lines:
            self._grants[pid] = own, lifeline
        else:
            own.close()
            lifeline.close()

    def revoke(self, pid: int) -> None:
        """Take back what was granted and not used, or not to its end."""
        for sock in self._grants.pop(pid, ()):
            sock.close()
        line = self._lines.get(pid)
        if line is not None and line.unborn is not None and line.unborn[0] == pid:
            self._drop_unborn(line)
            self._go_on(line)
            self._end_strangers()

    def _heard(self, line: _Line) -> None:
        if not _holds_a_call(line.listener):
            # It would wait for ever. All under its filter have ended, of which we shall hear, or the caller has.
            return
        call = notify.receive(line.listener)
        if call is None:  # its caller has died
            return
        if line.unborn is None:
            self._answer(line, call)
        elif call.pid == line.unborn[0]:
            # The kernel makes no fork while a signal is pending: the call comes again. Let through a second time, a
            # hostile caller might have two processes from one grant.
            self._drop_unborn(line)
            notify.refuse(line.listener, call.id, errno.EAGAIN)
            self._end_strangers()
        elif call.pid in line.pids:
            line.held.append(call)
        else:
            self._announced(line, call)

    def _go_on(self, line: _Line) -> None:
        while line.held and line.unborn is None:
            self._answer(line, line.held.popleft())

    def _drop_unborn(self, line: _Line) -> None:
        if line.unborn is not None:
            line.unborn[1].close()
            line.unborn = None
            self._doubtful = True

    def _answer(self, line: _Line, call: notify.Notification) -> None:
        granted = self._grants.pop(call.pid, None)
        if granted is None:
            notify.refuse(line.listener, call.id, errno.EPERM)
            if call.pid not in line.pids and _is_our_child(call.pid):
                os.kill(call.pid, signal.SIGKILL)  # a new process whose grant was taken back meanwhile
            return
        own, lifeline = granted
        line.unborn = (call.pid, lifeline)
        try:
            given = notify.add_fd(line.listener, call.id, own.fileno(), SPARE_FD)
        except OSError:  # the caller's limit, or the kernel cannot do this
            given = False
        own.close()
        if not (given and notify.allow(line.listener, call.id)):
            self._drop_unborn(line)
            notify.refuse(line.listener, call.id, errno.EPERM)

    def _announced(self, line: _Line, call: notify.Notification) -> None:
        # A thread of a worker has a number of its own as well, but is nobody's child.
        if line.unborn is not None and _is_our_child(call.pid):
            _, lifeline = line.unborn
            line.unborn = None
            line.pids.add(call.pid)
            self._known.add(call.pid)
            self._lines[call.pid] = line
            with contextlib.suppress(OSError):  # its host no longer wants it, and adopted it will be ended
                lifeline.send(BORN, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            self._adopt(call.pid, lifeline)
        notify.refuse(line.listener, call.id, errno.EPERM)
        self._go_on(line)
        self._end_strangers()

    def _end_strangers(self) -> None:
        """End what a hostile cell has made of a grant: a process that never told who it is.

        Of an honest one, which only has not yet told, we know that it is expected.
        """
        if not self._doubtful or any(line.unborn is not None for line in self._lines.values()):
            return
        self._doubtful = False
        for pid in _children():
            if pid not in self._known:
                os.kill(pid, signal.SIGKILL)

    def know(self, pid: int) -> None:
        """This child is one that the zygote has forked for a work of its own."""
        self._known.add(pid)

    def ended(self, pid: int) -> None:
        """A worker has ended: its grants end, and with the last of its line the listener."""
        if pid in self._kin:
            self._take_listener(pid)
            kin = self._kin.pop(pid, None)
            if kin is not None:
                self._forget(kin.fileno())
                kin.close()
        self.revoke(pid)
        self._known.discard(pid)
        line = self._lines.pop(pid, None)
        if line is None:
            return
        line.pids.discard(pid)
        if line.pids:
            self._remove_scratch(pid, line.store)
        else:
            self._forget(line.listener)
            os.close(line.listener)
            if line.store >= 0:
                os.close(line.store)
            self._drop_unborn(line)
            self._end_strangers()

    def _remove_scratch(self, pid: int, store: int) -> None:
        """Remove what a worker has left in the store that it shared with another one, in a process beside."""
        if store < 0:
            return
        left = _left_by(pid, f"/proc/self/fd/{store}/{root.FOLDERS}")
        if not left:
            return
        try:
            helper = os.fork()
        except OSError:  # no more processes: it goes with the store
            return
        if helper:
            self.know(helper)
            return
        try:
            gc.disable()
            for folder in left:
                remove_tree(folder)
        finally:
            os._exit(0)

    def drop(self) -> None:
        """In a worker: the descriptors have been closed, their objects go."""
        for sock in (*self._kin.values(), *(s for pair in self._grants.values() for s in pair)):
            sock.detach()
        for line in self._lines.values():
            if line.unborn is not None:
                line.unborn[1].detach()
        self._kin.clear()
        self._grants.clear()
        self._lines.clear()
        self._known.clear()


def _left_by(pid: int, folders: str) -> list[str]:
    """A process's folders that are not empty; the empty ones are removed. A cell can have made any number of them."""
    left = []
    with contextlib.suppress(OSError), os.scandir(folders) as entries:
        for entry in itertools.islice(entries, _LISTED):
            if entry.name.startswith(f"{pid}-") and entry.is_dir(follow_symlinks=False):
                try:
                    os.rmdir(entry.path)
                except OSError:
                    left.append(entry.path)
    return left


def _is_our_child(pid: int) -> bool:
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _holds_a_call(listener: int) -> bool:
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    return any(events & select.POLLIN for _, events in poll.poll(0))


def _children() -> list[int]:
    """Our own children, those that have ended too."""
    try:
        with open("/proc/thread-self/children", encoding="ascii") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:  # no /proc, or a kernel without that file
        return []
