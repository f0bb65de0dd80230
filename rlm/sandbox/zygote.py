"""The zygote: a clean process that forks workers. Standard library only; it never runs a cell.

Started as `python -P -s -S -X utf8 zygote.py DESCRIPTOR` with a fixed environment. Its control socket (SOCK_SEQPACKET)
brings one `config` message, then `spawn` messages with two descriptors each: the worker's own socket and its lifeline.
It ends when its host closes the control socket or dies, and every worker ends with it.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":  # started by path: the package is found beside it, and only while we import
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

import gc
import json
import socket
from typing import Any, NoReturn

from rlm.confine import apply, namespaces, privileges, root
from rlm.sandbox import worker
from rlm.sandbox.protocol import Frame, FrameReader
from rlm.sandbox.worker_rehearsal import rehearse
from rlm.sandbox.zygote_family import Birth, Family

_MESSAGE_BYTES = 1 << 18
_CHUNK_BYTES = 1 << 20
# What cells and the worker's own rarer roads import: paid once here, shared by every worker.
_WARM = ("asyncio", "concurrent.futures.thread", "tempfile", "random", "shutil", "datetime", "textwrap", "hashlib")


def main(descriptor: int) -> NoReturn:
    """Serve until the host has gone; in a forked worker, run that worker."""
    control = socket.socket(fileno=descriptor)
    control.set_inheritable(False)
    birth = _serve(control)
    # Only a worker comes here, with the zygote's frames and objects behind it.
    gc.enable()
    try:
        worker.main(birth)
    finally:
        os._exit(1)


def _serve(control: socket.socket) -> Birth:
    data = control.recv(_MESSAGE_BYTES)
    if not data:
        os._exit(0)
    config: dict[str, Any] = json.loads(data)
    _forget_our_path(config["import_path"])
    host = os.getppid()
    why = _enter(config, control) if config["isolation"] != "none" else "not asked for"
    family = Family(control, apply.Surroundings(config, why, os.getpid(), host if why else 1))
    try:
        _preload(config["preload"])
        if config["context"]:
            worker.inherit("context", _read_all(control))
            _check_threads("loading the context")
    except BaseException as error:  # noqa: BLE001 -- a package may raise anything; every worker's host must hear of it
        family.failure = f"{type(error).__name__}: {error}"
    gc.disable()  # a collection would touch, and so copy, every page that workers share
    family.warm = lambda: _warm(config["isolation"] != "none")
    family.with_hooks = bool(config["preload"] or config["context"])
    return family.serve()


def _enter(config: dict[str, Any], control: socket.socket) -> str:
    """Move into namespaces and a private root of our own; returns why not, or an empty string.

    Goes on as process 1 of a process namespace: when that ends, the kernel ends every worker. The first process stays
    behind as its parent, which the host waits for.
    """

    def build() -> None:
        root.build(read=config["read"], files=config["files"], devices=apply.DEVICES)

    why = namespaces.probe(build)
    if why:
        return why
    namespaces.enter_family()
    child = os.fork()
    if child:
        control.close()
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    privileges.die_with_parent(0)
    build()
    os.environ["HOME"] = os.environ["TMPDIR"] = apply.SCRATCH
    return ""


def _forget_our_path(import_path: list[str]) -> None:
    home = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    sys.path[:] = [path for path in sys.path if path != home] + import_path


def _preload(modules: list[str]) -> None:
    for name in modules:
        try:
            __import__(name)
        except ImportError as error:
            raise ImportError(f"preload=[{name!r}]: {error}") from None
    if modules:
        _check_threads(f"importing {', '.join(modules)}")


def _check_threads(work: str) -> None:
    if len(os.listdir("/proc/self/task")) > 1:
        raise RuntimeError(f"{work} has left a thread running, and a process with threads cannot be forked")


def _read_all(control: socket.socket) -> Frame:
    """The frame that the host pours into a stream of its own."""
    _, fds, _, _ = socket.recv_fds(control, _MESSAGE_BYTES, 1)
    reader = FrameReader(1 << 62)
    with socket.socket(fileno=fds[0]) as stream:
        while data := stream.recv(_CHUNK_BYTES):
            for frame in reader.feed(data):
                return frame
    raise EOFError("the host has gone")


def _warm(confined: bool) -> None:
    for name in _WARM:
        __import__(name)
    worker.prepare(confined)
    rehearse()  # what the interpreter learns of our code, every worker knows then
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    main(int(sys.argv[1]))
