"""Sockets of the host that hear whatever a cell says to the outside: TCP, UDP and every kind of unix socket."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

_KINDS = {
    "tcp": (socket.AF_INET, socket.SOCK_STREAM),
    "tcp6": (socket.AF_INET6, socket.SOCK_STREAM),
    "udp": (socket.AF_INET, socket.SOCK_DGRAM),
    "unix": (socket.AF_UNIX, socket.SOCK_STREAM),
    "dgram": (socket.AF_UNIX, socket.SOCK_DGRAM),
    "abstract": (socket.AF_UNIX, socket.SOCK_STREAM),
    "abstract_dgram": (socket.AF_UNIX, socket.SOCK_DGRAM),
}


class Listeners:
    """One listening socket of each kind; connections and packets wait in the kernel until `heard` looks."""

    def __init__(self, folder: Path) -> None:
        name = folder.name
        self._addresses: dict[str, Any] = {
            "tcp": ("127.0.0.1", 0),
            "tcp6": ("::1", 0),
            "udp": ("127.0.0.1", 0),
            "unix": str(folder / "docker.sock"),
            "dgram": str(folder / "log.sock"),
            "abstract": f"\0{name}",
            "abstract_dgram": f"\0{name}-dgram",
        }
        self._sockets = {kind: self._listen(kind) for kind in _KINDS}

    def _listen(self, kind: str) -> socket.socket:
        family, type_ = _KINDS[kind]
        made = socket.socket(family, type_)
        made.bind(self._addresses[kind])
        made.setblocking(False)
        if type_ == socket.SOCK_STREAM:
            made.listen(16)
        if family in (socket.AF_INET, socket.AF_INET6):
            self._addresses[kind] = made.getsockname()[1]
        return made

    def targets(self) -> dict[str, Any]:
        """What cells know: `tcp_port`, `tcp6_port`, `udp_port`, `unix_path`, `dgram_path`, `abstract_name`, ..."""
        end = {"tcp": "port", "tcp6": "port", "udp": "port", "unix": "path", "dgram": "path"}
        return {f"{kind}_{end.get(kind, 'name')}": address for kind, address in self._addresses.items()}

    def heard(self) -> list[str]:
        """One line for each connection or packet since the last call."""
        return [f"{kind}: {what}" for kind, sock in self._sockets.items() for what in _waiting(sock)]

    def close(self) -> None:
        """Close every socket."""
        for sock in self._sockets.values():
            sock.close()


def _waiting(sock: socket.socket) -> list[str]:
    found = []
    while True:
        try:
            if sock.type == socket.SOCK_STREAM:
                sock.accept()[0].close()
                found.append("a connection")
            else:
                found.append(f"a packet of {len(sock.recv(4096))} bytes")
        except BlockingIOError:
            return found
