"""The zygote's children: forked on demand, signalled and reaped for the host, ended when their lifeline is dropped.

Every worker has a lifeline, a SOCK_SEQPACKET pair with its host: the host writes what to do with the process, closing
it means its death, and the zygote writes last how the process ended. Only the parent of a process can name it without
a race, and a message from any thread or loop of the host needs no answer.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` wraps each call in enum conversions
import array
import fcntl
import gc
import json
import os
import resource
import select
import signal
import socket
from collections.abc import Callable
from typing import Any, NamedTuple

from rlm.confine import namespaces, rlimits, root
from rlm.confine.apply import Report, Surroundings, confine
from rlm.confine.syscalls import check, libc
from rlm.sandbox.zygote_forks import Forks
from rlm.sandbox.zygote_orders import GRANT, INTERRUPT, INTERRUPTED, REVOKE, SPARE_FD, WORKER_FD
from rlm.sandbox.zygote_removal import remove_tree

_KIN_FD = 5
_FIRST_UNUSED_FD = 6
_PROC_FD = 100
_HIGH_FD = 256
_MANY_FDS = 16384
_FDS_A_WORKER = 3  # its lifeline, listener and store
_FDS_SPARE = 64  # the zygote's own, and what those take who are being born

_MESSAGE_BYTES = 1 << 16
_IDLE_SECONDS = 0.05
_TEXT_BYTES = 4000
_DESCRIPTORS = 4
_IN = select.POLLIN | select.POLLHUP


class Birth(NamedTuple):
    """What a newly forked worker knows of itself."""

    report: Report
    failure: str
    surroundings: Surroundings


class Member:
    """A living worker."""

    def __init__(self, pid: int, lifeline: socket.socket, scratch: str | None) -> None:
        self.pid, self.lifeline, self.scratch = pid, lifeline, scratch


class Family:
    """All workers of one zygote."""

    def __init__(self, control: socket.socket, surroundings: Surroundings) -> None:
        self.failure = ""
        """Why no worker can be had; told to everyone who asks for one."""
        self.with_hooks = False
        """Whether modules are loaded whose hooks have to run in every fork."""
        self.warm: Callable[[], None] | None = None
        """Called once, when the first worker is there and nothing is to be done or a second one is wanted: the first
        shall not wait for it, and the second, and all after it, are cheaper by more than it takes."""
        self._any_born = False
        self._control = control
        self._surroundings = surroundings
        self._poll = select.epoll()
        self._members: dict[int, Member] = {}
        self._handlers: dict[int, Callable[[], Birth | None]] = {}
        self._forks = Forks(self._watch, self._forget, self._adopt)
        self._heard, self._told = socket.socketpair()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if 0 <= soft < _MANY_FDS:  # two for each worker, and there may be many
            resource.setrlimit(resource.RLIMIT_NOFILE, (_MANY_FDS if hard < 0 else min(hard, _MANY_FDS), hard))
        self._most_descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._watch(control.fileno(), self._command)
        self._watch(self._heard.fileno(), self._reap)

    def serve(self) -> Birth:
        """Work until the host has gone. Returns in a forked worker only."""
        self._hear_of_ended_children()  # not before: what was preloaded may have changed it
        while True:
            ready = self._poll.poll(_IDLE_SECONDS if self.warm and self._any_born else None)
            if not ready:
                self._warm_once()
            for fd, _ in ready:
                handler = self._handlers.get(fd)  # None: an earlier event of this turn has ended it
                birth = handler() if handler is not None else None
                if birth is not None:
                    return birth

    def _warm_once(self) -> None:
        if self.warm is not None and self._any_born:
            warm, self.warm = self.warm, None
            warm()

    def _watch(self, fd: int, handler: Callable[[], Birth | None]) -> None:
        self._handlers[fd] = handler
        self._poll.register(fd, _IN)

    def _forget(self, fd: int) -> None:
        if self._handlers.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def _hear_of_ended_children(self) -> None:
        self._heard.setblocking(False)
        self._told.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._told.fileno(), warn_on_full_buffer=False)

    def _command(self) -> Birth | None:
        message, fds = _receive(self._control)
        if message is None:
            return None
        if not message:
            self._end()
        if len(fds) != 2:  # cut by the kernel, for want of numbers: their end is all that can be told
            for fd in fds:
                os.close(fd)
            return None
        order = json.loads(message)
        own, lifeline = (socket.socket(fileno=fd) for fd in fds)
        failure = self.failure or self._find_shortage()
        if failure:
            _tell(lifeline, _text(failure))
            own.close()
            lifeline.close()
            return None
        return self._spawn(order, own, lifeline)

    def _find_shortage(self) -> str:
        if len(self._members) * _FDS_A_WORKER + _FDS_SPARE <= self._most_descriptors:
            return ""
        limit = self._most_descriptors
        return f"{len(self._members)} workers are what {limit} open files are enough for (ulimit -Hn, LimitNOFILE)"

    def _spawn(self, plan: dict[str, Any], own: socket.socket, lifeline: socket.socket) -> Birth | None:
        self._warm_once()
        scratch = None
        try:
            if plan["folder"] and self._surroundings.no_namespaces:
                import tempfile  # with what it imports, 4 ms that most zygotes do not need

                scratch = plan["scratch"] = tempfile.mkdtemp(prefix="rlm-", dir=plan["folder"])
            kin, theirs = socket.socketpair()
            pid = self._fork()
        except OSError as error:
            _tell(lifeline, _text(f"no worker can be forked: {error}"))
            own.close()
            lifeline.close()
            if scratch:
                os.rmdir(scratch)
            return None
        if pid == 0:
            for sock in (kin, lifeline):
                sock.detach()  # else its end would close the number, which is somebody else's by then
            return self._become_worker(plan, own, theirs)
        self._any_born = True
        own.close()
        theirs.close()
        self._adopt(pid, lifeline, scratch)
        self._forks.expect(pid, kin)
        return None

    def _fork(self) -> int:
        if self.with_hooks:
            return os.fork()
        # What Python does around a fork is for programs with threads, and for modules that registered a hook: 1 ms in
        # the child. Here is one thread, and all modules are our own or the standard library's: the worker makes its
        # random numbers anew itself.
        return check(libc.fork(), "fork")

    def _become_worker(self, plan: dict[str, Any], own: socket.socket, kin: socket.socket) -> Birth:
        report, failure = Report(), ""
        try:
            _signal.set_wakeup_fd(-1)
            _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
            self._poll.close()
            spare = os.open(os.devnull, os.O_RDWR)
            wanted = {own.detach(): WORKER_FD, spare: SPARE_FD, kin.detach(): _KIN_FD}
            kept = [root.SCRATCH_FD] if root.linked else []  # made anew in the worker's own namespaces
            if namespaces._proc >= 0:  # let go there
                wanted[namespaces._proc] = namespaces._proc = _PROC_FD
                kept.insert(0, _PROC_FD)
            _place(wanted)
            self._drop_everything(kept)
            report, listener = confine(self._surroundings, plan)
            with socket.socket(fileno=_KIN_FD) as line:
                if listener >= 0:
                    _hand_over(line, listener)
            if self._surroundings.confined:
                rlimits.limit_descriptors()
        except Exception as error:  # noqa: BLE001 -- whatever it is, the host must hear of it
            failure = f"{type(error).__name__}: {error}"
        return Birth(report, failure, self._surroundings)

    def _drop_everything(self, kept: list[int]) -> None:
        """In a worker: nothing of the zygote's stays open, nor is anything of it left to find."""
        low = _FIRST_UNUSED_FD
        for fd in kept:
            os.closerange(low, fd)
            low = fd + 1
        os.closerange(low, os.sysconf("SC_OPEN_MAX"))
        for member in self._members.values():
            member.lifeline.detach()
        for sock in (self._control, self._heard, self._told):
            sock.detach()
        self._forks.drop()
        self._members.clear()
        self._handlers.clear()

    def _adopt(self, pid: int, lifeline: socket.socket, scratch: str | None = None) -> None:
        self._members[pid] = member = Member(pid, lifeline, scratch)
        self._watch(lifeline.fileno(), lambda: self._lifeline(member))

    def _lifeline(self, member: Member) -> None:
        message, fds = _receive(member.lifeline)
        if message is None:
            return
        if message == INTERRUPT:
            os.kill(member.pid, signal.SIGINT)
            _tell(member.lifeline, INTERRUPTED)
        elif message == GRANT:
            if member.scratch is None:
                self._forks.grant(member.pid, fds)
            else:  # two processes would share it, and one of them be there when it is removed
                for fd in fds:
                    os.close(fd)
        elif message == REVOKE:
            self._forks.revoke(member.pid)
        else:  # KILL, or nobody holds the other end any more
            os.kill(member.pid, signal.SIGKILL)
            if not message:
                self._forget(member.lifeline.fileno())

    def _reap(self) -> None:
        try:
            while self._heard.recv(4096):
                pass
        except BlockingIOError:
            pass
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            self._forks.ended(pid)
            member = self._members.pop(pid, None)
            if member is not None:
                self._bury(member, status)

    def _bury(self, member: Member, status: int) -> None:
        if not self._surroundings.confined:
            _kill_group(member.pid)
        if member.scratch is not None:
            self._forks.know(_remove(member.scratch))
        _tell(member.lifeline, _text(_how(status)))
        self._forget(member.lifeline.fileno())
        member.lifeline.close()

    def _end(self) -> None:
        """The host has gone: so does everything here."""
        for member in self._members.values():
            os.kill(member.pid, signal.SIGKILL)
            _kill_group(member.pid)
            if member.scratch is not None:
                _remove(member.scratch)
        os._exit(0)


def _receive(sock: socket.socket) -> tuple[bytes | None, list[int]]:
    """A message and its descriptors; b'' at the end, None where there is none.

    There may be none though the poll has said so: what it said was of a socket that had this number before.
    """
    try:
        room = socket.CMSG_SPACE(4 * _DESCRIPTORS)
        message, ancillary, _, _ = sock.recvmsg(_MESSAGE_BYTES, room, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None, []
    except ConnectionError:
        return b"", []
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data)
    return message, list(fds)


def _tell(lifeline: socket.socket, message: bytes) -> None:
    try:
        lifeline.send(message, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    except OSError:  # nobody listens any more
        return


def _text(text: str) -> bytes:
    return text.encode("utf-8", "replace")[:_TEXT_BYTES]


def _how(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


def _place(numbers: dict[int, int]) -> None:
    """Move descriptors to fixed numbers, whatever is there now; first out of the way of each other."""
    high = [(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _HIGH_FD), target) for fd, target in numbers.items()]
    for fd, target in high:
        os.dup2(fd, target, inheritable=False)


def _hand_over(line: socket.socket, listener: int) -> None:
    """Give the zygote a worker's listener, and its store: no path leads there from outside its namespaces."""
    fds = [listener]
    if root.linked:
        fds.append(os.open(root.STORE, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    socket.send_fds(line, [b"l"], fds)
    for fd in fds:
        os.close(fd)


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)  # what unconfined cells started and left running
    except (ProcessLookupError, PermissionError):
        return


def _remove(folder: str) -> int:
    """Remove a scratch directory in a process beside: a cell may have put very much into it. Returns its id."""
    try:
        helper = os.fork()
    except OSError:  # no more processes: then here
        remove_tree(folder)
        return 0
    if helper:
        return helper
    try:
        gc.disable()
        remove_tree(folder)
    finally:
        os._exit(0)
