"""Canaries: targets on the host that a hostile cell might reach, planted before the first sandbox starts.

`Canaries.targets()` is what cells know (`T`): where things are, never what is in them. `Canaries.harm()` says what has
changed since it was planted; `Canaries.told(text)` which secrets stand in a text.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import secrets
import shutil
import sqlite3
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hostile.host_state import HostState
from hostile.listeners import Listeners
from hostile.victim import Victim

import rlm

# Folders that others use too: there only names with our mark count.
_SHARED = ["/tmp", "/var/tmp", "/dev/shm", "/", sysconfig.get_path("purelib"), sysconfig.get_path("stdlib")]
_SHARED += [
    os.path.dirname(rlm.__file__),
    "/sys/fs/cgroup",
    "/dev/mqueue",
    "/etc/cron.d",
    "/run",
    os.path.dirname(sys.executable),
]
_libc = ctypes.CDLL(None, use_errno=True)
_SYSTEM_V = {
    "shm": lambda number: _libc.shmctl(number, 0, None),  # IPC_RMID
    "msg": lambda number: _libc.msgctl(number, 0, None),
    "sem": lambda number: _libc.semctl(number, 0, 0, None),
}


class Canaries:
    """Everything that is watched, and how to look at it."""

    def __init__(self, argument: str = "") -> None:
        self.secrets: dict[str, str] = {"argument": argument} if argument else {}
        if "CANARY_INITIAL_KEY" in os.environ:  # of the environment that the host began with
            self.secrets["initial"] = os.environ["CANARY_INITIAL_KEY"]
        self.mark = f"hostile-new-{secrets.token_hex(6)}"
        """A name that every file, key or queue bears which a cell tries to make."""
        self.ipc_key = int(self.mark[-7:], 16)
        # not in /tmp, which a cell may have of its own: there a cell might make the same names, and mean no harm
        self.folder = Path(tempfile.mkdtemp(prefix="hostile-", dir="/var/tmp"))
        self._plant_files()
        self._plant_memory()
        self.listeners = Listeners(self.folder)
        self.victim = Victim(self.secret("victim"))
        self.state = HostState()
        self._files = self._look_at_files()

    def secret(self, kind: str) -> str:
        """A new secret of this kind; cells may find it only by reaching what holds it."""
        return self.secrets.setdefault(kind, f"CANARY-{kind}-{secrets.token_hex(8)}")

    def _plant_files(self) -> None:
        self.home, self.cwd = self.folder / "home", self.folder / "work"
        self.shm = Path("/dev/shm", f"canary-{os.getpid()}")
        self.files = {
            "home_secret": self.home / ".aws" / "credentials",
            "ssh_key": self.home / ".ssh" / "id_ed25519",
            "cwd_secret": self.cwd / ".env",
            "module_file": self.cwd / "src" / "canary_module.py",
            "tmp_secret": Path("/tmp", self.folder.name + ".txt"),
            "shm_secret": self.shm,
            "database": self.home / "notes.db",
        }
        self._write_files()
        sys.path.append(str(self.files["module_file"].parent))  # a working tree of the host's
        self.planted = getattr(importlib.util.find_spec("planted_module"), "origin", None)
        if self.planted is not None:  # by `configurations`, in a working tree that a .pth file adds
            self.secrets["planted"] = Path(self.planted).read_text().split("'")[1]
        os.environ["HOME"] = str(self.home)
        os.chdir(self.cwd)

    def _write_files(self) -> None:
        """Write them as they are to be, whatever is there."""
        for folder in (self.home / ".aws", self.home / ".ssh", self.cwd / "src", self.home / "open"):
            folder.mkdir(parents=True, exist_ok=True)
        for kind in ("home_secret", "ssh_key", "cwd_secret", "tmp_secret", "shm_secret"):
            self.files[kind].write_text(f"key = {self.secret(kind)}\n")
            self.files[kind].chmod(0o600)
        self.files["module_file"].write_text(f"SECRET = {self.secret('module')!r}\n")
        self.files["database"].unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(self.files["database"])) as database, database:
            database.execute("create table notes (text)")
            database.execute("insert into notes values (?)", (self.secret("database"),))
        link = self.cwd / "link"
        link.unlink(missing_ok=True)
        link.symlink_to(self.files["home_secret"])

    def _plant_memory(self) -> None:
        os.environ["CANARY_API_KEY"] = self.secret("environ")
        self._heap = ctypes.create_string_buffer(self.secret("heap").encode())
        self._open = open(self.files["tmp_secret"])
        os.set_inheritable(self._open.fileno(), True)

    def targets(self) -> dict[str, Any]:
        """What cells know as `T`."""
        return {
            **{name: str(path) for name, path in self.files.items()},
            "home": str(self.home),
            "cwd": str(self.cwd),
            "link": str(self.cwd / "link"),
            "folder": str(self.folder),
            "module_folder": str(self.files["module_file"].parent),
            "environ_name": "CANARY_API_KEY",
            "heap_address": ctypes.addressof(self._heap),
            "descriptor": self._open.fileno(),
            "host_pid": os.getpid(),
            "uid": os.getuid(),
            "mark": self.mark,
            "ipc_key": self.ipc_key,
            "site_packages": sysconfig.get_path("purelib"),
            "standard_library": sysconfig.get_path("stdlib"),
            "planted_file": self.planted or str(self.files["module_file"]),
            "rlm_folder": os.path.dirname(rlm.__file__),
            "python": sys.executable,
            "victim_pid": self.victim.pid,
            "victim_address": self.victim.address,
            **self.listeners.targets(),
        }

    def told(self, text: str) -> list[str]:
        """The kinds of secrets that stand in a text, plain or reversed."""
        return [kind for kind, token in self.secrets.items() if token[-16:] in text or token[-16:][::-1] in text]

    def harm(self) -> list[str]:
        """What a cell has changed or reached since the last call, and puts files back."""
        found = [*self.listeners.heard(), *self.state.harm()]
        if harm := self.victim.harm():
            found += harm
            self.state.settle()  # it has been replaced
        files = self._look_at_files()
        changed = [path for path in self._files.keys() | files.keys() if self._files.get(path) != files.get(path)]
        if changed:
            found += [f"file {path}: was {self._files.get(path)}, is {files.get(path)}" for path in changed]
            self._write_files()
            self._files = self._look_at_files()
        return found + self._new_names()

    def _look_at_files(self) -> dict[str, tuple[Any, ...]]:
        return {str(path): _seen(path) for path in [*self.folder.rglob("*"), self.folder, *self.files.values()]}

    def _new_names(self) -> list[str]:
        found = []
        for folder in [*_SHARED, *(f"{path}/__pycache__" for path in _SHARED)]:
            for name in os.listdir(folder) if os.path.isdir(folder) else ():
                if self.mark in name:
                    found.append(f"new file {folder}/{name}")
                    _remove(Path(folder, name))
        for table, remove in _SYSTEM_V.items():
            for key, number in (line.split()[:2] for line in _text(f"/proc/sysvipc/{table}").splitlines()[1:]):
                if int(key) == self.ipc_key:
                    found.append(f"new System V {table}")
                    remove(int(number))
        if self.mark in _text("/proc/keys"):
            found.append("new key in a keyring")
        return found

    @property
    def planted_paths(self) -> list[str]:
        """What `remove` removes."""
        return [str(path) for path in (self.folder, self.files["tmp_secret"], self.shm)]

    def remove(self) -> None:
        """Take everything away again."""
        self.listeners.close()
        self.victim.end()
        self.shm.unlink(missing_ok=True)
        self.files["tmp_secret"].unlink(missing_ok=True)
        os.chdir("/")
        shutil.rmtree(self.folder, ignore_errors=True)


def _seen(path: Path) -> tuple[Any, ...]:
    try:
        found = path.lstat()
        attributes = tuple(os.listxattr(path, follow_symlinks=False))
        content = path.read_bytes()[:1000] if path.is_file() and not path.is_symlink() else b""
    except OSError as error:
        return (str(error),)
    return (oct(found.st_mode), found.st_uid, found.st_nlink, found.st_size, found.st_mtime_ns, attributes, content)


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _remove(path: Path) -> None:
    try:
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    except OSError:
        pass
