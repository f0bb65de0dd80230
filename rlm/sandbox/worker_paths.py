"""Paths of the scratch directory, as cells are told them: below the place that leads there in every process.

The folder itself has a name of its own in each process, and another one after each fork (see `rlm.confine.root`). A
path under that name, kept in a variable, would lead nowhere in a branch. C code that asks the kernel still sees it.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable
from functools import wraps
from typing import Any

from rlm.confine import root

_STORE = f"{root.STORE}/"


def tell_lasting_paths() -> None:
    """Make `os.getcwd`, `os.getcwdb` and `os.path.realpath` name the scratch directory by `root.SCRATCH`."""
    os.getcwd = _lasting(os.getcwd)
    os.getcwdb = _lasting(os.getcwdb)
    os.getcwd.__module__ = os.getcwdb.__module__ = "os"  # where pickle finds them
    posixpath.realpath = _lasting(posixpath.realpath)


def _lasting(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def with_lasting_path(*arguments: Any, **options: Any) -> Any:
        path = function(*arguments, **options)
        return _name_by_place(path) if type(path) is str else os.fsencode(_name_by_place(os.fsdecode(path)))

    return with_lasting_path


def _name_by_place(path: str) -> str:
    if path.startswith(_STORE):
        try:
            own = root.find_scratch()
        except OSError:  # a cell has closed the descriptor
            return path
        if f"{path}/".startswith(f"{own}/"):
            return root.SCRATCH + path[len(own) :]
    return path
