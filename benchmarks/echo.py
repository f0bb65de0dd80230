"""The neighbour of a round trip: the very same bytes, sent and received by two processes that do nothing else.

What it costs is the machine's: two system calls, two wake-ups. The worker's side unpacks nothing.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast
from unittest import mock

from rlm.sandbox.lifeline import WorkerProcess

_WAIT_SECONDS = 10.0
_PEER = """
import socket, sys
peer, size, reply = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]), bytes(int(sys.argv[3]))
while True:
    got = 0
    while got < size:
        data = peer.recv(1 << 18)
        if not data:
            sys.exit()
        got += len(data)
    peer.sendall(reply)
"""


class Tap:
    """Stands before the host's end of a worker's socket and notes the sizes of what passes."""

    def __init__(self) -> None:
        self.sent: list[int] = []
        self.received: list[int] = []
        self._socket: socket.socket

    def listen(self, sock: socket.socket) -> None:
        """Pass on to this socket from now on."""
        self._socket = sock

    def forget(self) -> None:
        """Begin anew."""
        self.sent.clear()
        self.received.clear()

    def send(self, data: bytes, flags: int = 0) -> int:
        taken = self._socket.send(data, flags)
        self.sent.append(taken)
        return taken

    def recv(self, size: int, flags: int = 0) -> bytes:
        data = self._socket.recv(size, flags)
        self.received.append(len(data))
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


@contextmanager
def tapped_workers() -> Iterator[Tap]:
    """A worker that is asked for inside is listened to."""
    tap, make = Tap(), WorkerProcess.make

    def tapped(*arguments: Any) -> tuple[WorkerProcess, list[socket.socket]]:
        worker, theirs = make(*arguments)
        tap.listen(worker.descriptors.socket)
        worker.descriptors.socket = cast(socket.socket, tap)
        return worker, theirs

    with mock.patch.object(WorkerProcess, "make", tapped):
        yield tap


class Echo:
    """One peer. `exchange` sends a message and blocks until the whole reply has come."""

    def __init__(self, sock: socket.socket, message: int, reply: int) -> None:
        self._socket, self._message, self._reply = sock, bytes(message), reply

    def exchange(self) -> int:
        """Send and receive once; returns the bytes received."""
        self._socket.sendall(self._message)
        got = 0
        while got < self._reply:
            data = self._socket.recv(1 << 18)
            if not data:
                raise EOFError("the echo's peer has gone")
            got += len(data)
        return got


@contextmanager
def open_echo(message: int, reply: int) -> Iterator[Echo]:
    """A peer that answers every `message` bytes with `reply` bytes."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(_WAIT_SECONDS)
        command = [sys.executable, "-I", "-S", "-c", _PEER, str(theirs.fileno()), str(message), str(reply)]
        peer = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        theirs.close()
        try:
            yield Echo(ours, message, reply)
        finally:
            ours.close()
            peer.wait(_WAIT_SECONDS)
