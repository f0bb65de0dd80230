"""A zygote whose workers answer their settings as they should and then speak what they were told to.

The context brings a worker's lines: code that is run when a cell comes, with `send` (a frame), `raw` (bytes) and `cell`
(the cell's number), or when a value is asked for, with `send` and `id`.
"""

from __future__ import annotations

import os
import sys
from typing import Any

sys.path.insert(0, sys.argv[2])  # the test writes the tree here

import socket

from rlm.sandbox import worker, zygote
from rlm.sandbox.protocol import FrameReader, pack
from rlm.sandbox.zygote_orders import WORKER_FD


def speak(birth: Any) -> None:
    stream = socket.socket(fileno=WORKER_FD)
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
            elif kind == "setup":
                send({"t": "reply", "id": frame.header["id"], "report": birth.report.to_json()})
            elif kind in ("set", "reset"):
                send({"t": "reply", "id": frame.header["id"]})
            elif kind == "cell":
                cell = frame.header["cell"]
                exec(script, {"send": send, "raw": raw, "cell": cell, "done": done, "stream": stream, "os": os})


worker.main = speak
zygote.main(int(sys.argv[1]))
