"""Working trees on the host's import path: what `.pth` files add and where editable installs point."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterable, Iterator
from importlib.machinery import all_suffixes

NAMES = 500
"""How many modules are looked for in one folder, and told of in all."""
_ENTRIES = 2000
_ENTRIES_OF_A_PACKAGE = 50
_PTH_BYTES = 1 << 16


def find_working_trees(package_folders: Iterable[str]) -> Iterator[tuple[str, str, bool]]:
    """(module, folder it lies in, whether that folder on the path makes it importable) of every working tree."""
    for tree in dict.fromkeys(tree for folder in package_folders for tree in _pth_folders(folder)):
        yield from ((module, tree, True) for module in list_modules(tree, NAMES))
    yield from _mapped_modules()


def list_modules(folder: str, limit: int) -> list[str]:
    """The top-level modules and packages of a folder, at most `limit`; a folder that cannot be read has none."""
    found: dict[str, None] = {}
    try:
        with os.scandir(folder) as entries:
            for entry in itertools.islice(entries, _ENTRIES):
                name = _module_name(entry)
                if name.isidentifier():
                    found[name] = None
                if len(found) >= limit:
                    break
    except OSError:
        return []
    return list(found)


def _module_name(entry: os.DirEntry[str]) -> str:
    if entry.name.endswith(".py"):
        return entry.name[:-3]
    if entry.is_dir():
        return entry.name if _holds_modules(entry.path) else ""
    suffix = next((suffix for suffix in all_suffixes() if entry.name.endswith(suffix)), None)
    return "" if suffix is None else entry.name.removesuffix(suffix)


def _holds_modules(folder: str) -> bool:
    """Whether a folder is a package, or a namespace package with modules directly in it."""
    if os.path.exists(os.path.join(folder, "__init__.py")):
        return True
    try:
        with os.scandir(folder) as entries:
            return any(entry.name.endswith(".py") for entry in itertools.islice(entries, _ENTRIES_OF_A_PACKAGE))
    except OSError:
        return False


def _pth_folders(folder: str) -> Iterator[str]:
    """The folders that the `.pth` files of a site folder add, by the rules of the module `site`."""
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(".pth") and not name.startswith("."))
    except OSError:
        return
    for name in names:
        try:
            with open(os.path.join(folder, name), encoding="utf-8-sig", errors="replace") as file:
                lines = file.read(_PTH_BYTES).splitlines()
        except OSError:
            continue
        for line in lines:
            if line.strip() and not line.startswith(("#", "import ", "import\t")):
                yield os.path.abspath(os.path.join(folder, line.strip()))


def _mapped_modules() -> Iterator[tuple[str, str, bool]]:
    """What the import hooks of setuptools' editable installs map: module -> its file or package."""
    for name, module in list(sys.modules.items()):
        if not (name.startswith("__editable__") and name.endswith("_finder")):
            continue
        mapping = getattr(module, "MAPPING", None)
        for target, path in list(mapping.items())[:NAMES] if isinstance(mapping, dict) else ():
            top, parent = target.partition(".")[0], os.path.dirname(path)
            if "." not in target and os.path.basename(path).removesuffix(".py") == target:
                yield top, parent, True
            else:
                yield top, path, False  # renamed on the way: no folder on the path makes that importable
