"""A worker that answers its settings as it should and then speaks what it was told to, over a real socket.

Started as the real one is: `python -I -S -X utf8 hostile_worker.py DESCRIPTOR`. The context brings its lines: code that
is run when a cell comes, with `send` (a frame), `raw` (bytes) and `cell` (the cell's number), or when a value is asked
for, with `send` and `id`.
"""

from __future__ import annotations

import os
import sys
from typing import Any

sys.path.insert(0, sys.argv[2])  # the test writes the tree here

import socket

from rlm.sandbox.protocol import FrameReader, pack


def main() -> None:
    stream = socket.socket(fileno=int(sys.argv[1]))
    reader = FrameReader(1 << 40)
    script = ""

    def raw(data: bytes) -> None:
        stream.sendall(data)

    def send(header: dict[str, Any], parts: list[bytes] | None = None) -> None:
        raw(pack(header, parts or []))

    def done(**changes: Any) -> None:
        header = {"t": "done", "cell": cell, "status": "ok", "value": False, "error": False, "abandoned": 0, **changes}
        send(header, [b""] * 6)

    cell = 0
    while True:
        data = stream.recv(1 << 16)
        if not data:
            os._exit(0)
        for frame in reader.feed(data):
            kind = frame.type
            if kind == "set":
                script = bytes(frame.blob).decode() or script
            if kind in ("get", "names"):
                exec(script, {"send": send, "id": frame.header["id"]})
            elif kind in ("setup", "set", "reset"):
                send({"t": "reply", "id": frame.header["id"]})
            elif kind == "cell":
                cell = frame.header["cell"]
                exec(script, {"send": send, "raw": raw, "cell": cell, "done": done, "stream": stream, "os": os})


main()
