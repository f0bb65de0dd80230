"""Removing what a cell has put into its scratch directory, however deep and whatever its rights."""

from __future__ import annotations

import contextlib
import os
import stat

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(top: str) -> None:
    """Remove a directory and all below it; what cannot be removed stays. Never raises OSError, follows no link.

    Each directory is moved up to the top before it is looked into, so that no depth costs descriptors or recursion, as
    it does `shutil.rmtree`.
    """
    with contextlib.suppress(OSError):
        _make_writable(top, None)
        above = os.open(top, _FOLDER)
        try:
            prefix = f".{os.urandom(8).hex()}-"
            folders = _empty(above, above, f"{prefix}0-")
            number = 0
            while folders:
                number += 1
                folders += _take(above, folders.pop(), f"{prefix}{number}-")
        finally:
            os.close(above)
        os.rmdir(top)


def _make_writable(name: str, above: int | None) -> None:
    # by a descriptor: chmod would follow a link that something has put there meanwhile
    folder = os.open(name, os.O_PATH | _FOLDER, dir_fd=above)
    try:
        os.chmod(f"/proc/self/fd/{folder}", stat.S_IRWXU)
    finally:
        os.close(folder)


def _take(above: int, name: str, prefix: str) -> list[str]:
    """Remove one directory of the top; returns the names in the top of those that were in it."""
    found: list[str] = []
    with contextlib.suppress(OSError):
        folder = os.open(name, _FOLDER, dir_fd=above)
        try:
            found = _empty(folder, above, prefix)
        finally:
            os.close(folder)
        os.rmdir(name, dir_fd=above)
    return found


def _empty(folder: int, above: int, prefix: str) -> list[str]:
    """Remove the files of a directory, move its directories into `above`; returns their new names."""
    found: list[str] = []
    with os.scandir(folder) as entries:
        listed = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_folder in listed:
        with contextlib.suppress(OSError):
            if not is_folder:
                os.unlink(name, dir_fd=folder)
                continue
            _make_writable(name, folder)  # to be moved, it must be writable itself
            moved = f"{prefix}{len(found)}"
            os.rename(name, moved, src_dir_fd=folder, dst_dir_fd=above)
            found.append(moved)
    return found
