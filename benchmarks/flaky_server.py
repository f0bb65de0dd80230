"""A server on loopback that fails in every way that a provider can, and remembers whom it has answered wholly.

    python -m benchmarks.flaky_server --seed 7

It prints one JSON line (`base_url`), serves chats whose last message is a number, tells its journal at `GET /stats`,
and ends when its standard input closes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
from collections import Counter
from collections.abc import Callable
from typing import cast

from rlm.bench.wire import BadRequest, Head, Reply, chat_reply, error_reply, json_reply, parse_chat, parse_head

SHARES = {
    "answer": 0.9298,
    "drip": 0.005,
    "last": 0.01,
    "500": 0.015,
    "503": 0.005,
    "429": 0.01,
    "400": 0.005,
    "reset": 0.008,
    "cut": 0.008,
    "garbage": 0.004,
    "hang": 0.0002,
}
"""What becomes of a request, and how often. drip: the answer in pieces. last: the answer, and an unannounced end of the
connection. cut: half an answer. garbage: a 200 that is no JSON. hang: nothing, until the client leaves."""
COMPLETE = ("answer", "drip", "last")
_LONGEST_DELAY_SECONDS = 0.02
_DRIPS, _DRIP_SECONDS, _RETRY_AFTER_SECONDS = 5, 0.005, 0.05


class Journal:
    """What was asked and answered. `asked_again`: requests for what had been answered wholly before."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.answered: set[int] = set()
        self.asked_again = self.in_flight = self.open_connections = 0

    def to_json(self) -> dict[str, object]:
        """As `GET /stats` gives it; its own connection is not counted."""
        return {
            "counts": dict(self.counts),
            "answered": len(self.answered),
            "asked_again": self.asked_again,
            "in_flight": self.in_flight,
            "open_connections": self.open_connections - 1,
        }


class FlakyServer:
    """Chooses what becomes of each request, the same on every run with the same seed and order of requests."""

    def __init__(self, seed: int, shares: dict[str, float]) -> None:
        self.journal = Journal()
        self.chance = random.Random(seed)
        self._kinds, self._weights = list(shares), list(shares.values())

    def choose(self) -> str:
        """What becomes of the next request."""
        (kind,) = self.chance.choices(self._kinds, self._weights)
        return kind


class Connection(asyncio.Protocol):
    """One client's connection; its requests are served one after the other."""

    def __init__(self, server: FlakyServer) -> None:
        self._server, self._journal = server, server.journal
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._due: asyncio.TimerHandle | None = None
        self._busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._journal.open_connections += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self._journal.open_connections -= 1
        if self._due is not None:
            self._due.cancel()
        if self._busy:
            self._journal.in_flight -= 1

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if self._busy or end < 0:
            return
        head = parse_head(bytes(self._buffer[:end]))
        if len(self._buffer) < end + 4 + head.length:
            return
        body = bytes(self._buffer[end + 4 : end + 4 + head.length])
        del self._buffer[: end + 4 + head.length]
        self._serve(head, body)

    def _serve(self, head: Head, body: bytes) -> None:
        if head.path == "/stats":
            self._transport.write(json_reply(self._journal.to_json()).to_bytes())
            return
        try:
            chat = parse_chat(body)
            number = int(chat["messages"][-1]["content"])
        except (BadRequest, ValueError) as error:
            self._transport.write(error_reply(422, str(error)).to_bytes())
            return
        journal, kind = self._journal, self._server.choose()
        journal.counts[kind] += 1
        journal.asked_again += number in journal.answered
        journal.in_flight += 1
        self._busy = True
        reply = chat_reply(chat, str(number), len(journal.answered)).to_bytes()
        seconds = self._server.chance.random() * _LONGEST_DELAY_SECONDS
        self._later(seconds, lambda: self._play(kind, number, reply))

    def _later(self, seconds: float, step: Callable[[], None]) -> None:
        self._due = self._loop.call_later(seconds, step)

    def _play(self, kind: str, number: int, reply: bytes) -> None:
        if kind == "drip":
            size = len(reply) // _DRIPS + 1
            self._drip([reply[start : start + size] for start in range(0, len(reply), size)], number)
        elif kind in COMPLETE:
            self._transport.write(reply)
            self._finish(number)
            if kind == "last":
                self._transport.close()
        elif kind == "reset":
            self._finish()
            self._transport.abort()
        elif kind == "cut":
            self._transport.write(reply[:-20])
            self._finish()
            self._transport.close()
        elif kind != "hang":
            self._transport.write(_failure(kind).to_bytes())
            self._finish()

    def _drip(self, pieces: list[bytes], number: int) -> None:
        self._transport.write(pieces[0])
        if len(pieces) > 1:
            self._later(_DRIP_SECONDS, lambda: self._drip(pieces[1:], number))
        else:
            self._finish(number)

    def _finish(self, number: int | None = None) -> None:
        self._busy, self._due = False, None
        self._journal.in_flight -= 1
        if number is not None:
            self._journal.answered.add(number)


def _failure(kind: str) -> Reply:
    if kind == "garbage":
        return Reply(200, b"<html>the gateway is busy</html>")
    status = int(kind)
    return error_reply(status, "made to fail", retry_after=_RETRY_AFTER_SECONDS if status == 429 else None)


async def _main(seed: int, shares: dict[str, float]) -> None:
    loop, ended, server = asyncio.get_running_loop(), asyncio.Event(), FlakyServer(seed, shares)
    listener = await loop.create_server(lambda: Connection(server), "127.0.0.1", 0, backlog=1024)

    def read() -> None:
        if not os.read(0, 4096):
            loop.remove_reader(0)
            ended.set()

    loop.add_reader(0, read)
    port = listener.sockets[0].getsockname()[1]
    print(json.dumps({"base_url": f"http://127.0.0.1:{port}/v1"}), flush=True)
    await ended.wait()
    listener.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--shares", type=json.loads, default=SHARES, help="instead of those of this file")
    args = parser.parse_args()
    asyncio.run(_main(args.seed, args.shares))
