"""A worker's process, seen from the host: its socket, and the lifeline by which its zygote signals and mourns it."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import weakref
from collections.abc import Callable
from typing import ClassVar, Protocol

import anyio

from rlm.sandbox.zygote_orders import BORN, GRANT, INTERRUPT, INTERRUPTED, KILL, REVOKE

_EXIT_SECONDS = 5.0
_HOW_BYTES = 4096
ZYGOTE_ENDED = "its zygote has ended"
"""How a worker ended of which nobody can say more."""


class Descriptors:
    """A socket to a worker, and its lifeline. Whoever has registered them with an event loop closes them, after taking
    them out.

    (A selector keeps the numbers of descriptors that were closed behind its back, and is then deaf to the next socket
    or file that gets one of them.) A forked child of the host closes its copies: else a worker would outlive the host.
    """

    _open: ClassVar[weakref.WeakSet[Descriptors]] = weakref.WeakSet()

    def __init__(self, sock: socket.socket, lifeline: socket.socket | None) -> None:
        self.socket, self.lifeline = sock, lifeline
        Descriptors._open.add(self)
        self.close = weakref.finalize(self, _close, sock, lifeline)
        """Close both. Idempotent."""
        self.close.atexit = False

    @classmethod
    def close_all(cls) -> None:
        """In a forked child of the host."""
        for descriptors in list(cls._open):
            descriptors.close()


def _close(sock: socket.socket, lifeline: socket.socket | None) -> None:
    sock.close()
    if lifeline is not None:
        lifeline.close()


def forget_at_fork(forget: Callable[[], None]) -> None:
    """Call `forget` in every process that the host's is forked into."""
    os.register_at_fork(after_in_child=forget)


forget_at_fork(Descriptors.close_all)


class Killable(Protocol):
    """What a worker came from."""

    def kill(self) -> None: ...


class WorkerProcess:
    """A worker. `end` ends it and releases everything; one that is dropped ends with its lifeline all the same."""

    def __init__(self, descriptors: Descriptors, zygote: Killable) -> None:
        assert descriptors.lifeline is not None
        self.zygote = zygote
        self.descriptors = descriptors
        self._lifeline = descriptors.lifeline
        self._news = select.poll()
        self._news.register(self._lifeline, select.POLLIN)
        self._ends = select.poll()
        self._ends.register(self._lifeline, select.POLLIN)
        self._ends.register(descriptors.socket, select.POLLRDHUP)
        self._how = ""
        self.born = False
        """Whether this is a forked worker that the zygote has seen."""
        self._interrupts = 0  # that its zygote has not yet acted on

    @classmethod
    def make(cls, zygote: Killable) -> tuple[WorkerProcess, list[socket.socket]]:
        """The host's side of a worker to be, and the two sockets that go to the zygote (the caller closes them)."""
        own, its_own = socket.socketpair()
        try:
            lifeline, its_lifeline = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError:
            own.close()
            its_own.close()
            raise
        own.setblocking(False)
        lifeline.setblocking(False)
        return cls(Descriptors(own, lifeline), zygote), [its_own, its_lifeline]

    @property
    def lifeline(self) -> int:
        """The lifeline's descriptor, readable when the zygote has something to say; then call `exited`."""
        return self._lifeline.fileno()

    def exited(self) -> bool:
        """Whether the process has ended. Costs one system call while it lives."""
        if not self._how and (self._lifeline.fileno() < 0 or self._news.poll(0)):
            self._hear()
        return bool(self._how)

    def usable(self) -> bool:
        """Whether it can be given work: its stream's end tells of its own before the zygote does. One system call."""
        if self._how or self._lifeline.fileno() < 0:
            return False
        events = self._ends.poll(0)
        return not events or (all(fd == self.lifeline for fd, _ in events) and not self.exited())

    @property
    def settled(self) -> bool:
        """Whether no interrupt is on its way: one that is would hit a new cell, and not the one it was meant for."""
        return not self._interrupts

    def interrupt(self) -> None:
        """Send SIGINT; harmless if the process has ended."""
        self._interrupts += 1
        self._order(INTERRUPT)

    def kill(self) -> None:
        """Send SIGKILL; harmless if the process has ended."""
        self._order(KILL)

    def grant_fork(self, fds: list[int]) -> None:
        """Let it fork once; the new process gets these two: its own socket and its lifeline."""
        with contextlib.suppress(OSError):
            socket.send_fds(self._lifeline, [GRANT], fds, socket.MSG_NOSIGNAL)

    def revoke_fork(self) -> None:
        """Take the grant back, if it was not used."""
        self._order(REVOKE)

    def _order(self, order: bytes) -> None:
        with contextlib.suppress(OSError):  # it has just ended
            self._lifeline.send(order, socket.MSG_NOSIGNAL)

    async def end(self) -> str:
        """Kill the process if it lives, hear how it ended, release everything. Idempotent.

        Returns e.g. `signal SIGSEGV`, `exit code 3`. Cancelled, it still ends and releases everything before it
        raises. Whoever watches the descriptors has stopped before.
        """
        try:
            if not self.exited():
                self.kill()
                with anyio.CancelScope(shield=True), anyio.move_on_after(_EXIT_SECONDS):
                    while not self.exited():
                        await anyio.wait_readable(self._lifeline)
        finally:
            if not self.exited():
                self.zygote.kill()  # it does not do what it is for
            self._how = self._how or ZYGOTE_ENDED
            self.release()
        return self._how

    def release(self) -> None:
        """Close the descriptors, which ends the process if it lives."""
        self.descriptors.close()

    def _hear(self) -> None:
        """Take what the zygote has said."""
        while not self._how:
            try:
                message = self._lifeline.recv(_HOW_BYTES)
            except BlockingIOError:
                return
            except ConnectionResetError:  # it closed with an order of ours unread: told once, before what it had said
                continue
            except OSError:
                message = b""
            if message == INTERRUPTED:
                self._interrupts -= 1
            elif message == BORN:
                self.born = True
            else:
                self._how = message.decode("utf-8", "replace") or ZYGOTE_ENDED
                self._interrupts = 0
