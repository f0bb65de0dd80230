"""Under whom and where the corpus runs: as root or as an unprivileged user, with namespaces or without.

An unprivileged run that root starts takes the system's own Python and a virtual environment made for it, with a copy of
the installed package, in a temporary directory that the other user owns: root's own folders cannot be read by others.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import rlm

HERE = Path(__file__).parent
_SYSTEM_PYTHONS = [
    f"{place}/python3{minor}" for place in ("/usr/bin", "/usr/local/bin") for minor in ("", ".13", ".12", ".11")
]
_FIRST_UNUSED, _UNUSED = 61_000, 4000
_runs = itertools.count()
"""Runs at the same time are different users, so that a cell that signals all it may reaches its own run only."""


@dataclass(frozen=True)
class Configuration:
    """One way to run the corpus."""

    name: str
    root: bool
    namespaces: bool


CONFIGURATIONS = {
    c.name: c
    for c in (
        Configuration("unprivileged", root=False, namespaces=True),
        Configuration("unprivileged_without_namespaces", root=False, namespaces=False),
        Configuration("root", root=True, namespaces=True),
        Configuration("root_without_namespaces", root=True, namespaces=False),
    )
}


class NoInterpreter(Exception):
    """No interpreter that another user may run: the unprivileged runs cannot be had."""


def system_python() -> str:
    """An interpreter of the system, at least 3.11, that every user may run. Raises `NoInterpreter`."""
    tried = []
    for path in _SYSTEM_PYTHONS:
        if not os.access(path, os.X_OK):
            continue
        asked = subprocess.run(
            [path, "-I", "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True, check=False
        )
        if asked.returncode == 0 and tuple(map(int, asked.stdout.split())) >= (3, 11):
            return path
        tried.append(f"{path} ({asked.stdout.strip() or asked.stderr.strip()[-100:]})")
    raise NoInterpreter(
        "the hostile corpus must also run as an unprivileged user, for which the system needs its own Python 3.11 or "
        f"newer that every user may run; tried: {', '.join(tried) or 'none is there'}. "
        "On Debian: apt install python3"
    )


@dataclass
class Place:
    """Where a run happens: its command's beginning, its user, and the folder to remove at the end."""

    python: str
    tests: Path
    user: int | None
    folder: Path | None

    def remove(self) -> None:
        """Remove what was made for the run."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def prepare(configuration: Configuration) -> Place:
    """Make what a run needs. Raises `NoInterpreter`, and PermissionError where root is asked for and not there."""
    if configuration.root and os.geteuid() != 0:
        raise PermissionError(f"{configuration.name}: needs root")
    if configuration.root or os.geteuid() != 0:
        return Place(sys.executable, HERE.parent, None, None)
    python = system_python()
    user = _FIRST_UNUSED + (os.getpid() * 16 + next(_runs)) % _UNUSED
    folder = Path(tempfile.mkdtemp(prefix="hostile-run-", dir="/tmp"))
    _make_environment(python, folder / "venv")
    _plant_working_tree(folder)
    shutil.copytree(HERE, folder / "tests" / "hostile", ignore=shutil.ignore_patterns("__pycache__"))
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, user, user, follow_symlinks=False)
    folder.chmod(0o755)
    return Place(str(folder / "venv" / "bin" / "python"), folder / "tests", user, folder)


def _make_environment(python: str, venv: Path) -> None:
    """A virtual environment without pip, as `python -m venv` makes one (which Debian's own Python may not have)."""
    asked = subprocess.run(
        [python, "-I", "-c", "import sys; print(*sys.version_info[:2]); print(sys.implementation.cache_tag)"],
        capture_output=True,
        text=True,
        check=True,
    )
    version, tag = asked.stdout.splitlines()
    packages = venv / "lib" / f"python{version.replace(' ', '.')}" / "site-packages"
    (venv / "bin").mkdir(parents=True)
    packages.mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(python)
    (venv / "pyvenv.cfg").write_text(f"home = {os.path.dirname(python)}\ninclude-system-site-packages = false\n")
    shutil.copytree(Path(rlm.__file__).parent, packages / "rlm", ignore=shutil.ignore_patterns("__pycache__"))
    _copy_requirements("rlm-repl", packages, tag == sys.implementation.cache_tag, set())


def _plant_working_tree(folder: Path) -> None:
    """A module that is importable for the host by a .pth file, as an editable install has it."""
    (folder / "tree").mkdir()
    (folder / "tree" / "planted_module.py").write_text(f"SECRET = 'CANARY-planted-{secrets.token_hex(8)}'\n")
    (packages,) = (folder / "venv").glob("lib/*/site-packages")
    (packages / "tree.pth").write_text(f"{folder / 'tree'}\n")


def _copy_requirements(name: str, packages: Path, same_python: bool, done: set[str]) -> None:
    """Copy what a distribution requires, without extras; compiled files only for the Python they were made for."""
    for requirement in importlib.metadata.requires(name) or ():
        needed = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
        if needed in done or "extra ==" in requirement:
            continue
        done.add(needed)
        try:
            files = importlib.metadata.files(needed) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # of another system or Python: its marker does not hold here
        for file in files:
            compiled = file.name.endswith((".so", ".pyc"))
            if ".." not in file.parts and not (compiled and not same_python):
                (packages / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file.locate(), packages / file)
        _copy_requirements(needed, packages, same_python, done)
