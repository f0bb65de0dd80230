"""TCP connections to a host by name: one look-up for many connections, and all its addresses raced (RFC 8305)."""

from __future__ import annotations

import asyncio
import socket
from itertools import chain, zip_longest
from typing import Any

_KEPT_SECONDS = 10.0  # a thousand connections at once are one look-up and not a thousand
_HEAD_START_SECONDS = 0.25
_LONGEST_SECONDS = 86_400.0
_TCP_USER_TIMEOUT: int | None = getattr(socket, "TCP_USER_TIMEOUT", None)
_Address = tuple[Any, ...]


class Dialer:
    """Opens sockets to one host and port, on one event loop.

    write_seconds: Linux is to end a connection whose peer takes no data for so long; None where we see it ourselves.

    Not left to `create_connection`, which looks the name up for each connection, and which in uvloop gives a dead
    IPv6 route the whole connect timeout.
    """

    def __init__(self, host: str, port: int, write_seconds: float | None = None) -> None:
        self._host, self._port, self._write_seconds = host, port, write_seconds
        self._lookup: asyncio.Task[list[_Address]] | None = None
        self._looked_up_at = 0.0

    async def open(self) -> socket.socket:
        """A connected socket. Raises `OSError`, and `UnicodeError` for a host that cannot be one."""
        addresses = await self._addresses()
        made = await (_connect(addresses[0]) if len(addresses) == 1 else _race(addresses))
        try:
            self._set_options(made)
        except OSError:  # it was reset meanwhile
            made.close()
            raise
        return made

    def _set_options(self, made: socket.socket) -> None:
        # without it nobody notices in minutes of silence that a router has forgotten the connection
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if self._write_seconds is not None and _TCP_USER_TIMEOUT is not None:
            milliseconds = max(1, int(min(self._write_seconds, _LONGEST_SECONDS) * 1000))
            made.setsockopt(socket.IPPROTO_TCP, _TCP_USER_TIMEOUT, milliseconds)

    async def _addresses(self) -> list[_Address]:
        try:  # an address of digits needs no thread
            return _look_up(self._host, self._port, socket.AI_NUMERICHOST)
        except socket.gaierror:
            pass
        now = asyncio.get_running_loop().time()
        if self._lookup is None or self._lookup.cancelled() or now - self._looked_up_at > _KEPT_SECONDS:
            self._looked_up_at = now
            self._lookup = asyncio.create_task(asyncio.to_thread(_look_up, self._host, self._port))
            self._lookup.add_done_callback(_note_exception)
        lookup = self._lookup
        try:
            return await asyncio.shield(lookup)
        except OSError:
            if self._lookup is lookup:
                self._lookup = None  # a failure is not kept
            raise


def _look_up(host: str, port: int, flags: int = 0) -> list[_Address]:
    """The addresses of a host, families by turns, the resolver's favourite first."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    favourite = [address for address in found if address[0] == found[0][0]]
    others = [address for address in found if address[0] != found[0][0]]
    return [address for address in chain(*zip_longest(favourite, others)) if address is not None]


async def _connect(address: _Address) -> socket.socket:
    family, kind, protocol, _, place = address
    made = socket.socket(family, kind, protocol)
    try:
        made.setblocking(False)
        await asyncio.get_running_loop().sock_connect(made, place)
    except BaseException:
        made.close()
        raise
    return made


async def _race(addresses: list[_Address]) -> socket.socket:
    """The first to connect; another address is tried whenever one has failed or its head start is over."""
    attempts: list[asyncio.Task[socket.socket]] = []
    pending: set[asyncio.Task[socket.socket]] = set()
    winner: asyncio.Task[socket.socket] | None = None
    try:
        for number, address in enumerate(addresses, 1):
            attempts.append(asyncio.create_task(_connect(address)))
            pending.add(attempts[-1])
            is_last = number == len(addresses)
            while pending and winner is None:
                done, pending = await asyncio.wait(
                    pending,
                    timeout=None if is_last else _HEAD_START_SECONDS,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                winner = next((task for task in done if task.exception() is None), None)
                if not is_last:
                    break
            if winner is not None:
                return winner.result()
        raise OSError("; ".join(str(task.exception()) for task in attempts))
    finally:
        for task in attempts:
            if task is not winner:
                task.add_done_callback(_close_loser)
                task.cancel()


def _close_loser(task: asyncio.Task[socket.socket]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()


def _note_exception(task: asyncio.Task[list[_Address]]) -> None:
    if not task.cancelled():
        task.exception()  # else asyncio logs it where all who waited were cancelled
